//! The process of a managed server: one that this process started, or one that it found.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::within;

/// Log lines that are kept for the message about an unexpected end.
const LOG_LINES_MAX: usize = 12;
/// Longest log line that is kept.
const LOG_LINE_BYTES_MAX: u64 = 1024;
/// How often a process that is not our child is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

type Log = Arc<Mutex<VecDeque<String>>>;

/// A server's process.
pub(super) struct Process {
    pid: u32,
    /// `None` for one that was found.
    child: Option<Child>,
    log: Log,
    /// Reads what the server prints; ends with it.
    _readers: JoinSet<()>,
}

impl Process {
    /// Starts the program with its configuration file. It outlives this process, if that is killed,
    /// and is not touched by Ctrl-C in this process' terminal.
    pub(super) fn spawn(program: &Path, config: &Path) -> std::io::Result<Self> {
        let mut child = Command::new(program)
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(false)
            .spawn()?;
        let log = Log::default();
        let mut readers = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            readers.spawn(keep_lines(stdout, Arc::clone(&log)));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.spawn(keep_lines(stderr, Arc::clone(&log)));
        }
        let pid = child.id().unwrap_or_default();
        Ok(Self {
            pid,
            child: Some(child),
            log,
            _readers: readers,
        })
    }

    /// Finds the server that the pid file names, if it runs and works in `dir`.
    pub(super) fn find(pid_file: &Path, dir: &Path) -> Option<Self> {
        let pid: u32 = fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
        // The pid may be another process' by now; a Redis works in its data directory.
        let works_in = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let dir = fs::canonicalize(dir).ok()?;
        (works_in == dir).then(|| Self {
            pid,
            child: None,
            log: Log::default(),
            _readers: JoinSet::new(),
        })
    }

    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Its last log lines in one.
    pub(super) fn log(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.is_empty() {
            return "(nothing)".to_owned();
        }
        log.iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(" | ")
    }

    /// Waits until the process has ended and says how. Cancel-safe.
    pub(super) async fn ended(&mut self) -> String {
        match &mut self.child {
            Some(child) => {
                let status = child.wait().await;
                // What it printed last may still be on its way.
                let readers = &mut self._readers;
                within(Duration::from_millis(200), async {
                    while readers.join_next().await.is_some() {}
                })
                .await;
                match status {
                    Ok(status) => format!("ended: {status}"),
                    Err(error) => format!("ended: {error}"),
                }
            }
            None => {
                while self.is_alive() {
                    sleep(LOOK_AGAIN).await;
                }
                "ended".to_owned()
            }
        }
    }

    /// Asks it to end and, after `grace`, makes it end.
    pub(super) async fn stop(&mut self, grace: Duration) {
        self.signal(Signal::TERM);
        if within(grace, async { drop(self.ended().await) }).await {
            return;
        }
        warn!(
            pid = self.pid,
            "redis-server did not stop in time, killing it"
        );
        self.signal(Signal::KILL);
        if !within(grace, async { drop(self.ended().await) }).await {
            warn!(pid = self.pid, "redis-server cannot be killed");
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.raw_pid()
            && let Err(error) = kill_process(pid, signal)
        {
            debug!(%error, pid = self.pid, "redis-server has ended already");
        }
    }

    fn is_alive(&self) -> bool {
        self.raw_pid()
            .is_some_and(|pid| test_kill_process(pid).is_ok())
    }

    fn raw_pid(&self) -> Option<Pid> {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw)
    }
}

/// Keeps the last lines and passes them on to the log at debug.
async fn keep_lines(output: impl AsyncRead + Unpin, log: Log) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader)
            .take(LOG_LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).trim().to_owned();
        if text.is_empty() {
            continue;
        }
        debug!(line = %text, "redis-server");
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push_back(text);
        if log.len() > LOG_LINES_MAX {
            log.pop_front();
        }
    }
}

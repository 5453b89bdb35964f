//! Ground truth: what really appeared on a master's event bus, and when. Salt's own client reads it, in a process beside the master.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::process::Process;
use crate::salt::SaltVersion;
use crate::wait::{interrupted, now};
use crate::workspace::Workspace;

const READY_WITHIN: Duration = Duration::from_secs(60);
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/record_events.py");

/// An event of a master's bus.
#[derive(Clone, Debug)]
pub struct RecordedEvent {
    /// When the recorder had it, seconds since 1970.
    pub at: f64,
    /// The event's tag.
    pub tag: String,
    /// The event's data as JSON; bytes are `{"bytes": "<base64>"}`.
    pub data: Value,
}

/// A job that the recorder published through Salt's own client.
#[derive(Clone, Debug)]
pub struct Published {
    /// The job id; `None` when no minion matched (and the master has no `order_masters`).
    pub jid: Option<String>,
    /// When the call began, seconds since 1970, on the clock of [`RecordedEvent::at`].
    pub began: f64,
    /// When the call was back.
    pub ended: f64,
    /// Why Salt's client gave up; the master may have taken the job all the same.
    pub refused: Option<String>,
}

/// A running recorder. Events are kept in memory from its start on.
#[derive(Debug)]
pub struct EventRecorder {
    input: ChildStdin,
    lines: Receiver<Value>,
    events: Vec<RecordedEvent>,
    published: HashMap<u64, Published>,
    next: u64,
    process: Process,
}

impl EventRecorder {
    pub(crate) fn start(
        workspace: &Workspace,
        version: SaltVersion,
        id: &str,
        conf_dir: &Path,
    ) -> Result<Self> {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut command = Command::new(version.program("python")?);
        command.arg(SCRIPT).arg(conf_dir);
        let name = format!("{id}.recorder-{number}");
        let log = workspace.path().join(id).join("log/recorder");
        let (mut process, input, output) = Process::start_piped(workspace, &name, &log, command)?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let document =
                    serde_json::from_str(&line).unwrap_or_else(|_| json!({"nonsense": line}));
                if sender.send(document).is_err() {
                    break;
                }
            }
        });
        process.wait_ready(READY_WITHIN, || match lines.try_recv() {
            Ok(line) if line.get("ready").is_some() => Ok(()),
            Ok(line) => Err(line.to_string()),
            Err(error) => Err(error.to_string()),
        })?;
        Ok(Self {
            input,
            lines,
            events: Vec::new(),
            published: HashMap::new(),
            next: 0,
            process,
        })
    }

    /// Publishes a job; `arg` is an array. Returns when Salt's client has its jid, not when minions have answered.
    ///
    /// # Errors
    /// When the recorder ended, or Salt's client takes more than a minute.
    pub fn publish(
        &mut self,
        tgt: &str,
        tgt_type: &str,
        fun: &str,
        arg: Value,
    ) -> Result<Published> {
        self.next += 1;
        let number = self.next;
        let job = json!({"n": number, "tgt": tgt, "tgt_type": tgt_type, "fun": fun, "arg": arg});
        writeln!(self.input, "{job}").context("the recorder ended")?;
        let end = now() + Duration::from_secs(60);
        loop {
            if let Some(published) = self.published.remove(&number) {
                return Ok(published);
            }
            if !self.take_line(end.saturating_duration_since(now()))? && now() >= end {
                bail!("publishing {job} took more than a minute");
            }
        }
    }

    /// Every event so far.
    ///
    /// # Errors
    /// When the recorder ended.
    pub fn events(&mut self) -> Result<&[RecordedEvent]> {
        while self.take_line(Duration::ZERO)? {}
        Ok(&self.events)
    }

    /// Forgets the events so far.
    pub fn clear(&mut self) {
        self.events.clear();
    }

    /// Waits until `wanted` events (past or coming) satisfy `matches`, and returns those.
    ///
    /// # Errors
    /// When that does not come true `within` this time; the error lists the tags seen.
    pub fn wait_for(
        &mut self,
        wanted: usize,
        within: Duration,
        matches: impl Fn(&RecordedEvent) -> bool,
    ) -> Result<Vec<RecordedEvent>> {
        let end = now() + within;
        loop {
            let found: Vec<_> = self
                .events()?
                .iter()
                .filter(|event| matches(event))
                .cloned()
                .collect();
            if found.len() >= wanted {
                return Ok(found);
            }
            if now() >= end || interrupted() {
                let tags: Vec<_> = self
                    .events
                    .iter()
                    .rev()
                    .take(30)
                    .map(|event| event.tag.as_str())
                    .collect();
                bail!(
                    "{} of {wanted} events within {:.1} s; newest first: {}",
                    found.len(),
                    within.as_secs_f64(),
                    tags.join(" ")
                );
            }
            self.take_line(end.saturating_duration_since(now()))?;
        }
    }

    /// Waits for the returns of a job from `minions` different minions.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub fn wait_for_returns(
        &mut self,
        jid: &str,
        minions: usize,
        within: Duration,
    ) -> Result<Vec<RecordedEvent>> {
        let prefix = format!("salt/job/{jid}/ret/");
        self.wait_for(minions, within, |event| event.tag.starts_with(&prefix))
    }

    /// The recorder's process, for measurements.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Files one line away; false when none came in time.
    fn take_line(&mut self, within: Duration) -> Result<bool> {
        // Short enough for an interrupt to be noticed.
        let line = match self
            .lines
            .recv_timeout(within.min(Duration::from_millis(100)))
        {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) if interrupted() => bail!("interrupted"),
            Err(RecvTimeoutError::Timeout) => return Ok(false),
            Err(RecvTimeoutError::Disconnected) => {
                bail!("the event recorder ended\n{}", self.process.log_tail(25))
            }
        };
        let text = |key: &str| line.get(key).and_then(Value::as_str).map(str::to_owned);
        let time = |key: &str| line.get(key).and_then(Value::as_f64).unwrap_or_default();
        if let Some(number) = line.get("n").and_then(Value::as_u64) {
            let published = Published {
                jid: text("published"),
                began: time("began"),
                ended: time("ended"),
                refused: text("refused"),
            };
            self.published.insert(number, published);
        } else if let Some(tag) = text("tag") {
            let data = line.get("data").cloned().unwrap_or_default();
            self.events.push(RecordedEvent {
                at: time("at"),
                tag,
                data,
            });
        }
        Ok(true)
    }
}

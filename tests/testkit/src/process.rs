//! Real processes: started in a group and a log file of their own, ended by pid, measured through `/proc`.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::wait::{now, wait_until};
use crate::workspace::{MARK, Workspace, kill_marked};

/// How long a process may take to end by itself after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(15);

/// A running server. Dropping it kills its process group and whatever else it started.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    log: PathBuf,
    mark: String,
}

impl Process {
    /// Starts `command` as `name` (unique in its workspace); standard output and error are appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn start(
        workspace: &Workspace,
        name: &str,
        log: &Path,
        mut command: Command,
    ) -> Result<Self> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("failed to open the log {}", log.display()))?;
        // The slash keeps the mark of `site1` from matching that of `site10`.
        let mark = format!("{}/", workspace.mark(name));
        let child = prepare(&mut command, workspace, &mark)
            .stdout(
                output
                    .try_clone()
                    .context("failed to clone the log's handle")?,
            )
            .stderr(output)
            .spawn()
            .with_context(|| {
                format!(
                    "failed to start {name} ({})",
                    command.get_program().display()
                )
            })?;
        let pid = Pid::from_child(&child);
        Ok(Self {
            name: name.to_owned(),
            child,
            pid,
            log: log.to_path_buf(),
            mark,
        })
    }

    /// As [`start`](Self::start), with pipes for standard input and output; only standard error goes to `log`.
    pub(crate) fn start_piped(
        workspace: &Workspace,
        name: &str,
        log: &Path,
        mut command: Command,
    ) -> Result<(Self, ChildStdin, ChildStdout)> {
        let errors = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("failed to open the log {}", log.display()))?;
        let mark = format!("{}/", workspace.mark(name));
        let mut child = prepare(&mut command, workspace, &mark)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| {
                format!(
                    "failed to start {name} ({})",
                    command.get_program().display()
                )
            })?;
        let pid = Pid::from_child(&child);
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let process = Self {
            name: name.to_owned(),
            child,
            pid,
            log: log.to_path_buf(),
            mark,
        };
        match (stdin, stdout) {
            (Some(stdin), Some(stdout)) => Ok((process, stdin, stdout)),
            _ => bail!("{name} has no pipes"),
        }
    }

    /// Its name in its workspace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id of the process that was started (a Salt daemon has children besides).
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, once it has ended by itself.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("failed to look after {}", self.name))
    }

    /// Waits for `ready`, and stops waiting when the process ends before.
    ///
    /// # Errors
    /// With the end of the log, when it ended or did not get ready in time.
    pub fn wait_ready<T>(
        &mut self,
        within: Duration,
        mut ready: impl FnMut() -> Result<T, String>,
    ) -> Result<T> {
        let what = format!("{} to be ready", self.name);
        let mut ended = None;
        let outcome = wait_until(&what, within, || {
            if let Ok(Some(status)) = self.child.try_wait() {
                ended = Some(status);
                return Ok(None);
            }
            ready().map(Some)
        });
        match (outcome, ended) {
            (Ok(Some(value)), _) => Ok(value),
            (_, Some(status)) => bail!(
                "{} ended ({status}) before it was ready\n{}",
                self.name,
                self.log_tail(25)
            ),
            (Ok(None), None) => bail!("{} ended before it was ready", self.name),
            (Err(error), None) => bail!("{error:#}\n{}", self.log_tail(25)),
        }
    }

    /// Sends a signal to the process and its group, for example `Signal::HUP`.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process_group(self.pid, signal)
            .with_context(|| format!("failed to signal {}", self.name))
    }

    /// SIGSTOP to the whole group: it hangs, its connections stay open.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT to the whole group.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGKILL to the whole group and to what left it; returns when the process is gone.
    pub fn kill(&mut self) {
        // An error means that nobody is left, which is what is wanted.
        if kill_process_group(self.pid, Signal::KILL).is_err() {
            self.child.kill().ok();
        }
        self.child.wait().ok();
        kill_marked(&self.mark);
    }

    /// SIGTERM to the process, as a service manager would; what is left after a grace period is killed.
    ///
    /// # Errors
    /// When it had to be killed; the error says so.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        if self.exited()?.is_none() {
            kill_process(self.pid, Signal::TERM)
                .with_context(|| format!("failed to signal {}", self.name))?;
        }
        let what = format!("{} to end after SIGTERM", self.name);
        let status = wait_until(&what, GRACE, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("still running".to_owned()),
            Err(error) => Err(error.to_string()),
        });
        self.kill();
        status
    }

    /// The last `lines` of the log, under a line that names it.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    /// Memory and processor time of the process and its live children, from `/proc`.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn usage(&self) -> Result<Usage> {
        usage(self.pid())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What every process of this crate has in common.
fn prepare<'a>(command: &'a mut Command, workspace: &Workspace, mark: &str) -> &'a mut Command {
    command
        .env(MARK, mark)
        // Salt sets its processes' titles; without this that overwrites the environment that the mark is read from.
        .env("SPT_NOENV", "1")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .current_dir(workspace.path())
        .process_group(0)
}

/// What a command that ran to its end left behind.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command as an operator would type it.
    pub command: String,
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
    /// The exit code; 128 + signal for a command that a signal ended.
    pub code: i32,
    /// From start to end.
    pub wall: Duration,
}

impl Output {
    /// Standard output as JSON, for commands run with `--out=json --static`.
    ///
    /// # Errors
    /// When it is not one JSON document; the error shows the output.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| {
            format!(
                "`{}` did not print JSON:\n{}\n{}",
                self.command, self.stdout, self.stderr
            )
        })
    }
}

/// Runs a command to its end, or kills it after `within`. Output goes through files, so any amount of it is welcome.
///
/// # Errors
/// When it cannot be started or takes too long.
pub fn run(workspace: &Workspace, mut command: Command, within: Duration) -> Result<Output> {
    let line = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quote(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ");
    let dir = tempfile::Builder::new()
        .prefix("run-")
        .tempdir_in(workspace.path())?;
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    let name = dir
        .path()
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let mark = format!("{}/", workspace.mark(&name));
    let began = now();
    let mut child = prepare(&mut command, workspace, &mark)
        .stdout(File::create(&out)?)
        .stderr(File::create(&err)?)
        .spawn()
        .with_context(|| format!("failed to start `{line}`"))?;
    let ended = wait_until(&format!("`{line}` to end"), within, || {
        match child.try_wait() {
            Ok(Some(status)) => Ok((status, began.elapsed())),
            Ok(None) => Err("still running".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    });
    let read = |path: &Path| {
        fs::read(path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    };
    let (status, wall) = match ended {
        Ok(ended) => ended,
        Err(error) => {
            kill_marked(&mark);
            child.wait().ok();
            bail!("{error:#}\nstdout: {}\nstderr: {}", read(&out), read(&err));
        }
    };
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1);
    Ok(Output {
        command: line,
        stdout: read(&out),
        stderr: read(&err),
        code,
        wall,
    })
}

/// Quotes a word for a shell when it needs it.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The last `lines` of a file, under a line that names it.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("--- {} cannot be read: {error}", path.display()),
    };
    let all: Vec<&str> = text.lines().collect();
    let last = all
        .iter()
        .skip(all.len().saturating_sub(lines))
        .copied()
        .collect::<Vec<_>>()
        .join("\n");
    format!("--- end of {} ---\n{last}", path.display())
}

/// Memory and processor time of a process with all its live descendants.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Resident memory of the process itself, bytes.
    pub rss: u64,
    /// Resident memory of it and its descendants, bytes (shared pages count once per process).
    pub rss_tree: u64,
    /// Processor time of the process itself since its start, user and system.
    pub cpu: Duration,
    /// Processor time of it and its live descendants.
    pub cpu_tree: Duration,
}

/// Reads the [`Usage`] of any process from `/proc`.
///
/// # Errors
/// When there is no such process.
pub fn usage(pid: u32) -> Result<Usage> {
    let own = Stat::read(pid).with_context(|| format!("there is no process {pid}"))?;
    let mut total = Usage {
        rss: own.rss,
        rss_tree: own.rss,
        cpu: own.cpu,
        cpu_tree: own.cpu,
    };
    let all: Vec<(u32, Stat)> = fs::read_dir("/proc")
        .context("failed to list /proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, Stat::read(pid)?)))
        .collect();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for (child, stat) in all.iter().filter(|(_, stat)| stat.parent == parent) {
            total.rss_tree += stat.rss;
            total.cpu_tree += stat.cpu;
            parents.push(*child);
        }
    }
    Ok(total)
}

struct Stat {
    parent: u32,
    rss: u64,
    cpu: Duration,
}

impl Stat {
    /// Fields of `/proc/<pid>/stat` as proc(5) numbers them: 4 parent, 14 and 15 user and system ticks, 24 resident pages.
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command's name (field 2) is in parentheses and may hold anything; what follows the last one is plain.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let ticks = number(14)? + number(15)?;
        let cpu = Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second());
        let page = u64::try_from(rustix::param::page_size()).ok()?;
        Some(Self {
            parent: u32::try_from(number(4)?).ok()?,
            rss: number(24)? * page,
            cpu,
        })
    }
}

//! One run's directory under `/tmp`, and the guarantee that nothing it started outlives this process.
//!
//! - Every process gets `SALTWAY_TESTKIT=<token>/<name>` in its environment, which its children inherit, also those that leave
//!   its process group (each job of a salt-minion does). Clean-up finds them by that mark, so it ends what was started here
//!   and nothing else.
//! - A guardian, one small shell per test process, waits for the end of a pipe that only this process holds. However this process
//!   ends (also by SIGKILL), the guardian then kills what carries the token.
//! - The directory's path is short, because unix sockets inside it must stay below 108 characters. It is removed on drop, but stays for
//!   a look when the thread is panicking or `SALTWAY_KEEP_LOGS` is set.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The environment variable that marks what this crate started.
pub const MARK: &str = "SALTWAY_TESTKIT";

/// Two passes: a process may fork while the first one runs.
const GUARDIAN: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
for pass in 1 2; do
    for environ in /proc/[0-9]*/environ; do
        if grep -zqs "^SALTWAY_TESTKIT=$1/" "$environ"; then
            pid=${environ#/proc/}
            kill -9 "${pid%/environ}" 2>/dev/null
        fi
    done
done
"#;

/// A temporary directory whose processes end with it.
#[derive(Clone, Debug)]
pub struct Workspace {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: Mutex<Option<TempDir>>,
    path: PathBuf,
    token: String,
    keys: AtomicUsize,
}

impl Workspace {
    /// Makes `/tmp/sw-XXXXXX` and starts the guardian if this process has none yet.
    ///
    /// # Errors
    /// When `/tmp` cannot be written or `sh` cannot be started.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let token = process_token()?;
        let dir = tempfile::Builder::new()
            .prefix("sw-")
            .tempdir_in("/tmp")
            .context("failed to make a directory under /tmp")?;
        let token = format!("{token}/{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let path = dir.path().to_path_buf();
        let inner = Inner {
            dir: Mutex::new(Some(dir)),
            path,
            token,
            keys: AtomicUsize::new(0),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The directory; everything that is started in this workspace keeps its files below it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The value of [`MARK`] for a process of this name.
    pub(crate) fn mark(&self, name: &str) -> String {
        format!("{}/{name}", self.inner.token)
    }

    /// A number that no other key of this workspace has.
    pub(crate) fn next_key(&self) -> usize {
        self.inner.keys.fetch_add(1, Ordering::Relaxed)
    }

    /// Leaves the directory where it is when the workspace is dropped.
    pub fn keep(&self) {
        if let Ok(mut dir) = self.inner.dir.lock()
            && let Some(dir) = dir.as_mut()
        {
            dir.disable_cleanup(true);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        kill_marked(&format!("{}/", self.token));
        if thread::panicking() || std::env::var_os("SALTWAY_KEEP_LOGS").is_some() {
            if let Ok(mut dir) = self.dir.lock()
                && let Some(dir) = dir.as_mut()
            {
                dir.disable_cleanup(true);
            }
            eprintln!(
                "testkit: logs and configuration are kept in {}",
                self.path.display()
            );
        }
    }
}

/// Kills every process whose mark starts with `mark`; returns how many there were.
pub(crate) fn kill_marked(mark: &str) -> usize {
    let wanted = format!("{MARK}={mark}");
    let Ok(entries) = fs::read_dir("/proc") else {
        return 0;
    };
    let mut killed = 0;
    for entry in entries.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A process that ends meanwhile has no environment to read any more.
        let Ok(environment) = fs::read(entry.path().join("environ")) else {
            continue;
        };
        if environment
            .split(|byte| *byte == 0)
            .any(|entry| entry.starts_with(wanted.as_bytes()))
            && Pid::from_raw(pid).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
        {
            killed += 1;
        }
    }
    killed
}

/// This process's token; the first call starts the guardian.
fn process_token() -> Result<String> {
    static GUARD: OnceLock<Mutex<Option<(String, Child)>>> = OnceLock::new();
    let mut guard = match GUARD.get_or_init(Mutex::default).lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    };
    if let Some((token, _)) = guard.as_ref() {
        return Ok(token.clone());
    }
    // A pid alone comes back after a while; the time of the first use makes the pair unique.
    let since_epoch = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default();
    let token = format!("{}-{:x}", std::process::id(), since_epoch.as_nanos());
    let guardian = Command::new("sh")
        .args(["-c", GUARDIAN, "saltway-testkit-guardian", &token])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .process_group(0)
        .spawn()
        .context("failed to start the guardian (sh)")?;
    *guard = Some((token.clone(), guardian));
    Ok(token)
}

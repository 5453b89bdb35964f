//! A real salt-syndic on a lower master's host: what Saltway is compared with and switched over from.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::process::{Process, tail};
use crate::salt::{Master, SaltVersion};

const READY_WITHIN: Duration = Duration::from_secs(120);

/// A salt-syndic with the id and keys of its lower master's host.
#[derive(Debug)]
pub struct Syndic {
    process: Process,
    log: PathBuf,
}

impl Syndic {
    /// Starts it beside `lower`, which was built with [`below`](crate::MasterBuilder::below), without waiting.
    ///
    /// # Errors
    /// When the program is missing.
    pub fn start(version: SaltVersion, lower: &Master) -> Result<Self> {
        if lower.syndic_key().is_err() {
            bail!("{} is no lower master: build it with `below`", lower.id());
        }
        let log = lower.dir().join("log/syndic");
        // `ready` reads the log; what an earlier run said there must not count.
        if log.exists() {
            std::fs::rename(&log, log.with_extension("before"))?;
        }
        let mut command = Command::new(version.program("salt-syndic")?);
        command
            .arg("-c")
            .arg(lower.conf_dir())
            .arg("--log-file-level=info");
        let name = format!("{}.syndic", lower.id());
        let process = Process::start(
            lower.workspace(),
            &name,
            &log.with_extension("out"),
            command,
        )?;
        Ok(Self { process, log })
    }

    /// Waits until it says that it is signed in above. The first job through it is the better proof: see [`Tree`](crate::Tree).
    ///
    /// # Errors
    /// With the end of its log, when it ended or takes too long.
    pub fn ready(&mut self) -> Result<()> {
        let log = self.log.clone();
        self.process
            .wait_ready(READY_WITHIN, || match std::fs::read_to_string(&log) {
                Ok(text) if text.contains("Syndic successfully connected to") => Ok(()),
                Ok(text) => Err(text
                    .lines()
                    .last()
                    .unwrap_or("nothing in its log")
                    .to_owned()),
                Err(error) => Err(error.to_string()),
            })
    }

    /// The process, for signals and measurements.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// SIGTERM, and wait for the end.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn terminate(mut self) -> Result<ExitStatus> {
        self.process.terminate()
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        format!(
            "{}\n{}",
            tail(&self.log, lines),
            self.process.log_tail(lines)
        )
    }
}

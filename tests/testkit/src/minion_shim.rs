//! `saltway-minion-shim`, beside one minion or several.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::daemon::program;
use crate::process::{Output, Process, run, tail};
use crate::workspace::Workspace;

const READY_WITHIN: Duration = Duration::from_secs(60);

/// What it logs once it can send events through a minion's event bus.
const JOINED: &str = "joined the event bus of minion=";

/// A `saltway-minion-shim`.
#[derive(Debug)]
pub struct MinionShim {
    program: PathBuf,
    name: String,
    workspace: Workspace,
    configs: Vec<PathBuf>,
    log: PathBuf,
    process: Option<Process>,
}

impl MinionShim {
    /// Starts one that reads these configuration files of minions, without waiting; `name` must be unique in its workspace.
    ///
    /// # Errors
    /// When its program is not built.
    pub fn start(workspace: &Workspace, name: &str, configs: &[&Path]) -> Result<Self> {
        let mut shim = Self {
            program: program("saltway-minion-shim")?,
            name: name.to_owned(),
            workspace: workspace.clone(),
            configs: configs.iter().map(|&config| config.to_owned()).collect(),
            log: workspace.path().join(format!("{name}.log")),
            process: None,
        };
        shim.restart()?;
        Ok(shim)
    }

    /// Another program than the one beside this test, such as the static one.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn with_program(mut self, program: &Path) -> Result<Self> {
        program.clone_into(&mut self.program);
        self.restart()?;
        Ok(self)
    }

    /// Kills it, if it runs, and starts it again, without waiting. Its log begins anew.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        self.process = None;
        if self.log.exists() {
            std::fs::rename(&self.log, self.log.with_extension("before"))?;
        }
        let mut command = self.command();
        command.env("SALTWAY_LOG", "debug");
        self.process = Some(Process::start(
            &self.workspace,
            &self.name,
            &self.log,
            command,
        )?);
        Ok(())
    }

    /// Waits until it can send events through the event bus of this minion.
    ///
    /// # Errors
    /// With the end of its log, when it ended or takes too long.
    pub fn joined(&mut self, minion: &str) -> Result<()> {
        let log = self.log.clone();
        let wanted = format!("{JOINED}{minion}");
        let process = self
            .process
            .as_mut()
            .with_context(|| format!("{} is not started", self.name))?;
        process.wait_ready(READY_WITHIN, || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.lines().any(|line| line.contains(&wanted)) {
                Ok(())
            } else {
                Err(text
                    .lines()
                    .last()
                    .unwrap_or("nothing in its log")
                    .to_owned())
            }
        })
    }

    /// Runs it with `--check` to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end in 30 s.
    pub fn check(&self) -> Result<Output> {
        let mut command = self.command();
        command.arg("--check");
        run(&self.workspace, command, Duration::from_secs(30))
    }

    /// The running process, for signals and measurements.
    ///
    /// # Errors
    /// When it is not running.
    pub fn process(&self) -> Result<&Process> {
        self.process
            .as_ref()
            .with_context(|| format!("{} is not running", self.name))
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// SIGTERM, and wait for the end.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        match self.process.take() {
            Some(mut process) => process.terminate(),
            None => bail!("{} is not running", self.name),
        }
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for config in &self.configs {
            command.arg("--config").arg(config);
        }
        command
    }
}

//! A salt-minion of one or several masters.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::keys::KeyPair;
use crate::minion_shim::MinionShim;
use crate::process::{Process, tail};
use crate::salt::config::HostDir;
use crate::salt::{Master, SaltVersion};
use crate::workspace::Workspace;

const READY_WITHIN: Duration = Duration::from_secs(120);

/// How a [`Minion`] shall be.
#[derive(Clone, Debug)]
pub struct MinionBuilder {
    version: SaltVersion,
    id: String,
    options: Vec<(&'static str, Value)>,
    extra: Vec<String>,
}

impl MinionBuilder {
    /// Sets an option of its configuration.
    #[must_use]
    pub fn option(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.options.push((key, value.into()));
        self
    }

    /// Gives it custom grains, `{"rack": "r1"}`.
    #[must_use]
    pub fn grains(self, grains: Value) -> Self {
        self.option("grains", grains)
    }

    /// Adds YAML to its configuration; it wins over everything else.
    #[must_use]
    pub fn extra(mut self, yaml: &str) -> Self {
        self.extra.push(yaml.to_owned());
        self
    }

    /// Writes its files, has each of the masters accept its key, and starts it, without waiting: see [`Minion::ready`].
    ///
    /// # Errors
    /// When a file cannot be written or the program is missing.
    pub fn start(self, masters: &[&Master]) -> Result<Minion> {
        let workspace = masters
            .first()
            .context("a minion needs a master")?
            .workspace()
            .clone();
        let host = HostDir::create(workspace.path(), &self.id)?;
        let key = KeyPair::take(&workspace)?;
        key.place(&host.pki("minion"), "minion")?;
        let mut config = host.minion_options(&self.id);
        match masters {
            [only] => {
                config.set("master", only.ip().to_string());
                only.key()
                    .place_public(&host.pki("minion").join("minion_master.pub"))?;
            }
            // With several masters the first sign-in stores each one's key where Salt wants it.
            several => config.set(
                "master",
                json!(
                    several
                        .iter()
                        .map(|master| master.ip().to_string())
                        .collect::<Vec<_>>()
                ),
            ),
        }
        for (key, value) in self.options {
            config.set(key, value);
        }
        for yaml in &self.extra {
            config.extra(yaml);
        }
        config.write(&host.etc().join("minion"))?;
        for master in masters {
            master.accept(&self.id, &key)?;
        }
        let mut minion = Minion {
            version: self.version,
            id: self.id,
            workspace,
            host,
            process: None,
            shim: None,
        };
        minion.start()?;
        Ok(minion)
    }
}

/// A salt-minion.
#[derive(Debug)]
pub struct Minion {
    version: SaltVersion,
    id: String,
    workspace: Workspace,
    host: HostDir,
    process: Option<Process>,
    /// The minion-shim beside it, once it was started.
    pub shim: Option<MinionShim>,
}

impl Minion {
    /// A minion with this id, which must be unique in its workspace.
    #[must_use]
    pub fn builder(version: SaltVersion, id: &str) -> MinionBuilder {
        MinionBuilder {
            version,
            id: id.to_owned(),
            options: Vec::new(),
            extra: Vec::new(),
        }
    }

    /// Starts it (again), without waiting.
    ///
    /// # Errors
    /// When the program is missing.
    pub fn start(&mut self) -> Result<()> {
        self.process = None;
        // `ready` reads the log; what an earlier run said there must not count.
        let log = self.host.log("minion");
        if log.exists() {
            std::fs::rename(&log, self.host.log("minion.before"))?;
        }
        let mut command = Command::new(self.version.program("salt-minion")?);
        command.arg("-c").arg(self.host.etc());
        let name = format!("{}.minion", self.id);
        self.process = Some(Process::start(
            &self.workspace,
            &name,
            &self.host.log("minion.out"),
            command,
        )?);
        Ok(())
    }

    /// Waits until it says that it is connected. A publication in the same instant may still miss it, as its subscription is under way; for
    /// certainty, have it answer: [`Master::wait_for_minions`].
    ///
    /// # Errors
    /// With the end of its log, when it ended or takes too long.
    pub fn ready(&mut self) -> Result<()> {
        let log = self.host.log("minion");
        let process = self
            .process
            .as_mut()
            .with_context(|| format!("{} is not started", self.id))?;
        process
            .wait_ready(READY_WITHIN, || match std::fs::read_to_string(&log) {
                Ok(text) if text.contains("Minion is ready to receive requests!") => Ok(()),
                Ok(text) => Err(text
                    .lines()
                    .last()
                    .unwrap_or("nothing in its log")
                    .to_owned()),
                Err(error) => Err(error.to_string()),
            })
            .with_context(|| tail(&log, 25))
    }

    /// Starts a minion-shim beside it (again), without waiting: see [`MinionShim::joined`].
    ///
    /// # Errors
    /// When its program is not built.
    pub fn start_shim(&mut self) -> Result<&mut MinionShim> {
        let config = self.config_file();
        match &mut self.shim {
            Some(shim) => shim.restart()?,
            None => {
                let name = format!("{}.minion-shim", self.id);
                let shim = MinionShim::start(&self.workspace, &name, &[&config])?;
                self.shim = Some(shim);
            }
        }
        self.shim.as_mut().context("it was just started")
    }

    /// Its configuration file.
    #[must_use]
    pub fn config_file(&self) -> std::path::PathBuf {
        self.host.etc().join("minion")
    }

    /// Where it keeps a file for each job that it runs, named by the jid.
    #[must_use]
    pub fn proc_dir(&self) -> std::path::PathBuf {
        self.host.path.join("cache/minion/proc")
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The host's directory, with `etc/minion`, `cache/minion`, `log/minion`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.host.path
    }

    /// The running process, for signals and measurements.
    ///
    /// # Errors
    /// When it is not running.
    pub fn process(&self) -> Result<&Process> {
        self.process
            .as_ref()
            .with_context(|| format!("{} is not running", self.id))
    }

    /// SIGKILL to all its processes, running jobs included. Its pid file goes, too: without psutil, which packages of Salt bring along, a
    /// minion takes any such file for another one that runs.
    pub fn kill(&mut self) {
        self.process = None;
        // The second name is Salt's with psutil: a killed process that nobody has reaped yet counts as running there.
        for name in ["minion.pid", "process_responsibility_minion.pid"] {
            let pid_file = self.host.path.join("run").join(name);
            // One that had not got so far has none.
            fs::remove_file(pid_file).ok();
        }
    }

    /// SIGTERM, and wait for the end.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        match self.process.take() {
            Some(mut process) => process.terminate(),
            None => bail!("{} is not running", self.id),
        }
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        [self.host.log("minion"), self.host.log("minion.out")]
            .map(|log| tail(&log, lines))
            .join("\n")
    }

    /// Its whole log.
    ///
    /// # Errors
    /// When there is none yet.
    pub fn log(&self) -> Result<String> {
        let log = self.host.log("minion");
        let bytes = fs::read(&log).with_context(|| format!("{} is not there", log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

//! A salt-master, and the commands that an operator types on its host.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::address::Address;
use crate::keys::KeyPair;
use crate::process::{Output, Process, run, tail};
use crate::recorder::EventRecorder;
use crate::salt::SaltVersion;
use crate::salt::config::{Config, HostDir};
use crate::wait::wait_until;
use crate::workspace::Workspace;

/// Salt's own port numbers; each master has an address of its own, so they never collide.
pub(crate) const PUBLISH_PORT: u16 = 4505;
pub(crate) const REQUEST_PORT: u16 = 4506;

/// A whole tree starts at once on two cores, so one master may take long to get its turn.
const READY_WITHIN: Duration = Duration::from_secs(90);
const COMMAND_WITHIN: Duration = Duration::from_secs(150);

/// How a [`Master`] shall be.
#[derive(Clone, Debug)]
pub struct MasterBuilder {
    version: SaltVersion,
    id: String,
    address: Option<Address>,
    options: Vec<(&'static str, Value)>,
    extra: Vec<String>,
    syndic: Option<SyndicSide>,
}

/// The lower half of a syndic: the minion file of the master's host.
#[derive(Clone, Debug)]
struct SyndicSide {
    masters: Vec<String>,
    extra: String,
}

impl MasterBuilder {
    /// Listens on this address instead of a newly leased one.
    #[must_use]
    pub fn address(mut self, address: Address) -> Self {
        self.address = Some(address);
        self
    }

    /// Sets an option of the master's configuration.
    #[must_use]
    pub fn option(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.options.push((key, value.into()));
        self
    }

    /// Makes it a top master (`order_masters: True`) with this `syndic_wait` in seconds.
    #[must_use]
    pub fn order_masters(self, syndic_wait: u64) -> Self {
        self.option("order_masters", true)
            .option("syndic_wait", syndic_wait)
    }

    /// Adds YAML to the master's configuration; it wins over everything else.
    #[must_use]
    pub fn extra(mut self, yaml: &str) -> Self {
        self.extra.push(yaml.to_owned());
        self
    }

    /// Makes it a lower master: `syndic_master` names the masters above, and a minion file and the minion key of its host are there, for a salt-syndic or a
    /// master-shim. The id is the master's. `extra` is YAML for the minion file.
    #[must_use]
    pub fn below(mut self, masters: &[&str], extra: &str) -> Self {
        let masters = masters.iter().map(|&master| master.to_owned()).collect();
        self.syndic = Some(SyndicSide {
            masters,
            extra: extra.to_owned(),
        });
        self
    }

    /// Writes the files without starting anything.
    ///
    /// # Errors
    /// When no address is free or a file cannot be written.
    pub fn create(self, workspace: &Workspace) -> Result<Master> {
        let address = self.address.map_or_else(Address::lease, Ok)?;
        let host = HostDir::create(workspace.path(), &self.id)?;
        let key = KeyPair::take(workspace)?;
        key.place(&host.pki("master"), "master")?;
        // Salt 3008 makes it too, but only at its first start; keys can be accepted before that.
        for part in [
            "minions",
            "minions_pre",
            "minions_rejected",
            "minions_denied",
        ] {
            fs::create_dir_all(host.pki("master").join(part))?;
        }
        let srv = host.path.join("srv");
        fs::create_dir_all(srv.join("salt"))?;
        fs::create_dir_all(srv.join("pillar"))?;
        fs::write(srv.join("pillar/top.sls"), "base: {}\n")?;

        let mut config = host.options("master", &self.id);
        config.set("interface", address.ip().to_string());
        // Each worker costs 1.3 s of processor time at the start; salt-master itself accepts two (three with `peer`).
        config.set("worker_threads", 2);
        config.set(
            "file_roots",
            json!({"base": [srv.join("salt").display().to_string()]}),
        );
        config.set(
            "pillar_roots",
            json!({"base": [srv.join("pillar").display().to_string()]}),
        );
        for (key, value) in self.options {
            config.set(key, value);
        }
        let syndic_key = match &self.syndic {
            None => None,
            Some(side) => Some(write_syndic_side(
                workspace,
                &host,
                &self.id,
                side,
                &mut config,
            )?),
        };
        for yaml in &self.extra {
            config.extra(yaml);
        }
        config.write(&host.etc().join("master"))?;
        Ok(Master {
            version: self.version,
            id: self.id,
            workspace: workspace.clone(),
            address,
            host,
            key,
            syndic_key,
            process: None,
        })
    }

    /// Writes the files and starts the daemon, without waiting: see [`Master::ready`].
    ///
    /// # Errors
    /// As [`create`](Self::create), and when the program is missing.
    pub fn start(self, workspace: &Workspace) -> Result<Master> {
        let mut master = self.create(workspace)?;
        master.start()?;
        Ok(master)
    }
}

/// The files that salt-syndic reads beside the master's own; returns its key.
fn write_syndic_side(
    workspace: &Workspace,
    host: &HostDir,
    id: &str,
    side: &SyndicSide,
    master: &mut Config,
) -> Result<KeyPair> {
    match side.masters.as_slice() {
        [only] => master.set("syndic_master", only.as_str()),
        several => master.set("syndic_master", json!(several)),
    }
    master.set("syndic_log_file", host.log("syndic").display().to_string());
    master.set(
        "syndic_pidfile",
        host.path.join("run/syndic.pid").display().to_string(),
    );
    let key = KeyPair::take(workspace)?;
    key.place(&host.pki("minion"), "minion")?;
    let mut minion = host.minion_options(id);
    minion.extra(&side.extra);
    minion.write(&host.etc().join("minion"))?;
    Ok(key)
}

/// A salt-master on an address of its own.
#[derive(Debug)]
pub struct Master {
    version: SaltVersion,
    id: String,
    workspace: Workspace,
    address: Address,
    host: HostDir,
    key: KeyPair,
    syndic_key: Option<KeyPair>,
    process: Option<Process>,
}

impl Master {
    /// A master with this id, which must be unique in its workspace.
    #[must_use]
    pub fn builder(version: SaltVersion, id: &str) -> MasterBuilder {
        MasterBuilder {
            version,
            id: id.to_owned(),
            address: None,
            options: Vec::new(),
            extra: Vec::new(),
            syndic: None,
        }
    }

    /// Starts the daemon (again), without waiting.
    ///
    /// # Errors
    /// When the program is missing.
    pub fn start(&mut self) -> Result<()> {
        self.process = None;
        let mut command = Command::new(self.version.program("salt-master")?);
        command.arg("-c").arg(self.conf_dir());
        let name = format!("{}.master", self.id);
        self.process = Some(Process::start(
            &self.workspace,
            &name,
            &self.host.log("master.out"),
            command,
        )?);
        Ok(())
    }

    /// Waits until its ports answer and its event bus and publisher accept local clients.
    ///
    /// # Errors
    /// With the end of its log, when it ended or takes too long.
    pub fn ready(&mut self) -> Result<()> {
        let sockets = [self.socket(PUBLISH_PORT), self.socket(REQUEST_PORT)];
        let run = self.sock_dir();
        let log = self.host.log("master");
        let process = self
            .process
            .as_mut()
            .with_context(|| format!("{} is not started", self.id))?;
        process
            .wait_ready(READY_WITHIN, || {
                for file in [
                    "master_event_pub.ipc",
                    "master_event_pull.ipc",
                    "publish_pull.ipc",
                ] {
                    if !run.join(file).exists() {
                        return Err(format!("{file} is missing"));
                    }
                }
                sockets.iter().try_for_each(|socket| can_connect(*socket))
            })
            .with_context(|| tail(&log, 25))
    }

    /// Waits until these minions answer `test.ping` here; nobody is not waited for. For a master without syndics.
    ///
    /// # Errors
    /// When some are still missing after a minute and a half; the error shows the last answer.
    pub fn wait_for_minions(&self, ids: &[&str]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let list = ids.join(",");
        wait_until(
            &format!("{list} to answer on {}", self.id),
            READY_WITHIN,
            || {
                let args = [
                    "-t",
                    "2",
                    "--out=json",
                    "--static",
                    "-L",
                    &list,
                    "test.ping",
                ];
                let output = self.salt(&args).map_err(|error| format!("{error:#}"))?;
                let answers = output.json().map_err(|error| format!("{error:#}"))?;
                match ids
                    .iter()
                    .all(|id| answers.get(id) == Some(&Value::Bool(true)))
                {
                    true => Ok(()),
                    false => Err(answers.to_string()),
                }
            },
        )
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> SaltVersion {
        self.version
    }

    /// The directory for `salt -c`.
    #[must_use]
    pub fn conf_dir(&self) -> PathBuf {
        self.host.etc()
    }

    /// The directory of its event bus sockets.
    #[must_use]
    pub fn sock_dir(&self) -> PathBuf {
        self.host.path.join("run/master")
    }

    /// The host's directory; `srv/salt` and `srv/pillar` below it are its file and pillar roots.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.host.path
    }

    /// Its leased address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Its IP address, as a minion's `master` option wants it.
    #[must_use]
    pub fn ip(&self) -> Ipv4Addr {
        self.address.ip()
    }

    /// One of its sockets, 4505 or 4506.
    #[must_use]
    pub fn socket(&self, port: u16) -> SocketAddr {
        self.address.socket(port)
    }

    /// The workspace it lives in.
    #[must_use]
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// Accepts a key as if `salt-key -a` had run. Best before the key's owner first signs in.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn accept(&self, id: &str, key: &KeyPair) -> Result<()> {
        key.place_public(&self.host.pki("master").join("minions").join(id))
    }

    /// Its own key, for a minion's or a syndic's `*_master.pub`.
    #[must_use]
    pub fn key(&self) -> &KeyPair {
        &self.key
    }

    /// The key of its host as a minion, which a syndic or a master-shim signs in with; only after [`MasterBuilder::below`].
    ///
    /// # Errors
    /// When this master is no lower master.
    pub fn syndic_key(&self) -> Result<&KeyPair> {
        self.syndic_key
            .as_ref()
            .with_context(|| format!("{} was not built with `below`", self.id))
    }

    /// Runs `salt -c <conf_dir> ...`.
    ///
    /// # Errors
    /// When it cannot be started or does not end in 150 s. Its own exit code is in the output.
    pub fn salt(&self, args: &[&str]) -> Result<Output> {
        self.command("salt", args, COMMAND_WITHIN)
    }

    /// Runs `salt-run -c <conf_dir> ...`.
    ///
    /// # Errors
    /// As [`salt`](Self::salt).
    pub fn salt_run(&self, args: &[&str]) -> Result<Output> {
        self.command("salt-run", args, COMMAND_WITHIN)
    }

    /// Runs `salt-key -c <conf_dir> ...`.
    ///
    /// # Errors
    /// As [`salt`](Self::salt).
    pub fn salt_key(&self, args: &[&str]) -> Result<Output> {
        self.command("salt-key", args, COMMAND_WITHIN)
    }

    /// Runs any program of this version with this master's configuration, for at most `within`.
    ///
    /// # Errors
    /// As [`salt`](Self::salt).
    pub fn command(&self, program: &str, args: &[&str], within: Duration) -> Result<Output> {
        let mut command = Command::new(self.version.program(program)?);
        command.arg("-c").arg(self.conf_dir()).args(args);
        run(&self.workspace, command, within)
    }

    /// Starts recording every event of its bus.
    ///
    /// # Errors
    /// When the recorder does not connect.
    pub fn record(&self) -> Result<EventRecorder> {
        EventRecorder::start(&self.workspace, self.version, &self.id, &self.conf_dir())
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

    /// SIGKILL to all its processes.
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
            None => bail!("{} is not running", self.id),
        }
    }

    /// Terminates it, starts it again and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start again.
    pub fn restart(&mut self) -> Result<()> {
        // A master that had to be killed is stopped as well.
        self.terminate().ok();
        self.start()?;
        self.ready()
    }

    /// The ends of its logs.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        [self.host.log("master"), self.host.log("master.out")]
            .map(|log| tail(&log, lines))
            .join("\n")
    }
}

pub(crate) fn can_connect(socket: SocketAddr) -> Result<(), String> {
    match TcpStream::connect_timeout(&socket, Duration::from_secs(1)) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{socket}: {error}")),
    }
}

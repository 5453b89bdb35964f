//! A real Redis Sentinel that watches one primary under the name [`MASTER`].

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::address::Address;
use crate::process::{Output, Process};
use crate::redis::RedisServer;
use crate::redis_program::RedisProgram;
use crate::wait::wait_until;
use crate::workspace::Workspace;

/// The name under which every sentinel of this crate knows the primary.
pub const MASTER: &str = "relay";

const PORT: u16 = 26379;

/// How a [`SentinelServer`] shall be; see its fields' methods.
#[derive(Clone, Debug)]
pub struct SentinelBuilder {
    name: String,
    quorum: u32,
    down_after: Duration,
    password: Option<String>,
    lines: Vec<String>,
}

impl SentinelBuilder {
    /// How many sentinels have to agree that the primary is down; 1 unless told.
    #[must_use]
    pub fn quorum(mut self, quorum: u32) -> Self {
        self.quorum = quorum;
        self
    }

    /// How long a primary may be silent; half a second unless told.
    #[must_use]
    pub fn down_after(mut self, down_after: Duration) -> Self {
        self.down_after = down_after;
        self
    }

    /// Asks its own clients for this password.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Adds a line to its configuration file.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// Starts it on a leased address, watching `primary`; it finds replicas and other sentinels through it.
    ///
    /// # Errors
    /// When it does not start; the error shows the end of its log.
    pub fn start(self, workspace: &Workspace, primary: &RedisServer) -> Result<SentinelServer> {
        let address = Address::lease()?;
        let socket = address.socket(PORT);
        let dir = workspace.path().join(&self.name);
        fs::create_dir_all(&dir)?;
        let watched = primary.announced();
        let mut lines = vec![
            format!("bind {}", address.ip()),
            format!("port {PORT}"),
            format!("dir {}", dir.display()),
            "daemonize no".to_owned(),
            "set-proc-title no".to_owned(),
            "protected-mode no".to_owned(),
            format!("sentinel announce-ip {}", address.ip()),
            format!(
                "sentinel monitor {MASTER} {} {} {}",
                watched.ip(),
                watched.port(),
                self.quorum
            ),
            format!(
                "sentinel down-after-milliseconds {MASTER} {}",
                self.down_after.as_millis()
            ),
            // A failover that did not come about is tried again after twice this.
            format!("sentinel failover-timeout {MASTER} 3000"),
        ];
        if let Some(password) = primary.password() {
            lines.push(format!("sentinel auth-pass {MASTER} {password}"));
        }
        lines.extend(
            self.password
                .iter()
                .map(|password| format!("requirepass {password}")),
        );
        lines.extend(self.lines);
        let config = dir.join("sentinel.conf");
        fs::write(&config, lines.join("\n") + "\n")?;
        let program = RedisProgram {
            name: self.name,
            workspace: workspace.clone(),
            socket,
            config,
            mode: &["--sentinel"],
            password: self.password,
            process: None,
        };
        let mut server = SentinelServer {
            program,
            _address: address,
        };
        server.start()?;
        Ok(server)
    }
}

/// A running (or killed) sentinel.
#[derive(Debug)]
pub struct SentinelServer {
    program: RedisProgram,
    _address: Address,
}

impl SentinelServer {
    /// A sentinel called `name`, which must be unique in its workspace.
    #[must_use]
    pub fn builder(name: &str) -> SentinelBuilder {
        SentinelBuilder {
            name: name.to_owned(),
            quorum: 1,
            down_after: Duration::from_millis(500),
            password: None,
            lines: Vec::new(),
        }
    }

    /// Starts it (again) on the same address with what it knew.
    ///
    /// # Errors
    /// When it does not answer; the error shows the end of its log.
    pub fn start(&mut self) -> Result<()> {
        self.program.start()
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> SocketAddr {
        self.program.socket
    }

    /// `redis://address:port`, without the password.
    #[must_use]
    pub fn url(&self) -> String {
        self.program.url()
    }

    /// Runs `redis-cli` against it.
    ///
    /// # Errors
    /// When it cannot be started or hangs for 30 s.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        self.program.cli(args)
    }

    /// The primary's address by this sentinel's word.
    ///
    /// # Errors
    /// When it does not answer with one.
    pub fn primary(&self) -> Result<SocketAddr> {
        let output = self.cli(&["sentinel", "get-master-addr-by-name", MASTER])?;
        let mut lines = output.stdout.lines();
        let (ip, port) = (
            lines.next().unwrap_or_default(),
            lines.next().unwrap_or_default(),
        );
        format!("{ip}:{port}").parse().with_context(|| {
            format!(
                "{} named no primary: {:?}",
                self.program.name, output.stdout
            )
        })
    }

    /// Waits until it knows as many replicas as are given: before that it cannot fail over.
    ///
    /// # Errors
    /// When it does not within 30 s.
    pub fn wait_for_replicas(&self, replicas: usize) -> Result<()> {
        let what = format!("{} to know {replicas} replicas", self.program.name);
        wait_until(&what, Duration::from_secs(30), || {
            let output = self
                .cli(&["sentinel", "replicas", MASTER])
                .map_err(|error| format!("{error:#}"))?;
            let mut lines = output.stdout.lines();
            let mut usable = 0;
            while let Some(line) = lines.next() {
                if line == "flags" && lines.next() == Some("slave") {
                    usable += 1;
                }
            }
            if usable >= replicas {
                Ok(())
            } else {
                Err(format!("it knows {usable}"))
            }
        })
    }

    /// Orders a failover; the replica that it chooses is the primary soon after.
    ///
    /// # Errors
    /// When it refuses, with its words.
    pub fn failover(&self) -> Result<()> {
        let output = self.cli(&["sentinel", "failover", MASTER])?;
        if output.stdout.trim() != "OK" {
            bail!(
                "{} refused the failover: {}",
                self.program.name,
                output.stdout
            );
        }
        Ok(())
    }

    /// Waits until it names this server, and the server is the primary.
    ///
    /// # Errors
    /// When that is not so within 60 s.
    pub fn wait_for_primary(&self, server: &RedisServer) -> Result<()> {
        let what = format!("{} to name {}", self.program.name, server.announced());
        wait_until(&what, Duration::from_secs(60), || {
            let named = self.primary().map_err(|error| format!("{error:#}"))?;
            let is_primary = server.is_primary().map_err(|error| format!("{error:#}"))?;
            if named == server.announced() && is_primary {
                Ok(())
            } else {
                Err(format!("it names {named}, is primary: {is_primary}"))
            }
        })
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.program.process = None;
    }

    /// The running process, for signals.
    ///
    /// # Errors
    /// When it is not running.
    pub fn process(&self) -> Result<&Process> {
        self.program.process()
    }
}

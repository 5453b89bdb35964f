//! A real redis-server on an address of its own, with its data in the workspace.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use crate::address::Address;
use crate::process::{Output, Process};
use crate::redis_program::RedisProgram;
use crate::wait::wait_until;
use crate::workspace::Workspace;

/// How a [`RedisServer`] shall be; see its fields' methods.
#[derive(Clone, Debug)]
pub struct RedisBuilder {
    name: String,
    port: u16,
    address: Option<Address>,
    announce: Option<SocketAddr>,
    password: Option<String>,
    lines: Vec<String>,
}

impl RedisBuilder {
    /// Listens on this address instead of a newly leased one.
    #[must_use]
    pub fn address(mut self, address: Address) -> Self {
        self.address = Some(address);
        self
    }

    /// Listens on this port instead of 6379.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Asks clients for this password.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Makes it a replica of this server, as which it also tells Sentinel its address.
    #[must_use]
    pub fn replica_of(mut self, primary: &RedisServer) -> Self {
        let socket = primary.announced();
        self.lines
            .push(format!("replicaof {} {}", socket.ip(), socket.port()));
        if let Some(password) = &primary.program.password {
            self.password = Some(password.clone());
        }
        self
    }

    /// The address that replicas and Sentinel shall use instead of its own, such as a proxy's.
    #[must_use]
    pub fn announce(mut self, socket: SocketAddr) -> Self {
        self.announce = Some(socket);
        self
    }

    /// Adds a line to its configuration file; the last line with a name wins.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// Writes the configuration, starts the server and waits until it answers.
    ///
    /// # Errors
    /// When it does not start; the error shows the end of its log.
    pub fn start(self, workspace: &Workspace) -> Result<RedisServer> {
        let address = self.address.map_or_else(Address::lease, Ok)?;
        let dir = workspace.path().join(&self.name);
        fs::create_dir_all(&dir)?;
        let socket = address.socket(self.port);
        let announced = self.announce.unwrap_or(socket);
        let mut lines = vec![
            format!("bind {}", address.ip()),
            format!("port {}", self.port),
            format!("dir {}", dir.display()),
            // Else a replica is known by the address that its connections come from.
            format!("replica-announce-ip {}", announced.ip()),
            format!("replica-announce-port {}", announced.port()),
            "daemonize no".to_owned(),
            // A title of its own would overwrite the environment, and with it the mark by which clean-up finds it.
            "set-proc-title no".to_owned(),
            "protected-mode no".to_owned(),
            "save \"\"".to_owned(),
            // A restart keeps its data, as an operator's server would.
            "appendonly yes".to_owned(),
            // The default waits 5 s for further replicas.
            "repl-diskless-sync-delay 0".to_owned(),
        ];
        lines.extend(self.password.iter().flat_map(|password| {
            ["requirepass", "masterauth"].map(|key| format!("{key} {password}"))
        }));
        lines.extend(self.lines);
        let config = dir.join("redis.conf");
        fs::write(&config, lines.join("\n") + "\n")?;
        let program = RedisProgram {
            name: self.name,
            workspace: workspace.clone(),
            socket,
            config,
            mode: &[],
            password: self.password,
            process: None,
        };
        let mut server = RedisServer {
            program,
            announced,
            address,
        };
        server.start()?;
        Ok(server)
    }
}

/// A running (or killed, or stopped) redis-server.
#[derive(Debug)]
pub struct RedisServer {
    program: RedisProgram,
    address: Address,
    announced: SocketAddr,
}

impl RedisServer {
    /// A server called `name`, which must be unique in its workspace.
    #[must_use]
    pub fn builder(name: &str) -> RedisBuilder {
        RedisBuilder {
            name: name.to_owned(),
            port: 6379,
            address: None,
            announce: None,
            password: None,
            lines: Vec::new(),
        }
    }

    /// Starts it (again) on the same address with the same data.
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

    /// Where replicas and Sentinel reach it: its own address unless the builder was told another.
    #[must_use]
    pub fn announced(&self) -> SocketAddr {
        self.announced
    }

    /// The password that it asks for.
    pub(crate) fn password(&self) -> Option<&str> {
        self.program.password.as_deref()
    }

    /// Its leased address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
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

    /// A section of its `INFO`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn info(&self, section: &str) -> Result<String> {
        Ok(self.cli(&["info", section])?.stdout)
    }

    /// Whether it is a primary at this moment.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn is_primary(&self) -> Result<bool> {
        Ok(self.info("replication")?.contains("role:master"))
    }

    /// Makes it a primary of its own (`REPLICAOF NO ONE`).
    ///
    /// # Errors
    /// When it does not answer.
    pub fn promote(&self) -> Result<()> {
        self.cli(&["replicaof", "no", "one"]).map(drop)
    }

    /// Makes it a replica of this server (`REPLICAOF`).
    ///
    /// # Errors
    /// When it does not answer.
    pub fn follow(&self, primary: &Self) -> Result<()> {
        let (ip, port) = (primary.announced.ip(), primary.announced.port());
        self.cli(&["replicaof", &ip.to_string(), &port.to_string()])
            .map(drop)
    }

    /// Waits until this replica has everything that its primary had written when this was called.
    ///
    /// # Errors
    /// When it has not within 30 s.
    pub fn wait_synced(&self, primary: &Self) -> Result<()> {
        let wanted = offset(&primary.info("replication")?, "master_repl_offset");
        wait_until("the replica to catch up", Duration::from_secs(30), || {
            let info = self
                .info("replication")
                .map_err(|error| format!("{error:#}"))?;
            let reached = offset(&info, "slave_repl_offset");
            if info.contains("master_link_status:up") && reached >= wanted {
                Ok(())
            } else {
                Err(format!("at {reached} of {wanted}"))
            }
        })
    }

    /// SIGSTOP: it hangs, its connections stay open.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pause(&self) -> Result<()> {
        self.process()?.pause()
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it is not running.
    pub fn resume(&self) -> Result<()> {
        self.process()?.resume()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.program.process = None;
    }

    /// SIGTERM and wait: data is written out.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn stop(&mut self) -> Result<()> {
        // A replica that has just synchronised writes its first log, and ignores SIGTERM meanwhile.
        wait_until(
            "the first log of writes",
            Duration::from_secs(10),
            || match self.info("persistence") {
                Ok(info) if info.contains("aof_rewrite_in_progress:1") => Err("in progress"),
                Ok(_) | Err(_) => Ok(()),
            },
        )?;
        self.program
            .process
            .take()
            .map_or(Ok(()), |mut process| process.terminate().map(drop))
    }

    /// Stops and starts it.
    ///
    /// # Errors
    /// When either fails.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// The running process, for signals and measurements.
    ///
    /// # Errors
    /// When it is not running.
    pub fn process(&self) -> Result<&Process> {
        self.program.process()
    }
}

/// A number in the text of `INFO`; -1 when it is not there.
fn offset(info: &str, field: &str) -> i64 {
    info.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(-1)
}

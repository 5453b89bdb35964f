//! What a redis-server and a sentinel have in common: the same program with a configuration file, on an address of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{Output, Process, run};
use crate::workspace::Workspace;

const READY_WITHIN: Duration = Duration::from_secs(20);

/// How long a command of `redis-cli` may take.
const CLI_WITHIN: Duration = Duration::from_secs(30);

/// A running (or killed) `redis-server`, as a server or as a sentinel.
#[derive(Debug)]
pub(crate) struct RedisProgram {
    pub(crate) name: String,
    pub(crate) workspace: Workspace,
    pub(crate) socket: SocketAddr,
    pub(crate) config: PathBuf,
    /// Arguments behind the configuration file.
    pub(crate) mode: &'static [&'static str],
    pub(crate) password: Option<String>,
    pub(crate) process: Option<Process>,
}

impl RedisProgram {
    /// Starts it (again) with what it had on disk.
    pub(crate) fn start(&mut self) -> Result<()> {
        // A second one on the same address would only fight the first.
        self.process = None;
        let mut command = Command::new("redis-server");
        command.arg(&self.config).args(self.mode);
        let log = self.config.with_extension("log");
        let mut process = Process::start(&self.workspace, &self.name, &log, command)
            .context("is redis-server installed? `scripts/setup system` does it")?;
        let socket = self.socket;
        process.wait_ready(READY_WITHIN, || ping(socket))?;
        self.process = Some(process);
        Ok(())
    }

    /// `redis://address:port`, without the password.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.socket)
    }

    /// Runs `redis-cli` against it.
    pub(crate) fn cli(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new("redis-cli");
        let (ip, port) = (self.socket.ip().to_string(), self.socket.port().to_string());
        command.args(["-h", &ip, "-p", &port]);
        if let Some(password) = &self.password {
            command.env("REDISCLI_AUTH", password);
        }
        command.args(args);
        run(&self.workspace, command, CLI_WITHIN)
    }

    pub(crate) fn process(&self) -> Result<&Process> {
        self.process
            .as_ref()
            .with_context(|| format!("{} is not running", self.name))
    }
}

/// One PING without a client library; a server that wants a password is up as well.
fn ping(socket: SocketAddr) -> Result<(), String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&socket, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    match ask() {
        Ok(line) if line.starts_with("+PONG") || line.starts_with("-NOAUTH") => Ok(()),
        Ok(line) => Err(format!("answered {line:?}")),
        Err(error) => Err(error.to_string()),
    }
}

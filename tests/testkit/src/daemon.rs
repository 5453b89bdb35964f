//! Saltway's own daemons, started as an operator would: a program, a configuration file, a state directory.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::address::Address;
use crate::process::{Output, Process, run, tail};
use crate::wait::wait_until;
use crate::workspace::Workspace;

const READY_WITHIN: Duration = Duration::from_secs(60);

/// How a [`Daemon`] shall be. The keys are those of `saltway.yaml`.
#[derive(Clone, Debug)]
pub struct DaemonBuilder {
    program: String,
    name: String,
    mom: String,
    salt_config: PathBuf,
    redis_url: Option<String>,
    log: String,
    extra: String,
}

impl DaemonBuilder {
    /// The relay's name, `mom`; default `main`.
    #[must_use]
    pub fn mom(mut self, mom: &str) -> Self {
        self.mom = mom.to_owned();
        self
    }

    /// `redis.url`; without it the daemon does as it does without the key.
    #[must_use]
    pub fn redis(mut self, url: &str) -> Self {
        self.redis_url = Some(url.to_owned());
        self
    }

    /// The value of `SALTWAY_LOG`, which tells how much it logs; default `debug`.
    #[must_use]
    pub fn log(mut self, filter: &str) -> Self {
        self.log = filter.to_owned();
        self
    }

    /// Adds YAML to its configuration; its top-level keys replace those of the same name.
    #[must_use]
    pub fn extra(mut self, yaml: &str) -> Self {
        self.extra.push_str(yaml.trim_end());
        self.extra.push('\n');
        self
    }

    /// Writes the configuration without starting anything.
    ///
    /// # Errors
    /// When no address is free, the file cannot be written, or the program is not built.
    pub fn create(self, workspace: &Workspace) -> Result<Daemon> {
        let address = Address::lease()?;
        let http = address.socket(9464);
        let dir = workspace.path().join(&self.name);
        let state_dir = dir.join("state");
        fs::create_dir_all(&state_dir)
            .with_context(|| format!("failed to make {}", state_dir.display()))?;
        let mut lines = vec![
            format!("mom: {}", self.mom),
            format!("salt_config: {}", self.salt_config.display()),
            format!("state_dir: {}", state_dir.display()),
            format!("http: {{listen: \"{http}\"}}"),
        ];
        lines.extend(
            self.redis_url
                .iter()
                .map(|url| format!("redis: {{url: \"{url}\"}}")),
        );
        let replaced = |line: &String| {
            let key = line.split(':').next().unwrap_or_default();
            self.extra
                .lines()
                .any(|other| other.split(':').next() == Some(key))
        };
        lines.retain(|line| !replaced(line));
        let config = dir.join("saltway.yaml");
        fs::write(&config, format!("{}\n{}", lines.join("\n"), self.extra))?;
        Ok(Daemon {
            program: program(&self.program)?,
            log: dir.join("log"),
            log_filter: self.log,
            name: self.name,
            workspace: workspace.clone(),
            _address: address,
            http,
            config,
            state_dir,
            process: None,
        })
    }

    /// Writes the configuration and starts the daemon, without waiting: see [`Daemon::ready`].
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn start(self, workspace: &Workspace) -> Result<Daemon> {
        let mut daemon = self.create(workspace)?;
        daemon.start()?;
        Ok(daemon)
    }
}

/// A bridge or a master-shim.
#[derive(Debug)]
pub struct Daemon {
    program: PathBuf,
    name: String,
    workspace: Workspace,
    _address: Address,
    http: SocketAddr,
    config: PathBuf,
    state_dir: PathBuf,
    log: PathBuf,
    log_filter: String,
    process: Option<Process>,
}

impl Daemon {
    /// A `saltway-bridge` beside the master whose configuration file is `salt_config`.
    #[must_use]
    pub fn bridge(name: &str, salt_config: &Path) -> DaemonBuilder {
        Self::builder("saltway-bridge", name, salt_config)
    }

    /// A `saltway-master-shim` beside the lower master whose configuration file is `salt_config`.
    #[must_use]
    pub fn master_shim(name: &str, salt_config: &Path) -> DaemonBuilder {
        Self::builder("saltway-master-shim", name, salt_config)
    }

    /// Any of Saltway's daemons; `name` must be unique in its workspace.
    #[must_use]
    pub fn builder(program: &str, name: &str, salt_config: &Path) -> DaemonBuilder {
        DaemonBuilder {
            program: program.to_owned(),
            name: name.to_owned(),
            mom: "main".to_owned(),
            salt_config: salt_config.to_path_buf(),
            redis_url: None,
            log: "debug".to_owned(),
            extra: String::new(),
        }
    }

    /// Starts it (again) with the same configuration and state, without waiting.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(&mut self) -> Result<()> {
        self.process = None;
        let mut command = Command::new(&self.program);
        command
            .arg("--config")
            .arg(&self.config)
            .env("SALTWAY_LOG", &self.log_filter);
        self.process = Some(Process::start(
            &self.workspace,
            &self.name,
            &self.log,
            command,
        )?);
        Ok(())
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Errors
    /// With the end of its log, when it ended or takes too long.
    pub fn ready(&mut self) -> Result<()> {
        let http = self.http;
        let process = self
            .process
            .as_mut()
            .with_context(|| format!("{} is not started", self.name))?;
        process.wait_ready(READY_WITHIN, || match http_get(http, "/readyz") {
            Ok((200, _)) => Ok(()),
            Ok((status, body)) => Err(format!("/readyz answers {status}: {}", body.trim())),
            Err(error) => Err(format!("{error:#}")),
        })
    }

    /// Runs the program with its configuration and `--check` to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end in 30 s.
    pub fn check(&self) -> Result<Output> {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(&self.config).arg("--check");
        run(&self.workspace, command, Duration::from_secs(30))
    }

    /// Status and body of a path on its HTTP port.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        http_get(self.http, path)
    }

    /// Runs the command `saltway` against this bridge.
    ///
    /// # Errors
    /// When it is not built or does not end in 30 s.
    pub fn saltway(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(program("saltway")?);
        command.args(["--url", &format!("http://{}", self.http)]);
        command.args(args);
        run(&self.workspace, command, Duration::from_secs(30))
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// When it does not answer with 200.
    pub fn metrics(&self) -> Result<String> {
        match self.get("/metrics")? {
            (200, body) => Ok(body),
            (status, body) => bail!("{} answers {status} to /metrics: {body}", self.name),
        }
    }

    /// The value of a metric: the sum over the series that carry these labels (perhaps among others). `None` when there is none.
    ///
    /// # Errors
    /// When `/metrics` cannot be read.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<Option<f64>> {
        Ok(metric(&self.metrics()?, name, labels))
    }

    /// Where its HTTP port listens.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its configuration file; a test may rewrite it before [`start`](Self::start).
    #[must_use]
    pub fn config_file(&self) -> &Path {
        &self.config
    }

    /// Its state directory.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
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
    /// When it is not running or had to be killed.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        match self.process.take() {
            Some(mut process) => process.terminate(),
            None => bail!("{} is not running", self.name),
        }
    }

    /// Waits for it to end by itself, such as after a signal or at a start that cannot succeed.
    ///
    /// # Errors
    /// When it is not running, or still runs after `within`; the error shows the end of its log.
    pub fn ended(&mut self, within: Duration) -> Result<ExitStatus> {
        let Some(process) = self.process.as_mut() else {
            bail!("{} is not running", self.name);
        };
        let what = format!("{} to end", self.name);
        let status = wait_until(&what, within, || match process.exited() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("still running".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        })
        .with_context(|| process.log_tail(20))?;
        self.process = None;
        Ok(status)
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    /// Its whole log, for statements about what was (not) said.
    ///
    /// # Errors
    /// When there is none yet.
    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }
}

/// Finds one of our programs: in `SALTWAY_BIN_DIR`, else in the directory of the running executable or the one above (a test runs
/// in `target/<profile>/deps`).
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let dirs: Vec<PathBuf> = match std::env::var_os("SALTWAY_BIN_DIR") {
        Some(dir) => vec![dir.into()],
        None => std::env::current_exe()?
            .ancestors()
            .skip(1)
            .take(2)
            .map(Path::to_path_buf)
            .collect(),
    };
    match dirs
        .iter()
        .map(|dir| dir.join(name))
        .find(|path| path.exists())
    {
        Some(path) => Ok(path),
        None => {
            bail!("{name} is in none of {dirs:?}; run `cargo build` first or set SALTWAY_BIN_DIR")
        }
    }
}

/// One GET; HTTP/1.0, so that the body ends with the connection.
fn http_get(socket: SocketAddr, path: &str) -> Result<(u16, String)> {
    let limit = Some(Duration::from_secs(5));
    let mut stream = TcpStream::connect_timeout(&socket, Duration::from_secs(1))
        .with_context(|| format!("failed to connect to {socket}"))?;
    stream.set_read_timeout(limit)?;
    stream.set_write_timeout(limit)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {socket}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .with_context(|| format!("failed to read {path} of {socket}"))?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer has no end of its head")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .context("the answer has no status")?;
    Ok((status, body.to_owned()))
}

/// Sums the series of a metric in Prometheus' text format that carry all of `labels`.
#[must_use]
pub fn metric(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let wanted: Vec<String> = labels
        .iter()
        .map(|(label, value)| format!("{label}=\"{value}\""))
        .collect();
    let values: Vec<f64> = text
        .lines()
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (series_name, series_labels) = series.split_once('{').unwrap_or((series, ""));
            let carried: Vec<&str> = series_labels.trim_end_matches('}').split(',').collect();
            let matches =
                series_name == name && wanted.iter().all(|label| carried.contains(&label.as_str()));
            matches.then(|| value.parse().ok())?
        })
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::metric;

    const TEXT: &str = "# HELP x_total X.\n# TYPE x_total counter\nx_total{hop=\"mom\",site=\"a\"} 2\nx_total{hop=\"mom\",site=\"ab\"} 3\ny 1.5\n";

    #[test]
    fn a_metric_is_the_sum_of_the_series_that_carry_its_labels() {
        let check = |name, labels: &[(&str, &str)], expected| {
            assert_eq!(metric(TEXT, name, labels), expected, "{name} {labels:?}")
        };
        check("x_total", &[], Some(5.0));
        check("x_total", &[("site", "a")], Some(2.0));
        check("x_total", &[("hop", "mom"), ("site", "ab")], Some(3.0));
        check("x_total", &[("site", "b")], None);
        check("y", &[], Some(1.5));
        check("x", &[], None);
    }
}

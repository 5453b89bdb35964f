//! A `redis-server` of the bridge's own, for installations that name none.
//!
//! Kept under `<state_dir>/redis`: its configuration (0600, holds the password), its pid file and
//! its data. The bridge starts it, waits until it answers, starts it again when it ends, and stops
//! it last. A server that outlived a killed bridge is adopted: same pid file, same directory, and
//! it answers with that pid.
//!
//! ```text
//!  start ──► Running ──ends by itself──► wait (backoff) ──► started again
//!               └────stop───► SIGTERM ──► ended, or SIGKILL after the grace period
//! ```

mod files;
mod process;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::config::RedisConfig;
use crate::connection::{Purpose, Redis};
use crate::error::{RedisError, chain};
use crate::value;
use process::Process;

/// How long a started server may load its data: 10 GB from a slow disk.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a server may save its data when it is stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a server that is starting is asked.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What of the data survives a restart of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Persistence {
    /// Nothing: publications that were not yet delivered are lost, and a new epoch begins.
    None,
    /// A snapshot each minute in which something changed.
    Snapshot,
    /// The log of writes, flushed each second: a power cut costs at most about a second.
    #[default]
    Append,
}

/// How the server is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedRedisConfig {
    /// The daemon's `state_dir`; the server lives in `redis` below it.
    pub state_dir: PathBuf,
    /// Where it listens. Sites connect to it: other than loopback needs a password.
    pub listen: SocketAddr,
    /// File of its password. Generated (0600) when it does not exist. Without one, a server that
    /// listens beyond loopback gets `<state_dir>/redis/password`.
    pub password_file: Option<PathBuf>,
    /// What survives a restart.
    pub persistence: Persistence,
    /// Memory limit in bytes; beyond it writes are refused. 0 sets none.
    pub maxmemory_bytes: u64,
    /// The program, looked for on PATH when it has no slash.
    pub program: PathBuf,
}

impl ManagedRedisConfig {
    /// A server below `state_dir` on 127.0.0.1:6379, found on PATH as `redis-server`.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 6379)),
            password_file: None,
            persistence: Persistence::default(),
            maxmemory_bytes: 0,
            program: PathBuf::from("redis-server"),
        }
    }

    fn dir(&self) -> PathBuf {
        self.state_dir.join("redis")
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A file or directory of the server cannot be written or read.
    #[error("failed to {what} {path}: check state_dir and who owns it")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The password file holds no password.
    #[error("{path} holds no password: delete it to have one generated, or write one into it")]
    NoPassword {
        /// The file.
        path: PathBuf,
    },
    /// The program cannot be run.
    #[error(
        "failed to run {program}: install redis-server (Debian: apt install redis-server), or set redis.url to a server that runs"
    )]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Somebody listens there already.
    #[error(
        "cannot start a Redis at {listen}: the address is in use; if that is the Redis to be used, set redis.url to it, else choose another listen address"
    )]
    AddressInUse {
        /// The address.
        listen: SocketAddr,
    },
    /// The address cannot be listened at.
    #[error("cannot start a Redis at {listen}: set its listen address to one of this host")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The server ended before it answered.
    #[error("redis-server ended while starting ({status}); its last words: {log}")]
    Ended {
        /// How it ended.
        status: String,
        /// Its last log lines.
        log: String,
    },
    /// The server runs but does not answer as it should.
    #[error("redis-server at {listen} runs but cannot be used: {reason}; its last words: {log}")]
    NotReady {
        /// Where it listens.
        listen: SocketAddr,
        /// The answer, or that there was none.
        reason: String,
        /// Its last log lines.
        log: String,
    },
}

/// A running server that is ours; see the module's head.
pub struct ManagedRedis {
    config: ManagedRedisConfig,
    client: RedisConfig,
    redis: Redis,
    process: Process,
}

impl ManagedRedis {
    /// Starts the server, or adopts the one that an earlier bridge left, and waits until it answers.
    ///
    /// # Errors
    /// See [`ServerError`]; none of them goes away by itself.
    pub async fn start(config: ManagedRedisConfig) -> Result<Self, ServerError> {
        let dir = config.dir();
        let password_file = files::prepare(&config, &dir)?;
        let mut client = RedisConfig::new(format!("redis://{}", config.listen));
        client.password_file = password_file;
        let redis = Redis::new(&client, std::sync::Arc::new(|_| {})).map_err(|mistakes| {
            let reason = mistakes
                .iter()
                .map(|mistake| chain(mistake))
                .collect::<Vec<_>>()
                .join("; ");
            ServerError::NotReady {
                listen: config.listen,
                reason,
                log: String::new(),
            }
        })?;
        let process = match adopt(&config, &dir, &redis).await? {
            Some(process) => process,
            None => launch(&config, &dir, &redis).await?,
        };
        Ok(Self {
            config,
            client,
            redis,
            process,
        })
    }

    /// How to connect to it.
    #[must_use]
    pub const fn redis_config(&self) -> &RedisConfig {
        &self.client
    }

    /// The server's process id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Looks after the server until `stop` completes, then stops it. `on_restart` is told why the
    /// server was started again.
    pub async fn run(mut self, stop: impl Future<Output = ()>, on_restart: impl Fn(&str)) {
        let mut stop = std::pin::pin!(stop);
        let mut backoff = Backoff::default();
        loop {
            let ended = tokio::select! {
                ended = self.process.ended() => ended,
                () = &mut stop => {
                    self.process.stop(STOP_TIMEOUT).await;
                    info!(pid = self.process.pid(), "redis-server stopped");
                    return;
                }
            };
            let mut reason = format!(
                "redis-server {ended}; its last words: {}",
                self.process.log()
            );
            loop {
                warn!(error = %reason, "redis-server ended, starting it again");
                let again = async {
                    sleep(backoff.next()).await;
                    launch(&self.config, &self.config.dir(), &self.redis).await
                };
                let launched = tokio::select! {
                    launched = Box::pin(again) => launched,
                    () = &mut stop => return,
                };
                match launched {
                    Ok(process) => {
                        self.process = process;
                        backoff.reset();
                        on_restart(&reason);
                        break;
                    }
                    Err(error) => reason = chain(&error),
                }
            }
        }
    }
}

/// Starts a new server and waits until it answers.
async fn launch(
    config: &ManagedRedisConfig,
    dir: &Path,
    redis: &Redis,
) -> Result<Process, ServerError> {
    // Redis' own complaint comes late and in many words. Its own socket may linger for a moment.
    if let Err(source) = std::net::TcpListener::bind(config.listen) {
        return Err(match source.kind() {
            std::io::ErrorKind::AddrInUse => ServerError::AddressInUse {
                listen: config.listen,
            },
            _ => ServerError::Listen {
                listen: config.listen,
                source,
            },
        });
    }
    let mut process =
        Process::spawn(&config.program, &files::config_path(dir)).map_err(|source| {
            ServerError::Spawn {
                program: config.program.clone(),
                source,
            }
        })?;
    let deadline = Instant::now() + READY_TIMEOUT;
    let pid = process.pid();
    loop {
        let answer = tokio::select! {
            ended = process.ended() => {
                let log = process.log();
                if log.contains("Address already in use") {
                    return Err(ServerError::AddressInUse { listen: config.listen });
                }
                return Err(ServerError::Ended { status: ended, log });
            }
            answer = Box::pin(answering_pid(redis)) => answer,
        };
        let reason = match answer {
            Ok(Some(found)) if found == pid => {
                info!(pid, listen = %config.listen, "redis-server started");
                return Ok(process);
            }
            Ok(_) => "another server answers at its address".to_owned(),
            Err(error) => chain(&error),
        };
        if Instant::now() >= deadline {
            process.stop(STOP_TIMEOUT).await;
            let log = process.log();
            return Err(ServerError::NotReady {
                listen: config.listen,
                reason,
                log,
            });
        }
        sleep(ASK_AGAIN).await;
    }
}

/// The server that an earlier bridge left. One that is ours but listens elsewhere is stopped.
async fn adopt(
    config: &ManagedRedisConfig,
    dir: &Path,
    redis: &Redis,
) -> Result<Option<Process>, ServerError> {
    let Some(mut process) = Process::find(&files::pid_path(dir), dir) else {
        return Ok(None);
    };
    let pid = process.pid();
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        match Box::pin(answering_pid(redis)).await {
            Ok(Some(found)) if found == pid => {
                info!(pid, listen = %config.listen, "redis-server of an earlier run adopted");
                return Ok(Some(process));
            }
            Err(RedisError::NotReady { .. }) if Instant::now() < deadline => sleep(ASK_AGAIN).await,
            _ => break,
        }
    }
    warn!(
        pid,
        "redis-server of an earlier run has another address or password: stopping it"
    );
    process.stop(STOP_TIMEOUT).await;
    Ok(None)
}

/// The process id that the server at the configured address gives.
async fn answering_pid(redis: &Redis) -> Result<Option<u32>, RedisError> {
    let lane = redis.write_lane(Purpose::Check);
    let limit = lane.endpoint.op_timeout;
    lane.command("PING", &redis::cmd("PING"), limit).await?;
    let mut info = redis::cmd("INFO");
    info.arg("server");
    let text = value::text(lane.command("INFO", &info, limit).await?).unwrap_or_default();
    let pid = text
        .lines()
        .find_map(|line| line.strip_prefix("process_id:"));
    Ok(pid.and_then(|pid| pid.trim().parse().ok()))
}

/// Waits for `future` at most `limit`; whether it completed.
async fn within(limit: Duration, future: impl Future<Output = ()>) -> bool {
    timeout(limit, future).await.is_ok()
}

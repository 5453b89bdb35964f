//! Connections to Redis that come back by themselves.
//!
//! A [`Lane`] is one connection for one purpose, made when first used. An operation on it either
//! answers within its time-out or throws the connection away; the next operation makes a new one,
//! not before the backoff allows it. Nothing is repeated here: only the caller knows what may be.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike as _, MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, Value};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, warn};

use crate::config::{ConfigError, RedisConfig, Server, certificates, password, server};
use crate::error::{RedisError, chain};

/// The wait before the second attempt to connect, doubled up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest wait between two attempts: a restarted Redis is found again within a second.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The slowest link that large frames are sent over, in bytes a second: a frame gets a second for
/// each such part on top of the time-out. 50 MiB, the largest return tried, get 200 s.
const SLOWEST_LINK: u64 = 256 * 1024;

/// What a connection is for: a label of metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Appending publications and heart-beats.
    Append,
    /// Listening to publications.
    Subscribe,
    /// Reading the publications stream.
    Read,
    /// Sending or taking requests.
    Requests,
    /// Sending or listening to replies.
    Replies,
    /// Checking the server at start-up.
    Check,
}

impl Purpose {
    /// The label's text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Subscribe => "subscribe",
            Self::Read => "read",
            Self::Requests => "requests",
            Self::Replies => "replies",
            Self::Check => "check",
        }
    }
}

/// Called each time a connection that was lost stands again.
pub type ReconnectHook = Arc<dyn Fn(Purpose) + Send + Sync>;

/// A Redis deployment: the primary that is written to and the server that is read at. Cheap to
/// clone; makes no connection by itself.
#[derive(Clone)]
pub struct Redis {
    pub(crate) primary: Arc<Endpoint>,
    pub(crate) nearest: Arc<Endpoint>,
    hook: ReconnectHook,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("primary", &self.primary.url)
            .field("nearest", &self.nearest.url)
            .finish_non_exhaustive()
    }
}

impl Redis {
    /// The deployment that the configuration names.
    ///
    /// # Errors
    /// Every mistake in the configuration; see [`RedisConfig::check`].
    pub fn new(
        config: &RedisConfig,
        on_reconnect: ReconnectHook,
    ) -> Result<Self, Vec<ConfigError>> {
        let mistakes = config.check();
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let read_url = config.read_url.as_ref().unwrap_or(&config.url);
        let open = |key, url| Endpoint::new(key, url, config).map_err(|error| vec![error]);
        Ok(Self {
            primary: Arc::new(open("redis.url", &config.url)?),
            nearest: Arc::new(open("redis.read_url", read_url)?),
            hook: on_reconnect,
        })
    }

    pub(crate) fn write_lane(&self, purpose: Purpose) -> Lane {
        Lane::new(Arc::clone(&self.primary), purpose, Arc::clone(&self.hook))
    }

    pub(crate) fn read_lane(&self, purpose: Purpose) -> Lane {
        Lane::new(Arc::clone(&self.nearest), purpose, Arc::clone(&self.hook))
    }

    pub(crate) fn reconnected(&self, purpose: Purpose) {
        (self.hook)(purpose);
    }
}

/// One server and how to sign in there.
pub(crate) struct Endpoint {
    /// As configured; holds no password, which was checked.
    pub(crate) url: String,
    pub(crate) op_timeout: Duration,
    server: Server,
    username: Option<String>,
    password_file: Option<std::path::PathBuf>,
    ca: Option<Vec<u8>>,
}

impl Endpoint {
    fn new(key: &'static str, url: &str, config: &RedisConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            url: url.to_owned(),
            op_timeout: config.op_timeout,
            server: server(key, url)?,
            username: config.username.clone(),
            password_file: config.password_file.clone(),
            ca: config.ca_file.as_deref().map(certificates).transpose()?,
        })
    }

    /// The time-out of an operation that carries a frame of this size.
    pub(crate) fn timeout_for(&self, bytes: usize) -> Duration {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.op_timeout + Duration::from_millis(bytes.saturating_mul(1000) / SLOWEST_LINK)
    }

    /// A client with the password that the file holds now: a changed password needs no restart.
    fn client(&self) -> Result<Client, RedisError> {
        let mut settings = self
            .server
            .info
            .redis_settings()
            .clone()
            .set_skip_set_lib_name();
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(path) = &self.password_file {
            settings = settings.set_password(password(path).map_err(|error| {
                RedisError::PasswordFile {
                    path: path.display().to_string(),
                    source: Arc::new(std::io::Error::other(chain(&error))),
                }
            })?);
        }
        let tcp = self.server.info.tcp_settings().clone().set_nodelay(true);
        let info = self
            .server
            .info
            .clone()
            .set_redis_settings(settings)
            .set_tcp_settings(tcp);
        let client = if self.server.tls && self.ca.is_some() {
            let certificates = redis::TlsCertificates {
                client_tls: None,
                root_cert: self.ca.clone(),
            };
            Client::build_with_tls(info, certificates)
        } else {
            Client::open(info)
        };
        client.map_err(|error| self.connect_error(error))
    }

    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let client = self.client()?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.op_timeout))
            .set_response_timeout(None);
        let connecting = Box::pin(client.get_multiplexed_async_connection_with_config(&config));
        self.connected(timeout(self.op_timeout, connecting).await)
    }

    /// A connection of its own for pub/sub.
    pub(crate) async fn connect_pubsub(&self) -> Result<PubSub, RedisError> {
        let client = self.client()?;
        let connecting = Box::pin(client.get_async_pubsub());
        self.connected(timeout(self.op_timeout, connecting).await)
    }

    fn connected<T>(
        &self,
        result: Result<redis::RedisResult<T>, tokio::time::error::Elapsed>,
    ) -> Result<T, RedisError> {
        match result {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.connect_error(error)),
            Err(_elapsed) => Err(self.timed_out("connect", self.op_timeout)),
        }
    }

    fn connect_error(&self, error: redis::RedisError) -> RedisError {
        match RedisError::sort("connect", &self.url, error) {
            RedisError::Disconnected { url, source, .. } => RedisError::Connect { url, source },
            other => other,
        }
    }

    pub(crate) fn timed_out(&self, operation: &'static str, after: Duration) -> RedisError {
        RedisError::TimedOut {
            operation,
            url: self.url.clone(),
            after,
        }
    }

    pub(crate) fn unexpected(&self, operation: &'static str, expected: &'static str) -> RedisError {
        RedisError::UnexpectedReply {
            operation,
            url: self.url.clone(),
            expected,
        }
    }

    /// A reply that may be an error of the server.
    pub(crate) fn value(&self, operation: &'static str, value: Value) -> Result<Value, RedisError> {
        value
            .extract_error()
            .map_err(|error| RedisError::sort(operation, &self.url, error))
    }
}

/// Waits between attempts: doubled from [`BACKOFF_MIN`] to [`BACKOFF_MAX`], with jitter, so that
/// the sites of a restarted Redis do not come back in step.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    wait: Option<Duration>,
}

impl Backoff {
    /// The next wait: between half of and the whole current step.
    pub(crate) fn next(&mut self) -> Duration {
        let step = self
            .wait
            .map_or(BACKOFF_MIN, |wait| (wait * 2).min(BACKOFF_MAX));
        self.wait = Some(step);
        step.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Starts over after a success.
    pub(crate) const fn reset(&mut self) {
        self.wait = None;
    }
}

/// One connection for one purpose; see the module's head. Operations on a clone share it.
#[derive(Clone)]
pub(crate) struct Lane {
    pub(crate) endpoint: Arc<Endpoint>,
    purpose: Purpose,
    hook: ReconnectHook,
    state: Arc<Mutex<LaneState>>,
}

#[derive(Default)]
struct LaneState {
    connection: Option<MultiplexedConnection>,
    /// Counts connections, so that a late error does not throw away the next one.
    generation: u64,
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Lane {
    fn new(endpoint: Arc<Endpoint>, purpose: Purpose, hook: ReconnectHook) -> Self {
        Self {
            endpoint,
            purpose,
            hook,
            state: Arc::default(),
        }
    }

    /// Sends one command.
    pub(crate) async fn command(
        &self,
        operation: &'static str,
        command: &Cmd,
        limit: Duration,
    ) -> Result<Value, RedisError> {
        self.run(operation, limit, async |mut connection| {
            connection.req_packed_command(command).await
        })
        .await
        .and_then(|value| self.endpoint.value(operation, value))
    }

    /// Sends the commands of a pipeline and returns a value for each; a value may be an error of
    /// the server, see [`Endpoint::value`].
    pub(crate) async fn pipeline(
        &self,
        operation: &'static str,
        pipeline: &Pipeline,
        limit: Duration,
    ) -> Result<Vec<Value>, RedisError> {
        let count = pipeline.len();
        self.run(operation, limit, async |mut connection| {
            connection.req_packed_commands(pipeline, 0, count).await
        })
        .await
    }

    async fn run<T>(
        &self,
        operation: &'static str,
        limit: Duration,
        send: impl AsyncFnOnce(MultiplexedConnection) -> redis::RedisResult<T>,
    ) -> Result<T, RedisError> {
        let (connection, generation) = self.connection(operation).await?;
        let result = match timeout(limit, Box::pin(send(connection))).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => RedisError::sort(operation, &self.endpoint.url, error),
            Err(_elapsed) => self.endpoint.timed_out(operation, limit),
        };
        if result.breaks_connection() {
            self.discard(generation, &result).await;
        }
        Err(result)
    }

    /// The connection, made anew if there is none. Waits for its turn at most `op_timeout`.
    async fn connection(
        &self,
        operation: &'static str,
    ) -> Result<(MultiplexedConnection, u64), RedisError> {
        let limit = self.endpoint.op_timeout;
        let mut state = timeout(limit, self.state.lock())
            .await
            .map_err(|_elapsed| self.endpoint.timed_out(operation, limit))?;
        if let Some(connection) = &state.connection {
            return Ok((connection.clone(), state.generation));
        }
        if let Some(not_before) = state.not_before {
            sleep_until(not_before).await;
        }
        match self.endpoint.connect().await {
            Ok(connection) => {
                state.generation += 1;
                state.backoff.reset();
                state.not_before = None;
                state.connection = Some(connection.clone());
                if state.generation > 1 {
                    debug!(purpose = self.purpose.as_str(), url = %self.endpoint.url, "reconnected to Redis");
                    (self.hook)(self.purpose);
                }
                Ok((connection, state.generation))
            }
            Err(error) => {
                state.not_before = Some(Instant::now() + state.backoff.next());
                Err(error)
            }
        }
    }

    async fn discard(&self, generation: u64, error: &RedisError) {
        let mut state = self.state.lock().await;
        if state.generation == generation && state.connection.take().is_some() {
            state.not_before = Some(Instant::now() + state.backoff.next());
            warn!(error = %chain(error), purpose = self.purpose.as_str(), "connection to Redis given up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_second_and_start_over() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..8).map(|_| backoff.next()).collect();
        assert!(
            waits
                .first()
                .is_some_and(|wait| *wait >= BACKOFF_MIN / 2 && *wait <= BACKOFF_MIN)
        );
        assert!(
            waits
                .last()
                .is_some_and(|wait| *wait >= BACKOFF_MAX / 2 && *wait <= BACKOFF_MAX)
        );
        backoff.reset();
        assert!(backoff.next() <= BACKOFF_MIN);
    }
}

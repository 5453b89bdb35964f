//! One server, how to sign in there, and how long an operation on it may take.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike as _, MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Client, Value};
use tokio::time::timeout;

use crate::config::{ConfigError, RedisConfig, Server, certificates, password, server};
use crate::error::{RedisError, chain};
use crate::info::Info;
use crate::lane::Serves;

/// The slowest link that large frames are sent over, in bytes a second: a frame gets a second for
/// each such part on top of the time-out. 50 MiB, the largest return tried, get 200 s.
const SLOWEST_LINK: u64 = 256 * 1024;

/// One server and how to sign in there.
pub(crate) struct Endpoint {
    /// As configured; holds no password, which was checked.
    url: String,
    pub(crate) op_timeout: Duration,
    server: Server,
    username: Option<String>,
    password_file: Option<std::path::PathBuf>,
    ca: Option<Vec<u8>>,
}

impl Endpoint {
    pub(crate) fn new(
        key: &'static str,
        url: &str,
        config: &RedisConfig,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            url: url.to_owned(),
            op_timeout: config.op_timeout,
            server: server(key, url)?,
            username: config.username.clone(),
            password_file: config.password_file.clone(),
            ca: config.ca_file.as_deref().map(certificates).transpose()?,
        })
    }

    /// Where it is, for people.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
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

    /// A connection, and the run of the server if it is to serve writes.
    pub(crate) async fn connect(
        &self,
        serves: Serves,
    ) -> Result<(MultiplexedConnection, Arc<str>), RedisError> {
        let connecting = async {
            let client = self.client()?;
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(self.op_timeout))
                .set_response_timeout(None);
            let connecting = client.get_multiplexed_async_connection_with_config(&config);
            let connected = Box::pin(connecting).await;
            let mut connection = connected.map_err(|error| self.connect_error(error))?;
            let run = match serves {
                Serves::Writes => self.look(&mut connection).await?,
                Serves::Reads => Arc::default(),
            };
            Ok((connection, run))
        };
        let limit = self.op_timeout;
        timeout(limit, Box::pin(connecting))
            .await
            .unwrap_or_else(|_elapsed| Err(self.timed_out("connect", limit)))
    }

    /// Looks at the server: refuses a replica, and names its run otherwise.
    pub(crate) async fn look(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Arc<str>, RedisError> {
        const OPERATION: &str = "connect";
        let reply = connection
            .req_packed_command(&redis::cmd("INFO"))
            .await
            .map_err(|error| RedisError::sort(OPERATION, &self.url(), error))?;
        let info = Info::new(self.value(OPERATION, reply)?);
        if info.is_replica() {
            let (operation, url) = (OPERATION, self.url());
            return Err(RedisError::ReadOnly { operation, url });
        }
        let run = info
            .run()
            .ok_or_else(|| self.unexpected(OPERATION, "run_id in INFO"))?;
        Ok(run.into())
    }

    /// A connection of its own for pub/sub.
    pub(crate) async fn connect_pubsub(&self) -> Result<PubSub, RedisError> {
        let client = self.client()?;
        let connecting = Box::pin(client.get_async_pubsub());
        match timeout(self.op_timeout, connecting).await {
            Ok(connected) => connected.map_err(|error| self.connect_error(error)),
            Err(_elapsed) => Err(self.timed_out("connect", self.op_timeout)),
        }
    }

    fn connect_error(&self, error: redis::RedisError) -> RedisError {
        match RedisError::sort("connect", &self.url(), error) {
            RedisError::Disconnected { url, source, .. } => RedisError::Connect { url, source },
            other => other,
        }
    }

    pub(crate) fn timed_out(&self, operation: &'static str, after: Duration) -> RedisError {
        RedisError::TimedOut {
            operation,
            url: self.url(),
            after,
        }
    }

    pub(crate) fn unexpected(&self, operation: &'static str, expected: &'static str) -> RedisError {
        RedisError::UnexpectedReply {
            operation,
            url: self.url(),
            expected,
        }
    }

    /// A reply that may be an error of the server.
    pub(crate) fn value(&self, operation: &'static str, value: Value) -> Result<Value, RedisError> {
        value
            .extract_error()
            .map_err(|error| RedisError::sort(operation, &self.url(), error))
    }
}

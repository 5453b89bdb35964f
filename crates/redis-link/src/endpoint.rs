//! One server, how to sign in there, and how long an operation on it may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::{ConnectionLike as _, MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Client, Value};
use tokio::time::timeout;

use crate::config::{ConfigError, Primary, RedisConfig, Server, server};
use crate::error::RedisError;
use crate::info::Info;
use crate::lane::Serves;
use crate::sentinel::Sentinels;
use crate::sign_in::SignIn;

/// The slowest link that large frames are sent over, in bytes a second: a frame gets a second for
/// each such part on top of the time-out. 50 MiB, the largest return tried, get 200 s.
const SLOWEST_LINK: u64 = 256 * 1024;

/// Where a server is.
enum Place {
    /// At the URL, which holds no password: that was checked.
    Fixed { url: String, server: Server },
    /// Where the sentinels say.
    Watched(Sentinels),
}

/// A connection that was made.
pub(crate) struct Connected {
    pub(crate) connection: MultiplexedConnection,
    /// How often the primary had moved then, see [`Endpoint::moves`].
    pub(crate) moves: u64,
    /// The run of the server if it is to serve writes, see [`Info::run`].
    pub(crate) run: Arc<str>,
}

/// One server, or the primary wherever it is.
pub(crate) struct Endpoint {
    pub(crate) op_timeout: Duration,
    place: Place,
    sign_in: SignIn,
    /// Connections that turned out to be dead, see [`Endpoint::lost`].
    losses: AtomicU64,
}

impl Endpoint {
    /// A connection to the server turned out to be dead. The others of the same way very likely are, too, and would each find
    /// out by a time-out of its own, at its next use: they are made anew instead.
    pub(crate) fn lost(&self) {
        self.losses.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was.
    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    /// The primary.
    pub(crate) fn primary(config: &RedisConfig) -> Result<Self, ConfigError> {
        match &config.primary {
            Primary::Url(url) => Self::at("redis.url", url, config),
            Primary::Sentinel(sentinel) => {
                Self::new(Place::Watched(Sentinels::new(sentinel, config)?), config)
            }
        }
    }

    /// The server at a URL.
    pub(crate) fn at(
        key: &'static str,
        url: &str,
        config: &RedisConfig,
    ) -> Result<Self, ConfigError> {
        let server = server(key, url)?;
        let url = url.to_owned();
        Self::new(Place::Fixed { url, server }, config)
    }

    fn new(place: Place, config: &RedisConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            op_timeout: config.op_timeout,
            place,
            sign_in: SignIn::at_servers(config)?,
            losses: AtomicU64::new(0),
        })
    }

    /// Where it is, for people.
    pub(crate) fn url(&self) -> String {
        match &self.place {
            Place::Fixed { url, .. } => url.clone(),
            Place::Watched(sentinels) => sentinels.text(),
        }
    }

    /// See [`Sentinels::moves`].
    pub(crate) fn moves(&self) -> u64 {
        match &self.place {
            Place::Fixed { .. } => 0,
            Place::Watched(sentinels) => sentinels.moves(),
        }
    }

    /// See [`Sentinels::confirm`].
    pub(crate) async fn confirm(&self) {
        if let Place::Watched(sentinels) = &self.place {
            Box::pin(sentinels.confirm()).await;
        }
    }

    /// The time-out of an operation that carries a frame of this size.
    pub(crate) fn timeout_for(&self, bytes: usize) -> Duration {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.op_timeout + Duration::from_millis(bytes.saturating_mul(1000) / SLOWEST_LINK)
    }

    async fn client(&self) -> Result<(Client, u64), RedisError> {
        match &self.place {
            Place::Fixed { url, server } => Ok((self.sign_in.client(server, url)?, 0)),
            Place::Watched(sentinels) => {
                let (server, moves) = Box::pin(sentinels.primary()).await?;
                let client = self.sign_in.client(&server, &sentinels.text())?;
                Ok((client, moves))
            }
        }
    }

    /// One attempt to connect.
    pub(crate) async fn connect(&self, serves: Serves) -> Result<Connected, RedisError> {
        let limit = self.op_timeout;
        let connecting = async {
            let (client, moves) = self.client().await?;
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(self.op_timeout))
                .set_response_timeout(None);
            let connecting = client.get_multiplexed_async_connection_with_config(&config);
            let connected = Box::pin(connecting).await;
            let connection =
                connected.map_err(|error| RedisError::sort_connect(&self.url(), error))?;
            Ok((connection, moves))
        };
        let late = |_elapsed| Err(self.timed_out("connect", limit));
        let connected = timeout(limit, Box::pin(connecting)).await;
        let (mut connection, moves) = connected.unwrap_or_else(late)?;
        // Each has the whole time: on a link of 400 ms either takes most of it.
        let run = match serves {
            Serves::Writes => {
                let looking = Box::pin(self.look(&mut connection));
                let late = |_elapsed| Err(self.timed_out("connect", limit));
                timeout(limit, looking).await.unwrap_or_else(late)?
            }
            Serves::Reads => Arc::default(),
        };
        Ok(Connected {
            connection,
            moves,
            run,
        })
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
            if let Place::Watched(sentinels) = &self.place {
                sentinels.refused();
            }
            let (operation, url) = (OPERATION, self.url());
            return Err(RedisError::ReadOnly { operation, url });
        }
        let run = info
            .run()
            .ok_or_else(|| self.unexpected(OPERATION, "run_id in INFO"))?;
        Ok(run.into())
    }

    /// A connection of its own for pub/sub, and the primary's moves so far.
    pub(crate) async fn connect_pubsub(&self) -> Result<(PubSub, u64), RedisError> {
        let connecting = async {
            let (client, moves) = self.client().await?;
            let connected = Box::pin(client.get_async_pubsub()).await;
            let connected =
                connected.map_err(|error| RedisError::sort_connect(&self.url(), error))?;
            Ok((connected, moves))
        };
        let limit = self.op_timeout;
        timeout(limit, Box::pin(connecting))
            .await
            .unwrap_or_else(|_elapsed| Err(self.timed_out("connect", limit)))
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

//! A Redis deployment: the primary that is written to and the server that is read at.

use std::fmt;
use std::sync::Arc;

use crate::config::{ConfigError, RedisConfig};
use crate::endpoint::Endpoint;
use crate::lane::{Lane, Serves};

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
    /// The site's lease.
    Lease,
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
            Self::Lease => "lease",
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
            .field("primary", &self.primary.url())
            .field("nearest", &self.nearest.url())
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
        let told = |error| vec![error];
        let primary = Arc::new(Endpoint::primary(config).map_err(told)?);
        let nearest = match &config.read_url {
            Some(url) => Arc::new(Endpoint::at("redis.read_url", url, config).map_err(told)?),
            None => Arc::clone(&primary),
        };
        Ok(Self {
            primary,
            nearest,
            hook: on_reconnect,
        })
    }

    pub(crate) fn write_lane(&self, purpose: Purpose) -> Lane {
        self.lane(&self.primary, purpose, Serves::Writes)
    }

    pub(crate) fn read_lane(&self, purpose: Purpose) -> Lane {
        self.lane(&self.nearest, purpose, Serves::Reads)
    }

    fn lane(&self, endpoint: &Arc<Endpoint>, purpose: Purpose, serves: Serves) -> Lane {
        Lane::new(
            Arc::clone(endpoint),
            purpose,
            serves,
            Arc::clone(&self.hook),
        )
    }

    pub(crate) fn reconnected(&self, purpose: Purpose) {
        (self.hook)(purpose);
    }
}

//! I/O with Redis: append, subscribe, read, requests and replies, and a `redis-server` of our own.
//!
//! ```text
//! bridge:  Appender ──EVALSHA──► stream + PUBLISH        RequestsConsumer ◄─XREADGROUP── requests
//! site:    Subscription ◄─pub/sub──┘   StreamReader ◄─┘  Tunnel ──XADD──► requests, ◄─pub/sub─ replies
//! ```
//! - Everything of the `redis` crate ends here: callers see the types of this crate and of
//!   `relay-core`.
//! - Every operation has a time-out; a connection on which one ran out is thrown away. Connections
//!   come back by themselves, with backoff.
//! - What is read from Redis is hostile: what is not of our form is reported with the reason and
//!   skipped, never a panic.
//!
//! Keys of one relay share the prefix `saltway:{<mom>}:`, so that they share a cluster slot; see
//! [`RelayKeys`].

mod append;
mod backoff;
mod check;
mod config;
mod connection;
mod endpoint;
mod error;
mod header;
mod info;
mod keys;
mod lane;
mod lease;
mod lease_watch;
mod listener;
mod read;
mod requests;
mod script;
mod section;
mod sentinel;
mod server;
mod sign_in;
mod subscribe;
mod value;

pub use append::{
    AppendOutcome, Appended, Appender, AppenderConfig, Beaten, EpochBegun, Frame, Stored,
};
pub use check::{Role, ServerInfo};
pub use config::{ConfigError, Primary, RedisConfig, SentinelConfig};
pub use connection::{Purpose, ReconnectHook, Redis};
pub use error::{Cause, REASONS, RedisError};
pub use keys::{InvalidName, RelayKeys, SiteName};
pub use lease::{LeaseAnswer, SiteLease};
pub use lease_watch::LeaseWatch;
pub use read::{PageRead, StreamReader};
pub use requests::{
    Outcome, Replier, ReplyEvent, Request, RequestEvent, RequestId, RequestsClient, RequestsConfig,
    RequestsConsumer, RequestsGauge, Tunnel, TunnelConfig, TunnelError, TunnelTask,
};
pub use server::{ManagedRedis, ManagedRedisConfig, Persistence, ServerError};
pub use subscribe::{LinkEvent, Subscription, SubscriptionConfig};

//! The lease of a site, in Redis: which of several shims is active, and how far the site is.
//!
//! What follows from the answers is decided in [`relay_core`]'s `lease`.
//!
//! | key `saltway:{<mom>}:...` | type | content |
//! |---|---|---|
//! | `lease:<site>` | hash, expires | `holder`, `fence` |
//! | `fence:<site>` | hash | `fence` given last; `run` of the server and `since` when it knows |
//! | `position:<site>` | hash | `fence` of who wrote it, `id` that the site is done with |
//!
//! - One holder at a time, as long as Redis forgets nothing; each new holder has a greater fence.
//! - Who holds a smaller fence than the one given last does not move the position.

use redis::Value;
use relay_core::EntryId;
use relay_core::lease::LeaseConfig;

use crate::check;
use crate::connection::{Purpose, Redis};
use crate::error::RedisError;
use crate::keys::{RelayKeys, SiteName};
use crate::lane::{Lane, Session};
use crate::script::Script;
use crate::value;

const LEASE: &str = concat!(include_str!("lua/call.lua"), include_str!("lua/lease.lua"));
const POSITION: &str = concat!(
    include_str!("lua/call.lua"),
    include_str!("lua/position.lua")
);
const RELEASE: &str = concat!(
    include_str!("lua/call.lua"),
    include_str!("lua/release.lua")
);

/// What Redis says of a site's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseAnswer {
    /// The lease is the asker's.
    pub granted: bool,
    /// The number of the lease, whoever holds it.
    pub fence: u64,
    /// When it ends unless it is renewed.
    pub expires_in_ms: u64,
    /// For how long this server has known the lease: since its start, or since it was emptied.
    pub known_for_ms: u64,
    /// How far the site is, by the word of who was active; `None` before the first word.
    pub position: Option<EntryId>,
}

/// Asks for the lease of one site in the name of one shim; see the module's head.
pub struct SiteLease {
    lane: Lane,
    keys: RelayKeys,
    site: SiteName,
    holder: String,
    duration_ms: u64,
    lease: Script,
    position: Script,
    release: Script,
}

impl SiteLease {
    /// `holder` names the shim, the same after a restart of it. The lease lasts as long as
    /// [`LeaseConfig`] says by default.
    #[must_use]
    pub fn new(redis: &Redis, keys: &RelayKeys, site: &SiteName, holder: String) -> Self {
        Self {
            lane: redis.write_lane(Purpose::Lease),
            keys: keys.clone(),
            site: site.clone(),
            holder,
            duration_ms: LeaseConfig::default().lease_ms,
            lease: Script::new(LEASE),
            position: Script::new(POSITION),
            release: Script::new(RELEASE),
        }
    }

    /// With leases that last this long instead.
    #[must_use]
    pub const fn lasting(mut self, duration_ms: u64) -> Self {
        self.duration_ms = duration_ms;
        self
    }

    /// Checks the rights that the lease needs.
    ///
    /// # Errors
    /// All missing rights at once, or what keeps the server from answering.
    pub async fn check(&self) -> Result<(), RedisError> {
        let commands = check::lease_writes(&self.keys, &self.site);
        Box::pin(check::try_rights(&self.lane, &commands)).await
    }

    /// Takes the lease if it is free, renews it if it is the asker's. `known_fence` is the greatest
    /// that this shim has heard of.
    ///
    /// # Errors
    /// When Redis does not answer; the lease may have been given nevertheless.
    pub async fn ask(&self, known_fence: u64) -> Result<LeaseAnswer, RedisError> {
        const OPERATION: &str = "ask for the site's lease";
        let session = self.lane.session(OPERATION).await?;
        let asking = self.ask_on(&session, known_fence, false);
        let (reply, ()) = tokio::join!(asking, self.lane.endpoint.confirm());
        let mut reply = reply?;
        if is_stale(&reply) {
            // What this lane believes about the server may be what was wrong.
            let session = self.lane.looked_at_again(OPERATION).await?;
            reply = self.ask_on(&session, known_fence, true).await?;
        }
        parse(reply).ok_or_else(|| {
            let expected = "granted, fence, milliseconds, position, milliseconds";
            self.lane.endpoint.unexpected(OPERATION, expected)
        })
    }

    async fn ask_on(
        &self,
        session: &Session,
        known_fence: u64,
        looked: bool,
    ) -> Result<Value, RedisError> {
        let mut call = self.lease.call(3);
        call.arg(self.keys.lease(&self.site))
            .arg(self.keys.fence(&self.site))
            .arg(self.keys.position(&self.site))
            .arg(&self.holder)
            .arg(self.duration_ms)
            .arg(known_fence)
            .arg(&*session.run)
            .arg(u8::from(looked));
        let operation = "ask for the site's lease";
        self.run(&self.lease, session, operation, call).await
    }

    /// Notes how far the site is. `false`: the lease has gone to another shim, nothing was noted.
    ///
    /// # Errors
    /// When Redis does not take it.
    pub async fn write_position(&self, fence: u64, id: EntryId) -> Result<bool, RedisError> {
        const OPERATION: &str = "note the site's position";
        let session = self.lane.session(OPERATION).await?;
        let mut call = self.position.call(2);
        call.arg(self.keys.position(&self.site))
            .arg(self.keys.fence(&self.site))
            .arg(fence)
            .arg(id.epoch)
            .arg(id.number);
        let reply = self.run(&self.position, &session, OPERATION, call).await?;
        match value::number(reply) {
            Some(noted @ (0 | 1)) => Ok(noted == 1),
            _ => Err(self.lane.endpoint.unexpected(OPERATION, "0 or 1")),
        }
    }

    /// Gives the lease back if this shim holds it, so that another one need not wait for its end.
    ///
    /// # Errors
    /// When Redis does not take it; the lease then ends by itself.
    pub async fn release(&self) -> Result<(), RedisError> {
        const OPERATION: &str = "give the site's lease back";
        let session = self.lane.session(OPERATION).await?;
        let mut call = self.release.call(1);
        call.arg(self.keys.lease(&self.site)).arg(&self.holder);
        let released = self.run(&self.release, &session, OPERATION, call).await;
        released.map(drop)
    }

    async fn run(
        &self,
        script: &Script,
        session: &Session,
        operation: &'static str,
        call: redis::Cmd,
    ) -> Result<Value, RedisError> {
        let (calls, limit) = ([call], self.lane.endpoint.op_timeout);
        let replies = script.run(&self.lane, session, operation, &calls, limit);
        let reply = Box::pin(replies).await?.into_iter().next();
        reply.ok_or_else(|| self.lane.endpoint.unexpected(operation, "a reply"))
    }
}

fn is_stale(reply: &Value) -> bool {
    match reply {
        Value::Array(parts) => {
            matches!(parts.first(), Some(Value::BulkString(word)) if word == b"stale")
        }
        _ => false,
    }
}

fn parse(reply: Value) -> Option<LeaseAnswer> {
    let mut parts = value::array(reply)?.into_iter();
    Some(LeaseAnswer {
        granted: value::number(parts.next()?)? == 1,
        fence: value::number(parts.next()?)?,
        expires_in_ms: value::number(parts.next()?)?,
        position: value::entry_id(&value::text(parts.next()?)?),
        known_for_ms: value::number(parts.next()?)?,
    })
}

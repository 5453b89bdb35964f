//! The link to Redis: what is heard of the bridges through it, and the site's lease there.

use std::error::Error;

use daemon_kit::chain;
use redis_link::{Purpose, RedisError, ServerInfo};
use relay_core::entry::EntryId;
use tracing::{debug, info, warn};

use super::Telemetry;
use crate::lag::LagFigures;

impl Telemetry {
    pub(crate) fn redis_found(&self, info: &ServerInfo) {
        info!(version = %info.version, "connected to Redis");
    }

    pub(crate) fn redis_unreachable(&self, err: &RedisError) {
        self.redis_failed(err);
        warn!(error = %chain(err), "Redis cannot be reached yet");
    }

    pub(crate) fn redis_reconnected(&self, purpose: Purpose) {
        self.counters
            .redis_reconnects
            .with_label_values(&[purpose.as_str()])
            .inc();
    }

    fn redis_failed(&self, err: &RedisError) {
        self.counters
            .redis_errors
            .with_label_values(&[err.reason()])
            .inc();
    }

    pub(crate) fn link_up(&self) {
        info!("hearing the bridge through Redis");
    }

    pub(crate) fn link_down(&self, reason: &str) {
        warn!(reason, "nothing is heard from the bridge");
    }

    pub(crate) fn beat(&self, sent_at_ms: u64) {
        self.heartbeat("bridge", sent_at_ms);
    }

    pub(crate) fn lag(&self, lag: LagFigures) {
        let site = [self.counters.site.as_str()];
        let entries = i64::try_from(lag.entries).unwrap_or(i64::MAX);
        self.counters.lag.with_label_values(&site).set(entries);
        self.counters
            .lag_seconds
            .with_label_values(&site)
            .set(lag.behind.as_secs_f64());
    }

    pub(crate) fn link_malformed(&self, from: &'static str, reason: &str) {
        self.counters.malformed.with_label_values(&[from]).inc();
        self.warn_of_input("not of our form in Redis; skipped", reason);
    }

    pub(crate) fn read_failed(&self, err: &RedisError) {
        self.redis_failed(err);
        warn!(error = %chain(err), "failed to read the publications stream; it is read again");
    }

    pub(crate) fn duplicate_entry(&self) {
        self.counters.duplicates.with_label_values(&["entry"]).inc();
    }

    pub(crate) fn recovered(&self, entries: usize) {
        self.counters
            .recovered
            .inc_by(u64::try_from(entries).unwrap_or(u64::MAX));
    }

    pub(crate) fn epoch_ended(&self, from: EntryId, to: EntryId) {
        warn!(%from, %to, "not read before the stream was begun anew; the bridges append again what they have of it");
    }

    pub(crate) fn new_epoch(&self, from: EntryId, epoch: u64) {
        warn!(%from, epoch, "the publications stream was begun anew");
    }

    pub(crate) fn replica_behind(&self, position: EntryId, newest: EntryId) {
        warn!(%position, %newest, "the Redis that is read knows less than was delivered");
    }

    pub(crate) fn lease_granted(&self, fence: u64) {
        self.counters
            .lease
            .with_label_values(&[&self.counters.site])
            .set(1);
        info!(
            fence,
            "this shim is the active one of its site; what another one published is not sent again by itself"
        );
    }

    pub(crate) fn lease_waits(&self, fence: u64) {
        info!(
            fence,
            "Redis has forgotten the site's lease; another shim may believe in its own for some seconds"
        );
    }

    pub(crate) fn lease_held_by_other(&self, fence: u64) {
        self.counters
            .lease
            .with_label_values(&[&self.counters.site])
            .set(0);
        info!(
            fence,
            "another shim of this site is the active one; this one stands by"
        );
    }

    pub(crate) fn lease_not_asked(&self, err: &RedisError) {
        self.redis_failed(err);
        debug!(error = %chain(err), "the site's lease could not be asked for");
    }

    pub(crate) fn lease_not_released(&self, err: &(dyn Error + 'static)) {
        info!(error = %chain(err), "the site's lease was not given back; it expires by itself");
    }
}

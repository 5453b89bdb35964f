//! What is seen of the site: its minions and the lower master's event bus.

use std::path::Path;

use daemon_kit::chain;
use salt_wire::ids::{Jid, MinionId};
use tracing::{debug, info, warn};

use super::Telemetry;
use crate::{
    job_cache::JobCacheError,
    roster::Census,
    site::routing::{Return, SkipReason},
};

impl Telemetry {
    pub(crate) fn census(&self, census: Census) {
        let states = [
            ("up", census.up),
            ("down", census.down),
            ("unknown", census.unknown),
        ];
        for (state, count) in states {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.counters
                .minions
                .with_label_values(&[self.counters.site.as_str(), state])
                .set(count);
        }
    }

    pub(crate) fn keys_read(&self, minions: usize) {
        info!(minions, "the lower master's accepted keys are read");
    }

    /// `first`: it worked before, or was never tried.
    pub(crate) fn keys_unreadable(&self, directory: &Path, err: &std::io::Error, first: bool) {
        self.counters.roster_errors.inc();
        if first {
            warn!(directory = %directory.display(), error = %err,
                "the lower master's accepted keys cannot be read: every job is published, and the MoM is told that this \
                 site's roster is not complete; let the shim run as the master's user");
        }
    }

    pub(crate) fn event_bus_connected(&self) {
        info!("connected to the lower master's event bus");
    }

    pub(crate) fn event_bus_disconnected(&self, reason: &str) {
        warn!(
            reason,
            "not connected to the lower master's event bus; events in between are not seen"
        );
    }

    pub(crate) fn event_malformed(&self, reason: &str) {
        self.counters
            .malformed
            .with_label_values(&["event_bus"])
            .inc();
        self.counters.events.with_label_values(&["malformed"]).inc();
        self.warn_of_input("not an event on the lower master's bus; skipped", reason);
    }

    pub(crate) fn event_forwarded(&self, tag: &str) {
        self.counters.events.with_label_values(&["forwarded"]).inc();
        debug!(tag, "event forwarded");
    }

    pub(crate) fn event_skipped(&self, tag: &str, reason: SkipReason) {
        if reason == SkipReason::Malformed {
            self.event_malformed(tag);
            return;
        }
        self.counters.events.with_label_values(&["skipped"]).inc();
        debug!(tag, ?reason, "event not forwarded");
    }

    pub(crate) fn return_seen(&self, ret: &Return) {
        self.counters
            .returns
            .with_label_values(&["lower_master"])
            .inc();
        self.counters
            .deliveries
            .with_label_values(&[self.counters.site.as_str(), "returned"])
            .inc();
        debug!(jid = %ret.event.jid, minion = %ret.event.id, bytes = ret.bytes, "return seen");
    }

    pub(crate) fn return_fetched(&self, ret: &Return) {
        self.counters.fetched.inc();
        debug!(jid = %ret.event.jid, minion = %ret.event.id, "return found in the lower master's job cache");
    }

    pub(crate) fn return_trimmed(&self, jid: &Jid, minion: &MinionId, err: &JobCacheError) {
        warn!(%jid, %minion, error = %chain(err),
            "Salt cut large values off the return on its event bus, and the job cache does not have them: \
             they are forwarded cut off");
    }

    pub(crate) fn job_shed(&self, jid: &str) {
        warn!(
            jid,
            "too many jobs are open: the site does not answer for this one"
        );
    }
}

//! The last hop: which minions got their jobs, and which were sent them again.

use daemon_kit::chain;
use relay_core::redelivery::Source;
use salt_link::DirectPublishError;
use salt_wire::{
    ids::{Jid, MinionId},
    saltway::{MinionState, SaltwayError},
};
use tracing::{debug, info, warn};

use super::Telemetry;

/// Minions named in a line of the log.
const NAMED_MAX: usize = 20;

impl Telemetry {
    /// A minion got a job; how long after its publication, if that is known.
    pub(crate) fn receipt(
        &self,
        jid: &Jid,
        minion: &MinionId,
        source: Source,
        after_ms: Option<u64>,
    ) {
        let source = match source {
            Source::Shim => "shim",
            Source::StartEvent => "start_event",
        };
        self.counters.receipts.with_label_values(&[source]).inc();
        self.counters
            .deliveries
            .with_label_values(&[self.counters.site.as_str(), "received"])
            .inc();
        if let Some(after_ms) = after_ms {
            let after = std::time::Duration::from_millis(after_ms);
            self.counters.receipt_latency.observe(after.as_secs_f64());
        }
        debug!(%jid, %minion, source, after_ms, "receipt");
    }

    /// A minion-shim has told what happened to its minion.
    pub(crate) fn minion_state(&self, minion: &MinionId, state: &MinionState) {
        debug!(%minion, what = state.what.as_str(), run = %state.run, version = %state.version,
            covers_ms = state.covers_ms, taken = state.taken.len(), "word of a minion-shim");
        if !state.undelivered.is_empty() {
            let jobs = state.undelivered.len();
            warn!(%minion, jobs, "the minion has finished jobs whose returns the lower master did not take");
        }
    }

    pub(crate) fn minion_event_malformed(&self, tag: &str, err: &SaltwayError) {
        self.counters
            .malformed
            .with_label_values(&["event_bus"])
            .inc();
        self.warn_of_input(
            "not an event of a minion-shim; skipped",
            &format!("{tag}: {}", chain(err)),
        );
    }

    /// A publication for single minions was handed to the lower master's publisher, or was not.
    pub(crate) fn redelivered(
        &self,
        jid: &str,
        minions: &[String],
        by_hand: bool,
        result: &Result<(), DirectPublishError>,
    ) {
        let count = minions.len();
        let named = minions.get(..count.min(NAMED_MAX)).unwrap_or_default();
        match result {
            Ok(()) => {
                self.count_redeliveries(if by_hand { "by_hand" } else { "sent" }, count);
                info!(jid, count, minions = ?named, by_hand, "published again to minions that have not got it");
            }
            Err(err) => {
                self.count_redeliveries("failed", count);
                warn!(jid, count, minions = ?named, error = %chain(err), "not published again");
            }
        }
    }

    /// So many minions are not sent a job again after all: it has expired, its load is gone, or this shim may not publish.
    pub(crate) fn redelivery_dropped(&self, minions: usize) {
        self.count_redeliveries("dropped", minions);
    }

    /// Too many jobs wait for receipts: this one cannot be sent again.
    pub(crate) fn load_dropped(&self, jid: &str) {
        if let Some(suppressed) = self.counters.input_warnings.allow() {
            warn!(
                jid,
                suppressed, "no room to keep a job until all minions have it; it is not sent again"
            );
        }
    }

    pub(crate) fn asked_by_hand(&self, jid: &Jid, asked: usize, allowed: usize) {
        info!(%jid, asked, allowed, "an operator wants minions of this site to have the job again");
    }

    /// What has been added to the figures of the last hop.
    pub(crate) fn last_hop(&self, missed: u64, held_back: u64, dropped: u64) {
        self.counters.missed.inc_by(missed);
        self.count_redeliveries(
            "held_back",
            usize::try_from(held_back).unwrap_or(usize::MAX),
        );
        self.count_redeliveries("dropped", usize::try_from(dropped).unwrap_or(usize::MAX));
        if missed > 0 {
            info!(
                missed,
                held_back, "minions that give receipts gave none in time"
            );
        }
    }

    pub(super) fn count_redeliveries(&self, outcome: &str, minions: usize) {
        self.counters
            .redeliveries
            .with_label_values(&[outcome])
            .inc_by(u64::try_from(minions).unwrap_or(u64::MAX));
    }
}

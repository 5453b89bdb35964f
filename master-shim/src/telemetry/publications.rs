//! Publications on their way down: received, opened, published on the lower master, or lost.

use std::{error::Error, time::Duration};

use daemon_kit::chain;
use relay_core::entry::EntryId;
use salt_wire::ids::Jid;
use tracing::{debug, error, info, warn};

use super::{LostAt, Telemetry};

impl Telemetry {
    pub(crate) fn publication_received(&self, entry_id: EntryId, age: Duration) {
        self.counters
            .publications
            .with_label_values(&["site"])
            .inc();
        self.counters
            .publication_latency
            .with_label_values(&["site"])
            .observe(age.as_secs_f64());
        debug!(%entry_id, "publication received");
    }

    pub(crate) fn publication_opened(&self, entry_id: EntryId, jid: &Jid) {
        debug!(%jid, %entry_id, "publication opened");
    }

    pub(crate) fn publication_published(&self, jid: &Jid, minions: usize, age: Duration) {
        self.lower_master_lives();
        self.counters
            .publications
            .with_label_values(&["lower_master"])
            .inc();
        self.counters
            .publication_latency
            .with_label_values(&["lower_master"])
            .observe(age.as_secs_f64());
        let accepted = u64::try_from(minions).unwrap_or(u64::MAX);
        self.counters
            .deliveries
            .with_label_values(&[self.counters.site.as_str(), "accepted"])
            .inc_by(accepted);
        debug!(%jid, minions, "published on the lower master");
    }

    pub(crate) fn publication_passed_over(&self, jid: &Jid, why: &'static str) {
        debug!(%jid, why, "publication passed over");
    }

    /// The job means nobody here.
    pub(crate) fn publication_unmatched(&self, jid: &Jid) {
        self.counters.unmatched.inc();
        debug!(%jid, "the job means none of this site's minions; the lower master is not asked");
    }

    pub(crate) fn duplicate_frame(&self, entry_id: EntryId) {
        self.counters.duplicates.with_label_values(&["frame"]).inc();
        debug!(%entry_id, "this site has had this publication already");
    }

    pub(crate) fn duplicate_jid(&self, jid: &Jid) {
        self.counters.duplicates.with_label_values(&["jid"]).inc();
        info!(%jid, "this site has published this job already");
    }

    pub(crate) fn expired(&self, jid: &Jid, age: Duration) {
        self.counters.expired.inc();
        self.tally.expired();
        error!(%jid, age_s = age.as_secs(), "job not run: older than job_ttl");
    }

    pub(crate) fn ttl_unusable(&self, jid: &Jid, value: &str) {
        warn!(%jid, value, "the job's metadata saltway_ttl is neither seconds nor a duration such as 10m; job_ttl counts");
    }

    pub(crate) fn lost(&self, at: LostAt, publications: u64, what: &str) {
        self.counters
            .lost
            .with_label_values(&[at.as_str(), self.counters.site.as_str()])
            .inc_by(publications);
        self.tally.lost(at, publications);
        // Whoever reaches the MoM's publish port can make every publication one that does not open.
        if let Some(suppressed) = self.counters.loss_errors.allow() {
            error!(
                hop = at.as_str(),
                publications, what, suppressed, "publications lost"
            );
        }
    }

    pub(crate) fn unknown_fields(&self, jid: &Jid, fields: &[&str]) {
        warn!(%jid, ?fields, "the job has fields that no known release of Salt writes; they stay behind");
    }

    pub(crate) fn publish_interrupted(&self, jid: &Jid) {
        warn!(%jid, "the lower master did not answer the publish; its job cache is asked");
    }

    pub(crate) fn published_again(&self, jid: &Jid, minions: &[String]) {
        self.count_redeliveries("restart", minions.len());
        warn!(%jid, ?minions, "the lower master took this job just before it died; published again to who has not returned");
    }

    pub(crate) fn not_published_again(&self, jid: &Jid, err: &(dyn Error + 'static)) {
        warn!(%jid, error = %chain(err),
            "the lower master took this job just before it died, and could not be handed it again for who has not returned");
    }

    pub(crate) fn minions_settled(&self, connections: usize, before: usize, took: Duration) {
        self.counters.settled.inc();
        let took_ms = took.as_millis();
        if connections >= before {
            info!(connections, took_ms, "the lower master's minions are back");
        } else {
            warn!(
                connections,
                before,
                took_ms,
                "the lower master has restarted, and not all of its minions have come back; publications go on"
            );
        }
    }

    pub(crate) fn publish_retried(&self, jid: &Jid, err: &(dyn Error + 'static)) {
        warn!(%jid, error = %chain(err), "the lower master has not taken the job; it is tried again");
    }

    pub(crate) fn deliveries_queue(&self, entries: usize) {
        let entries = i64::try_from(entries).unwrap_or(i64::MAX);
        self.counters
            .queue_entries
            .with_label_values(&["deliveries"])
            .set(entries);
    }
}

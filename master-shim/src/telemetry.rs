//! What the master-shim counts and logs: one method per thing that happens.

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use daemon_kit::{chain, metrics::Metrics};
use redis_link::{Purpose, RedisError, ServerInfo};
use relay_core::entry::EntryId;
use salt_link::sign_in::SignInCounts;
use salt_wire::ids::{Jid, MinionId};
pub(crate) use salt_wire::saltway::LostAt;
use salt_wire::saltway::NotPublished;
use store::{Class, Opened, Shed, SpoolState, StoreError};
use tracing::{debug, error, info, warn};

use crate::{
    job_cache::JobCacheError,
    lag::LagFigures,
    roster::Census,
    site::routing::{Return, SkipReason},
};

use self::counters::Counters;
pub(crate) use self::tally::Tally;

mod counters;
mod tally;

/// The two lanes of an upstream, as labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneName {
    Returns,
    Events,
}

impl LaneName {
    /// The label's text.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Returns => "returns",
            Self::Events => "events",
        }
    }
}

/// Everything that a master-shim counts. Clones share it.
#[derive(Clone)]
pub(crate) struct Telemetry {
    counters: Arc<Counters>,
    /// What the status of one MoM's side tells of losses.
    tally: Arc<Tally>,
}

impl Telemetry {
    /// Registers every metric; series stand at 0 from then on.
    pub(crate) fn new(metrics: &Metrics, site: &str) -> Self {
        Self {
            counters: Arc::new(Counters::new(metrics, site)),
            tally: Arc::default(),
        }
    }

    /// The same metrics, with a tally of its own: for all that belongs to one MoM.
    pub(crate) fn of_upstream(&self) -> Self {
        Self {
            counters: Arc::clone(&self.counters),
            tally: Arc::default(),
        }
    }

    /// What was lost of this MoM's publications.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    // The link to Redis.

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

    pub(crate) fn link_up(&self) {
        info!("hearing the bridge through Redis");
    }

    pub(crate) fn link_down(&self, reason: &str) {
        warn!(reason, "nothing is heard from the bridge");
    }

    pub(crate) fn beat(&self, sent_at_ms: u64) {
        self.heartbeat("bridge", sent_at_ms);
    }

    /// The MoM has answered, through the whole path.
    pub(crate) fn mom_lives(&self) {
        self.heartbeat("mom", daemon_kit::unix_millis());
    }

    /// The lower master has said something.
    pub(crate) fn lower_master_lives(&self) {
        self.heartbeat("lower_master", daemon_kit::unix_millis());
    }

    /// For how long the lower master has said nothing.
    pub(crate) fn lower_master_silent(&self) -> Duration {
        let heard = self.counters.heartbeat.with_label_values(&["lower_master"]);
        let now = Duration::from_millis(daemon_kit::unix_millis());
        let heard = Duration::try_from_secs_f64(heard.get()).unwrap_or_default();
        now.saturating_sub(heard)
    }

    fn heartbeat(&self, hop: &str, at_ms: u64) {
        let seconds = Duration::from_millis(at_ms).as_secs_f64();
        self.counters
            .heartbeat
            .with_label_values(&[hop])
            .set(seconds);
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

    // Publications.

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
        self.counters.redeliveries.inc();
        warn!(%jid, ?minions, "the lower master took this job just before it died; published again to who has not returned");
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

    pub(crate) fn cursor_not_written(&self, err: &(dyn Error + 'static)) {
        self.counters
            .disk_errors
            .with_label_values(&["cursor"])
            .inc();
        error!(error = %chain(err), "a restart may find publications again that were published already");
    }

    pub(crate) fn deliveries_queue(&self, entries: usize) {
        let entries = i64::try_from(entries).unwrap_or(i64::MAX);
        self.counters
            .queue_entries
            .with_label_values(&["deliveries"])
            .set(entries);
    }

    // Who is there, and what the MoM is told of it.

    /// The job means nobody here.
    pub(crate) fn publication_unmatched(&self, jid: &Jid) {
        self.counters.unmatched.inc();
        debug!(%jid, "the job means none of this site's minions; the lower master is not asked");
    }

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

    /// `kind`: `full`, `change`, `status`.
    pub(crate) fn announced(&self, kind: &'static str) {
        self.counters.announcements.with_label_values(&[kind]).inc();
    }

    pub(crate) fn announcement_failed(&self, err: &(dyn Error + 'static)) {
        self.counters
            .send_failures
            .with_label_values(&["announcements"])
            .inc();
        debug!(error = %chain(err), "the MoM has not answered to roster or status; what is true then is sent again");
    }

    pub(crate) fn notice(&self, jid: &Jid, what: NotPublished) {
        self.counters
            .notices
            .with_label_values(&[what.as_str()])
            .inc();
        debug!(%jid, what = what.as_str(), "the MoM is told that the job was not published here");
    }

    // The lower master's event bus.

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

    // The way up.

    pub(crate) fn lane_queue(&self, lane: LaneName, entries: usize, bytes: usize) {
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.counters
            .queue_entries
            .with_label_values(&[lane.as_str()])
            .set(gauge(entries));
        self.counters
            .queue_bytes
            .with_label_values(&[lane.as_str()])
            .set(gauge(bytes));
    }

    pub(crate) fn lane_shed(&self, lane: LaneName, class: Class, entries: usize) {
        let count = u64::try_from(entries).unwrap_or(u64::MAX);
        self.shed(class, "disk", count);
        if let Some(suppressed) = self.counters.loss_errors.allow() {
            error!(
                queue = lane.as_str(),
                entries, suppressed, "lost: neither the disk nor the memory takes more"
            );
        }
    }

    pub(crate) fn spool_shed(&self, shed: &Shed) {
        let reason = shed.reason.as_str();
        self.shed(shed.class, reason, shed.entries);
        if let Some(suppressed) = self.counters.loss_errors.allow() {
            error!(
                class = shed.class.as_str(),
                entries = shed.entries,
                reason,
                suppressed,
                "lost: shed from the spool, which is at its bound"
            );
        }
    }

    fn shed(&self, class: Class, reason: &str, entries: u64) {
        self.counters
            .shed
            .with_label_values(&[class.as_str(), reason])
            .inc_by(entries);
    }

    pub(crate) fn spool_record_undecodable(&self) {
        self.counters
            .disk_errors
            .with_label_values(&["spool"])
            .inc();
        error!("a record in the spool is of another version of Saltway, or damaged; it is dropped");
    }

    pub(crate) fn spool_state(&self, state: &SpoolState) {
        for (class, of_class) in Class::ALL.into_iter().zip(state.by_class) {
            let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            let label = [class.as_str()];
            self.counters
                .spool_entries
                .with_label_values(&label)
                .set(gauge(of_class.entries));
            self.counters
                .spool_bytes
                .with_label_values(&label)
                .set(gauge(of_class.bytes));
        }
    }

    // The files in state_dir.

    pub(crate) fn store_opened(&self, file: &'static str, opened: &Opened) {
        match &opened.set_aside {
            None => debug!(file, records = opened.records, "opened"),
            Some(aside) => {
                self.counters.disk_errors.with_label_values(&[file]).inc();
                error!(file, reason = %aside.reason, set_aside = %aside.path.display(), salvaged = aside.salvaged,
                    lost = ?aside.lost, "the file was damaged: what could be read of it was kept");
            }
        }
    }

    pub(crate) fn disk_works(&self) {
        info!("the files in state_dir can be written again");
    }

    pub(crate) fn disk_failed(&self, operation: &'static str, err: &StoreError) {
        let file = if operation.contains("spool") {
            "spool"
        } else {
            "jobs"
        };
        self.counters.disk_errors.with_label_values(&[file]).inc();
        if let Some(suppressed) = self.counters.loss_errors.allow() {
            error!(operation, error = %chain(err), suppressed, "the files in state_dir fail; what they would hold is in memory only");
        }
    }

    // The lease.

    pub(crate) fn lease_granted(&self, fence: u64) {
        self.counters
            .lease
            .with_label_values(&[&self.counters.site])
            .set(1);
        info!(fence, "this shim is the active one of its site");
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

    fn redis_failed(&self, err: &RedisError) {
        self.counters
            .redis_errors
            .with_label_values(&[err.reason()])
            .inc();
    }

    pub(crate) fn lease_not_asked(&self, err: &RedisError) {
        self.redis_failed(err);
        debug!(error = %chain(err), "the site's lease could not be asked for");
    }

    pub(crate) fn lease_not_released(&self, err: &(dyn Error + 'static)) {
        info!(error = %chain(err), "the site's lease was not given back; it expires by itself");
    }

    pub(crate) fn lease_file_not_written(&self, err: &(dyn Error + 'static)) {
        warn!(error = %chain(err), "the lease's file in state_dir could not be written");
    }

    pub(crate) fn lane_sent(&self, lane: LaneName, entries: usize) {
        if lane == LaneName::Returns {
            let count = u64::try_from(entries).unwrap_or(u64::MAX);
            self.counters
                .returns
                .with_label_values(&["mom"])
                .inc_by(count);
        }
        debug!(queue = lane.as_str(), entries, "the MoM has answered");
    }

    pub(crate) fn return_answered(jid: &str, minion: &str) {
        debug!(jid, minion, "return answered by the MoM");
    }

    pub(crate) fn send_failed(&self, lane: LaneName, err: &(dyn Error + 'static)) {
        self.counters
            .send_failures
            .with_label_values(&[lane.as_str()])
            .inc();
        warn!(queue = lane.as_str(), error = %chain(err), "the MoM has not answered; the batch is sent again");
    }

    pub(crate) fn request_answered(&self, took: Duration) {
        self.counters.request_latency.observe(took.as_secs_f64());
    }

    /// The MoM has answered for a return that was heard then.
    pub(crate) fn return_delivered(&self, heard_ms: u64) {
        if heard_ms == 0 {
            return;
        }
        let took = daemon_kit::unix_millis().saturating_sub(heard_ms);
        let took = Duration::from_millis(took).as_secs_f64();
        self.counters.return_latency.observe(took);
    }

    /// Brings the counters to what the session has counted.
    pub(crate) fn sign_ins(&self, counts: &SignInCounts, before: &SignInCounts) {
        let add = |result: &str, now: u64, before: u64| {
            self.counters
                .sign_ins
                .with_label_values(&[result])
                .inc_by(now.saturating_sub(before));
        };
        add("accepted", counts.accepted, before.accepted);
        add("pending", counts.pending, before.pending);
        add("refused", counts.refused, before.refused);
        add("unanswered", counts.unanswered, before.unanswered);
        add("failed", counts.failed, before.failed);
    }

    pub(crate) fn aes_keys_not_written(&self, path: &Path, err: &(dyn Error + 'static)) {
        self.counters
            .disk_errors
            .with_label_values(&["aes_keys"])
            .inc();
        error!(path = %path.display(), error = %chain(err),
            "a restart while the MoM changes its key may leave publications that do not open");
    }

    pub(crate) fn start_event_failed(&self, err: &(dyn Error + 'static)) {
        warn!(error = %chain(err), "the MoM has not taken the event that this site has started");
    }

    fn warn_of_input(&self, what: &str, reason: &str) {
        if let Some(suppressed) = self.counters.input_warnings.allow() {
            warn!(reason, suppressed, "{what}");
        }
    }
}

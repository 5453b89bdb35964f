//! What the master-shim counts and logs: one method per thing that happens.

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use daemon_kit::{
    chain,
    metrics::{
        LATENCY_SECONDS, Metrics,
        prometheus::{GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec},
    },
    throttle::SharedThrottle,
};
use redis_link::{Purpose, RedisError, ServerInfo};
use relay_core::entry::EntryId;
use salt_link::sign_in::SignInCounts;
use salt_wire::ids::{Jid, MinionId};
use store::{Class, Opened, Shed, SpoolState, StoreError};
use tracing::{debug, error, info, warn};

use crate::{
    job_cache::JobCacheError,
    site::routing::{Return, SkipReason},
};

/// Warnings about hostile or broken input: at most these many a minute, the rest is counted.
const WARNINGS_PER_MINUTE: u32 = 30;

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

/// Where a publication was lost before it reached the lower master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LostAt {
    /// Between the MoM and the bridge: a gap in the MoM's serial without a gap in ours.
    Mom,
    /// In Redis: trimmed from the stream, or forgotten, before it was read.
    Redis,
    /// At the site: it does not open with any key, or is no publication.
    Site,
    /// At the lower master: it refused the job, or could not be reached until the job expired.
    LowerMaster,
}

impl LostAt {
    fn as_str(self) -> &'static str {
        match self {
            Self::Mom => "mom",
            Self::Redis => "redis",
            Self::Site => "site",
            Self::LowerMaster => "lower_master",
        }
    }
}

/// Everything that a master-shim counts. Clones share it.
#[derive(Clone)]
pub(crate) struct Telemetry(Arc<Counters>);

struct Counters {
    site: String,
    publications: IntCounterVec,
    lost: IntCounterVec,
    expired: IntCounter,
    duplicates: IntCounterVec,
    recovered: IntCounter,
    publication_latency: HistogramVec,
    deliveries: IntCounterVec,
    returns: IntCounterVec,
    return_latency: Histogram,
    events: IntCounterVec,
    shed: IntCounterVec,
    spool_entries: IntGaugeVec,
    spool_bytes: IntGaugeVec,
    disk_errors: IntCounterVec,
    redis_errors: IntCounterVec,
    lease: IntGaugeVec,
    fetched: IntCounter,
    settled: IntCounter,
    redeliveries: IntCounter,
    send_failures: IntCounterVec,
    sign_ins: IntCounterVec,
    redis_reconnects: IntCounterVec,
    heartbeat: GaugeVec,
    lag: IntGaugeVec,
    queue_entries: IntGaugeVec,
    queue_bytes: IntGaugeVec,
    malformed: IntCounterVec,
    input_warnings: SharedThrottle,
    loss_errors: SharedThrottle,
}

const HOPS: &[&str] = &["site", "lower_master"];
const LOST_HOPS: &[&str] = &["mom", "redis", "site", "lower_master"];
const LANES: &[&str] = &["returns", "events"];
const CLASSES: &[&str] = &["return", "ack", "event"];
/// The words of [`redis_link::Purpose`].
const PURPOSES: &[&str] = &[
    "append",
    "subscribe",
    "read",
    "requests",
    "replies",
    "lease",
    "check",
];

impl Telemetry {
    /// Registers every metric; series stand at 0 from then on.
    pub(crate) fn new(metrics: &Metrics, site: &str) -> Self {
        Self(Arc::new(Counters {
            site: site.to_owned(),
            publications: metrics.counters(
                "saltway_publications_total",
                "Publications that reached a hop: the site, its lower master",
                &[("hop", HOPS)],
            ),
            lost: metrics.counters(
                "saltway_publications_lost_total",
                "Publications lost before the lower master had them, by the hop that lost them",
                &[("hop", LOST_HOPS), ("site", &[site])],
            ),
            expired: metrics.counter(
                "saltway_publications_expired_total",
                "Publications not run because they were older than job_ttl",
            ),
            duplicates: metrics.counters(
                "saltway_publications_duplicate_total",
                "Publications dropped because the site had them: by entry id, by frame, or by jid and target",
                &[("by", &["entry", "frame", "jid"])],
            ),
            recovered: metrics.counter(
                "saltway_publications_recovered_total",
                "Publications read from the stream because pub/sub did not bring them",
            ),
            publication_latency: metrics.histograms(
                "saltway_publication_latency_seconds",
                "From the bridge's receipt until a hop had the publication",
                LATENCY_SECONDS,
                &[("hop", HOPS)],
            ),
            deliveries: metrics.counters(
                "saltway_deliveries_total",
                "Jobs times minions, by the step reached",
                &[("site", &[site]), ("step", &["accepted", "returned"])],
            ),
            returns: metrics.counters(
                "saltway_returns_total",
                "Returns that reached a hop: the lower master's bus, the MoM",
                &[("hop", &["lower_master", "mom"])],
            ),
            return_latency: metrics.histogram(
                "saltway_request_latency_seconds",
                "From sending a request to the MoM until its reply",
                LATENCY_SECONDS,
            ),
            events: metrics.counters(
                "saltway_events_total",
                "Events of the lower master's bus, by what became of them",
                &[("outcome", &["forwarded", "skipped", "malformed"])],
            ),
            shed: metrics.counters(
                "saltway_shed_total",
                "Returns, acks and events dropped: the spool was full, they were too old, or neither disk nor memory took them",
                &[("class", CLASSES), ("reason", &["bytes", "entries", "age", "disk"])],
            ),
            spool_entries: metrics.gauges(
                "saltway_spool_entries",
                "Records in the spool",
                &[("class", CLASSES)],
            ),
            spool_bytes: metrics.gauges(
                "saltway_spool_bytes",
                "Bytes of records in the spool",
                &[("class", CLASSES)],
            ),
            disk_errors: metrics.counters(
                "saltway_disk_errors_total",
                "Operations on the files in state_dir that failed",
                &[("file", &["spool", "jobs", "cursor", "aes_keys"])],
            ),
            redis_errors: metrics.counters(
                "saltway_redis_errors_total",
                "Operations on Redis that failed, by reason",
                &[("reason", redis_link::REASONS)],
            ),
            lease: metrics.gauges(
                "saltway_lease_active",
                "1 while this shim is the active one of its site",
                &[("site", &[site])],
            ),
            fetched: metrics.counter(
                "saltway_returns_fetched_total",
                "Returns read from the lower master's job cache because its event bus was not heard when they came",
            ),
            redeliveries: metrics.counter(
                "saltway_redeliveries_total",
                "Jobs published again, to single minions that may not have got them",
            ),
            settled: metrics.counter(
                "saltway_lower_master_restarts_total",
                "Restarts of the lower master after which its minions were waited for",
            ),
            send_failures: metrics.counters(
                "saltway_send_failures_total",
                "Requests that had to be repeated",
                &[("queue", LANES)],
            ),
            sign_ins: metrics.counters(
                "saltway_sign_ins_total",
                "Sign-ins at the MoM, by result",
                &[("result", &["accepted", "pending", "refused", "unanswered", "failed"])],
            ),
            redis_reconnects: metrics.counters(
                "saltway_redis_reconnects_total",
                "Connections to Redis that were lost and made again",
                &[("purpose", PURPOSES)],
            ),
            heartbeat: metrics.float_gauges(
                "saltway_heartbeat_timestamp_seconds",
                "Unix time, by the bridge's clock, of the last heart-beat heard through Redis",
                &[("hop", &["bridge"])],
            ),
            lag: metrics.gauges(
                "saltway_site_lag_entries",
                "Publications in the stream that the site does not have yet",
                &[("site", &[site])],
            ),
            queue_entries: metrics.gauges(
                "saltway_queue_entries",
                "Entries in a queue",
                &[("queue", &["returns", "events", "deliveries"])],
            ),
            queue_bytes: metrics.gauges(
                "saltway_queue_bytes",
                "Bytes in a queue",
                &[("queue", LANES)],
            ),
            malformed: metrics.counters(
                "saltway_malformed_total",
                "Input that is not what it should be, by where it came from",
                &[("from", &["pubsub", "stream", "replies", "event_bus"])],
            ),
            input_warnings: SharedThrottle::new(WARNINGS_PER_MINUTE, Duration::from_secs(60)),
            loss_errors: SharedThrottle::new(WARNINGS_PER_MINUTE, Duration::from_secs(60)),
        }))
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
        self.0
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
        let seconds = Duration::from_millis(sent_at_ms).as_secs_f64();
        self.0.heartbeat.with_label_values(&["bridge"]).set(seconds);
    }

    pub(crate) fn lag(&self, entries: u64) {
        self.0
            .lag
            .with_label_values(&[&self.0.site])
            .set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    pub(crate) fn link_malformed(&self, from: &'static str, reason: &str) {
        self.0.malformed.with_label_values(&[from]).inc();
        self.warn_of_input("not of our form in Redis; skipped", reason);
    }

    pub(crate) fn read_failed(&self, err: &RedisError) {
        self.redis_failed(err);
        warn!(error = %chain(err), "failed to read the publications stream; it is read again");
    }

    pub(crate) fn duplicate_entry(&self) {
        self.0.duplicates.with_label_values(&["entry"]).inc();
    }

    pub(crate) fn recovered(&self, entries: usize) {
        self.0
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
        self.0.publications.with_label_values(&["site"]).inc();
        self.0
            .publication_latency
            .with_label_values(&["site"])
            .observe(age.as_secs_f64());
        debug!(%entry_id, "publication received");
    }

    pub(crate) fn publication_opened(&self, entry_id: EntryId, jid: &Jid) {
        debug!(%jid, %entry_id, "publication opened");
    }

    pub(crate) fn publication_published(&self, jid: &Jid, minions: usize, age: Duration) {
        self.0
            .publications
            .with_label_values(&["lower_master"])
            .inc();
        self.0
            .publication_latency
            .with_label_values(&["lower_master"])
            .observe(age.as_secs_f64());
        let accepted = u64::try_from(minions).unwrap_or(u64::MAX);
        self.0
            .deliveries
            .with_label_values(&[self.0.site.as_str(), "accepted"])
            .inc_by(accepted);
        debug!(%jid, minions, "published on the lower master");
    }

    pub(crate) fn publication_passed_over(&self, jid: &Jid, why: &'static str) {
        debug!(%jid, why, "publication passed over");
    }

    pub(crate) fn duplicate_frame(&self, entry_id: EntryId) {
        self.0.duplicates.with_label_values(&["frame"]).inc();
        debug!(%entry_id, "this site has had this publication already");
    }

    pub(crate) fn duplicate_jid(&self, jid: &Jid) {
        self.0.duplicates.with_label_values(&["jid"]).inc();
        info!(%jid, "this site has published this job already");
    }

    pub(crate) fn expired(&self, jid: &Jid, age: Duration) {
        self.0.expired.inc();
        error!(%jid, age_s = age.as_secs(), "job not run: older than job_ttl");
    }

    pub(crate) fn ttl_unusable(&self, jid: &Jid, value: &str) {
        warn!(%jid, value, "the job's metadata saltway_ttl is neither seconds nor a duration such as 10m; job_ttl counts");
    }

    pub(crate) fn lost(&self, at: LostAt, publications: u64, what: &str) {
        self.0
            .lost
            .with_label_values(&[at.as_str(), self.0.site.as_str()])
            .inc_by(publications);
        // Whoever reaches the MoM's publish port can make every publication one that does not open.
        if let Some(suppressed) = self.0.loss_errors.allow() {
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
        self.0.redeliveries.inc();
        warn!(%jid, ?minions, "the lower master took this job just before it died; published again to who has not returned");
    }

    pub(crate) fn minions_settled(&self, connections: usize, before: usize, took: Duration) {
        self.0.settled.inc();
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
        self.0.disk_errors.with_label_values(&["cursor"]).inc();
        error!(error = %chain(err), "a restart may find publications again that were published already");
    }

    pub(crate) fn deliveries_queue(&self, entries: usize) {
        let entries = i64::try_from(entries).unwrap_or(i64::MAX);
        self.0
            .queue_entries
            .with_label_values(&["deliveries"])
            .set(entries);
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
        self.0.malformed.with_label_values(&["event_bus"]).inc();
        self.0.events.with_label_values(&["malformed"]).inc();
        self.warn_of_input("not an event on the lower master's bus; skipped", reason);
    }

    pub(crate) fn event_forwarded(&self, tag: &str) {
        self.0.events.with_label_values(&["forwarded"]).inc();
        debug!(tag, "event forwarded");
    }

    pub(crate) fn event_skipped(&self, tag: &str, reason: SkipReason) {
        if reason == SkipReason::Malformed {
            self.event_malformed(tag);
            return;
        }
        self.0.events.with_label_values(&["skipped"]).inc();
        debug!(tag, ?reason, "event not forwarded");
    }

    pub(crate) fn return_seen(&self, ret: &Return) {
        self.0.returns.with_label_values(&["lower_master"]).inc();
        self.0
            .deliveries
            .with_label_values(&[self.0.site.as_str(), "returned"])
            .inc();
        debug!(jid = %ret.event.jid, minion = %ret.event.id, bytes = ret.bytes, "return seen");
    }

    pub(crate) fn return_fetched(&self, ret: &Return) {
        self.0.fetched.inc();
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
        self.0
            .queue_entries
            .with_label_values(&[lane.as_str()])
            .set(gauge(entries));
        self.0
            .queue_bytes
            .with_label_values(&[lane.as_str()])
            .set(gauge(bytes));
    }

    pub(crate) fn lane_shed(&self, lane: LaneName, class: Class, entries: usize) {
        let count = u64::try_from(entries).unwrap_or(u64::MAX);
        self.shed(class, "disk", count);
        if let Some(suppressed) = self.0.loss_errors.allow() {
            error!(
                queue = lane.as_str(),
                entries, suppressed, "lost: neither the disk nor the memory takes more"
            );
        }
    }

    pub(crate) fn spool_shed(&self, shed: &Shed) {
        let reason = shed.reason.as_str();
        self.shed(shed.class, reason, shed.entries);
        if let Some(suppressed) = self.0.loss_errors.allow() {
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
        self.0
            .shed
            .with_label_values(&[class.as_str(), reason])
            .inc_by(entries);
    }

    pub(crate) fn spool_record_undecodable(&self) {
        self.0.disk_errors.with_label_values(&["spool"]).inc();
        error!("a record in the spool is of another version of Saltway, or damaged; it is dropped");
    }

    pub(crate) fn spool_state(&self, state: &SpoolState) {
        for (class, of_class) in Class::ALL.into_iter().zip(state.by_class) {
            let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            let label = [class.as_str()];
            self.0
                .spool_entries
                .with_label_values(&label)
                .set(gauge(of_class.entries));
            self.0
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
                self.0.disk_errors.with_label_values(&[file]).inc();
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
        self.0.disk_errors.with_label_values(&[file]).inc();
        if let Some(suppressed) = self.0.loss_errors.allow() {
            error!(operation, error = %chain(err), suppressed, "the files in state_dir fail; what they would hold is in memory only");
        }
    }

    // The lease.

    pub(crate) fn lease_granted(&self, fence: u64) {
        self.0.lease.with_label_values(&[&self.0.site]).set(1);
        info!(fence, "this shim is the active one of its site");
    }

    pub(crate) fn lease_waits(&self, fence: u64) {
        info!(
            fence,
            "Redis has forgotten the site's lease; another shim may believe in its own for some seconds"
        );
    }

    pub(crate) fn lease_held_by_other(&self, fence: u64) {
        self.0.lease.with_label_values(&[&self.0.site]).set(0);
        info!(
            fence,
            "another shim of this site is the active one; this one stands by"
        );
    }

    fn redis_failed(&self, err: &RedisError) {
        self.0.redis_errors.with_label_values(&[err.reason()]).inc();
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
            self.0.returns.with_label_values(&["mom"]).inc_by(count);
        }
        debug!(queue = lane.as_str(), entries, "the MoM has answered");
    }

    pub(crate) fn return_answered(jid: &str, minion: &str) {
        debug!(jid, minion, "return answered by the MoM");
    }

    pub(crate) fn send_failed(&self, lane: LaneName, err: &(dyn Error + 'static)) {
        self.0
            .send_failures
            .with_label_values(&[lane.as_str()])
            .inc();
        warn!(queue = lane.as_str(), error = %chain(err), "the MoM has not answered; the batch is sent again");
    }

    pub(crate) fn request_answered(&self, took: Duration) {
        self.0.return_latency.observe(took.as_secs_f64());
    }

    /// Brings the counters to what the session has counted.
    pub(crate) fn sign_ins(&self, counts: &SignInCounts, before: &SignInCounts) {
        let add = |result: &str, now: u64, before: u64| {
            self.0
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
        self.0.disk_errors.with_label_values(&["aes_keys"]).inc();
        error!(path = %path.display(), error = %chain(err),
            "a restart while the MoM changes its key may leave publications that do not open");
    }

    pub(crate) fn start_event_failed(&self, err: &(dyn Error + 'static)) {
        warn!(error = %chain(err), "the MoM has not taken the event that this site has started");
    }

    fn warn_of_input(&self, what: &str, reason: &str) {
        if let Some(suppressed) = self.0.input_warnings.allow() {
            warn!(reason, suppressed, "{what}");
        }
    }
}

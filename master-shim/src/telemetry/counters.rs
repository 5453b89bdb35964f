//! Every metric of the master-shim, registered once.

use std::time::Duration;

use daemon_kit::{
    metrics::{
        LATENCY_SECONDS, Metrics,
        prometheus::{GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec},
    },
    throttle::SharedThrottle,
};

/// Warnings about hostile or broken input: at most these many a minute, the rest is counted.
const WARNINGS_PER_MINUTE: u32 = 30;

/// The metrics, and what keeps the log quiet.
pub(super) struct Counters {
    pub(super) site: String,
    pub(super) publications: IntCounterVec,
    pub(super) lost: IntCounterVec,
    pub(super) expired: IntCounter,
    pub(super) unmatched: IntCounter,
    pub(super) duplicates: IntCounterVec,
    pub(super) recovered: IntCounter,
    pub(super) publication_latency: HistogramVec,
    pub(super) deliveries: IntCounterVec,
    pub(super) returns: IntCounterVec,
    pub(super) request_latency: Histogram,
    pub(super) return_latency: Histogram,
    pub(super) events: IntCounterVec,
    pub(super) shed: IntCounterVec,
    pub(super) spool_entries: IntGaugeVec,
    pub(super) spool_bytes: IntGaugeVec,
    pub(super) disk_errors: IntCounterVec,
    pub(super) redis_errors: IntCounterVec,
    pub(super) lease: IntGaugeVec,
    pub(super) fetched: IntCounter,
    pub(super) settled: IntCounter,
    pub(super) redeliveries: IntCounterVec,
    pub(super) receipts: IntCounterVec,
    pub(super) receipt_latency: Histogram,
    pub(super) missed: IntCounter,
    pub(super) send_failures: IntCounterVec,
    pub(super) sign_ins: IntCounterVec,
    pub(super) redis_reconnects: IntCounterVec,
    pub(super) heartbeat: GaugeVec,
    pub(super) lag: IntGaugeVec,
    pub(super) lag_seconds: GaugeVec,
    pub(super) minions: IntGaugeVec,
    pub(super) roster_errors: IntCounter,
    pub(super) announcements: IntCounterVec,
    pub(super) notices: IntCounterVec,
    pub(super) queue_entries: IntGaugeVec,
    pub(super) queue_bytes: IntGaugeVec,
    pub(super) malformed: IntCounterVec,
    pub(super) input_warnings: SharedThrottle,
    pub(super) loss_errors: SharedThrottle,
}

const HOPS: &[&str] = &["site", "lower_master"];
/// The words of [`salt_wire::saltway::LostAt`].
const LOST_HOPS: &[&str] = &["mom", "redis", "site", "lower_master"];
const LANES: &[&str] = &["returns", "events"];
/// What became of sending a job again: done, done for an operator, done after a restart of the lower master; not taken by
/// its publisher, given up, held back because the minion may have run it.
const REDELIVERIES: &[&str] = &[
    "sent",
    "by_hand",
    "restart",
    "failed",
    "dropped",
    "held_back",
];
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

impl Counters {
    /// Registers every metric; series stand at 0 from then on.
    pub(super) fn new(metrics: &Metrics, site: &str) -> Self {
        Self {
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
            unmatched: metrics.counter(
                "saltway_publications_unmatched_total",
                "Publications kept from the lower master because they mean none of its minions",
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
                &[
                    ("site", &[site]),
                    ("step", &["accepted", "received", "returned"]),
                ],
            ),
            returns: metrics.counters(
                "saltway_returns_total",
                "Returns that reached a hop: the lower master's bus, the MoM",
                &[("hop", &["lower_master", "mom"])],
            ),
            return_latency: metrics.histogram(
                "saltway_return_latency_seconds",
                "From hearing a return on the lower master's bus until the MoM has answered for it",
                LATENCY_SECONDS,
            ),
            request_latency: metrics.histogram(
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
            redeliveries: metrics.counters(
                "saltway_redeliveries_total",
                "Minions that did not get a job, by what became of sending it again",
                &[("outcome", REDELIVERIES)],
            ),
            receipts: metrics.counters(
                "saltway_receipts_total",
                "Receipts of minions for jobs, by how they tell",
                &[("source", &["shim", "start_event"])],
            ),
            receipt_latency: metrics.histogram(
                "saltway_receipt_latency_seconds",
                "From the lower master's publication until a minion's receipt was heard",
                LATENCY_SECONDS,
            ),
            missed: metrics.counter(
                "saltway_deliveries_missed_total",
                "Minions known to give receipts that gave none for a job within receipt_timeout",
            ),
            settled: metrics.counter(
                "saltway_lower_master_restarts_total",
                "Restarts of the lower master after which its minions were waited for",
            ),
            send_failures: metrics.counters(
                "saltway_send_failures_total",
                "Requests that had to be repeated",
                &[("queue", &["returns", "events", "announcements"])],
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
                "Unix time of a hop's last sign of life: a bridge's heart-beat (by its clock), the MoM's and the lower master's word",
                &[("hop", &["bridge", "mom", "lower_master"])],
            ),
            lag: metrics.gauges(
                "saltway_site_lag_entries",
                "Publications in the stream that the site is not done with",
                &[("site", &[site])],
            ),
            lag_seconds: metrics.float_gauges(
                "saltway_site_lag_seconds",
                "For how long the site has been behind the first of them",
                &[("site", &[site])],
            ),
            minions: metrics.gauges(
                "saltway_roster_minions",
                "Minions whose keys the lower master has accepted, by whether they are connected",
                &[("site", &[site]), ("state", &["up", "down", "unknown"])],
            ),
            roster_errors: metrics.counter(
                "saltway_roster_errors_total",
                "Looks at the lower master's accepted keys that failed",
            ),
            announcements: metrics.counters(
                "saltway_announcements_total",
                "Events by which the site tells the MoM of itself, answered by the MoM",
                &[("kind", &["full", "change", "status"])],
            ),
            notices: metrics.counters(
                "saltway_job_notices_total",
                "Events that tell the MoM of a job that was not published here, by what became of it",
                &[("what", &["expired", "refused", "unusable", "no_match"])],
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
        }
    }
}

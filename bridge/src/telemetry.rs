//! What the bridge counts and logs: one method per thing that happens.

mod ledger;

use std::{sync::Arc, time::Duration};

use daemon_kit::{
    chain,
    metrics::{
        LATENCY_SECONDS, Metrics,
        prometheus::{GaugeVec, Histogram, IntCounter, IntCounterVec, IntGaugeVec},
    },
    throttle::SharedThrottle,
};
use redis_link::{Appended, RedisError, ServerInfo};
use store::{SetAside, StoreError};
use tracing::{debug, error, info, warn};

pub(crate) use ledger::LedgerTelemetry;

/// Warnings about hostile or broken input: at most these many a minute, the rest is counted.
const WARNINGS_PER_MINUTE: u32 = 30;

/// Everything that the bridge counts. Clones share it.
#[derive(Clone)]
pub(crate) struct Telemetry(Arc<Counters>);

struct Counters {
    publications: IntCounterVec,
    duplicates: IntCounter,
    reappended: IntCounter,
    unjournaled: IntCounter,
    expired: IntCounterVec,
    epochs: IntCounterVec,
    redis_errors: IntCounterVec,
    lost: IntCounterVec,
    publication_latency: Histogram,
    requests: IntCounterVec,
    refused: IntCounterVec,
    request_latency: Histogram,
    heartbeat: GaugeVec,
    redis_reconnects: IntCounterVec,
    queue_entries: IntGaugeVec,
    queue_bytes: IntGaugeVec,
    stalls: IntCounter,
    input_warnings: SharedThrottle,
    ledger: LedgerTelemetry,
}

/// The hops of a publication that the bridge sees.
const HOPS: &[&str] = &["mom", "redis"];
const QUEUES: &[&str] = &["publications", "journal", "unappended", "requests", "bus"];
/// The words of [`salt_wire::gate::Refusal`].
const REFUSALS: &[&str] = &[
    "msgpack",
    "not_map",
    "key",
    "repeated_key",
    "ext",
    "enc",
    "version",
    "load",
    "clear_command",
    "id",
    "nonce",
    "public_key",
    "enc_algo",
    "sig_algo",
    "token",
    "autosign_grains",
];
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
const OUTCOMES: &[&str] = &["answered", "refused", "timed_out", "malformed"];

impl Telemetry {
    /// Registers every metric; series stand at 0 from then on.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let heartbeat = metrics.float_gauges(
            "saltway_heartbeat_timestamp_seconds",
            "Unix time at which a hop was last seen alive: Redis took our heart-beat, the MoM's bus had an event, a site's status came",
            &[("hop", &["mom", "redis", "site"])],
        );
        let lost = metrics.counters(
            "saltway_publications_lost_total",
            "Publications lost before a hop, by our own count or a site's; site is empty where a loss concerns every site",
            &[("hop", HOPS), ("site", &[""])],
        );
        Self(Arc::new(Counters {
            ledger: LedgerTelemetry::new(metrics, heartbeat.clone(), lost.clone()),
            publications: metrics.counters(
                "saltway_publications_total",
                "Publications that reached a hop: received from the MoM, appended to Redis",
                &[("hop", HOPS)],
            ),
            duplicates: metrics.counter(
                "saltway_publications_duplicate_total",
                "Publications that another bridge had appended already",
            ),
            reappended: metrics.counter(
                "saltway_publications_reappended_total",
                "Publications that Redis had forgotten and was given again, under a new id",
            ),
            unjournaled: metrics.counter(
                "saltway_publications_unjournaled_total",
                "Publications that went on from memory because the journal could not be written",
            ),
            expired: metrics.counters(
                "saltway_publications_expired_total",
                "Publications that expired in the journal before they reached a hop",
                &[("hop", &["redis"])],
            ),
            epochs: metrics.counters(
                "saltway_epochs_total",
                "Epochs of the publications stream that this bridge began, or joined",
                &[("how", &["begun", "joined"])],
            ),
            redis_errors: metrics.counters(
                "saltway_redis_errors_total",
                "Operations on Redis that failed, by reason",
                &[("reason", redis_link::REASONS)],
            ),
            lost,
            publication_latency: metrics.histogram(
                "saltway_publication_latency_seconds",
                "From the MoM's socket until Redis had the publication",
                LATENCY_SECONDS,
            ),
            requests: metrics.counters(
                "saltway_requests_total",
                "Requests of sites to the MoM, by what became of them",
                &[("outcome", OUTCOMES)],
            ),
            refused: metrics.counters(
                "saltway_requests_refused_total",
                "Requests that the gate refused, by reason",
                &[("reason", REFUSALS)],
            ),
            request_latency: metrics.histogram(
                "saltway_request_latency_seconds",
                "From handing a request to the MoM until its reply",
                LATENCY_SECONDS,
            ),
            heartbeat,
            redis_reconnects: metrics.counters(
                "saltway_redis_reconnects_total",
                "Connections to Redis that were lost and made again",
                &[("purpose", PURPOSES)],
            ),
            queue_entries: metrics.gauges(
                "saltway_queue_entries",
                "Entries in a queue",
                &[("queue", QUEUES)],
            ),
            queue_bytes: metrics.gauges(
                "saltway_queue_bytes",
                "Bytes in a queue",
                &[("queue", QUEUES)],
            ),
            stalls: metrics.counter(
                "saltway_publications_stalled_total",
                "Times that the queue of publications was full, so that the MoM's own queue had to hold them",
            ),
            input_warnings: SharedThrottle::new(WARNINGS_PER_MINUTE, Duration::from_secs(60)),
        }))
    }

    /// What concerns the ledger.
    pub(crate) fn ledger(&self) -> LedgerTelemetry {
        self.0.ledger.clone()
    }

    pub(crate) fn mom_connected(&self) {
        info!("connected to the MoM's publish port");
    }

    pub(crate) fn mom_disconnected(&self) {
        warn!("connection to the MoM's publish port lost; publications until it is back are lost");
    }

    pub(crate) fn publication_received(&self, bytes: usize) {
        self.0.publications.with_label_values(&["mom"]).inc();
        debug!(bytes, "publication received");
    }

    pub(crate) fn publication_malformed(&self, reason: &str) {
        self.0.lost.with_label_values(&["mom", ""]).inc();
        self.warn_of_input(
            "message on the MoM's publish port is no publication; dropped",
            reason,
        );
    }

    /// `again`: Redis had it before, in another epoch; `latency`: by our own clock.
    pub(crate) fn publication_appended(
        &self,
        appended: &Appended,
        latency: Option<Duration>,
        again: bool,
    ) {
        debug!(entry_id = %appended.entry_id, duplicate = appended.duplicate, again, "publication appended");
        match (appended.duplicate, again) {
            // Nothing was to be made good.
            (true, true) => {}
            (true, false) => self.0.duplicates.inc(),
            (false, true) => self.0.reappended.inc(),
            (false, false) => {
                self.0.publications.with_label_values(&["redis"]).inc();
                if let Some(latency) = latency {
                    self.0.publication_latency.observe(latency.as_secs_f64());
                }
            }
        }
    }

    pub(crate) fn append_failed(&self, err: &RedisError, waiting: usize) {
        self.redis_failed(err.reason());
        warn!(error = %chain(err), waiting, "append failed; the publications wait and are appended again");
    }

    pub(crate) fn redis_failed(&self, reason: &str) {
        self.0.redis_errors.with_label_values(&[reason]).inc();
    }

    pub(crate) fn epoch_begun(&self, epoch: u64, joined: bool, kept: usize) {
        let how = if joined { "joined" } else { "begun" };
        self.0.epochs.with_label_values(&[how]).inc();
        info!(
            epoch,
            joined,
            kept,
            "epoch of the publications stream begun; what the journal holds is appended again"
        );
    }

    pub(crate) fn journal_opened(&self, kept: usize, waiting: usize) {
        info!(kept, waiting, "journal opened; what waits is appended");
    }

    pub(crate) fn journal_set_aside(&self, aside: &SetAside) {
        let lost = aside.lost.unwrap_or(1);
        self.0.lost.with_label_values(&["redis", ""]).inc_by(lost);
    }

    pub(crate) fn journal_writable(&self) {
        info!("publications are written to the journal");
    }

    pub(crate) fn journal_failed(&self, err: &StoreError) {
        error!(error = %chain(err), "the journal cannot be written; publications go on from memory, and are lost if the bridge ends before Redis has them");
    }

    pub(crate) fn publications_unjournaled(&self, frames: usize) {
        self.0.unjournaled.inc_by(frames as u64);
    }

    pub(crate) fn journal_unreadable(&self, err: &StoreError) {
        error!(error = %chain(err), "the journal cannot be read; what waits in it is appended when it can be");
    }

    pub(crate) fn journal_not_kept(&self, err: &StoreError) {
        warn!(error = %chain(err), "the journal could not be told what Redis has; that is appended again after a restart, and dropped by Redis");
    }

    pub(crate) fn publications_expired(&self, frames: u64) {
        self.0.expired.with_label_values(&["redis"]).inc_by(frames);
        error!(
            frames,
            "publications expired in the journal before Redis took them"
        );
    }

    pub(crate) fn publications_shed(&self, frames: u64) {
        self.lost(
            frames,
            "the journal is full: see journal.max_bytes and journal.max_entries",
        );
    }

    pub(crate) fn publications_damaged(&self, frames: u64) {
        self.lost(frames, "the journal is damaged");
    }

    pub(crate) fn publications_lost_at_the_end(&self, frames: usize) {
        if frames > 0 {
            self.lost(
                frames as u64,
                "the bridge ends, Redis did not take them and the journal could not be written",
            );
        }
    }

    fn lost(&self, frames: u64, reason: &str) {
        self.0.lost.with_label_values(&["redis", ""]).inc_by(frames);
        error!(frames, reason, "publications lost");
    }

    pub(crate) fn drained(&self, waiting: usize) {
        info!(waiting, "what Redis did not take waits in the journal");
    }

    pub(crate) fn beat(&self) {
        let now = Duration::from_millis(daemon_kit::unix_millis()).as_secs_f64();
        self.0.heartbeat.with_label_values(&["redis"]).set(now);
    }

    pub(crate) fn redis_found(&self, info: &ServerInfo) {
        info!(version = %info.version, "connected to Redis");
    }

    pub(crate) fn redis_restarted(&self, reason: &str) {
        error!(reason, "our redis-server ended and was started again");
    }

    pub(crate) fn redis_up(&self) {
        info!("Redis takes heart-beats");
    }

    pub(crate) fn redis_down(&self, err: &RedisError) {
        warn!(error = %chain(err), "Redis does not take heart-beats");
    }

    pub(crate) fn redis_reconnected(&self, purpose: redis_link::Purpose) {
        self.0
            .redis_reconnects
            .with_label_values(&[purpose.as_str()])
            .inc();
    }

    pub(crate) fn request_answered(&self, site: &str, took: Duration) {
        self.0.requests.with_label_values(&["answered"]).inc();
        self.0.request_latency.observe(took.as_secs_f64());
        debug!(%site, took_ms = took.as_millis(), "request answered");
    }

    pub(crate) fn request_refused(&self, site: &str, refusal: &salt_wire::gate::Refusal) {
        self.0.requests.with_label_values(&["refused"]).inc();
        self.0.refused.with_label_values(&[refusal.as_str()]).inc();
        if let Some(suppressed) = self.0.input_warnings.allow() {
            warn!(%site, reason = %refusal, suppressed, "request refused at the gate");
        }
    }

    pub(crate) fn request_timed_out(&self, site: &str, err: &salt_link::requester::RequestError) {
        self.0.requests.with_label_values(&["timed_out"]).inc();
        warn!(%site, error = %chain(err), "the MoM has not answered a request; the site sends it again");
    }

    pub(crate) fn request_malformed(&self, reason: &str) {
        self.0.requests.with_label_values(&["malformed"]).inc();
        self.warn_of_input(
            "entry of the requests stream is no request; dropped",
            reason,
        );
    }

    pub(crate) fn reply_failed(&self, site: &str, err: &RedisError) {
        self.redis_failed(err.reason());
        warn!(%site, error = %chain(err), "reply not handed to Redis; the site asks again");
    }

    pub(crate) fn publications_stalled(&self, times: u64) {
        self.0.stalls.inc_by(times);
        warn!(
            "the queue of publications was full; the MoM drops what its own queue (pub_hwm) cannot hold"
        );
    }

    /// `queue`: a word out of [`QUEUES`].
    pub(crate) fn queue(&self, queue: &str, entries: usize, bytes: usize) {
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.0
            .queue_entries
            .with_label_values(&[queue])
            .set(gauge(entries));
        self.0
            .queue_bytes
            .with_label_values(&[queue])
            .set(gauge(bytes));
    }

    fn warn_of_input(&self, what: &str, reason: &str) {
        if let Some(suppressed) = self.0.input_warnings.allow() {
            warn!(reason, suppressed, "{what}");
        }
    }
}

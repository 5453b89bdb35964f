//! What the ledger counts and logs: one method per thing that happens.

use std::{io, path::Path, sync::Arc, time::Duration};

use daemon_kit::{
    chain,
    metrics::{
        Metrics,
        prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec},
    },
    throttle::SharedThrottle,
};
use salt_link::event_bus::FireError;
use salt_wire::saltway::LastHop;
use store::{SetAside, StoreError};
use tracing::{debug, error, info, warn};

use super::WARNINGS_PER_MINUTE;
use crate::ledger::Passed;

/// Steps of a delivery that are counted.
const STEPS: &[&str] = &["expected", "accepted", "received", "returned"];

/// How a delivery that is not returned ended: the ledger's verdicts.
const REASONS: &[&str] = &[
    "running",
    "silent",
    "not_received",
    "expired",
    "unreachable",
    "unknown",
];

/// What becomes of an event of the MoM's bus.
const OUTCOMES: &[&str] = &["folded", "skipped", "malformed", "refused"];

/// Everything that the ledger counts. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LedgerTelemetry(Arc<Counters>);

#[derive(Debug)]
struct Counters {
    deliveries: IntCounterVec,
    missing: IntCounterVec,
    site_up: IntGaugeVec,
    site_lag_entries: IntGaugeVec,
    site_lag_seconds: GaugeVec,
    site_heard: GaugeVec,
    last_hop_missed: IntCounterVec,
    last_hop_delay: GaugeVec,
    heartbeat: GaugeVec,
    lost: IntCounterVec,
    jobs: IntGaugeVec,
    bytes: IntGauge,
    bus_events: IntCounterVec,
    fired: IntCounterVec,
    rosters: IntCounterVec,
    disk_errors: IntCounterVec,
    audit_lost: IntCounter,
    speaker: IntGauge,
    input_warnings: SharedThrottle,
}

impl LedgerTelemetry {
    /// Registers every metric; `heartbeat` and `lost` are those of the bridge.
    pub(super) fn new(metrics: &Metrics, heartbeat: GaugeVec, lost: IntCounterVec) -> Self {
        Self(Arc::new(Counters {
            deliveries: metrics.counters(
                "saltway_deliveries_total",
                "Jobs times minions that reached a step, by site",
                &[("site", &[]), ("step", STEPS)],
            ),
            missing: metrics.counters(
                "saltway_deliveries_missing_total",
                "Jobs times minions that had not returned when the job was over, by site and verdict",
                &[("site", &[]), ("reason", REASONS)],
            ),
            site_up: metrics.gauges(
                "saltway_site_up",
                "1 while the site renews its lease and its statuses come through",
                &[("site", &[])],
            ),
            site_lag_entries: metrics.gauges(
                "saltway_site_lag_entries",
                "Publications that the site does not have yet, by its own word",
                &[("site", &[])],
            ),
            site_lag_seconds: metrics.float_gauges(
                "saltway_site_lag_seconds",
                "Age of the oldest publication that the site does not have yet, by its own word",
                &[("site", &[])],
            ),
            site_heard: metrics.float_gauges(
                "saltway_site_heard_timestamp_seconds",
                "Unix time of the last status of the site on the MoM's bus",
                &[("site", &[])],
            ),
            last_hop_missed: metrics.counters(
                "saltway_last_hop_missed_total",
                "Minions known to give receipts that missed a job at first, by site",
                &[("site", &[])],
            ),
            last_hop_delay: metrics.float_gauges(
                "saltway_last_hop_delay_seconds",
                "From a lower master's publication to the receipt, over the site's last 10,000 receipts",
                &[("site", &[]), ("quantile", &["0.5", "0.99"])],
            ),
            heartbeat,
            lost,
            jobs: metrics.gauges(
                "saltway_ledger_jobs",
                "Jobs in the ledger: not over yet, or kept on disk",
                &[("state", &["open", "kept"])],
            ),
            bytes: metrics.gauge("saltway_ledger_bytes", "Bytes of the ledger on disk"),
            bus_events: metrics.counters(
                "saltway_bus_events_total",
                "Events of the MoM's bus that the ledger looked at, by what became of them",
                &[("outcome", OUTCOMES)],
            ),
            fired: metrics.counters(
                "saltway_bus_fired_total",
                "Events that this bridge fired on the MoM's bus, or could not",
                &[("outcome", &["fired", "lost"])],
            ),
            rosters: metrics.counters(
                "saltway_rosters_total",
                "Announcements of rosters, by what became of them",
                &[("outcome", &["changed", "unchanged", "waiting", "stale"])],
            ),
            disk_errors: metrics.counters(
                "saltway_disk_errors_total",
                "Operations on a file of the state directory that failed",
                &[("file", &["ledger", "audit"])],
            ),
            audit_lost: metrics.counter(
                "saltway_audit_lost_total",
                "Lines of the audit that could not be written",
            ),
            speaker: metrics.gauge(
                "saltway_speaker",
                "1 while this bridge is the one of its MoM that fires events and writes the audit",
            ),
            input_warnings: SharedThrottle::new(WARNINGS_PER_MINUTE, Duration::from_secs(60)),
        }))
    }

    /// `step`: a word out of [`STEPS`].
    pub(crate) fn delivered(&self, site: &str, step: &str, minions: u64) {
        let series = self.0.deliveries.with_label_values(&[site, step]);
        series.inc_by(minions);
    }

    /// `reason`: a word out of [`REASONS`].
    pub(crate) fn missing(&self, site: &str, reason: &str, minions: u64) {
        let series = self.0.missing.with_label_values(&[site, reason]);
        series.inc_by(minions);
    }

    /// Its series stand at 0 from now on.
    pub(crate) fn site_known(&self, site: &str) {
        for step in STEPS {
            self.delivered(site, step, 0);
        }
        for reason in REASONS {
            self.missing(site, reason, 0);
        }
        self.0.site_up.with_label_values(&[site]).set(0);
    }

    pub(crate) fn site_up(&self, site: &str) {
        self.0.site_up.with_label_values(&[site]).set(1);
        info!(site, "site is up");
    }

    pub(crate) fn site_down(&self, site: &str, reason: &str) {
        self.0.site_up.with_label_values(&[site]).set(0);
        warn!(site, reason, "site is down: its minions cannot be asked");
    }

    pub(crate) fn status(&self, site: &str, lag_entries: u64, lag_seconds: f64) {
        let entries = i64::try_from(lag_entries).unwrap_or(i64::MAX);
        let gauge = self.0.site_lag_entries.with_label_values(&[site]);
        gauge.set(entries);
        let gauge = self.0.site_lag_seconds.with_label_values(&[site]);
        gauge.set(lag_seconds);
        let gauge = self.0.site_heard.with_label_values(&[site]);
        gauge.set(now_seconds());
        self.0
            .heartbeat
            .with_label_values(&["site"])
            .set(now_seconds());
    }

    /// Minions of a site that missed a job at first, since its last status.
    pub(crate) fn missed(&self, site: &str, minions: u64) {
        let series = self.0.last_hop_missed.with_label_values(&[site]);
        series.inc_by(minions);
    }

    /// How long receipts of a site take.
    pub(crate) fn last_hop(&self, site: &str, hop: &LastHop) {
        if hop.received == 0 {
            return;
        }
        let quantiles = [("0.5", hop.after_ms_median), ("0.99", hop.after_ms_p99)];
        for (quantile, ms) in quantiles {
            let gauge = self.0.last_hop_delay.with_label_values(&[site, quantile]);
            gauge.set(Duration::from_millis(ms).as_secs_f64());
        }
    }

    /// Publications that a site counted as lost since its last status.
    pub(crate) fn site_lost(&self, site: &str, hop: &str, publications: u64) {
        let series = self.0.lost.with_label_values(&[hop, site]);
        series.inc_by(publications);
    }

    pub(crate) fn bus_up(&self) {
        info!("the ledger hears the MoM's event bus");
    }

    pub(crate) fn bus_down(&self, reason: &str) {
        warn!(
            reason,
            "the ledger does not hear the MoM's event bus; it reads the job cache when the bus is back"
        );
    }

    /// An event was heard, whatever it says.
    pub(crate) fn bus_heard(&self) {
        let gauge = self.0.heartbeat.with_label_values(&["mom"]);
        gauge.set(now_seconds());
    }

    /// `outcome`: a word out of [`OUTCOMES`].
    pub(crate) fn bus_events(&self, outcome: &str, events: u64) {
        let series = self.0.bus_events.with_label_values(&[outcome]);
        series.inc_by(events);
    }

    pub(crate) fn event_malformed(&self, tag: &str, reason: &str) {
        self.bus_events("malformed", 1);
        if let Some(suppressed) = self.0.input_warnings.allow() {
            warn!(tag, reason, suppressed, "event of the MoM's bus skipped");
        }
    }

    pub(crate) fn event_refused(&self, tag: &str, err: &dyn std::error::Error) {
        self.bus_events("refused", 1);
        if let Some(suppressed) = self.0.input_warnings.allow() {
            let error = err.to_string();
            warn!(tag, error, suppressed, "event of a master-shim not taken");
        }
    }

    /// `outcome`: `changed`, `unchanged`, `waiting` or `stale`.
    pub(crate) fn roster(&self, outcome: &str) {
        self.0.rosters.with_label_values(&[outcome]).inc();
    }

    pub(crate) fn roster_stale(&self, site: &str, reason: &str) {
        self.roster("stale");
        if let Some(suppressed) = self.0.input_warnings.allow() {
            warn!(
                site,
                reason, suppressed, "roster not taken; the next full one mends it"
            );
        }
    }

    pub(crate) fn roster_changed(&self, site: &str, added: usize, removed: usize, minions: usize) {
        self.roster("changed");
        debug!(site, added, removed, minions, "roster changed");
    }

    pub(crate) fn event_fired(&self) {
        self.0.fired.with_label_values(&["fired"]).inc();
    }

    pub(crate) fn event_not_fired(&self, reason: &str) {
        self.0.fired.with_label_values(&["lost"]).inc();
        if let Some(suppressed) = self.0.input_warnings.allow() {
            warn!(reason, suppressed, "event not fired on the MoM's bus");
        }
    }

    pub(crate) fn bus_refuses(&self, err: &FireError) {
        warn!(error = %chain(err), "the MoM's event bus takes no events");
    }

    pub(crate) fn speaks(&self, speaks: bool) {
        self.0.speaker.set(i64::from(speaks));
        if speaks {
            info!("this bridge speaks for its MoM: it fires events and writes the audit");
        } else {
            warn!(
                "another file stands at the speaker's path; this bridge is silent until it has its lock"
            );
        }
    }

    pub(crate) fn speaker_failed(&self, reason: &str) {
        error!(
            reason,
            "the speaker's file cannot be locked: this bridge fires no events; run it as Salt's user"
        );
    }

    pub(crate) fn audit_lost(&self, lines: usize, reason: &str) {
        self.0.audit_lost.inc_by(lines as u64);
        if let Some(suppressed) = self.0.input_warnings.allow() {
            error!(lines, reason, suppressed, "lines of the audit lost");
        }
    }

    pub(crate) fn audit_failed(&self, path: &Path, err: &io::Error) {
        self.0.disk_errors.with_label_values(&["audit"]).inc();
        error!(path = %path.display(), error = %err, "the audit cannot be written; its lines wait in memory");
    }

    pub(crate) fn audit_writable(&self) {
        info!("the audit is written again");
    }

    pub(crate) fn ledger_failed(&self, err: &StoreError) {
        self.0.disk_errors.with_label_values(&["ledger"]).inc();
        if let Some(suppressed) = self.0.input_warnings.allow() {
            error!(error = %chain(err), suppressed, "the ledger cannot be written; it goes on in memory");
        }
    }

    pub(crate) fn ledger(&self, open: usize, kept: u64, bytes: u64) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let jobs = |state: &str| self.0.jobs.with_label_values(&[state]);
        jobs("open").set(gauge(open as u64));
        jobs("kept").set(gauge(kept));
        self.0.bytes.set(gauge(bytes));
    }

    pub(crate) fn ledger_off(&self, reason: &str) {
        warn!(
            reason,
            "no ledger is kept: nobody tells the MoM of minions that a job did not reach"
        );
    }

    pub(crate) fn pages_off(&self) {
        warn!(
            "http.listen is not on the loopback: the page and /api need http.tls_cert, http.tls_key and http.token_file, and are not served"
        );
    }

    pub(crate) fn caught_up(&self, passed: &Passed) {
        let (jobs, returns) = (passed.caught_up.len(), passed.returns);
        let took_ms = passed.took.as_millis();
        if passed.is_last {
            info!(
                jobs,
                returns, took_ms, "the ledger has caught up from the MoM's job cache"
            );
        } else {
            debug!(jobs, returns, took_ms, "the MoM's job cache was read once");
        }
    }

    pub(crate) fn job_shed(&self, jid: &str) {
        if let Some(suppressed) = self.0.input_warnings.allow() {
            warn!(
                jid,
                suppressed, "open job told as incomplete to make room for newer ones"
            );
        }
    }

    pub(crate) fn stored_unreadable(&self, jid: &str, err: &(dyn std::error::Error + 'static)) {
        if let Some(suppressed) = self.0.input_warnings.allow() {
            let error = chain(err).to_string();
            warn!(jid, error, suppressed, "a job on disk cannot be read");
        }
    }

    pub(crate) fn ledger_set_aside(&self, aside: &SetAside) {
        self.0.disk_errors.with_label_values(&["ledger"]).inc();
        error!(path = %aside.path.display(), salvaged = aside.salvaged, reason = aside.reason, "the ledger's file was damaged and set aside");
    }

    pub(crate) fn ledger_restored(&self, jobs: u64, open: usize, sites: usize) {
        info!(jobs, open, sites, "the ledger was read from the disk");
    }
}

fn now_seconds() -> f64 {
    Duration::from_millis(daemon_kit::unix_millis()).as_secs_f64()
}

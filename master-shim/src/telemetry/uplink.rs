//! The way up: the sign-in at the MoM, the lanes, and what the MoM is told of the site.

use std::{error::Error, time::Duration};

use daemon_kit::chain;
use salt_link::sign_in::SignInCounts;
use salt_wire::{ids::Jid, saltway::NotPublished};
use store::Class;
use tracing::{debug, error, warn};

use super::{LaneName, Telemetry};

impl Telemetry {
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

    pub(crate) fn start_event_failed(&self, err: &(dyn Error + 'static)) {
        warn!(error = %chain(err), "the MoM has not taken the event that this site has started");
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
}

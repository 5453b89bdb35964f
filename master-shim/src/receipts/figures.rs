//! The last hop in figures: for the status that goes up, and for the metrics.

use std::sync::{Arc, Mutex, PoisonError};

use relay_core::redelivery::{Figures, Redelivery};
use salt_wire::saltway::LastHop;
use tokio::time::{Duration, Instant};

use crate::telemetry::Telemetry;

/// How often the figures are looked at while jobs are followed; statuses go up each 5 s.
const INTERVAL: Duration = Duration::from_secs(1);

/// The newest figures, for whoever tells them.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastHopFigures(Arc<Mutex<LastHop>>);

impl LastHopFigures {
    /// The newest ones.
    pub(crate) fn now(&self) -> LastHop {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, figures: &Figures) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = LastHop {
            expected: figures.expected,
            received: figures.received,
            missed: figures.missed,
            redelivered: figures.redelivered,
            held_back: figures.unsafe_,
            after_ms_median: figures.after_ms_median.unwrap_or(0),
            after_ms_p99: figures.after_ms_p99.unwrap_or(0),
        };
    }
}

/// What was told last.
pub(super) struct Tally {
    told: Figures,
    at: Instant,
    /// A job was published since.
    is_stale: bool,
    last_hop: LastHopFigures,
}

impl Tally {
    pub(super) fn new(last_hop: LastHopFigures) -> Self {
        Self {
            told: Figures::default(),
            at: Instant::now(),
            is_stale: false,
            last_hop,
        }
    }

    /// A job was published.
    pub(super) fn published(&mut self) {
        self.is_stale = true;
    }

    /// When to look: only while there is something to look at.
    pub(super) fn next(&self) -> Option<Instant> {
        (self.is_stale || self.told.jobs > 0).then_some(self.at)
    }

    /// Looks, if it is time.
    pub(super) fn tell(&mut self, decisions: &Redelivery, telemetry: &Telemetry) {
        let now = Instant::now();
        if now < self.at {
            return;
        }
        self.at = now + INTERVAL;
        self.is_stale = false;
        let figures = decisions.figures();
        let before = std::mem::replace(&mut self.told, figures);
        let dropped = |figures: &Figures| {
            figures.dropped.jobs + figures.dropped.minions + figures.dropped.loads
        };
        telemetry.last_hop(
            figures.missed.saturating_sub(before.missed),
            figures.unsafe_.saturating_sub(before.unsafe_),
            dropped(&figures).saturating_sub(dropped(&before)),
        );
        self.last_hop.set(&figures);
    }
}

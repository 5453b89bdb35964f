//! What the master-shim counts and logs: one method per thing that happens.
//!
//! The methods are in files by what they tell of; here is what these have in common, and the signs of life of the hops.

use std::{sync::Arc, time::Duration};

use daemon_kit::metrics::Metrics;
pub(crate) use salt_wire::saltway::LostAt;
use tracing::warn;

use self::counters::Counters;
pub(crate) use self::tally::Tally;

mod counters;
mod disk;
mod link;
mod publications;
mod receipts;
mod site;
mod tally;
mod uplink;

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

    fn warn_of_input(&self, what: &str, reason: &str) {
        if let Some(suppressed) = self.counters.input_warnings.allow() {
            warn!(reason, suppressed, "{what}");
        }
    }
}

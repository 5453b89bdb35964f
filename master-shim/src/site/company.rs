//! What a shim sends that is not the active one of its site.
//!
//! The active one sends what both see on the same event bus. When it dies, nobody sends until the other has taken over:
//! the returns of that time are kept here and sent then. A second copy is filed over the first by the MoM.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::routing::Return;
use crate::tenure::Tenure;

/// How long returns are kept: longer than a dead shim's lease.
const KEEP: Duration = Duration::from_secs(10);

/// How many, and how many bytes of them; beyond that the oldest are let go.
const ENTRIES_MAX: usize = 10_000;
const BYTES_MAX: usize = 8 << 20;

/// How often it is looked whether this shim has become the active one.
const INTERVAL: Duration = Duration::from_millis(250);

/// Whether this shim is the active one of its site, and the latest returns while it is not.
pub(crate) struct Company {
    tenures: Vec<Tenure>,
    kept: VecDeque<(Instant, Box<Return>)>,
    bytes: usize,
    tick_at: Option<Instant>,
}

impl Company {
    /// One tenure for each MoM.
    pub(crate) fn new(tenures: Vec<Tenure>) -> Self {
        Self {
            tenures,
            kept: VecDeque::new(),
            bytes: 0,
            tick_at: None,
        }
    }

    /// Whether another shim sends what both see. While Redis does not tell, this one does.
    pub(super) fn is_standby(&self) -> bool {
        self.tenures.iter().all(Tenure::is_elsewhere)
    }

    /// Whether this shim may publish for the MoM with this index.
    pub(super) fn may_publish(&self, index: usize) -> bool {
        self.tenures.get(index).is_some_and(|tenure| {
            let granted = tenure.current();
            granted.is_some_and(|granted| tenure.is_permitted(granted.fence))
        })
    }

    /// Keeps a return that the active shim sends.
    pub(super) fn keep(&mut self, ret: Box<Return>) {
        let now = Instant::now();
        self.tick_at = self.tick_at.or(Some(now + INTERVAL));
        self.bytes += ret.bytes;
        self.kept.push_back((now, ret));
        while let Some((since, _)) = self.kept.front() {
            let old = now.duration_since(*since) > KEEP;
            if !old && self.kept.len() <= ENTRIES_MAX && self.bytes <= BYTES_MAX {
                break;
            }
            if let Some((_, ret)) = self.kept.pop_front() {
                self.bytes -= ret.bytes;
            }
        }
    }

    /// When to look again.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        self.tick_at
    }

    /// What was kept, once no other shim is the active one.
    pub(super) fn taken_over(&mut self) -> Vec<Return> {
        if self.kept.is_empty() || self.is_standby() {
            self.tick_at = (!self.kept.is_empty()).then(|| Instant::now() + INTERVAL);
            return Vec::new();
        }
        self.tick_at = None;
        self.bytes = 0;
        let kept = std::mem::take(&mut self.kept);
        kept.into_iter().map(|(_, ret)| *ret).collect()
    }
}

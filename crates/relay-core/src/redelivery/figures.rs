//! The last hop in figures: how many minions were meant, heard, missed and sent a job again.

use std::collections::VecDeque;

/// All in figures, since the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Minions that give receipts and that a job was published to, over all jobs.
    pub expected: u64,
    /// Those of them that were heard: by a receipt or a return.
    pub received: u64,
    /// Those that were silent for longer than the time-out after the first publication.
    pub missed: u64,
    /// Those that a job was sent to again; each time counts.
    pub redelivered: u64,
    /// Those that missed a job and are not sent it, since nobody can tell whether they ran it.
    pub unsafe_: u64,
    /// What bounds dropped.
    pub dropped: Dropped,
    /// The middle of the times from publication to receipt, of the last 10,000 receipts.
    pub after_ms_median: Option<u64>,
    /// 99 of 100 of them were faster.
    pub after_ms_p99: Option<u64>,
    /// Jobs that are followed now.
    pub jobs: usize,
    /// Minions that are silent now, over all jobs.
    pub silent: usize,
}

/// What bounds dropped: none of it is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// Jobs, beyond `jobs_max` or `cells_max`.
    pub jobs: u64,
    /// Minions of a job whose names had no room.
    pub minions: u64,
    /// Receipts of jobs that were not known yet.
    pub early: u64,
    /// Jobs whose load was dropped.
    pub loads: u64,
}

/// Receipts that the delay is told of.
const DELAYS_MAX: usize = 10_000;

/// The last delays.
#[derive(Debug, Default)]
pub(super) struct Delays(VecDeque<u32>);

impl Delays {
    pub(super) fn add(&mut self, after_ms: u64) {
        if self.0.len() >= DELAYS_MAX {
            self.0.pop_front();
        }
        self.0
            .push_back(u32::try_from(after_ms).unwrap_or(u32::MAX));
    }

    /// The median and the 99th percentile.
    pub(super) fn quantiles(&self) -> (Option<u64>, Option<u64>) {
        let mut sorted: Vec<u32> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
            sorted.get(rank).copied().map(u64::from)
        };
        (at(50), at(99))
    }
}

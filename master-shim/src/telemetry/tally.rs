//! What was lost of one MoM's publications since the start: the metrics have it for all MoMs together.

use std::sync::atomic::{AtomicU64, Ordering};

use salt_wire::saltway::LostAt;

/// Counts of one MoM's side.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    lost: [AtomicU64; LostAt::ALL.len()],
    expired: AtomicU64,
}

impl Tally {
    pub(super) fn lost(&self, at: LostAt, publications: u64) {
        let of_hop = LostAt::ALL
            .iter()
            .zip(&self.lost)
            .find(|(hop, _)| **hop == at);
        if let Some((_, count)) = of_hop {
            count.fetch_add(publications, Ordering::Relaxed);
        }
    }

    pub(super) fn expired(&self) {
        self.expired.fetch_add(1, Ordering::Relaxed);
    }

    /// By hop, all of them.
    pub(crate) fn lost_by_hop(&self) -> Vec<(LostAt, u64)> {
        let counts = self.lost.iter().map(|count| count.load(Ordering::Relaxed));
        LostAt::ALL.into_iter().zip(counts).collect()
    }

    /// Publications that were too old.
    pub(crate) fn expired_count(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }
}

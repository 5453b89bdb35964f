//! The difference between this host's clock and the bridge's, learned from heart-beats.
//!
//! A publication's age is counted from the bridge's clock. The smallest difference between the two clocks among the
//! latest heart-beats is their true difference and the fastest transit; what a slow heart-beat adds does not count.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

/// Heart-beats that are remembered: at two a second, half a minute.
const BEATS: usize = 64;

/// Learns from each heart-beat; read by whoever needs an age.
#[derive(Debug, Default)]
pub(crate) struct Skew {
    differences: Mutex<VecDeque<i64>>,
    smallest: AtomicI64,
}

impl Skew {
    /// A heart-beat sent at `sent_at_ms` by the bridge's clock was heard at `now_ms` by ours.
    pub(crate) fn note(&self, sent_at_ms: u64, now_ms: u64) {
        let difference = i64::try_from(now_ms)
            .unwrap_or(i64::MAX)
            .saturating_sub(i64::try_from(sent_at_ms).unwrap_or(i64::MAX));
        let mut differences = self
            .differences
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if differences.len() >= BEATS {
            differences.pop_front();
        }
        differences.push_back(difference);
        if let Some(smallest) = differences.iter().min() {
            self.smallest.store(*smallest, Ordering::Relaxed);
        }
    }

    /// What to add to the bridge's time to get ours, in milliseconds; 0 before the first heart-beat.
    pub(crate) fn millis(&self) -> i64 {
        self.smallest.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_heart_beats_do_not_change_the_difference() {
        let skew = Skew::default();
        skew.note(1_000, 61_005);
        skew.note(1_500, 61_900);
        skew.note(2_000, 62_004);
        assert_eq!(skew.millis(), 60_004, "this host is a minute ahead");
    }

    #[test]
    fn clock_that_was_set_is_learned_anew() {
        let skew = Skew::default();
        skew.note(100_000, 40_000);
        assert_eq!(skew.millis(), -60_000);
        for beat in 0..64 {
            skew.note(100_000 + beat * 500, 100_002 + beat * 500);
        }
        assert_eq!(skew.millis(), 2);
    }
}

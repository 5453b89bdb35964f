//! How long to wait before the next attempt: exponential, with jitter, bounded.
//!
//! Pure: it hands out durations and never sleeps.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Delays that double from `first` to `max`, each shortened at random by up to half.
///
/// The jitter keeps many sites from knocking at the same moment after a common outage.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
    random: u64,
}

impl Backoff {
    /// Delays from `first` to `max`; a `max` below `first` counts as `first`.
    pub fn new(first: Duration, max: Duration) -> Self {
        // RandomState is seeded by the operating system, which is random enough for jitter.
        Self::with_seed(first, max, RandomState::new().build_hasher().finish())
    }

    /// As [`Self::new`] with the same jitter for the same `seed`.
    pub fn with_seed(first: Duration, max: Duration, seed: u64) -> Self {
        Self {
            first,
            max: max.max(first),
            next: first,
            random: seed,
        }
    }

    /// The delay before the next attempt: between half of the nominal delay and all of it.
    pub fn next_delay(&mut self) -> Duration {
        let nominal = self.next;
        self.next = nominal.saturating_mul(2).min(self.max);
        // 16 random bits are finer than any timer here and exact in an f64.
        let share = f64::from(u16::try_from(self.draw() >> 48).unwrap_or(u16::MAX)) / 65536.0;
        nominal.mul_f64(0.5 + share / 2.0)
    }

    /// Starts over from `first`, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): enough for jitter, nothing secret depends on it.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(1);

    #[test]
    fn delays_double_up_to_the_maximum_and_stay_in_the_upper_half() {
        let mut backoff = Backoff::with_seed(FIRST, MAX, 7);
        for nominal in [100, 200, 400, 800, 1000, 1000, 1000] {
            let nominal = Duration::from_millis(nominal);
            let delay = backoff.next_delay();
            assert!(
                delay >= nominal / 2 && delay <= nominal,
                "{delay:?} for {nominal:?}"
            );
        }
    }

    #[test]
    fn a_success_starts_over() {
        let mut backoff = Backoff::with_seed(FIRST, MAX, 7);
        for _ in 0..5 {
            backoff.next_delay();
        }
        backoff.reset();
        assert!(backoff.next_delay() <= FIRST);
    }

    #[test]
    fn two_seeds_do_not_knock_together() {
        let mut one = Backoff::with_seed(FIRST, MAX, 1);
        let mut other = Backoff::with_seed(FIRST, MAX, 2);
        let differing = (0..20)
            .filter(|_| one.next_delay() != other.next_delay())
            .count();
        assert!(differing > 15);
    }

    #[test]
    fn huge_limits_do_not_overflow() {
        let mut backoff = Backoff::with_seed(Duration::from_secs(1), Duration::MAX, 3);
        for _ in 0..200 {
            // The last steps multiply near the end of what a Duration holds.
            assert!(backoff.next_delay() > Duration::ZERO);
        }
    }
}

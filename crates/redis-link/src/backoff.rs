//! Waits between attempts to reach Redis.

use std::time::Duration;

/// The wait before the second attempt to connect, doubled up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest wait between two attempts. An attempt that began in an outage may hang for the whole
/// time-out of 2 s; with this wait behind it everything stands again within 3 s of its end.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Waits between attempts: doubled from [`BACKOFF_MIN`] to [`BACKOFF_MAX`], with jitter, so that
/// the sites of a restarted Redis do not come back in step.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    wait: Option<Duration>,
}

impl Backoff {
    /// The next wait: between half of and the whole current step.
    pub(crate) fn next(&mut self) -> Duration {
        let step = self
            .wait
            .map_or(BACKOFF_MIN, |wait| (wait * 2).min(BACKOFF_MAX));
        self.wait = Some(step);
        step.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Starts over after a success.
    pub(crate) const fn reset(&mut self) {
        self.wait = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_half_a_second_and_start_over() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..8).map(|_| backoff.next()).collect();
        assert!(
            waits
                .first()
                .is_some_and(|wait| *wait >= BACKOFF_MIN / 2 && *wait <= BACKOFF_MIN)
        );
        assert!(
            waits
                .last()
                .is_some_and(|wait| *wait >= BACKOFF_MAX / 2 && *wait <= BACKOFF_MAX)
        );
        backoff.reset();
        assert!(backoff.next() <= BACKOFF_MIN);
    }
}

//! Keeps hostile or repeated input from flooding the logs.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Allows `limit` events in each `interval` and counts the rest. Pure: the caller gives the time.
#[derive(Debug)]
pub struct Throttle {
    limit: u32,
    interval: Duration,
    began: Option<Instant>,
    allowed: u32,
    suppressed: u64,
}

impl Throttle {
    /// Allows `limit` events per `interval`, the first interval beginning with the first event.
    pub const fn new(limit: u32, interval: Duration) -> Self {
        Self {
            limit,
            interval,
            began: None,
            allowed: 0,
            suppressed: 0,
        }
    }

    /// `Some(n)` when the event at `now` may be told; `n` were suppressed since the last one told.
    pub fn allow(&mut self, now: Instant) -> Option<u64> {
        let over = self
            .began
            .is_none_or(|began| now.duration_since(began) >= self.interval);
        if over {
            self.began = Some(now);
            self.allowed = 0;
        }
        if self.allowed < self.limit {
            self.allowed += 1;
            Some(std::mem::take(&mut self.suppressed))
        } else {
            self.suppressed = self.suppressed.saturating_add(1);
            None
        }
    }
}

/// A [`Throttle`] that several tasks and threads share and that reads the clock itself.
///
/// ```
/// # use std::time::Duration;
/// let throttle = daemon_kit::throttle::SharedThrottle::new(5, Duration::from_secs(10));
/// if let Some(suppressed) = throttle.allow() {
///     tracing::warn!(suppressed, "frame refused");
/// }
/// ```
#[derive(Debug)]
pub struct SharedThrottle(Mutex<Throttle>);

impl SharedThrottle {
    /// As [`Throttle::new`].
    pub const fn new(limit: u32, interval: Duration) -> Self {
        Self(Mutex::new(Throttle::new(limit, interval)))
    }

    /// As [`Throttle::allow`] for an event now.
    pub fn allow(&self) -> Option<u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .allow(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_an_interval_is_suppressed_and_told_later() {
        let mut throttle = Throttle::new(2, Duration::from_secs(10));
        let told: Vec<_> = (0..5).map(|_| throttle.allow(Instant::now())).collect();
        assert_eq!(told, [Some(0), Some(0), None, None, None]);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(throttle.allow(Instant::now()), Some(3));
        assert_eq!(throttle.allow(Instant::now()), Some(0));
        assert_eq!(throttle.allow(Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shared_throttle_reads_the_clock() {
        let throttle = SharedThrottle::new(1, Duration::from_secs(1));
        assert_eq!(throttle.allow(), Some(0));
        assert_eq!(throttle.allow(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(throttle.allow(), Some(1));
    }
}

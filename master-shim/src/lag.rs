//! How far the site is behind the stream of one MoM: in entries, and in time.
//!
//! The link task notes the newest entry whenever it hears of one; what the delivery is done with is given when the figures are asked
//! for. Time counts from the moment at which this site heard of the first entry that it is not done with.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use relay_core::entry::EntryId;
use tokio::time::Instant;

/// Moments remembered; when they are full, every other one is forgotten.
const MOMENTS_MAX: usize = 512;

/// Heart-beats come twice a second: when nothing is heard for longer, nobody knows how far the stream is.
const SILENCE: Duration = Duration::from_secs(2);

/// How far behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LagFigures {
    /// Entries of the stream that the site is not done with.
    pub(crate) entries: u64,
    /// For how long it has been behind the first of them.
    pub(crate) behind: Duration,
}

/// Shared by the link task, which notes, and whoever tells.
#[derive(Debug, Default)]
pub(crate) struct Lag(Mutex<Track>);

#[derive(Debug, Default)]
struct Track {
    /// Where this tenure began, once that is known.
    floor: Option<EntryId>,
    newest: Option<EntryId>,
    heard_at: Option<Instant>,
    /// When an entry was first heard of that was newer than all before it.
    moments: VecDeque<(EntryId, Instant)>,
}

impl Lag {
    /// A tenure begins behind `floor`, or where the stream is then.
    pub(crate) fn begin(&self, floor: Option<EntryId>) {
        *self.lock() = Track {
            floor,
            ..Track::default()
        };
    }

    /// The stream was heard; `position` is where a site without a cursor begins.
    pub(crate) fn heard(&self, newest: Option<EntryId>, position: Option<EntryId>) {
        let now = Instant::now();
        let mut track = self.lock();
        track.heard_at = Some(now);
        track.floor = track.floor.or(position);
        if newest <= track.newest {
            return;
        }
        track.newest = newest;
        if let Some(newest) = newest {
            track.moments.push_back((newest, now));
        }
        if track.moments.len() > MOMENTS_MAX {
            let mut keep = false;
            track.moments.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// How far the site is behind that is done with everything up to `done`.
    pub(crate) fn figures(&self, done: Option<EntryId>) -> LagFigures {
        let now = Instant::now();
        let mut track = self.lock();
        let done = done.max(track.floor);
        let (Some(done), Some(newest)) = (done, track.newest) else {
            return LagFigures::default();
        };
        while track
            .moments
            .front()
            .is_some_and(|(entry, _)| *entry <= done)
        {
            track.moments.pop_front();
        }
        let since = |at: Instant| now.duration_since(at);
        let behind = track.moments.front().map(|(_, at)| since(*at));
        let silent = track.heard_at.map(since).filter(|silent| *silent > SILENCE);
        let entries = match newest {
            newest if newest <= done => 0,
            newest if newest.epoch == done.epoch => newest.number - done.number,
            newest => newest.number,
        };
        LagFigures {
            entries,
            behind: behind.max(silent).unwrap_or_default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Track> {
        // No code that can panic runs under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64) -> Option<EntryId> {
        Some(EntryId::new(7, number))
    }

    fn check(lag: &Lag, done: Option<EntryId>, entries: u64, millis: u64) {
        let behind = Duration::from_millis(millis);
        assert_eq!(lag.figures(done), LagFigures { entries, behind });
    }

    #[tokio::test(start_paused = true)]
    async fn time_counts_from_the_first_entry_that_is_not_done() {
        let lag = Lag::default();
        lag.begin(entry(10));
        lag.heard(entry(10), entry(10));
        check(&lag, None, 0, 0);
        lag.heard(entry(12), entry(10));
        tokio::time::advance(Duration::from_millis(300)).await;
        lag.heard(entry(15), entry(10));
        tokio::time::advance(Duration::from_millis(200)).await;
        check(&lag, None, 5, 500);
        check(&lag, entry(11), 4, 500);
        check(&lag, entry(12), 3, 200);
        check(&lag, entry(15), 0, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_and_a_new_epoch_counts_whole() {
        let lag = Lag::default();
        lag.begin(None);
        lag.heard(entry(10), None);
        check(&lag, None, 0, 0);
        lag.heard(entry(10), entry(10));
        tokio::time::advance(Duration::from_secs(5)).await;
        check(&lag, None, 0, 5_000);
        lag.heard(Some(EntryId::new(8, 3)), entry(10));
        check(&lag, entry(10), 3, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_outage_of_the_delivery_is_remembered_in_bounded_memory() {
        let lag = Lag::default();
        lag.begin(entry(0));
        for number in 1..=10_000 {
            lag.heard(entry(number), entry(0));
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert!(lag.lock().moments.len() <= MOMENTS_MAX);
        check(&lag, None, 10_000, 100_000);
    }
}

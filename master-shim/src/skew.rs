//! How old publications are, by the heart-beats heard: [`Clocks`] shared between the tasks of one upstream.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use relay_core::{clock::Clocks, entry::Publication};

/// Learns from each heart-beat; read by whoever needs an age.
#[derive(Debug, Default)]
pub(crate) struct Skew(Mutex<Clocks>);

/// The clock of bridges that name none: all of them share it.
const UNNAMED: &str = "-";

impl Skew {
    /// A heart-beat sent at `sent_at_ms` by `clock` was heard at `now_ms` by ours.
    pub(crate) fn note(&self, clock: Option<&str>, sent_at_ms: u64, now_ms: u64) {
        self.lock()
            .note(clock.unwrap_or(UNNAMED), sent_at_ms, now_ms);
    }

    /// The publication's age; zero before the first heart-beat of all.
    pub(crate) fn age(&self, entry: &Publication, now_ms: u64) -> Duration {
        let clock = entry.clock.as_deref().unwrap_or(UNNAMED);
        let age = self
            .lock()
            .age_ms(Some(clock), entry.received_at_ms, now_ms);
        Duration::from_millis(age.unwrap_or(0))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Clocks> {
        // No code that can panic runs under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

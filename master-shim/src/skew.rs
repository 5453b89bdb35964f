//! How old publications are, by the heart-beats heard: [`Clocks`] shared between the tasks of one upstream.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use daemon_kit::steady_millis;
use relay_core::{clock::Clocks, entry::Publication};
use tokio::{sync::Notify, time::timeout};

/// Learns from each heart-beat; read by whoever needs an age.
#[derive(Debug, Default)]
pub(crate) struct Skew {
    clocks: Mutex<Clocks>,
    heard: Notify,
}

/// The clock of bridges that name none: all of them share it.
const UNNAMED: &str = "-";

/// A clock that is never heard is judged by the others after a while, which no heart-beat tells.
const PATIENCE: Duration = Duration::from_secs(1);

impl Skew {
    /// A heart-beat sent at `sent_at_ms` by `clock` was heard just now.
    pub(crate) fn note(&self, clock: Option<&str>, sent_at_ms: u64) {
        self.lock()
            .note(clock.unwrap_or(UNNAMED), sent_at_ms, steady_millis());
        self.heard.notify_waiters();
    }

    /// The publication's age; `None` while it cannot be told.
    pub(crate) fn age(&self, entry: &Publication) -> Option<Duration> {
        let clock = entry.clock.as_deref().unwrap_or(UNNAMED);
        let age = self
            .lock()
            .age_ms(Some(clock), entry.received_at_ms, steady_millis());
        age.map(Duration::from_millis)
    }

    /// The next heart-beat, or a while without one: an age may be told then that could not be before.
    pub(crate) async fn heard(&self) {
        drop(timeout(PATIENCE, self.heard.notified()).await);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Clocks> {
        // No code that can panic runs under this lock.
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! One call to Redis: the next frames, or a new epoch.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use daemon_kit::steady_millis;
use redis_link::{AppendOutcome, Appended, Appender, Frame, RedisError};
use store::{Journal, JournalFrame, StoreError};

use super::{BATCH_BYTES_MAX, BATCH_FRAMES_MAX};
use crate::intake::Numbered;

/// What is to be done, and what that needs.
pub(super) struct Attempt {
    pub(super) appender: Arc<Appender>,
    pub(super) journal: Journal,
    /// The name of this process's clock.
    pub(super) clock: Arc<str>,
    pub(super) must_begin: bool,
    /// Numbers of the next frames.
    pub(super) batch: Option<RangeInclusive<u64>>,
    /// Those of them that are in memory.
    pub(super) held: Vec<Numbered>,
}

/// What became of it.
pub(super) enum Outcome {
    /// Redis has every frame up to `through`: each entry, its frame's number, and how long it took, where our own clock
    /// knows that.
    Appended {
        through: u64,
        entries: Vec<(Appended, u64, Option<Duration>)>,
    },
    /// Nothing was appended; an epoch was begun, by us or by another bridge.
    Begun { epoch: u64, joined: bool },
    /// Redis failed; the frames may or may not be there.
    Failed(RedisError),
    /// The journal could not be read.
    Unreadable(StoreError),
}

impl Attempt {
    pub(super) async fn run(mut self) -> Outcome {
        let Some(batch) = self.batch.clone().filter(|_| !self.must_begin) else {
            return self.begin().await;
        };
        let frames = match self.frames(&batch).await {
            Ok(frames) => frames,
            Err(err) => return Outcome::Unreadable(err),
        };
        let mut entries = Vec::with_capacity(frames.len());
        for of_clock in frames.chunk_by(|one, other| one.clock == other.clock) {
            match self.append(of_clock).await {
                Ok(Some(appended)) => entries.extend(self.entries(of_clock, appended)),
                Ok(None) => return self.begin().await,
                Err(err) => return Outcome::Failed(err),
            }
        }
        // What the journal had and could not give is lost, and counted there.
        let through = *batch.end();
        Outcome::Appended { through, entries }
    }

    async fn append(&self, frames: &[JournalFrame]) -> Result<Option<Vec<Appended>>, RedisError> {
        let clock = frames.first().map_or("", |frame| &frame.clock);
        let frames: Vec<Frame> = frames
            .iter()
            .map(|frame| Frame {
                received_at_ms: frame.received_at_ms,
                frame: frame.frame.clone(),
            })
            .collect();
        match self.appender.append_stamped(clock, &frames).await? {
            AppendOutcome::Appended(appended) => Ok(Some(appended)),
            AppendOutcome::Stale => Ok(None),
        }
    }

    fn entries<'a>(
        &self,
        frames: &'a [JournalFrame],
        appended: Vec<Appended>,
    ) -> impl Iterator<Item = (Appended, u64, Option<Duration>)> + use<'a> {
        let (clock, now_ms) = (Arc::clone(&self.clock), steady_millis());
        frames.iter().zip(appended).map(move |(frame, appended)| {
            let age_ms = now_ms.saturating_sub(frame.received_at_ms);
            let is_ours = frame.clock == clock;
            let latency = is_ours.then(|| Duration::from_millis(age_ms));
            (appended, frame.seq, latency)
        })
    }

    async fn begin(&self) -> Outcome {
        match self.appender.begin_epoch(steady_millis()).await {
            Ok(begun) => Outcome::Begun {
                epoch: begun.epoch,
                joined: begun.joined,
            },
            Err(err) => Outcome::Failed(err),
        }
    }

    /// The frames of the batch: from memory if all are there, else from the journal and from memory. The journal gives
    /// all that it has of the batch, which was cut by the same bounds.
    async fn frames(
        &mut self,
        batch: &RangeInclusive<u64>,
    ) -> Result<Vec<JournalFrame>, StoreError> {
        let held = std::mem::take(&mut self.held);
        let mut frames: Vec<JournalFrame> = held
            .into_iter()
            .map(|held| JournalFrame {
                seq: held.seq,
                received_at_ms: held.received_at_ms,
                clock: Arc::clone(&self.clock),
                frame: held.frame,
            })
            .collect();
        if frames.len() as u64 == batch.end() - batch.start() + 1 {
            return Ok(frames);
        }
        let bytes_max = usize::try_from(BATCH_BYTES_MAX).unwrap_or(usize::MAX);
        let read = self
            .journal
            .read(*batch.start(), BATCH_FRAMES_MAX, bytes_max);
        let stored = read.await?.into_iter();
        let known: Vec<u64> = frames.iter().map(|frame| frame.seq).collect();
        let wanted = |frame: &JournalFrame| {
            batch.contains(&frame.seq) && known.binary_search(&frame.seq).is_err()
        };
        frames.extend(stored.filter(wanted));
        frames.sort_unstable_by_key(|frame| frame.seq);
        Ok(frames)
    }
}

//! What a bridge's journal holds: what waits to be appended, and what is kept to be appended again.
//!
//! Driven by the task that owns the journal; only numbers and sizes are here, the frames are on disk.
//!
//! ```text
//!   forgotten │  appended, kept for a new epoch  │  waiting
//!  ───────────┼──────────────────────────────────┼───────────► seq
//!             └ expire, shed                     └ appended(through); rewind moves it back
//! ```
//! - Frames are appended in the order of their numbers; none is passed over.
//! - What Redis has is kept until it expires, since Redis may forget it; a new epoch makes all of
//!   it wait again.
//! - Bounds take from what Redis has first, oldest first, then from the oldest that wait: that is
//!   a loss, and told.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// The bounds of a backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BacklogConfig {
    /// Most frames, waiting and kept.
    pub entries_max: usize,
    /// Most bytes of frames, waiting and kept; a single larger frame is taken.
    pub bytes_max: u64,
    /// Older frames are of no use to any site: the largest expiry that jobs may have.
    pub age_max_ms: u64,
}

/// What went because of its age or the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gone {
    /// The journal may forget everything up to this number; `None`: nothing went.
    pub through: Option<u64>,
    /// How many of these frames Redis never had.
    pub unappended: u64,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    seq: u64,
    bytes: u64,
    received_at_ms: u64,
}

/// The journal's content; see the module's head.
#[derive(Debug)]
pub struct Backlog {
    config: BacklogConfig,
    records: VecDeque<Record>,
    /// How many of `records`, from the front, Redis has.
    appended: usize,
    appended_bytes: u64,
    waiting_bytes: u64,
}

impl Backlog {
    /// Empty.
    #[must_use]
    pub const fn new(config: BacklogConfig) -> Self {
        Self {
            config,
            records: VecDeque::new(),
            appended: 0,
            appended_bytes: 0,
            waiting_bytes: 0,
        }
    }

    /// The journal holds this frame: written just now, or found at the start. It waits. Numbers
    /// ascend; one that does not is passed over.
    ///
    /// `received_at_ms` is the bridge's own clock. What another clock stamped counts from the
    /// bridge's start: how old it is only the sites can tell.
    pub fn received(&mut self, seq: u64, bytes: u64, received_at_ms: u64) {
        if self.records.back().is_some_and(|last| last.seq >= seq) {
            return;
        }
        self.waiting_bytes = self.waiting_bytes.saturating_add(bytes);
        self.records.push_back(Record {
            seq,
            bytes,
            received_at_ms,
        });
    }

    /// The numbers to append next: at most so many frames and bytes, at least one frame if any waits.
    #[must_use]
    pub fn next_batch(&self, frames_max: usize, bytes_max: u64) -> Option<RangeInclusive<u64>> {
        let mut waiting = self.records.range(self.appended..);
        let first = waiting.next()?;
        let mut bytes = first.bytes;
        let fits = |record: &&Record| {
            bytes = bytes.saturating_add(record.bytes);
            bytes <= bytes_max
        };
        let rest = waiting.take(frames_max.saturating_sub(1)).take_while(fits);
        Some(first.seq..=rest.last().unwrap_or(first).seq)
    }

    /// Redis has everything up to this number.
    pub fn appended(&mut self, through: u64) {
        while let Some(record) = self.records.get(self.appended)
            && record.seq <= through
        {
            self.waiting_bytes -= record.bytes;
            self.appended_bytes += record.bytes;
            self.appended += 1;
        }
    }

    /// Redis may have forgotten any of it: everything kept waits again.
    pub const fn rewind(&mut self) {
        self.waiting_bytes += self.appended_bytes;
        self.appended_bytes = 0;
        self.appended = 0;
    }

    /// Lets go of what is too old. A time that lies ahead counts as now.
    pub fn expire(&mut self, now_ms: u64) -> Gone {
        let mut gone = Gone::default();
        while let Some(front) = self.records.front_mut() {
            front.received_at_ms = front.received_at_ms.min(now_ms);
            if now_ms - front.received_at_ms <= self.config.age_max_ms {
                break;
            }
            self.let_go(&mut gone);
        }
        gone
    }

    /// Lets go of what exceeds the bounds, the oldest first, but never of the newest.
    pub fn shed(&mut self) -> Gone {
        let mut gone = Gone::default();
        while self.records.len() > self.config.entries_max.max(1)
            || (self.records.len() > 1 && self.bytes() > self.config.bytes_max)
        {
            self.let_go(&mut gone);
        }
        gone
    }

    /// Frames that wait to be appended, and their bytes.
    #[must_use]
    pub fn waiting(&self) -> (usize, u64) {
        (self.records.len() - self.appended, self.waiting_bytes)
    }

    /// Frames that Redis has and that are kept for a new epoch, and their bytes.
    #[must_use]
    pub const fn kept(&self) -> (usize, u64) {
        (self.appended, self.appended_bytes)
    }

    const fn bytes(&self) -> u64 {
        self.waiting_bytes.saturating_add(self.appended_bytes)
    }

    /// The front of the queue is the oldest appended one as long as there is any.
    fn let_go(&mut self, gone: &mut Gone) {
        let Some(record) = self.records.pop_front() else {
            return;
        };
        gone.through = Some(record.seq);
        if self.appended > 0 {
            self.appended -= 1;
            self.appended_bytes -= record.bytes;
        } else {
            self.waiting_bytes -= record.bytes;
            gone.unappended += 1;
        }
    }
}

#[cfg(test)]
mod tests;

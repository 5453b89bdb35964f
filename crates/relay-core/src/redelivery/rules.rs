//! Who may be sent a job again, and when a silence is one.

use super::{
    Policy, RedeliveryConfig,
    book::{AT_ONCE, CONNECTION, Cell, FRESH, Job, KEPT, LIFE, Minion, UNSAFE},
    life::SETTLE_MS,
};

/// A copy that was just sent may be on its way.
const GAP_MS: u64 = 1_000;

/// Answers that come closer to each other than this are a stream.
const STREAM_MS: u64 = 1_000;

/// So many time-outs a silence lasts at most after a repetition, whatever else is heard meanwhile.
const TIMEOUTS_MAX: u64 = 6;

/// The same after the publication: an overloaded lower master takes minutes for the answers of a large site
/// (`benches/src/bin/receipts.rs`). A job lives for five.
const FIRST_TIMEOUTS_MAX: u64 = 24;

impl RedeliveryConfig {
    /// Whether a silent minion may be sent a job again, apart from when.
    pub(super) fn may_go(&self, job: &Job, cell: Cell, minion: &Minion) -> bool {
        let is_kept = cell.has(LIFE) && self.attempts_max > 0 && !cell.has(KEPT);
        job.policy == Policy::Safe
            && !cell.has(UNSAFE)
            && minion.gives(job.asked_start_event)
            && self.is_remembered(cell, minion)
            && (cell.attempts < self.attempts_max || is_kept)
    }

    /// When a minion counts as silent by time alone: the time-out after the last that was heard of this job, or of the
    /// minion. One that takes many jobs tells of them one after the other.
    pub(super) fn quiet_ms(&self, job: &Job, cell: Cell, minion: &Minion) -> u64 {
        self.waits_ms(job, cell, job.word_ms.max(minion.heard_ms))
    }

    /// The time-out after the last sending, or after a word that came since; that does not go on for ever.
    fn waits_ms(&self, job: &Job, cell: Cell, word_ms: u64) -> u64 {
        let sent_ms = job.sent_ms(cell);
        let timeout_ms = self.receipt_timeout_ms;
        let timeouts_max = match cell.attempts {
            0 => FIRST_TIMEOUTS_MAX,
            _ => TIMEOUTS_MAX,
        };
        let latest_ms = sent_ms.saturating_add(timeout_ms.saturating_mul(timeouts_max));
        sent_ms
            .max(word_ms)
            .saturating_add(timeout_ms)
            .min(latest_ms)
    }

    /// While the site answers as fast as its master can take it, nobody is deaf before this time: what a minion says
    /// waits in the master's queue, behind that of all others.
    pub(super) fn busy_ms(&self, job: &Job, cell: Cell, now_ms: u64) -> u64 {
        let latest_ms = self.receipt_timeout_ms.saturating_mul(FIRST_TIMEOUTS_MAX);
        let latest_ms = job.sent_ms(cell).saturating_add(latest_ms);
        latest_ms.min(now_ms.saturating_add(STREAM_MS))
    }

    /// When a minion that shows that it hears is sent what it missed.
    pub(super) fn life_ms(&self, job: &Job, cell: Cell, minion: &Minion) -> u64 {
        if cell.attempts > 0 && (cell.has(AT_ONCE) || cell.has(CONNECTION)) {
            return job.sent_ms(cell).saturating_add(GAP_MS);
        }
        if cell.has(AT_ONCE) {
            return 0;
        }
        if cell.has(CONNECTION) {
            // While answers stream in, silence means nothing yet.
            let streams_ms = job.word_ms.saturating_add(STREAM_MS);
            let latest_ms = self.waits_ms(job, cell, job.word_ms);
            let young_ms = job.sent_ms(cell).saturating_add(SETTLE_MS);
            return streams_ms.min(latest_ms).max(young_ms);
        }
        // A later job was heard: receipts of one minion overtake each other by seconds.
        match cell.attempts {
            0 => self.waits_ms(job, cell, job.word_ms),
            _ => self.quiet_ms(job, cell, minion),
        }
    }

    /// Whether the minion, if it has taken the job, still knows that. What it took since are at most `newer_max` newer
    /// jobs, and as many older ones that were sent to it again.
    pub(super) fn is_remembered(&self, cell: Cell, minion: &Minion) -> bool {
        cell.has(FRESH) || minion.count.wrapping_sub(cell.count) <= self.newer_max
    }
}

//! The jobs that a minion took of late, and when a receipt for them is due.
//!
//! ```text
//! take ──► Running ──proc file gone──► Finished ──its return is sent──► Returning ──the master took it──► Returned
//!             └──────────receipt after 20 ms or more; none is due for what was returned until then──────┘
//! ```
//! - A return that is on its way is a receipt: another message to a master that is busy with returns would only come behind it.
//! - The pace of receipts is that of the master's answers to returns: at least [`FIRST_MS`] after the take and [`PACE_MS`] apart,
//!   on a busy master up to half a second and nearly one.
//! - A receipt is an event without an answer: each one repeats the newest jobs that are not returned yet.
//! - At most [`JOBS_MAX`] jobs of [`KEPT_MS`] are remembered, the newest; who dropped one says since when the list is whole.

use std::{collections::VecDeque, ops::RangeInclusive};

use salt_wire::ids::Jid;
use salt_wire::saltway::JIDS_MAX;

/// Most jobs remembered: what one event can list.
pub(crate) const JOBS_MAX: usize = JIDS_MAX;

/// How long a job is remembered. Redelivery looks back as far as a job lives, minutes.
const KEPT_MS: u64 = 30 * 60 * 1000;

/// From a take to its receipt, at least and at most; between them it is a quarter of what the master takes for a return. A return
/// often follows at once, and is a receipt itself.
const FIRST_MS: RangeInclusive<u64> = 20..=500;

/// Between two receipts, at least and at most; between them it is four times what the master takes for a return. With less, jobs in
/// bursts cost a master half as many receipts as returns (`benches/src/bin/receipts.rs`). A job of a second has its
/// receipt before its return.
const PACE_MS: RangeInclusive<u64> = 50..=900;

/// What a master takes while nothing is known of it.
const ANSWERS_MS: u64 = 10;

/// How long the return of a finished job may not be seen before the receipt goes out.
const FINISHED_MS: u64 = 500;

/// How long a return may be on its way before the receipt goes out: a time-out of the minion's, in which it hears that it was not taken.
const RETURN_MS: u64 = 10_000;

/// Jobs that each receipt repeats, as one may be lost on its way.
const REPEATED_MAX: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Running,
    Finished { since: u64 },
    Returning { since: u64 },
    Returned,
}

#[derive(Debug)]
struct Job {
    jid: Jid,
    taken: u64,
    /// Its receipt is due so long after it was taken.
    first: u64,
    told: bool,
    step: Step,
}

/// What one minion took. All times are milliseconds of one clock.
#[derive(Debug)]
pub(crate) struct Jobs {
    jobs: VecDeque<Job>,
    /// Every job since then is in the list.
    covers_from: u64,
    /// No receipt before then.
    paced: u64,
    /// What the master took for the last returns, smoothed.
    answers: Option<u64>,
}

impl Jobs {
    /// Nothing is known of the time before `now`.
    pub(crate) fn new(now: u64) -> Self {
        Self {
            jobs: VecDeque::new(),
            covers_from: now,
            paced: 0,
            answers: None,
        }
    }

    /// Something may have been missed until `now`.
    pub(crate) fn missed_until(&mut self, now: u64) {
        self.covers_from = now;
    }

    /// The minion took a job. False when it was known.
    pub(crate) fn take(&mut self, jid: Jid, now: u64) -> bool {
        if let Some(job) = self.find(&jid) {
            // The queue hands a job on to the directory of running ones.
            if let Step::Finished { .. } = job.step {
                job.step = Step::Running;
            }
            return false;
        }
        self.forget(now);
        if self.jobs.len() == JOBS_MAX
            && let Some(oldest) = self.jobs.pop_front()
        {
            self.covers_from = self.covers_from.max(oldest.taken + 1);
        }
        let first = (self.answers(now) / 4).clamp(*FIRST_MS.start(), *FIRST_MS.end());
        self.jobs.push_back(Job {
            jid,
            taken: now,
            first,
            told: false,
            step: Step::Running,
        });
        true
    }

    /// It is no job of the master's after all.
    pub(crate) fn not_the_masters(&mut self, jid: &Jid) {
        self.jobs.retain(|job| job.jid != *jid);
    }

    /// Its file is gone.
    pub(crate) fn finished(&mut self, jid: &Jid, now: u64) {
        if let Some(job) = self.find(jid)
            && job.step == Step::Running
        {
            job.step = Step::Finished { since: now };
        }
    }

    /// Its return is on the way to the master.
    pub(crate) fn returning(&mut self, jid: &Jid, now: u64) {
        if let Some(job) = self.find(jid)
            && job.step != Step::Returned
        {
            job.step = Step::Returning { since: now };
        }
    }

    /// The master took its return.
    pub(crate) fn returned(&mut self, jid: &Jid, now: u64) {
        let Some(job) = self.find(jid) else { return };
        let before = std::mem::replace(&mut job.step, Step::Returned);
        if let Step::Returning { since } = before {
            let took = now.saturating_sub(since);
            let smoothed = self.answers.map_or(took, |before| (3 * before + took) / 4);
            self.answers = Some(smoothed);
        }
    }

    /// What the master takes for a return; one that is on its way has taken that long at least.
    fn answers(&self, now: u64) -> u64 {
        let waiting = self.jobs.iter().find_map(|job| match job.step {
            Step::Returning { since } => Some(now.saturating_sub(since)),
            _ => None,
        });
        let answers = self.answers.unwrap_or(ANSWERS_MS);
        answers.max(waiting.unwrap_or_default().min(RETURN_MS))
    }

    /// When [`Self::receipt`] has something to give.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let due = self.jobs.iter().filter_map(Job::due).min()?;
        Some(due.max(self.paced))
    }

    /// Jobs whose receipts are due, as far as their files are to be looked at first.
    pub(crate) fn untold(&self) -> impl Iterator<Item = &Jid> {
        let untold = self
            .jobs
            .iter()
            .filter(|job| !job.told && job.step == Step::Running);
        untold.map(|job| &job.jid)
    }

    /// The receipt that is due: jobs with the time since they were taken, the oldest first.
    pub(crate) fn receipt(&mut self, now: u64) -> Option<Vec<(Jid, u32)>> {
        if self.next_due().is_none_or(|due| due > now) {
            return None;
        }
        self.paced = now + (4 * self.answers(now)).clamp(*PACE_MS.start(), *PACE_MS.end());
        let mut repeats = REPEATED_MAX;
        let mut receipt = Vec::new();
        for job in self.jobs.iter_mut().rev() {
            let wanted = match job.step {
                Step::Returned => false,
                _ if job.told => {
                    let room = repeats > 0;
                    repeats = repeats.saturating_sub(1);
                    room
                }
                Step::Running => true,
                Step::Finished { .. } | Step::Returning { .. } => {
                    job.due().is_some_and(|due| due <= now)
                }
            };
            if wanted {
                job.told = true;
                let held = now.saturating_sub(job.taken);
                receipt.push((job.jid.clone(), u32::try_from(held).unwrap_or(u32::MAX)));
            }
        }
        receipt.reverse();
        (!receipt.is_empty()).then_some(receipt)
    }

    /// Every job that is remembered, the oldest first, and the time that this list covers.
    pub(crate) fn taken(&mut self, now: u64) -> (Vec<Jid>, u64) {
        self.forget(now);
        let jids = self.jobs.iter().map(|job| job.jid.clone()).collect();
        (jids, now.saturating_sub(self.covers_from))
    }

    fn forget(&mut self, now: u64) {
        let from = now.saturating_sub(KEPT_MS);
        while self.jobs.front().is_some_and(|job| job.taken < from) {
            self.jobs.pop_front();
        }
        self.covers_from = self.covers_from.max(from);
    }

    fn find(&mut self, jid: &Jid) -> Option<&mut Job> {
        self.jobs.iter_mut().rev().find(|job| job.jid == *jid)
    }
}

impl Job {
    fn due(&self) -> Option<u64> {
        match self.step {
            _ if self.told => None,
            Step::Running => Some(self.taken + self.first),
            Step::Finished { since } => Some(since + FINISHED_MS),
            Step::Returning { since } => Some(since + RETURN_MS),
            Step::Returned => None,
        }
    }
}

#[cfg(test)]
mod tests;

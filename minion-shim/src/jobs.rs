//! The jobs that a minion took of late, and when a receipt for them is due.
//!
//! ```text
//! take ──► Running ──proc file gone──► Finished ──its return is sent──► Returning ──the master took it──► Returned
//!             └─────────────receipt after 20 ms; none is due for what was returned until then─────────────┘
//! ```
//! - A receipt is an event without an answer: each one repeats the newest jobs that are not returned yet.
//! - At most [`JOBS_MAX`] jobs of [`KEPT_MS`] are remembered, the newest; who dropped one says since when the list is whole.
//! - Over time at most one receipt per [`PACE_MS`] is sent, after a quiet time up to [`SAVED`] at once.

use std::collections::VecDeque;

use salt_wire::ids::Jid;
use salt_wire::saltway::JIDS_MAX;

/// Most jobs remembered: what one event can list.
pub(crate) const JOBS_MAX: usize = JIDS_MAX;

/// How long a job is remembered. Redelivery looks back as far as a job lives, minutes.
const KEPT_MS: u64 = 30 * 60 * 1000;

/// A return often follows at once, and is a receipt itself.
const FIRST_MS: u64 = 20;

/// How long a finished job's return may be on its way before the receipt goes out.
const RETURN_MS: u64 = 500;

/// Time between receipts when jobs come without an end: four requests a second to the master.
const PACE_MS: u64 = 250;

/// Receipts that may go out at once after a quiet second, so that a few jobs in a row need not wait for each other.
const SAVED: u64 = 4;

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
    told: bool,
    step: Step,
}

/// What one minion took. All times are milliseconds of one clock.
#[derive(Debug)]
pub(crate) struct Jobs {
    jobs: VecDeque<Job>,
    /// Every job since then is in the list.
    covers_from: u64,
    /// Paces receipts: the time at which one would be due if they had come evenly.
    paced: u64,
}

impl Jobs {
    /// Nothing is known of the time before `now`.
    pub(crate) fn new(now: u64) -> Self {
        Self {
            jobs: VecDeque::new(),
            covers_from: now,
            paced: 0,
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
        self.jobs.push_back(Job {
            jid,
            taken: now,
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
    pub(crate) fn returned(&mut self, jid: &Jid) {
        if let Some(job) = self.find(jid) {
            job.step = Step::Returned;
        }
    }

    /// When [`Self::receipt`] has something to give.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let due = self.jobs.iter().filter_map(Job::due).min()?;
        Some(due.max(self.paced.saturating_sub((SAVED - 1) * PACE_MS)))
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
        self.paced = self.paced.max(now) + PACE_MS;
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
            Step::Running => Some(self.taken + FIRST_MS),
            Step::Finished { since } | Step::Returning { since } => Some(since + RETURN_MS),
            Step::Returned => None,
        }
    }
}

#[cfg(test)]
mod tests;

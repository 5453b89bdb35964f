//! Which minions are sent a job again, and when.
//!
//! ```text
//! published ──► silent ──receipt, return, taken──► done
//!                 │ ▲
//!   time-out, life│ │ still nothing heard
//!                 ▼ │
//!               ready ──paced, in the order of the jids──► Again
//! ```
//! The master's publish port keeps nothing: a minion that is reconnecting misses a job. Salt's minion passes over a jid
//! that is among the last 100 it saw, but forgets these when it starts; the rules below keep a job from running twice.
//!
//! - A jid is sent again only to a minion that gives receipts for this job, has given none, has not returned, and is not
//!   said to have taken it; only before the job expires, and only a bounded number of times.
//! - By time alone a minion is sent one job: the oldest that it is silent about. The rest waits until it is heard again.
//! - A jid is not sent again when so many newer ones were published to the minion that its own memory of the old one may
//!   be gone, unless something shows that the first copy is not on its way any more.
//! - After a restart of a minion with a shim, what was published before goes only when the shim's report, which has to
//!   reach back that far, does not list it. Without such a report it is unsafe and never goes by itself.
//! - Everything is bounded; what a bound drops is counted by its reason and not sent again.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

mod answers;
mod book;
mod by_hand;
mod early;
mod figures;
mod life;
mod pace;
mod receipts;
mod rules;
mod turns;

pub use self::figures::{Dropped, Figures};
use self::{
    answers::Answers,
    book::{Book, COUNTED, Job, JobNumber, MinionNumber},
    early::Early,
    figures::Delays,
    pace::Pace,
};

/// The bounds and times of a [`Redelivery`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedeliveryConfig {
    /// How long after its publication a minion is silent about a job, and how long after a first repetition the second
    /// follows; each further one waits twice as long.
    pub receipt_timeout_ms: u64,
    /// How often a job is sent again to a minion that has given no sign of itself; the last of several only over a new
    /// connection. One more is kept for the moment at which the minion itself shows that it hears again.
    pub attempts_max: u8,
    /// Most publications in a second, on average; twice as many go at once after a pause.
    pub publications_per_s: u32,
    /// Most minions in one publication.
    pub minions_per_publication_max: usize,
    /// A job is not sent again by time when more jobs than these were published to the minion after it: half of what a
    /// minion remembers (`minion_jid_queue_hwm`).
    pub newer_max: u32,
    /// From so many first answers in a second on the lower master counts as busy: it is late with each one, and silence means
    /// nothing yet.
    pub busy_answers_per_s: u32,
    /// Most jobs that are followed.
    pub jobs_max: usize,
    /// Most minions over all jobs that have not been heard yet.
    pub cells_max: usize,
    /// Most minions that are known by name.
    pub minions_max: usize,
    /// Most receipts and returns that are kept for jobs which are not known yet.
    pub early_max: usize,
}

impl Default for RedeliveryConfig {
    fn default() -> Self {
        Self {
            receipt_timeout_ms: 5_000,
            attempts_max: 3,
            publications_per_s: 20,
            minions_per_publication_max: 1_000,
            newer_max: 50,
            busy_answers_per_s: 20,
            jobs_max: 10_000,
            cells_max: 2_000_000,
            minions_max: 200_000,
            early_max: 100_000,
        }
    }
}

/// Whether a job may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// While it is safe.
    Safe,
    /// Never by itself: the job is followed, and what was missed is counted.
    Never,
}

/// How a minion tells that it took a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// By a minion-shim beside it: for each job.
    Shim,
    /// By Salt's start event: for jobs that ask for it.
    StartEvent,
}

/// Why a minion's shim reported what the minion has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The shim itself began; the minion may have been started, too.
    Hello,
    /// The minion's process began.
    Started,
    /// The minion's connection to its master is a new one.
    Reconnected,
    /// Something else: the minion goes on as before.
    Other,
}

/// What a receipt was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// The first proof that this minion took the job, so long after its first publication.
    First {
        /// Milliseconds since [`Redelivery::published`].
        after_ms: u64,
    },
    /// The first one of a job that is not known here, or not known for this minion.
    Unknown,
    /// It tells nothing new.
    Again,
}

/// A job to be sent again to these minions, as a list target under the same jid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Again {
    /// The job.
    pub jid: String,
    /// The minions; at most `minions_per_publication_max`.
    pub minions: Vec<String>,
}

/// A job as the lower master published it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent<'a> {
    /// Its id.
    pub jid: &'a str,
    /// Whether it may be sent again.
    pub policy: Policy,
    /// It asked the minions for Salt's start event.
    pub asked_start_event: bool,
    /// When.
    pub now_ms: u64,
    /// Until when it may be sent again.
    pub expires_ms: u64,
}

/// What was published, who is silent, and what goes again; see the module's head.
///
/// All times are milliseconds of one clock that does not step back.
#[derive(Debug)]
pub struct Redelivery {
    config: RedeliveryConfig,
    now_ms: u64,
    book: Book,
    /// When the time-out of each publication passes.
    checks: BTreeSet<(u64, JobNumber)>,
    expiries: BTreeSet<(u64, JobNumber)>,
    /// The next moment of each minion that has one.
    wakes: BTreeSet<(u64, MinionNumber)>,
    /// What waits for its turn, by jid.
    ready: BTreeMap<Arc<str>, Vec<MinionNumber>>,
    pace: Pace,
    early: Early,
    forgotten: Vec<String>,
    figures: Figures,
    delays: Delays,
    answers: Answers,
}

impl Redelivery {
    /// Nothing was published yet.
    #[must_use]
    pub fn new(config: RedeliveryConfig) -> Self {
        Self {
            config,
            now_ms: 0,
            book: Book::default(),
            checks: BTreeSet::new(),
            expiries: BTreeSet::new(),
            wakes: BTreeSet::new(),
            ready: BTreeMap::new(),
            pace: Pace::new(config.publications_per_s),
            early: Early::default(),
            forgotten: Vec::new(),
            figures: Figures::default(),
            delays: Delays::default(),
            answers: Answers::default(),
        }
    }

    /// The bounds and times.
    #[must_use]
    pub const fn config(&self) -> &RedeliveryConfig {
        &self.config
    }

    /// The lower master published a job to these minions. Every publication of the lower master belongs here, those of
    /// others and find_jobs as [`Policy::Never`]: a minion's memory of jids is filled by all of them. A further part of
    /// a batch comes under the same jid.
    pub fn published<'a>(&mut self, sent: Sent<'_>, minions: impl IntoIterator<Item = &'a str>) {
        self.advance(sent.now_ms);
        let number = match self.book.number(sent.jid) {
            Some(number) => {
                self.again_published(number, &sent);
                number
            }
            None => self.book.add_job(Job::new(&sent)),
        };
        self.expiries.insert((sent.expires_ms, number));
        let check_ms = sent.now_ms.saturating_add(self.config.receipt_timeout_ms);
        self.checks.insert((check_ms, number));
        for minion in minions {
            self.publish_to(number, sent.jid, minion);
        }
        self.make_room();
    }

    /// A further part of a job.
    fn again_published(&mut self, number: JobNumber, sent: &Sent<'_>) {
        if let Some(job) = self.book.jobs.get_mut(&number) {
            job.expires_ms = job.expires_ms.max(sent.expires_ms);
            job.asked_start_event |= sent.asked_start_event;
            if job.cells.is_empty() {
                job.policy = sent.policy;
            }
        }
    }

    fn publish_to(&mut self, number: JobNumber, jid: &str, name: &str) {
        let minion = self.book.number_minion(name, self.config.minions_max);
        let is_closed = |job: &Job| job.is_closed;
        let (Some(minion), false) = (minion, self.book.jobs.get(&number).is_some_and(is_closed))
        else {
            self.figures.dropped.minions += 1;
            return;
        };
        let is_early = |early: &HashSet<Box<str>>| early.contains(name);
        let is_early = self.early.of(jid).is_some_and(is_early);
        if let Some(of) = self.book.minion_mut(minion) {
            of.count = of.count.wrapping_add(1);
        }
        let is_expected = self.book.add_cell(number, minion, self.now_ms);
        self.figures.expected += u64::from(is_expected == Some(true));
        if is_early && let Some(cell) = self.book.done(number, minion) {
            self.figures.received += u64::from(cell.has(COUNTED));
        }
    }

    /// A minion gives receipts; whether that is new.
    pub fn gives_receipts(&mut self, minion: &str, source: Source) -> bool {
        let number = self.book.number_minion(minion, self.config.minions_max);
        let Some(minion) = number.and_then(|number| self.book.minion_mut(number)) else {
            return false;
        };
        let is_new = !minion.has_shim && !minion.has_start_events;
        match source {
            Source::Shim => minion.has_shim = true,
            Source::StartEvent => minion.has_start_events = true,
        }
        is_new
    }

    /// Jobs that will not be sent again since the last call: their loads may be dropped. A further part of such a job
    /// begins it anew.
    pub fn forgotten(&mut self) -> Vec<String> {
        std::mem::take(&mut self.forgotten)
    }

    /// The load of a job was dropped: it will not be sent again by itself.
    pub fn load_dropped(&mut self, jid: &str) {
        let Some(number) = self.book.number(jid) else {
            return;
        };
        self.figures.dropped.loads += 1;
        self.ready.remove(jid);
        self.book.disarm(number);
    }

    /// All in figures.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let (after_ms_median, after_ms_p99) = self.delays.quantiles();
        let mut figures = self.figures;
        figures.dropped.early = self.early.dropped;
        Figures {
            after_ms_median,
            after_ms_p99,
            jobs: self.book.jobs.len(),
            silent: self.book.cells,
            ..figures
        }
    }

    #[cfg(test)]
    fn is_unsafe(&self, jid: &str, minion: &str) -> bool {
        let numbers = self.book.number(jid).zip(self.book.minion_number(minion));
        let cell = numbers.and_then(|(job, minion)| self.book.look(job, minion));
        cell.is_some_and(|(_, cell, _)| cell.has(book::UNSAFE))
    }

    fn advance(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// The oldest jobs go when there are too many, or too many silent minions.
    fn make_room(&mut self) {
        while self.book.jobs.len() > self.config.jobs_max.max(1)
            || (self.book.cells > self.config.cells_max && self.book.jobs.len() > 1)
        {
            let Some((oldest, job)) = self.book.jobs.first_key_value() else {
                return;
            };
            self.figures.dropped.jobs += u64::from(!job.cells.is_empty());
            self.forget(*oldest);
        }
    }

    /// A job is not followed any more.
    fn forget(&mut self, number: JobNumber) {
        let Some(job) = self.book.remove_job(number) else {
            return;
        };
        self.ready.remove(&job.jid);
        if !job.cells.is_empty() && job.policy == Policy::Safe {
            self.forgotten.push(job.jid.to_string());
        }
        for minion in job.cells.keys() {
            self.rearm(*minion);
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

//! How far each job got with each minion, and how it ended.
//!
//! ```text
//! published, accepted, received, returned, ... ──► cells of the job ──tick──► over? ──► Ended
//!        │                                              │
//!        └─► Expect, SiteMissing: at once               └─► take_unsaved ──► disk ──► loaded, restore
//! ```
//! - What is heard is only added up: neither order nor repetition of events changes where a job ends, but for
//!   find_job's answers, which tell of a moment. Two ledgers that hear the same say the same.
//! - A job may be heard of by an ack or a return first, or by these alone: it is kept with what is known.
//! - One entry of a minion's name counts in a job: that of the site that named it, before that the first by name.
//! - A verdict is only given where the ledger would have heard the contrary; else it is `unknown`.
//! - Jobs in memory are bounded: those that are over and on disk go first, then the oldest open one, as incomplete.
//! - A site's own answer is no minion's return.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::{
    names::Names,
    roster::{Rosters, RostersConfig},
    target::Target,
};

mod cells;
mod deliveries;
mod expecting;
mod fold;
mod job;
mod over;
mod reach;
mod record;
mod report;
mod saved;
mod sites;
mod times;
mod words;

use self::{deliveries::Counts, job::Job, sites::Sites};
pub use self::{
    deliveries::Deliveries,
    job::Said,
    report::{Figures, JobView, MinionReport, SiteSummary, Summary},
    saved::{Saved, SavedError, SavedJob, SavedNames, StoredJob, Unsaved},
    sites::{Reach, SiteState},
    words::{State, Step, Verdict},
};

/// The question of the `salt` command whether a job still runs: it is followed, but is no job of its own here.
pub const FIND_JOB: &str = "saltutil.find_job";

/// The bounds and times of a [`Ledger`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerConfig {
    /// The rosters' bounds.
    pub rosters: RostersConfig,
    /// Most jobs in memory.
    pub jobs_max: usize,
    /// Most bytes of jobs in memory.
    pub bytes_max: usize,
    /// Most bytes of the times of receipts in memory, over all jobs.
    pub times_bytes_max: usize,
    /// How long a job that is over stays in memory.
    pub linger_ms: u64,
    /// The time to live of a job whose publication was not seen.
    pub ttl_ms: u64,
    /// How long after its time to live a job is given up: the last returns are on their way.
    pub grace_ms: u64,
    /// How long a job has to be done before it is called complete, and an ack has to be old before the minions that
    /// it does not name count as unmatched: the parts of a batch come one after the other under one jid.
    pub settle_ms: u64,
    /// Most find_jobs that are followed.
    pub queries_max: usize,
    /// Most missing minions that an action names.
    pub missing_named_max: usize,
    /// Most minions in one [`Action::Expect`].
    pub expected_named_max: usize,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            rosters: RostersConfig::default(),
            jobs_max: 10_000,
            bytes_max: 64 << 20,
            times_bytes_max: 16 << 20,
            linger_ms: 600_000,
            ttl_ms: 300_000,
            grace_ms: 30_000,
            settle_ms: 1_000,
            queries_max: 10_000,
            missing_named_max: 100,
            expected_named_max: 5_000,
        }
    }
}

/// A job appeared on the top master's bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its id.
    pub jid: String,
    /// Its function.
    pub fun: String,
    /// The job that it asks about, of a `saltutil.find_job`: its first argument.
    pub asks_about: Option<String>,
    /// Who ran it.
    pub user: String,
    /// Its target.
    pub tgt: Target,
    /// The type of its target.
    pub tgt_type: String,
    /// When, in unix milliseconds.
    pub at_ms: u64,
    /// How long it may be run.
    pub ttl_ms: u64,
    /// The ids of accepted keys that the top master itself matched, sites among them.
    pub mom_minions: Vec<String>,
    /// It was read from the job cache afterwards: nobody waits for it any more.
    pub is_past: bool,
}

/// A return on the top master's bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Returned<'a> {
    /// The job.
    pub jid: &'a str,
    /// Who returned.
    pub minion: &'a str,
    /// The function, as the return has it.
    pub fun: &'a str,
    /// It tells of a failure: a retcode other than 0, or `success` is false.
    pub is_failed: bool,
    /// Its value is empty: the answer to a find_job about a job that the minion does not run.
    pub is_empty: bool,
    /// When.
    pub at_ms: u64,
}

/// What the owner has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Tell the `salt` command whom to wait for. Long lists come as several actions.
    Expect {
        /// The job.
        jid: String,
        /// The site.
        site: String,
        /// Minions to wait for.
        minions: Vec<String>,
        /// Minions that cannot be reached.
        missing: Vec<String>,
    },
    /// Answer for a site that cannot be asked.
    SiteMissing(SiteMissing),
    /// A job is over, or ended otherwise after all.
    Ended {
        /// Complete, incomplete or expired.
        state: State,
        /// All in figures.
        summary: Box<Summary>,
        /// Minions that have not returned, sorted; at most `missing_named_max` of them.
        missing: Vec<String>,
        /// Sites that were asked and have not answered.
        asked: Vec<String>,
    },
    /// A site can be reached again.
    SiteUp {
        /// The site.
        site: String,
        /// Since when.
        since_ms: u64,
        /// How many minions it has.
        minions: usize,
    },
    /// A site cannot be reached any more.
    SiteDown {
        /// The site.
        site: String,
        /// Since when.
        since_ms: u64,
        /// Why.
        reason: String,
        /// How many minions it has.
        minions: usize,
    },
    /// Look whether the disk knows this job, and come back with [`Ledger::loaded`].
    Load {
        /// The job.
        jid: String,
    },
    /// This open job was closed as incomplete to make room: it was the oldest.
    Shed {
        /// The job.
        jid: String,
    },
}

/// What a site that cannot be asked leaves open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteMissing {
    /// The job.
    pub jid: String,
    /// Its function.
    pub fun: String,
    /// The site.
    pub site: String,
    /// Since when it gives no sign of life.
    pub since_ms: u64,
    /// Why it cannot be asked.
    pub reason: String,
    /// How many of its minions the job means for certain; `None` when only the site could tell.
    pub expected: Option<usize>,
    /// These minions, sorted; at most `missing_named_max` of them.
    pub missing: Vec<String>,
}

impl SiteMissing {
    /// What the `salt` command prints for the site.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { site, reason, .. } = self;
        let named = self.missing.join(", ");
        let more = match self.expected {
            Some(expected) if expected > self.missing.len() => ", ...",
            _ => "",
        };
        let minions = match self.expected {
            Some(0) => "expected 0, missing 0".to_owned(),
            Some(expected) => format!("expected {expected}, missing {expected}: {named}{more}"),
            None if self.missing.is_empty() => "only the site knows whom the job means".to_owned(),
            None => format!("only the site knows whom the job means, at least: {named}{more}"),
        };
        format!("{site} cannot be asked: {reason}; {minions}")
    }
}

/// How full a ledger is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LedgerState {
    /// Open jobs.
    pub open: usize,
    /// All jobs in memory.
    pub jobs: usize,
    /// Their bytes.
    pub bytes: usize,
    /// The bytes of the times of receipts.
    pub times_bytes: usize,
    /// The bytes of all names.
    pub names_bytes: usize,
    /// Jobs whose last changes are not on disk.
    pub unsaved: usize,
    /// Minions that were heard of and not kept, since there was no room for their names.
    pub unnamed: u64,
}

/// The ledger; see the module's head.
#[derive(Debug)]
pub struct Ledger {
    config: LedgerConfig,
    rosters: Rosters,
    /// Tables of names that were left, as long as jobs in memory refer to them; and what was read to show an old job.
    former: BTreeMap<u32, Names>,
    /// The former table that was read last to show a job.
    shown_table: Option<u32>,
    sites: Sites,
    jobs: HashMap<Box<str>, Job>,
    order: BTreeSet<Box<str>>,
    timers: BTreeSet<(u64, Box<str>)>,
    dirty: BTreeSet<Box<str>>,
    queries: Queries,
    deliveries: Counts,
    /// How many names of each table are on disk.
    saved_names: BTreeMap<u32, u32>,
    now_ms: u64,
    bytes: usize,
    times_bytes: usize,
    open: usize,
    unnamed: u64,
}

impl Ledger {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(config: LedgerConfig) -> Self {
        Self::over(config, Rosters::new(config.rosters, 1))
    }

    fn over(config: LedgerConfig, rosters: Rosters) -> Self {
        let mut deliveries = Counts::default();
        deliveries.renumber(None, rosters.names().table());
        Self {
            config,
            rosters,
            former: BTreeMap::new(),
            shown_table: None,
            sites: Sites::default(),
            jobs: HashMap::new(),
            order: BTreeSet::new(),
            timers: BTreeSet::new(),
            dirty: BTreeSet::new(),
            queries: Queries::default(),
            deliveries,
            saved_names: BTreeMap::new(),
            now_ms: 0,
            bytes: 0,
            times_bytes: 0,
            open: 0,
            unnamed: 0,
        }
    }

    /// The rosters.
    #[must_use]
    pub const fn rosters(&self) -> &Rosters {
        &self.rosters
    }

    /// What is known of a site; `None` when it is none.
    #[must_use]
    pub fn site(&self, site: &str) -> Option<&SiteState> {
        self.sites.get(site)
    }

    /// A job in memory: each open one, and those that were over a short while ago.
    #[must_use]
    pub fn job(&self, jid: &str) -> Option<JobView<'_>> {
        self.jobs.get(jid).and_then(|job| self.view_of(job))
    }

    /// The jobs in memory, the greatest jid first, from below `before` on.
    pub fn jobs(&self, before: Option<&str>) -> impl Iterator<Item = JobView<'_>> {
        let jids = self.order.iter().rev();
        let jids = jids.filter(move |jid| before.is_none_or(|before| jid.as_ref() < before));
        jids.filter_map(|jid| self.job(jid))
    }

    fn view_of<'a>(&'a self, job: &'a Job) -> Option<JobView<'a>> {
        Some(JobView {
            job,
            names: self.names(job.table)?,
            reach: &self.sites,
            now_ms: self.now_ms,
        })
    }

    /// The names of a table, if it is in memory.
    #[must_use]
    pub fn names(&self, table: u32) -> Option<&Names> {
        if self.rosters.names().table() == table {
            Some(self.rosters.names())
        } else {
            self.former.get(&table)
        }
    }

    /// How many minions of each site reached each step, sorted by site.
    #[must_use]
    pub fn deliveries(&self) -> Vec<(&str, Deliveries)> {
        self.deliveries.all(self.rosters.names())
    }

    /// How full it is; cheap.
    #[must_use]
    pub fn state(&self) -> LedgerState {
        let former: usize = self.former.values().map(Names::bytes).sum();
        LedgerState {
            open: self.open,
            jobs: self.jobs.len(),
            bytes: self.bytes,
            times_bytes: self.times_bytes,
            names_bytes: self.rosters.names().bytes() + former,
            unsaved: self.dirty.len(),
            unnamed: self.unnamed,
        }
    }
}

/// The find_jobs under way, and the jobs that they ask about; the oldest are forgotten.
#[derive(Debug, Default)]
struct Queries {
    asked: HashMap<String, String>,
    order: VecDeque<String>,
}

impl Queries {
    fn add(&mut self, query: &str, jid: &str, queries_max: usize) {
        if self
            .asked
            .insert(query.to_owned(), jid.to_owned())
            .is_none()
        {
            self.order.push_back(query.to_owned());
        }
        while self.order.len() > queries_max {
            if let Some(oldest) = self.order.pop_front() {
                self.asked.remove(&oldest);
            }
        }
    }

    fn get(&self, query: &str) -> Option<&str> {
        self.asked.get(query).map(String::as_str)
    }
}

#[cfg(test)]
mod tests;

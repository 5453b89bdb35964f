//! What a site answers under its own id.
//!
//! On the top master the `salt` command expects the site's own id, because it matches `*` there,
//! and asks it by `saltutil.find_job` after its time-out. A 3008 top master asks only the ids whose
//! keys it holds, which behind a relay are the sites alone. The site's answer therefore stands for
//! its minions: it runs the job as long as any of them does, and it has returned when all have.
//!
//! Driven by the task that watches the lower master's event bus; it holds no clock.
//!
//! - A jid is answered at most once; what comes after is not counted.
//! - Returns that overtake the publish reply are kept and counted when the job becomes known.
//! - Jobs, early returns and the names in them are bounded; the oldest is shed, and said so.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

/// The bounds and times of [`SiteJobs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiteJobsConfig {
    /// Most jids remembered, answered ones included. A top master keeps some hundreds alive.
    pub jobs_max: usize,
    /// Most minion names kept over all unanswered jobs: 2,000,000 names are about 100 MB.
    pub minions_max: usize,
    /// Most jids of which returns are kept before the job is known.
    pub early_jobs_max: usize,
    /// Most minion names kept over all early returns.
    pub early_minions_max: usize,
    /// Most missing minions that an answer names.
    pub missing_named_max: usize,
    /// How long returns may still come in after a probe found nobody running, in milliseconds. A
    /// minion forgets a job 10 to 30 ms before its master sees the return.
    pub settle_ms: u64,
}

impl Default for SiteJobsConfig {
    fn default() -> Self {
        Self {
            jobs_max: 10_000,
            minions_max: 2_000_000,
            early_jobs_max: 1_000,
            early_minions_max: 100_000,
            missing_named_max: 100,
            settle_ms: 1_000,
        }
    }
}

/// What the owner has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Return this as the site's own answer to the job.
    Answer(Answer),
    /// Ask these minions by `saltutil.find_job`, on the lower master, whether they run the job,
    /// and come back with [`SiteJobs::probed`].
    Probe {
        /// The job asked about.
        jid: String,
        /// The minions that have not returned.
        minions: Vec<String>,
    },
    /// Answer the find_job `query`: the site runs the job.
    StillRunning {
        /// The job asked about.
        jid: String,
        /// The jid of the find_job.
        query: String,
        /// How many minions run it.
        running: usize,
    },
    /// Answer the find_job `query`: the site does not run the job (any more).
    NotRunning {
        /// The job asked about.
        jid: String,
        /// The jid of the find_job.
        query: String,
    },
    /// This job was given up unanswered to make room: it was the oldest.
    Shed {
        /// The job given up.
        jid: String,
    },
}

/// A site's own answer to one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The job.
    pub jid: String,
    /// Its function.
    pub fun: String,
    /// How many minions the lower master targeted.
    pub expected: usize,
    /// How many of them returned.
    pub returned: usize,
    /// How many of the returns tell of a failure.
    pub failed: usize,
    /// The minions that did not return, sorted; at most `missing_named_max` of them.
    pub missing: Vec<String>,
    /// How many did not return, the unnamed included.
    pub missing_count: usize,
    /// 0 when all returned, else 1.
    pub retcode: u8,
}

/// How far a job got.
///
/// ```text
///              published                      all returned
///   (unknown) ───────────► Waiting ──────────────────────────────► Answered (retcode 0)
///                           │   ▲                                   ▲        ▲
///               asked:Probe │   │ probed, some running:             │        │ tick after settle_ms
///                           ▼   │ StillRunning                      │        │ (retcode 1)
///                          Probing ─── probed, none running ───► Settling ───┘
/// ```
/// From every state before `Answered` the last missing return leads there.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Probing { queries: Vec<String> },
    Settling { until_ms: u64, queries: Vec<String> },
    Answered,
}

/// Most find_jobs answered by one probe; the `salt` command sends one per `gather_job_timeout`.
const QUERIES_MAX: usize = 16;

#[derive(Debug)]
struct Job {
    fun: String,
    expected: usize,
    failed: usize,
    missing: HashSet<String>,
    state: State,
}

/// The jobs of a site that it answers for; see the module's head.
#[derive(Debug)]
pub struct SiteJobs {
    config: SiteJobsConfig,
    jobs: HashMap<String, Job>,
    /// Jids in the order of their publication.
    order: VecDeque<String>,
    /// When each settling job is over, in this order: all settle equally long. Some may have been answered since.
    settling: VecDeque<(u64, String)>,
    /// Names in all `missing` sets.
    minions: usize,
    early: EarlyReturns,
}

impl SiteJobs {
    /// No jobs yet.
    #[must_use]
    pub fn new(config: SiteJobsConfig) -> Self {
        Self {
            config,
            jobs: HashMap::new(),
            order: VecDeque::new(),
            settling: VecDeque::new(),
            minions: 0,
            early: EarlyReturns::default(),
        }
    }

    /// How many jobs are not answered yet.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.jobs
            .values()
            .filter(|job| job.state != State::Answered)
            .count()
    }

    /// The lower master has published the job and named its minions. With `answers_for_site` false
    /// the job does not mean the site's own id and is not remembered: a part of a batch may come
    /// under the same jid that does mean it. A jid that is known already is left as it is.
    #[must_use]
    pub fn published(
        &mut self,
        jid: &str,
        fun: &str,
        minions: impl IntoIterator<Item = String>,
        answers_for_site: bool,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        if !answers_for_site || self.jobs.contains_key(jid) {
            return actions;
        }
        let early = self.early.take(jid);
        let mut missing: HashSet<String> = minions.into_iter().collect();
        let expected = missing.len();
        let mut failed = 0;
        for (minion, ok) in early {
            if missing.remove(&minion) && !ok {
                failed += 1;
            }
        }
        self.minions += missing.len();
        let job = Job {
            fun: fun.to_owned(),
            expected,
            failed,
            missing,
            state: State::Waiting,
        };
        self.jobs.insert(jid.to_owned(), job);
        self.order.push_back(jid.to_owned());
        self.answer_if_complete(jid, &mut actions);
        self.shed(&mut actions);
        actions
    }

    /// A minion's return passed the lower master's event bus. `ok` is false when the return tells
    /// of a failure.
    #[must_use]
    pub fn returned(&mut self, jid: &str, minion: &str, ok: bool) -> Vec<Action> {
        let mut actions = Vec::new();
        match self.jobs.get_mut(jid) {
            Some(job) => {
                if job.missing.remove(minion) {
                    self.minions -= 1;
                    job.failed += usize::from(!ok);
                    self.answer_if_complete(jid, &mut actions);
                }
            }
            None => self.early.keep(jid, minion, ok, &self.config),
        }
        actions
    }

    /// The top master asks the site by a find_job of jid `query` whether it runs `jid`.
    #[must_use]
    pub fn asked(&mut self, jid: &str, query: &str) -> Vec<Action> {
        let not_running = Action::NotRunning {
            jid: jid.to_owned(),
            query: query.to_owned(),
        };
        let Some(job) = self.jobs.get_mut(jid) else {
            return vec![not_running];
        };
        match &mut job.state {
            State::Answered => vec![not_running],
            State::Waiting => {
                job.state = State::Probing {
                    queries: vec![query.to_owned()],
                };
                let mut minions: Vec<String> = job.missing.iter().cloned().collect();
                minions.sort_unstable();
                vec![Action::Probe {
                    jid: jid.to_owned(),
                    minions,
                }]
            }
            State::Probing { queries } | State::Settling { queries, .. } => {
                if queries.len() < QUERIES_MAX && !queries.iter().any(|known| known == query) {
                    queries.push(query.to_owned());
                }
                Vec::new()
            }
        }
    }

    /// The probe ended; `running` are the minions that said that they run the job. A probe that
    /// could not be carried out says nothing: pass the minions that it was to ask.
    #[must_use]
    pub fn probed<'a>(
        &mut self,
        jid: &str,
        running: impl IntoIterator<Item = &'a str>,
        now_ms: u64,
    ) -> Vec<Action> {
        let Some(job) = self.jobs.get_mut(jid) else {
            return Vec::new();
        };
        let State::Probing { queries } = &mut job.state else {
            return Vec::new();
        };
        let queries = std::mem::take(queries);
        let running = running
            .into_iter()
            .filter(|minion| job.missing.contains(*minion));
        let running = running.collect::<BTreeSet<_>>().len();
        if running == 0 {
            let until_ms = now_ms.saturating_add(self.config.settle_ms);
            job.state = State::Settling { until_ms, queries };
            self.settling.push_back((until_ms, jid.to_owned()));
            return Vec::new();
        }
        job.state = State::Waiting;
        let still = |query| Action::StillRunning {
            jid: jid.to_owned(),
            query,
            running,
        };
        queries.into_iter().map(still).collect()
    }

    /// When [`SiteJobs::tick`] has something to do, in unix milliseconds.
    #[must_use]
    pub fn next_tick_ms(&self) -> Option<u64> {
        self.settling.front().map(|(until_ms, _)| *until_ms)
    }

    /// Answers the jobs that nobody runs and whose time for late returns is over.
    #[must_use]
    pub fn tick(&mut self, now_ms: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some((_, jid)) = self
            .settling
            .pop_front_if(|(until_ms, _)| *until_ms <= now_ms)
        {
            let due = |job: &Job| matches!(job.state, State::Settling { until_ms, .. } if until_ms <= now_ms);
            if self.jobs.get(&jid).is_some_and(due) {
                self.answer(&jid, &mut actions);
            }
        }
        actions
    }

    fn answer_if_complete(&mut self, jid: &str, actions: &mut Vec<Action>) {
        let complete = |job: &Job| job.missing.is_empty() && job.state != State::Answered;
        if self.jobs.get(jid).is_some_and(complete) {
            self.answer(jid, actions);
        }
    }

    fn answer(&mut self, jid: &str, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(jid) else {
            return;
        };
        let names = std::mem::take(&mut job.missing);
        self.minions -= names.len();
        let missing_count = names.len();
        let mut missing: Vec<String> = names.into_iter().collect();
        missing.sort_unstable();
        missing.truncate(self.config.missing_named_max);
        actions.push(Action::Answer(Answer {
            jid: jid.to_owned(),
            fun: std::mem::take(&mut job.fun),
            expected: job.expected,
            returned: job.expected - missing_count,
            failed: job.failed,
            missing,
            missing_count,
            retcode: u8::from(missing_count > 0),
        }));
        let queries = match std::mem::replace(&mut job.state, State::Answered) {
            State::Probing { queries } | State::Settling { queries, .. } => queries,
            State::Waiting | State::Answered => Vec::new(),
        };
        let not_running = |query| Action::NotRunning {
            jid: jid.to_owned(),
            query,
        };
        actions.extend(queries.into_iter().map(not_running));
    }

    /// Makes room: the oldest jobs go first, whatever their state.
    fn shed(&mut self, actions: &mut Vec<Action>) {
        while self.jobs.len() > self.config.jobs_max
            || (self.minions > self.config.minions_max && self.jobs.len() > 1)
        {
            let Some(jid) = self.order.pop_front() else {
                return;
            };
            if let Some(job) = self.jobs.remove(&jid) {
                self.minions -= job.missing.len();
                if job.state != State::Answered {
                    actions.push(Action::Shed { jid });
                }
            }
        }
    }
}

/// Returns of jobs that are not known (yet): most belong to jobs that do not mean the site's own
/// id, or of the lower master's own operators, and are shed in time.
#[derive(Debug, Default)]
struct EarlyReturns {
    jobs: HashMap<String, HashMap<String, bool>>,
    order: VecDeque<String>,
    minions: usize,
}

impl EarlyReturns {
    fn keep(&mut self, jid: &str, minion: &str, ok: bool, config: &SiteJobsConfig) {
        let job = self.jobs.entry(jid.to_owned()).or_insert_with(|| {
            self.order.push_back(jid.to_owned());
            HashMap::new()
        });
        if job.insert(minion.to_owned(), ok).is_none() {
            self.minions += 1;
        }
        while self.jobs.len() > config.early_jobs_max || self.minions > config.early_minions_max {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            if let Some(job) = self.jobs.remove(&oldest) {
                self.minions -= job.len();
            }
        }
    }

    fn take(&mut self, jid: &str) -> HashMap<String, bool> {
        let Some(job) = self.jobs.remove(jid) else {
            return HashMap::new();
        };
        self.minions -= job.len();
        self.order.retain(|known| known != jid);
        job
    }
}

#[cfg(test)]
mod tests;

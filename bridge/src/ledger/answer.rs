//! Answers to the questions of HTTP. What is in memory is answered at once; what is on disk is asked for, one question at
//! a time, and turned into words row by row, so that the bus is never kept waiting.
//!
//! ```text
//! question ──in memory?──► answer
//!    └─ no ──► queue ──► rows asked for ──► rows there ──row by row──► answer
//!                                               └─ names of an old table missing: asked for first
//! ```

use std::collections::VecDeque;

use bytes::Bytes;
use relay_core::{
    expect::expect,
    ledger::{JobView, SavedError},
    target::Target,
};
use tokio::sync::oneshot;

use super::{
    api::{Answer, Ask, JobState, Question, Refusal},
    liveness::State as SiteState,
    task::LedgerTask,
    view::{self, seconds},
};

/// Rows of the disk read at once.
const PAGE: usize = 100;

/// Rows looked at for one list: a rare state is not looked for in all of a large ledger.
const SCANNED_MAX: usize = 5_000;

/// Questions that wait for the disk. A further one is refused.
const WAITING_MAX: usize = 32;

/// A row of the disk.
pub(super) type Row = (String, Bytes);

/// The questions that need the disk.
#[derive(Debug, Default)]
pub(super) struct Answers {
    waiting: VecDeque<Ask>,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    answer: oneshot::Sender<Answer>,
    what: What,
    rows: VecDeque<Row>,
    /// Rows were asked for and are not there yet.
    awaits: bool,
    /// The table that was asked for last: once is enough.
    table: Option<u32>,
}

#[derive(Debug)]
enum What {
    List(List),
    One(Question),
}

#[derive(Debug)]
struct List {
    limit: usize,
    state: Option<JobState>,
    /// The smallest jid told or passed over.
    before: Option<String>,
    jobs: Vec<view::Job>,
    scanned: usize,
    /// The disk has no more.
    is_last: bool,
}

impl Answers {
    /// Whether a row can be turned into words, or the next question be taken.
    pub(super) fn is_due(&self) -> bool {
        match &self.current {
            None => !self.waiting.is_empty(),
            Some(current) => !current.awaits,
        }
    }
}

impl LedgerTask {
    pub(super) fn question(&mut self, ask: Ask, now_ms: u64) {
        let answer = match &ask.question {
            Question::Status => Ok(self.status_page(now_ms)),
            Question::Sites => Ok(self.sites_page()),
            Question::Roster { site, limit } => self.roster_page(site.as_ref(), *limit),
            Question::Expect { tgt, tgt_type } => Ok(self.expect_page(tgt, tgt_type)),
            Question::Job { jid, .. } | Question::Missing { jid } => {
                match self.ledger.job(jid.as_str()) {
                    Some(job) => Ok(self.one(&ask.question, job)),
                    None => return self.queue(ask),
                }
            }
            Question::Jobs { .. } => return self.queue(ask),
        };
        // A client that has gone needs no answer.
        drop(ask.answer.send(answer));
    }

    fn queue(&mut self, ask: Ask) {
        if self.answers.waiting.len() < WAITING_MAX {
            self.answers.waiting.push_back(ask);
            return;
        }
        let refusal = Refusal::unavailable("too many questions wait", "ask again in a moment");
        drop(ask.answer.send(Err(refusal)));
    }

    /// One step of the answer under way; of the next one if there is none.
    pub(super) fn answer_on(&mut self) {
        let Some(mut current) = self.answers.current.take() else {
            if let Some(ask) = self.answers.waiting.pop_front() {
                self.begin(ask);
            }
            return;
        };
        if current.answer.is_closed() {
            return;
        }
        let step = match current.rows.pop_front() {
            Some(row) => self.row(&mut current, row),
            None => self.out_of_rows(&mut current),
        };
        match step {
            Some(answer) => drop(current.answer.send(answer)),
            None => self.answers.current = Some(current),
        }
    }

    fn begin(&mut self, ask: Ask) {
        let what = match ask.question {
            Question::Jobs {
                limit,
                before,
                state,
            } => {
                self.keeping
                    .page(before.as_ref().map(ToString::to_string), PAGE.min(limit));
                What::List(List {
                    limit,
                    state,
                    before: before.map(|jid| jid.to_string()),
                    jobs: Vec::new(),
                    scanned: 0,
                    is_last: false,
                })
            }
            question => {
                if let Question::Job { jid, .. } | Question::Missing { jid } = &question {
                    self.keeping.row(jid.to_string());
                }
                What::One(question)
            }
        };
        self.answers.current = Some(Current {
            answer: ask.answer,
            what,
            rows: VecDeque::new(),
            awaits: true,
            table: None,
        });
    }

    /// The rows that were asked for; `is_last`: the disk has no more.
    pub(super) fn rows(&mut self, rows: Vec<Row>, is_last: bool) {
        if let Some(current) = &mut self.answers.current {
            current.awaits = false;
            current.rows = rows.into();
            if let What::List(list) = &mut current.what {
                list.is_last = is_last;
            }
        }
    }

    /// The names that were asked for are there, or are nowhere.
    pub(super) fn names_shown(&mut self) {
        if let Some(current) = &mut self.answers.current {
            current.awaits = false;
        }
    }

    fn row(&mut self, current: &mut Current, row: Row) -> Option<Answer> {
        let (jid, bytes) = &row;
        if let What::List(list) = &mut current.what {
            self.in_between(list, Some(jid));
            if list.jobs.len() >= list.limit {
                return Some(Ok(view::bytes(&view::Jobs {
                    jobs: std::mem::take(&mut list.jobs),
                })));
            }
            list.scanned += 1;
            list.before = Some(jid.clone());
            // What is in memory is newer, and was told already.
            if self.ledger.job(jid).is_some() {
                return None;
            }
        }
        let stored = match self.ledger.read(bytes) {
            Ok(stored) => stored,
            Err(SavedError::Table { table }) if current.table != Some(table) => {
                current.table = Some(table);
                current.awaits = true;
                self.keeping.names(table);
                current.rows.push_front(row);
                return None;
            }
            Err(err) => {
                self.telemetry.stored_unreadable(jid, &err);
                return match current.what {
                    What::List(_) => None,
                    What::One(_) => Some(Err(unknown(jid))),
                };
            }
        };
        let job = self.ledger.view(&stored)?;
        match &mut current.what {
            What::List(list) => {
                if view::is_in(job.state(), list.state) {
                    let told = view::job(job.summary(), |site| self.site_state(site));
                    list.jobs.push(told);
                }
                None
            }
            What::One(question) => Some(Ok(self.one(question, job))),
        }
    }

    fn out_of_rows(&mut self, current: &mut Current) -> Option<Answer> {
        match &mut current.what {
            What::One(question) => {
                let jid = match question {
                    Question::Job { jid, .. } | Question::Missing { jid } => jid.as_str(),
                    _ => "",
                };
                Some(Err(unknown(jid)))
            }
            What::List(list) => {
                let is_full = list.jobs.len() >= list.limit;
                if is_full || list.is_last || list.scanned >= SCANNED_MAX {
                    if list.is_last {
                        self.in_between(list, None);
                    }
                    let jobs = std::mem::take(&mut list.jobs);
                    return Some(Ok(view::bytes(&view::Jobs { jobs })));
                }
                current.awaits = true;
                self.keeping.page(list.before.clone(), PAGE);
                None
            }
        }
    }

    /// Adds the jobs in memory that come before the row `jid` of the disk, which may be among them; without one all.
    fn in_between(&self, list: &mut List, jid: Option<&str>) {
        let mut last = None;
        for job in self.ledger.jobs(list.before.as_deref()) {
            if jid.is_some_and(|jid| job.jid() < jid) || list.jobs.len() >= list.limit {
                break;
            }
            last = Some(job.jid().to_owned());
            if view::is_in(job.state(), list.state) {
                list.jobs
                    .push(view::job(job.summary(), |site| self.site_state(site)));
            }
        }
        if last.is_some() {
            list.before = last;
        }
    }

    fn one(&self, question: &Question, job: JobView<'_>) -> Vec<u8> {
        let state = |site: &str| self.site_state(site);
        match question {
            Question::Job { verdict, limit, .. } => {
                view::detail(job, verdict.as_deref(), *limit, state)
            }
            _ => view::missing(job, state),
        }
    }

    fn site_state(&self, site: &str) -> &'static str {
        view::state_of(self.liveness.get(site))
    }

    fn status_page(&self, now_ms: u64) -> Vec<u8> {
        let mut sites = view::SiteCounts::default();
        let mut minions = view::MinionCounts::default();
        let rosters = self.ledger.rosters();
        for (id, site) in self.liveness.sites() {
            match site.state {
                SiteState::Up => sites.up += 1,
                SiteState::Down => sites.down += 1,
                SiteState::Unknown => sites.unknown += 1,
            }
            minions.known += rosters.count(id);
            minions.up += self.minions_up(id);
        }
        let lost = self.statuses.iter().flat_map(|(site, status)| {
            let lost = status.lost.iter();
            lost.map(move |(hop, count)| view::Lost {
                hop: hop.as_str(),
                site,
                count: *count,
            })
        });
        view::bytes(&view::Status {
            v: view::Status::VERSION,
            relay: &self.relay,
            bridge: &self.bridge,
            version: env!("CARGO_PKG_VERSION"),
            speaker: self.speaker.speaks(),
            now: seconds(now_ms),
            mom: view::Mom {
                bus: if self.bus.is_up { "up" } else { "down" },
                since: seconds(self.bus.since_ms),
            },
            redis: view::Redis {
                state: if self.redis.is_ok() { "up" } else { "down" },
                reason: self.redis.as_ref().err().map_or("", String::as_str),
            },
            sites,
            minions,
            jobs: view::JobCounts {
                open: self.ledger.state().open,
                kept: self.keeping.state().jobs,
            },
            lost: lost.collect(),
        })
    }

    /// None of a site that cannot be asked: what it said last is not known to hold.
    fn minions_up(&self, site: &str) -> usize {
        let state = self.liveness.get(site).map(|site| site.state);
        if state == Some(SiteState::Down) {
            return 0;
        }
        let ids = self.ledger.rosters().ids(site);
        ids.filter(|(_, up)| *up == relay_core::names::Up::Yes)
            .count()
    }

    fn sites_page(&self) -> Vec<u8> {
        let sites = self.liveness.sites().map(|(id, site)| {
            let status = self.statuses.get(id);
            let last = status.and_then(|status| status.last.as_ref());
            view::Site {
                id,
                state: view::state_of(Some(site)),
                since: seconds(site.since_ms),
                reason: &site.reason,
                heard: status.map(|status| seconds(status.heard_ms)),
                version: last.map_or("", |last| last.version.as_str()),
                minions: self.ledger.rosters().count(id),
                minions_up: self.minions_up(id),
                lag_entries: last.map(|last| last.lag_entries),
                lag_seconds: last.map(|last| last.lag_seconds),
                spool_entries: last.map(|last| last.spool.entries),
                spool_bytes: last.map(|last| last.spool.bytes),
                expired: status.map_or(0, |status| status.expired),
                lost: status.map_or(0, |status| status.lost.values().sum()),
                last_hop: last.and_then(|last| last.last_hop).map(view::LastHop::from),
            }
        });
        view::bytes(&view::Sites {
            sites: sites.collect(),
        })
    }

    /// Whom a target means, by the rosters alone.
    fn expect_page(&self, tgt: &Target, tgt_type: &str) -> Vec<u8> {
        let rosters = self.ledger.rosters();
        let expected = expect(tgt_type, tgt, rosters);
        let sites = expected.iter().filter(|site| !site.minions.is_empty());
        let sites = sites.map(|site| {
            let minions = site.minions.iter();
            let minions = minions.filter_map(|index| rosters.names().name(*index));
            view::ExpectedSite {
                id: &site.site,
                state: self.site_state(&site.site),
                minions: minions.collect(),
            }
        });
        let ask = expected.iter().filter(|site| site.ask);
        view::bytes(&view::Expected {
            sites: sites.collect(),
            ask: ask.map(|site| site.site.as_str()).collect(),
        })
    }

    fn roster_page(&self, site: Option<&salt_wire::ids::MinionId>, limit: usize) -> Answer {
        let rosters = self.ledger.rosters();
        let site = site.map(salt_wire::ids::MinionId::as_str);
        match site {
            Some(site) if !rosters.is_site(site) => Err(Refusal::not_found(
                format!("no site {site}"),
                "see /api/v1/sites",
            )),
            site => Ok(view::roster(rosters, site, limit)),
        }
    }
}

fn unknown(jid: &str) -> Refusal {
    let hint = "the ledger keeps jobs as long as ledger.keep_for, max_jobs and max_bytes say";
    Refusal::not_found(format!("no job {jid}"), hint)
}

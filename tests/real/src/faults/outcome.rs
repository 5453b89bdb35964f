//! The figures of one case.

use std::collections::{BTreeMap, BTreeSet};

use testkit::Relay;

use super::{
    case::Case,
    inject::Fault,
    jobs::{Job, Returns, Runs, answered},
    verdicts::Truth,
};

/// A minion's clock is the harness' own, but a job that was published in time may wait a moment for a processor.
const LATE_AFTER: f64 = 2.0;
/// A job that expires within this time of the fault's end may do so on its way.
const EXPIRING: f64 = 3.0;

/// How far a job got that one minion did not run, or whose return the MoM does not have.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Place {
    /// The lower master does not know the job.
    NotPublishedBelow,
    /// The lower master has published it, the minion has not run it.
    NotRun,
    /// The minion has run it and has given its return up: its log says so. Salt's minion does that at once where it knows that its
    /// master is away, and after three time-outs where it does not.
    GivenUp,
    /// The minion has run it, its own master has no return.
    NotReturned,
    /// The lower master has the return, the MoM does not.
    NotRecorded,
}

impl Place {
    /// As a sentence's end.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::NotPublishedBelow => "never published on the lower master",
            Self::NotRun => "published on the lower master, not run by the minion",
            Self::GivenUp => "run, the return given up by the minion itself",
            Self::NotReturned => "run, no return at the lower master",
            Self::NotRecorded => "return at the lower master, not at the MoM",
        }
    }
}

/// One job of one minion that is missing.
#[derive(Clone, Debug)]
pub struct Lost {
    /// The job's number.
    pub number: u64,
    /// Its jid.
    pub jid: String,
    /// Whose.
    pub minion: String,
    /// Where it was last seen.
    pub place: Place,
    /// When it was published, seconds after the fault began.
    pub at: f64,
}

/// What the site without a fault had of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Control {
    /// Jobs times minions.
    pub wanted: usize,
    /// Of these were run and recorded.
    pub recorded: usize,
    /// Publish to last return on the MoM's bus, 99th percentile, without a fault, seconds.
    pub before: f64,
    /// The same while the fault was there.
    pub during: f64,
}

/// The figures of one case through one relay.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The fault.
    pub case: Case,
    /// Through what.
    pub relay: Relay,
    /// Of Salt.
    pub release: String,
    /// Jobs that the MoM has accepted.
    pub jobs: usize,
    /// Jobs that Salt's client could not publish, because the MoM was away.
    pub refused: usize,
    /// Accepted jobs times the minions of what was hit, without those that had to expire.
    pub wanted: usize,
    /// Of these were run.
    pub run: usize,
    /// Runs beyond the first of a jid on a minion, anywhere.
    pub twice: usize,
    /// Of the wanted ones were recorded at the MoM.
    pub recorded: usize,
    /// Runs after the job's expiry, anywhere.
    pub late: usize,
    /// Jobs times minions that expired and were not run.
    pub expired: usize,
    /// From the fault's end until everything that was published before it was published on the lower masters too, as far as it ever was.
    pub delivered: f64,
    /// From the fault's end until all daemons are ready and a new job is answered by all; `None`: not within a minute.
    pub healthy: Option<f64>,
    /// The longest time from publish to run, seconds.
    pub longest: f64,
    /// The site that was not hit.
    pub control: Option<Control>,
    /// What is missing.
    pub lost: Vec<Lost>,
    /// Returns that came to the MoM more than once.
    pub repeated: usize,
    /// Where the ledger says something else than the minions, as sentences.
    pub misjudged: Vec<String>,
}

/// By jid and minion: whether the minion's own master has the return. No entry: it does not know the job.
pub(super) type Below = BTreeMap<(String, String), bool>;

/// By jid and minion: returns that Salt's minion dropped, as its log tells.
pub(super) type GivenUp = BTreeSet<(String, String)>;

/// What was seen of a case.
pub(super) struct Seen<'a> {
    pub(super) jobs: &'a [Job],
    pub(super) runs: &'a Runs,
    pub(super) returns: &'a Returns,
    /// By jid: the minions whose return the MoM's job cache holds.
    pub(super) recorded: &'a BTreeMap<String, Vec<String>>,
    /// The same of the lower masters.
    pub(super) below: &'a Below,
    /// When a job was published on the last of the lower masters that were hit, by jid.
    pub(super) delivered: &'a BTreeMap<String, f64>,
    /// The minions of what was hit.
    pub(super) hit: &'a [String],
    /// What minions say that they have given up.
    pub(super) given_up: &'a GivenUp,
    /// Those of the control.
    pub(super) spared: &'a [String],
    /// How long the control's jobs took without a fault.
    pub(super) quiet: &'a [f64],
    pub(super) fault: Fault,
    pub(super) ttl: f64,
    /// Jids of this case that the MoM has not accepted as far as its client knows, and which ran all the same.
    pub(super) others: BTreeSet<String>,
}

impl Outcome {
    /// Of what is missing, the returns that never left their minion.
    #[must_use]
    pub fn given_up(&self) -> usize {
        let given_up = |lost: &&Lost| lost.place == Place::GivenUp;
        self.lost.iter().filter(given_up).count()
    }
}

impl Seen<'_> {
    fn key(job: &Job, minion: &str) -> Option<(String, String)> {
        Some((job.jid.clone()?, minion.to_owned()))
    }

    fn ran(&self, job: &Job, minion: &str) -> &[f64] {
        let runs = Self::key(job, minion).and_then(|key| self.runs.get(&key));
        runs.map_or(&[], Vec::as_slice)
    }

    fn has(cache: &BTreeMap<String, Vec<String>>, job: &Job, minion: &str) -> bool {
        let minions = job.jid.as_ref().and_then(|jid| cache.get(jid));
        minions.is_some_and(|minions| minions.iter().any(|id| id == minion))
    }

    fn may_expire(&self, job: &Job) -> bool {
        job.began + self.ttl < self.fault.ended + EXPIRING
    }

    /// Where it was last seen, or `None` if nothing is missing.
    fn place(&self, job: &Job, minion: &str) -> Option<Place> {
        let key = Self::key(job, minion)?;
        if Self::has(self.recorded, job, minion) {
            return None;
        }
        Some(match (self.below.get(&key), self.runs.contains_key(&key)) {
            (Some(true), _) => Place::NotRecorded,
            (_, true) if self.given_up.contains(&key) => Place::GivenUp,
            (_, true) => Place::NotReturned,
            (Some(false), false) => Place::NotRun,
            (None, false) => Place::NotPublishedBelow,
        })
    }

    /// What became of each accepted job at each minion, in the ledger's words.
    pub(super) fn truth(&self) -> Truth {
        let minions = || self.hit.iter().chain(self.spared);
        let pairs = self
            .accepted()
            .flat_map(|job| minions().map(move |minion| (job, minion)));
        let said = pairs.filter_map(|(job, minion)| {
            let verdict = match self.place(job, minion) {
                None => "returned",
                Some(Place::GivenUp | Place::NotReturned | Place::NotRecorded) => "silent",
                Some(Place::NotRun | Place::NotPublishedBelow) if self.may_expire(job) => "expired",
                Some(Place::NotRun | Place::NotPublishedBelow) => "not_received",
            };
            Some((Self::key(job, minion)?, verdict))
        });
        said.collect()
    }

    fn accepted(&self) -> impl Iterator<Item = &Job> {
        self.jobs.iter().filter(|job| job.jid.is_some())
    }

    fn control(&self) -> Option<Control> {
        if self.spared.is_empty() {
            return None;
        }
        let pairs = || {
            self.accepted()
                .flat_map(|job| self.spared.iter().map(move |minion| (job, minion)))
        };
        let (from, to) = (
            self.fault.began,
            self.fault.ended.max(self.fault.began + 5.0),
        );
        let during: Vec<f64> = self
            .accepted()
            .filter(|job| (from..=to).contains(&job.began))
            .filter_map(|job| Some(answered(job, self.spared, self.returns)? - job.began))
            .collect();
        Some(Control {
            wanted: pairs().count(),
            recorded: pairs()
                .filter(|(job, minion)| self.place(job, minion).is_none())
                .count(),
            before: p99(self.quiet),
            during: p99(&during),
        })
    }

    /// The figures.
    pub(super) fn outcome(
        &self,
        case: Case,
        relay: Relay,
        release: String,
        healthy: Option<f64>,
    ) -> Outcome {
        let is_expired =
            |job: &Job, minion: &str| self.ran(job, minion).is_empty() && self.may_expire(job);
        let all: Vec<(&Job, &String)> = self
            .accepted()
            .flat_map(|job| self.hit.iter().map(move |minion| (job, minion)))
            .collect();
        let wanted: Vec<_> = all
            .iter()
            .filter(|(job, minion)| !is_expired(job, minion))
            .collect();
        let own = |(jid, _): &&(String, String)| {
            self.others.contains(jid) || self.accepted().any(|job| job.jid.as_ref() == Some(jid))
        };
        let is_late = |(job, minion): &(&Job, &String)| {
            let too_late = job.ended + self.ttl + LATE_AFTER;
            self.ran(job, minion).iter().any(|at| *at > too_late)
        };
        let lost = all
            .iter()
            .filter(|(job, minion)| !is_expired(job, minion))
            .filter_map(|(job, minion)| {
                Some(Lost {
                    number: job.number,
                    jid: job.jid.clone()?,
                    minion: (*minion).clone(),
                    place: self.place(job, minion)?,
                    at: job.began - self.fault.began,
                })
            });
        Outcome {
            case,
            relay,
            release,
            jobs: self.accepted().count(),
            refused: self.jobs.iter().filter(|job| job.jid.is_none()).count(),
            wanted: wanted.len(),
            run: wanted
                .iter()
                .filter(|(job, minion)| !self.ran(job, minion).is_empty())
                .count(),
            twice: self
                .runs
                .iter()
                .filter(|(key, _)| own(key))
                .map(|(_, times)| times.len() - 1)
                .sum(),
            recorded: wanted
                .iter()
                .filter(|(job, minion)| Self::has(self.recorded, job, minion))
                .count(),
            late: all.iter().filter(|pair| is_late(pair)).count(),
            expired: all.len() - wanted.len(),
            delivered: self
                .accepted()
                .filter(|job| job.began < self.fault.ended)
                .filter_map(|job| self.delivered.get(job.jid.as_ref()?))
                .map(|at| at - self.fault.ended)
                .fold(0.0, f64::max),
            healthy,
            longest: all
                .iter()
                .flat_map(|(job, minion)| self.ran(job, minion).iter().map(|at| at - job.began))
                .fold(0.0, f64::max),
            control: self.control(),
            lost: lost.collect(),
            repeated: self.returns.values().filter(|at| at.len() > 1).count(),
            misjudged: Vec::new(),
        }
    }
}

/// Nearest rank.
fn p99(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * 99).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: f64 = 10.0;

    fn job(number: u64, began: f64) -> Job {
        Job {
            number,
            jid: Some(format!("j{number}")),
            began,
            ended: began + 0.1,
        }
    }

    fn key(number: u64) -> (String, String) {
        (format!("j{number}"), "a1".to_owned())
    }

    /// Jobs 1 to 6, a second apart; a fault from 1.5 to 4.5; each fate of a job is there once.
    #[test]
    fn each_fate_of_a_job_is_counted_as_what_it_is() {
        let mut jobs: Vec<Job> = (1..=6_u8).map(|n| job(n.into(), f64::from(n))).collect();
        jobs.push(Job {
            jid: None,
            ..job(7, 7.0)
        });
        jobs.push(job(8, 8.0));
        // 1 is well; 2 runs twice; 3 never gets there; 4 is not run; 5 has no return below; 6 is not recorded, and late; 8's minion gave up.
        let runs = Runs::from([
            (key(1), vec![1.2]),
            (key(2), vec![2.2, 2.4]),
            (key(5), vec![5.2]),
            (key(6), vec![30.0]),
            (key(8), vec![8.2]),
        ]);
        let recorded = [1, 2].map(|number| (format!("j{number}"), vec!["a1".to_owned()]));
        let seen = Seen {
            jobs: &jobs,
            runs: &runs,
            returns: &Returns::from([(key(2), vec![2.3, 2.5])]),
            recorded: &recorded.into(),
            below: &[
                (1, true),
                (2, true),
                (4, false),
                (5, false),
                (6, true),
                (8, false),
            ]
            .map(|(number, returned)| (key(number), returned))
            .into(),
            delivered: &[("j4".to_owned(), 4.75), ("j5".to_owned(), 9.0)].into(),
            hit: &["a1".to_owned()],
            given_up: &[key(8), key(3)].into(),
            spared: &[],
            quiet: &[],
            fault: Fault {
                began: 1.5,
                ended: 4.5,
            },
            ttl: TTL,
            others: BTreeSet::new(),
        };
        let outcome = seen.outcome(Case::Silence10, Relay::Saltway, String::new(), Some(0.5));
        let places: Vec<_> = outcome
            .lost
            .iter()
            .map(|lost| (lost.number, lost.place))
            .collect();
        assert_eq!(
            places,
            [
                (3, Place::NotPublishedBelow),
                (4, Place::NotRun),
                (5, Place::NotReturned),
                (6, Place::NotRecorded),
                (8, Place::GivenUp)
            ]
        );
        assert_eq!((outcome.jobs, outcome.refused, outcome.wanted), (7, 1, 7));
        assert_eq!((outcome.run, outcome.recorded), (5, 2));
        assert_eq!(outcome.given_up(), 1, "job 3 did not run at all");
        assert_eq!((outcome.twice, outcome.late, outcome.repeated), (1, 1, 1));
        assert_eq!((outcome.expired, outcome.longest), (0, 24.0));
        assert_eq!(outcome.delivered, 0.25, "job 5 is of the time after");
    }

    #[test]
    fn what_had_to_expire_is_not_wanted() {
        let jobs = [job(1, 1.0), job(2, 20.0)];
        let seen = Seen {
            jobs: &jobs,
            runs: &Runs::new(),
            returns: &Returns::new(),
            recorded: &BTreeMap::new(),
            below: &Below::new(),
            delivered: &BTreeMap::new(),
            hit: &["a1".to_owned()],
            given_up: &GivenUp::new(),
            spared: &[],
            quiet: &[],
            fault: Fault {
                began: 0.5,
                ended: 21.0,
            },
            ttl: TTL,
            others: BTreeSet::new(),
        };
        let outcome = seen.outcome(Case::Expiry, Relay::Saltway, String::new(), None);
        assert_eq!((outcome.expired, outcome.wanted, outcome.run), (1, 1, 0));
    }
}

//! The ledger's answers in JSON. What each key means is in docs/http.md; they are an interface: keys are only added.

use relay_core::{
    ledger::{Figures, JobView, MinionReport, State, Summary, Verdict},
    names::Up,
    roster::Rosters,
};
use serde::Serialize;

use super::{api::JobState, liveness};

/// The version of the interface.
const VERSION: u32 = 1;

/// `/api/v1/status`.
#[derive(Debug, Serialize)]
pub(super) struct Status<'a> {
    pub(super) v: u32,
    pub(super) relay: &'a str,
    pub(super) bridge: &'a str,
    pub(super) version: &'static str,
    pub(super) speaker: bool,
    pub(super) now: f64,
    pub(super) mom: Mom,
    pub(super) redis: Redis<'a>,
    pub(super) sites: SiteCounts,
    pub(super) minions: MinionCounts,
    pub(super) jobs: JobCounts,
    pub(super) lost: Vec<Lost<'a>>,
}

impl Status<'_> {
    pub(super) const VERSION: u32 = VERSION;
}

#[derive(Debug, Serialize)]
pub(super) struct Mom {
    pub(super) bus: &'static str,
    pub(super) since: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Redis<'a> {
    pub(super) state: &'static str,
    pub(super) reason: &'a str,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct SiteCounts {
    pub(super) up: usize,
    pub(super) down: usize,
    pub(super) unknown: usize,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct MinionCounts {
    pub(super) known: usize,
    pub(super) up: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct JobCounts {
    pub(super) open: usize,
    pub(super) kept: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Lost<'a> {
    pub(super) hop: &'a str,
    pub(super) site: &'a str,
    pub(super) count: u64,
}

/// One of `/api/v1/sites`.
#[derive(Debug, Serialize)]
pub(super) struct Site<'a> {
    pub(super) id: &'a str,
    pub(super) state: &'static str,
    pub(super) since: f64,
    pub(super) reason: &'a str,
    pub(super) heard: Option<f64>,
    pub(super) version: &'a str,
    pub(super) minions: usize,
    pub(super) minions_up: usize,
    pub(super) lag_entries: Option<u64>,
    pub(super) lag_seconds: Option<f64>,
    pub(super) spool_entries: Option<u64>,
    pub(super) spool_bytes: Option<u64>,
    pub(super) expired: u64,
    pub(super) lost: u64,
    pub(super) last_hop: Option<LastHop>,
}

/// How publications fared between a lower master and its minions, in this run of its shim.
#[derive(Debug, Serialize)]
pub(super) struct LastHop {
    expected: u64,
    received: u64,
    missed: u64,
    redelivered: u64,
    held_back: u64,
    after_ms_median: u64,
    after_ms_p99: u64,
}

impl From<salt_wire::saltway::LastHop> for LastHop {
    fn from(hop: salt_wire::saltway::LastHop) -> Self {
        Self {
            expected: hop.expected,
            received: hop.received,
            missed: hop.missed,
            redelivered: hop.redelivered,
            held_back: hop.held_back,
            after_ms_median: hop.after_ms_median,
            after_ms_p99: hop.after_ms_p99,
        }
    }
}

/// `/api/v1/expect`: whom a target means.
#[derive(Debug, Serialize)]
pub(super) struct Expected<'a> {
    pub(super) sites: Vec<ExpectedSite<'a>>,
    pub(super) ask: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
pub(super) struct ExpectedSite<'a> {
    pub(super) id: &'a str,
    pub(super) state: &'static str,
    pub(super) minions: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
pub(super) struct Sites<'a> {
    pub(super) sites: Vec<Site<'a>>,
}

/// A job in figures.
#[derive(Debug, Serialize)]
pub(super) struct Job {
    jid: String,
    fun: String,
    user: String,
    tgt: String,
    tgt_type: String,
    at: f64,
    seconds: f64,
    state: &'static str,
    #[serde(flatten)]
    figures: Counts,
    sites: Vec<JobSite>,
}

#[derive(Debug, Serialize)]
struct JobSite {
    id: String,
    state: &'static str,
    #[serde(flatten)]
    figures: Counts,
    ask: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    said: Option<&'static str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

#[derive(Debug, Serialize)]
struct Counts {
    expected: usize,
    accepted: usize,
    received: usize,
    returned: usize,
    failed: usize,
    missing: usize,
    no_receipts: usize,
}

impl From<Figures> for Counts {
    fn from(figures: Figures) -> Self {
        let Figures {
            expected,
            accepted,
            received,
            returned,
            failed,
            missing,
            no_receipts,
        } = figures;
        Self {
            expected,
            accepted,
            received,
            returned,
            failed,
            missing,
            no_receipts,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Jobs {
    pub(super) jobs: Vec<Job>,
}

#[derive(Debug, Serialize)]
struct Detail<'a> {
    #[serde(flatten)]
    job: Job,
    minions: Vec<Minion<'a>>,
    truncated: bool,
}

#[derive(Debug, Serialize)]
struct Minion<'a> {
    id: &'a str,
    site: &'a str,
    step: &'static str,
    verdict: &'static str,
    receipts: bool,
    received_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Missing<'a> {
    jid: &'a str,
    state: &'static str,
    missing: Vec<MissingMinion<'a>>,
    sites_unreachable: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
struct MissingMinion<'a> {
    id: &'a str,
    site: &'a str,
    verdict: &'static str,
    receipts: bool,
}

#[derive(Debug, Serialize)]
struct RosterPage<'a> {
    sites: Vec<SiteRoster<'a>>,
}

#[derive(Debug, Serialize)]
struct SiteRoster<'a> {
    id: &'a str,
    digest: String,
    minions: Vec<RosterMinion<'a>>,
    truncated: bool,
}

#[derive(Debug, Serialize)]
struct RosterMinion<'a> {
    id: &'a str,
    up: Option<bool>,
}

/// The word for a site's state.
pub(super) fn state_of(site: Option<&liveness::Site>) -> &'static str {
    match site.map(|site| site.state) {
        Some(liveness::State::Up) => "up",
        Some(liveness::State::Down) => "down",
        Some(liveness::State::Unknown) | None => "unknown",
    }
}

/// Unix seconds.
pub(super) fn seconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}

/// Whether a job stands as the question wants it.
pub(super) fn is_in(state: State, wanted: Option<JobState>) -> bool {
    match wanted {
        None => true,
        Some(JobState::Open) => state == State::Open,
        Some(JobState::Complete) => state == State::Complete,
        Some(JobState::Incomplete) => state == State::Incomplete,
        Some(JobState::Expired) => state == State::Expired,
    }
}

/// A job in figures; `site_state` tells how a site stands now.
pub(super) fn job(summary: Summary, site_state: impl Fn(&str) -> &'static str) -> Job {
    let sites = summary.sites.into_iter().map(|site| {
        let (said, reason) = site.said.unzip();
        JobSite {
            state: site_state(&site.site),
            id: site.site,
            figures: site.figures.into(),
            ask: site.ask,
            said: said.map(|said| said.as_str()),
            reason: reason.unwrap_or_default(),
        }
    });
    Job {
        sites: sites.collect(),
        jid: summary.jid,
        fun: summary.fun,
        user: summary.user,
        tgt: summary.tgt,
        tgt_type: summary.tgt_type,
        at: seconds(summary.at_ms),
        seconds: seconds(summary.took_ms),
        state: summary.state.as_str(),
        figures: summary.figures.into(),
    }
}

/// A job with its minions: those that have not returned first.
pub(super) fn detail(
    view: JobView<'_>,
    verdict: Option<&str>,
    limit: usize,
    site_state: impl Fn(&str) -> &'static str,
) -> Vec<u8> {
    let wanted = |minion: &MinionReport<'_>| {
        verdict.is_none_or(|verdict| minion.verdict.as_str() == verdict)
    };
    let has_returned =
        |minion: &MinionReport<'_>| matches!(minion.verdict, Verdict::Returned | Verdict::Failed);
    let minions = || view.minions().filter(wanted);
    let first = minions().filter(|minion| !has_returned(minion));
    let then = minions().filter(has_returned);
    let mut told: Vec<Minion<'_>> = first
        .chain(then)
        .take(limit.saturating_add(1))
        .map(|minion| Minion {
            id: minion.id,
            site: minion.site,
            step: minion.step.as_str(),
            verdict: minion.verdict.as_str(),
            receipts: minion.gives_receipts,
            received_ms: minion.received_ms,
        })
        .collect();
    let truncated = told.len() > limit;
    told.truncate(limit);
    bytes(&Detail {
        job: job(view.summary(), site_state),
        minions: told,
        truncated,
    })
}

/// Who is missing of a job.
pub(super) fn missing(view: JobView<'_>, site_state: impl Fn(&str) -> &'static str) -> Vec<u8> {
    let missing = view.missing().map(|minion| MissingMinion {
        id: minion.id,
        site: minion.site,
        verdict: minion.verdict.as_str(),
        receipts: minion.gives_receipts,
    });
    let missing: Vec<MissingMinion<'_>> = missing.collect();
    let mut unreachable: Vec<&str> = missing
        .iter()
        .filter(|minion| minion.verdict == Verdict::Unreachable.as_str())
        .map(|minion| minion.site)
        .chain(view.asked().filter(|site| site_state(site) == "down"))
        .collect();
    unreachable.sort_unstable();
    unreachable.dedup();
    bytes(&Missing {
        jid: view.jid(),
        state: view.state().as_str(),
        missing,
        sites_unreachable: unreachable,
    })
}

/// The rosters, of one site or of all, at most `limit` minions in all.
pub(super) fn roster(rosters: &Rosters, site: Option<&str>, limit: usize) -> Vec<u8> {
    let mut left = limit;
    let wanted = |id: &&str| site.is_none_or(|site| site == *id);
    let sites = rosters.sites().filter(wanted).map(|id| {
        let minions = rosters.ids(id).take(left).map(|(id, up)| RosterMinion {
            id,
            up: match up {
                Up::Yes => Some(true),
                Up::No => Some(false),
                Up::Unknown => None,
            },
        });
        let minions: Vec<RosterMinion<'_>> = minions.collect();
        left -= minions.len();
        SiteRoster {
            id,
            digest: rosters
                .digest(id)
                .map_or_else(String::new, |digest| digest.to_string()),
            truncated: minions.len() < rosters.count(id),
            minions,
        }
    });
    let sites = sites.collect();
    bytes(&RosterPage { sites })
}

/// An answer's bytes.
pub(super) fn bytes(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).unwrap_or_else(|_| b"{}".to_vec())
}

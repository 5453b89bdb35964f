//! One case, from the quiet before to the last return.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use testkit::{Relay, interrupted, now, wait_until};

use super::{
    case::Case,
    inject::{Fault, inject, quiet},
    jobs::{Job, JobStream, Runs, answered, runs},
    outcome::{Below, GivenUp, Outcome, Seen},
    stand::Stand,
    verdicts::misjudged,
};
use crate::stream::{published_times, recorded_returns};

const BEFORE: Duration = Duration::from_secs(5);
const AFTER: Duration = Duration::from_secs(3);
/// Who is not well by then stays so.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);
/// As long as something still arrives, it is waited for. A minion that could not return tries again for 15 s and more.
const NOTHING_NEW_FOR: Duration = Duration::from_secs(20);
const SETTLED_WITHIN: Duration = Duration::from_secs(180);

/// Runs a case; what the stand is good for afterwards, the outcome tells: one that is not healthy is better not used again.
///
/// # Errors
/// When the fault could not be made, or the publishing failed: not when something was lost.
pub fn run_case(stand: &mut Stand, case: Case) -> Result<Outcome> {
    let stream = JobStream::start(stand.take_recorder()?, &stand.runs, stand.next, case.pace());
    quiet(BEFORE)?;
    let fault = inject(case, stand).with_context(|| format!("the fault {case} failed"))?;
    stream.publish_at_once();
    let healthy = wait_healthy(stand, &stream, fault)?;
    quiet(AFTER)?;
    stream.pause();
    settle(stand, &stream, fault)?;
    let (jobs, returns) = (stream.jobs(), stream.returns());
    let recorder = stream.finish()?;
    stand.put_back(recorder);

    let first = stand.next;
    stand.next = jobs.last().map_or(first, |job| job.number + 1);
    let (runs, numbers) = runs(&stand.runs)?;
    let accepted: BTreeSet<&String> = jobs.iter().filter_map(|job| job.jid.as_ref()).collect();
    let others = numbers
        .iter()
        .filter(|(jid, number)| **number >= first && !accepted.contains(jid))
        .map(|(jid, _)| jid.clone())
        .collect();
    let (hit, spared, sites) = match case.has_control() {
        true => (stand.minions(0), stand.minions(1), 1),
        false => (stand.all_minions(), Vec::new(), 2),
    };
    let control = stand.minions(1);
    let calm = jobs.iter().filter(|job| job.began < fault.began);
    let calm = calm.filter_map(|job| Some(answered(job, &control, &returns)? - job.began));
    stand.quiet.extend(calm);
    let seen = Seen {
        jobs: &jobs,
        runs: &runs,
        returns: &returns,
        recorded: &recorded_returns(&stand.tree.mom)?,
        below: &below(stand)?,
        delivered: &delivered(stand, sites)?,
        hit: &hit,
        given_up: &given_up(stand)?,
        spared: &spared,
        quiet: &stand.quiet,
        fault,
        ttl: stand.ttl().as_secs_f64(),
        others,
    };
    let release = stand.tree.mom.version().release().to_owned();
    let mut outcome = seen.outcome(case, stand.relay, release, healthy);
    if let Some(bridge) = stand.bridge() {
        outcome.misjudged = misjudged(bridge, &seen.truth())?;
    }
    Ok(outcome)
}

/// What each minion's own master knows: whether it has the return, where it has the job.
fn below(stand: &Stand) -> Result<Below> {
    let mut below = Below::new();
    for site in &stand.tree.sites {
        for (jid, returned) in recorded_returns(&site.master)? {
            for minion in site.minion_ids() {
                let has = returned.iter().any(|id| id == minion);
                below.insert((jid.clone(), minion.to_owned()), has);
            }
        }
    }
    Ok(below)
}

/// What Salt's minions write when they drop a return (`_return_pub` of 3006.27 and 3008.3), up to the jid.
const GIVEN_UP: [&str; 2] = [
    "cannot return data for job ",
    "failed to return the job information for job ",
];

/// The returns that minions have dropped, as far as their logs go.
fn given_up(stand: &Stand) -> Result<GivenUp> {
    let mut given_up = GivenUp::new();
    for minion in stand.tree.sites.iter().flat_map(|site| &site.minions) {
        for line in minion.log()?.lines() {
            let jid = GIVEN_UP.iter().find_map(|text| line.split_once(text));
            if let Some((_, rest)) = jid {
                let jid = rest.chars().take_while(char::is_ascii_digit).collect();
                given_up.insert((jid, minion.id().to_owned()));
            }
        }
    }
    Ok(given_up)
}

/// When each job was published on the last of the first `sites` lower masters.
fn delivered(stand: &Stand, sites: usize) -> Result<BTreeMap<String, f64>> {
    let mut delivered: BTreeMap<String, f64> = BTreeMap::new();
    for site in stand.tree.sites.iter().take(sites) {
        for (jid, at) in published_times(&site.master)? {
            let at = at.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
            let last = delivered.entry(jid).or_default();
            *last = last.max(at);
        }
    }
    Ok(delivered)
}

/// How long after the fault's end all daemons were ready and a new job was answered by all.
fn wait_healthy(stand: &Stand, stream: &JobStream, fault: Fault) -> Result<Option<f64>> {
    let minions = stand.all_minions();
    let ready_at = Cell::new(None);
    let healthy = wait_until("the relay to be well", HEALTHY_WITHIN, || {
        match (stand.all_ready(), ready_at.get()) {
            (Ok(()), None) => ready_at.set(Some(super::jobs::unix_now())),
            (Ok(()), Some(_)) => {}
            (Err(_), _) => ready_at.set(None),
        }
        let answered = stream.answered_since(fault.ended, &minions);
        match (ready_at.get(), answered) {
            (Some(ready), Some(answered)) => Ok(ready.max(answered) - fault.ended),
            state => Err(format!("ready at, answered at: {state:?}")),
        }
    });
    match healthy {
        Ok(healthy) => Ok(Some(healthy)),
        Err(err) if interrupted() => Err(err),
        Err(err) => {
            eprintln!("[faults] {err:#}; {:?}", stand.all_ready());
            Ok(None)
        }
    }
}

/// Waits until every accepted job has run and is recorded, or nothing new has come for a while.
fn settle(stand: &Stand, stream: &JobStream, fault: Fault) -> Result<()> {
    let minions = stand.all_minions();
    let (mut before, mut changed) = (usize::MAX, now());
    let mut looked = now();
    let settled = wait_until("the last return", SETTLED_WITHIN, || {
        // A look reads thousands of small files.
        if looked.elapsed() < Duration::from_millis(300) {
            return Err("not looked yet".to_owned());
        }
        looked = now();
        let missing =
            missing(stand, &stream.jobs(), &minions, fault).map_err(|err| format!("{err:#}"))?;
        if missing != before {
            (before, changed) = (missing, now());
        }
        match missing == 0 || changed.elapsed() > NOTHING_NEW_FOR {
            true => Ok(()),
            false => Err(format!("{missing} missing")),
        }
    });
    match settled {
        Err(err) if interrupted() => Err(err),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn missing(stand: &Stand, jobs: &[Job], minions: &[String], fault: Fault) -> Result<usize> {
    let recorded = recorded_returns(&stand.tree.mom)?;
    let (runs, _): (Runs, _) = runs(&stand.runs)?;
    let ttl = stand.ttl().as_secs_f64();
    let is_there = |jid: &String, minion: &String| {
        runs.contains_key(&(jid.clone(), minion.clone()))
            && recorded.get(jid).is_some_and(|ids| ids.contains(minion))
    };
    if jobs.is_empty() {
        bail!("no job was published");
    }
    Ok(jobs
        .iter()
        // What expired during the fault does not come any more.
        .filter(|job| stand.relay == Relay::Syndic || job.began + ttl > fault.ended)
        .filter_map(|job| job.jid.as_ref())
        .flat_map(|jid| minions.iter().map(move |minion| (jid, minion)))
        .filter(|(jid, minion)| !is_there(jid, minion))
        .count())
}

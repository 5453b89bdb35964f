//! How soon does the MoM's ledger know that a minion took a job, and how soon has a minion that was away what it missed?
//!
//! Real Salt, real Redis. Receipts: jobs of 1.2 s for six minions of two sites. A minion takes a job when its main process says so in its
//! log, before it starts a process for it, which writes the proc file; the ledger's time is that of its answer for the job. Away: a minion whose publications are lost for 20 s while 40
//! jobs are published, and one that is killed and started again; from the moment that it is back until all have run.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use benches::{Samples, print_table};
use clap::Parser;
use real_tests::{
    away::{AWAY, STAYS, Stand},
    ledger::{ask, wait_for_site},
    stream,
};
use serde_json::json;
use testkit::{Direction, Minion, SaltVersion, Tree, now, wait_until};

const WITHIN: Duration = Duration::from_secs(120);
/// How long a job of the first part takes: its proc file is seen for certain.
const JOB: f64 = 1.2;
/// Seconds of a day.
const DAY: f64 = 86_400.0;
/// How often the proc directories are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Measures receipts and redelivery.
#[derive(Parser)]
struct Arguments {
    /// Salt version of every daemon: 3006 (a minion-shim beside each minion) or 3008 (start events).
    #[arg(long, default_value = "3006")]
    salt: String,
    /// A minion-shim beside each minion of 3008, too.
    #[arg(long)]
    shims: bool,
    /// Jobs of the first part.
    #[arg(long, default_value_t = 200)]
    jobs: usize,
    /// Pause between them in milliseconds: each costs six minions a process.
    #[arg(long, default_value_t = 1_000)]
    pause: u64,
    /// Rounds of the second part.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (version, shims) = match arguments.salt.as_str() {
        "3006" => (SaltVersion::V3006, true),
        "3008" => (SaltVersion::V3008, arguments.shims),
        other => anyhow::bail!("--salt is 3006 or 3008, not {other}"),
    };
    let name = format!(
        "Salt {}, {}",
        arguments.salt,
        if shims {
            "a minion-shim beside each minion"
        } else {
            "start events"
        }
    );
    if arguments.jobs > 0 {
        receipts(version, shims, &arguments, &name)?;
    }
    if arguments.rounds > 0 {
        away(version, shims, arguments.rounds, &name)?;
    }
    Ok(())
}

fn receipts(version: SaltVersion, shims: bool, arguments: &Arguments, name: &str) -> Result<()> {
    let tree = Tree::with_saltway(version)
        .site("site1", version, &["a1", "a2", "a3"])
        .site("site2", version, &["b1", "b2", "b3"])
        .minion_shims(shims)
        .shim_extra(&format!("receipts: {{start_event: {}}}", !shims))
        .daemon_log("warn")
        .start()?;
    for site in ["site1", "site2"] {
        wait_for_site(&tree, site, "up", 3, WITHIN)?;
    }
    let mut recorder = tree.mom.record()?;
    let minions: Vec<&Minion> = tree.sites.iter().flat_map(|site| &site.minions).collect();
    let mut proc_files = BTreeMap::new();
    let mut jids = Vec::new();
    for _ in 0..arguments.jobs {
        let began = now();
        let published = recorder.publish("*", "glob", "test.sleep", json!([JOB]))?;
        jids.push(published.jid.context("the MoM publishes it")?);
        while began.elapsed() < Duration::from_millis(arguments.pause) {
            look(&minions, &mut proc_files)?;
            thread::sleep(LOOK);
        }
    }
    let bridge = tree.bridge.as_ref().context("the tree has a bridge")?;
    let last = jids.last().context("there are jobs")?;
    wait_until("the last job to be complete", WITHIN, || {
        look(&minions, &mut proc_files).map_err(|err| format!("{err:#}"))?;
        let job = ask(bridge, &format!("jobs/{last}")).map_err(|err| format!("{err:#}"))?;
        (job["state"] == "complete")
            .then_some(())
            .ok_or(job["returned"].to_string())
    })?;
    let taken = taken(&minions)?;
    let (mut delays, mut after_proc_file) = (Samples::default(), Vec::new());
    let seconds = |seconds: f64| Duration::from_secs_f64(seconds.max(0.0));
    let (mut without, mut late) = (0, 0);
    for jid in &jids {
        let job = ask(bridge, &format!("jobs/{jid}"))?;
        let at = job["at"].as_f64().context("a job has its time")?;
        for minion in job["minions"].as_array().context("a list")? {
            let id = minion["id"].as_str().context("an id")?;
            let Some(received) = minion["received_ms"].as_f64() else {
                without += 1;
                continue;
            };
            let key = (id.to_owned(), jid.clone());
            let took = taken.get(&key);
            let took = took.with_context(|| format!("{id} took {jid} unseen"))?;
            let received = at + received / 1_000.0;
            let delay = received % DAY - took;
            late += usize::from(delay > JOB);
            delays.push(seconds(delay));
            if let Some(written) = proc_files.get(&key) {
                after_proc_file.push((received - written) * 1e3);
            }
        }
    }
    let millis = |samples: &Samples, percent| {
        format!("{:.0} ms", samples.percentile(percent).as_secs_f64() * 1e3)
    };
    let ms = |percent| millis(&delays, percent);
    print_table(
        &format!(
            "Receipts of {} jobs on 6 minions in the MoM's ledger, after the minion took the job; {name}",
            jids.len()
        ),
        &[
            [
                "receipts",
                "missing",
                "median",
                "p90",
                "p99",
                "after the return",
                "after the proc file, median",
            ]
            .map(str::to_owned)
            .to_vec(),
            vec![
                delays.len().to_string(),
                without.to_string(),
                ms(50),
                ms(90),
                ms(99),
                late.to_string(),
                middle(&mut after_proc_file),
            ],
        ],
    );
    ensure!(without == 0, "{without} receipts are missing");
    ensure!(late == 0, "{late} came after the return");
    Ok(())
}

/// The median of milliseconds; below zero when the receipt was there before the file.
fn middle(delays: &mut [f64]) -> String {
    delays.sort_by(f64::total_cmp);
    let middle = delays.get(delays.len() / 2);
    middle.map_or_else(|| "-".to_owned(), |middle| format!("{middle:.0} ms"))
}

/// When each minion took each job by its log, in seconds of the day: `2026-11-21 21:15:43,210 [salt.minion ..] User root Executing
/// command test.sleep with jid 2026..`. The machine's clock is UTC.
fn taken(minions: &[&Minion]) -> Result<BTreeMap<(String, String), f64>> {
    let mut taken = BTreeMap::new();
    for minion in minions {
        for line in minion.log()?.lines() {
            let Some((head, jid)) = line.split_once(" with jid ") else {
                continue;
            };
            let time = head
                .split_whitespace()
                .nth(1)
                .context("no time in a line")?;
            let mut parts = time.split([':', ',']).map(str::parse::<f64>);
            let mut next = || {
                parts
                    .next()
                    .context("no time in a line")?
                    .context("no number")
            };
            let at = next()? * 3_600.0 + next()? * 60.0 + next()? + next()? / 1_000.0;
            taken
                .entry((minion.id().to_owned(), jid.trim().to_owned()))
                .or_insert(at);
        }
    }
    Ok(taken)
}

/// Notes when the proc file of each job that runs now was written, in unix seconds.
fn look(minions: &[&Minion], taken: &mut BTreeMap<(String, String), f64>) -> Result<()> {
    for minion in minions {
        let proc = minion.proc_dir();
        let Ok(files) = fs::read_dir(&proc) else {
            continue;
        };
        for file in files.flatten() {
            let jid = file.file_name().to_string_lossy().into_owned();
            // One that ends right now is gone.
            let Ok(metadata) = file.metadata() else {
                continue;
            };
            let at = metadata
                .modified()?
                .duration_since(SystemTime::UNIX_EPOCH)?;
            taken
                .entry((minion.id().to_owned(), jid))
                .or_insert(at.as_secs_f64());
        }
    }
    Ok(())
}

fn away(version: SaltVersion, shims: bool, rounds: usize, name: &str) -> Result<()> {
    let receipts = format!("receipts: {{start_event: {}}}", !shims);
    let mut stand = Stand::start(version, shims, &receipts)?;
    let mut rows = vec![
        [
            "minion that was away",
            "jobs missed",
            "all run after it was back",
            "all run at the one that stayed",
            "twice",
            "out of order",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let mut next = 2;
    for _ in 0..rounds {
        rows.push(silenced(&mut stand, &mut next)?);
        rows.push(restarted(&mut stand, &mut next)?);
    }
    print_table(&format!("Jobs published again, {name}"), &rows);
    Ok(())
}

fn silenced(stand: &mut Stand, next: &mut u32) -> Result<Vec<String>> {
    let began = now();
    stand.away.publish.silence(Direction::Down);
    let (first, last) = (*next, *next + 39);
    let jobs = stand.publish(first, last)?;
    stand.await_runs(first, last, &[STAYS], WITHIN)?;
    let peer = began.elapsed();
    thread::sleep(Duration::from_secs(20).saturating_sub(began.elapsed()));
    let heard = stand.away.publish.accepted();
    stand.away.publish.cut();
    stand.away.publish.heal()?;
    wait_until("it to connect", WITHIN, || {
        let accepted = stand.away.publish.accepted();
        (accepted > heard).then_some(()).ok_or(accepted)
    })?;
    let back = now();
    stand.await_runs(first, last, &[AWAY], WITHIN)?;
    *next = last + 1;
    row(stand, "silent for 20 s", &jobs, back.elapsed(), peer)
}

fn restarted(stand: &mut Stand, next: &mut u32) -> Result<Vec<String>> {
    stand.away.minion.kill();
    let began = now();
    let (first, last) = (*next, *next + 19);
    let jobs = stand.publish(first, last)?;
    stand.await_runs(first, last, &[STAYS], WITHIN)?;
    let peer = began.elapsed();
    stand.recorder.clear();
    stand.away.minion.start()?;
    let started = format!("salt/minion/{AWAY}/start");
    stand
        .recorder
        .wait_for(1, WITHIN, |event| event.tag == started)?;
    let back = now();
    stand.await_runs(first, last, &[AWAY], WITHIN)?;
    *next = last + 1;
    row(stand, "killed and started", &jobs, back.elapsed(), peer)
}

fn row(
    stand: &Stand,
    what: &str,
    jobs: &[stream::Job],
    after: Duration,
    peer: Duration,
) -> Result<Vec<String>> {
    let jids: Vec<String> = jobs.iter().map(|job| job.jid.clone()).collect();
    let took = stand.away.took(&jids)?;
    let disordered = took.iter().zip(&jids).filter(|(one, other)| one != other);
    let doubled = stream::doubled(&stand.file)?;
    ensure!(doubled.is_empty(), "ran twice: {doubled:?}");
    Ok(vec![
        what.to_owned(),
        jobs.len().to_string(),
        format!("{:.1} s", after.as_secs_f64()),
        format!("{:.1} s", peer.as_secs_f64()),
        doubled.len().to_string(),
        disordered.count().to_string(),
    ])
}

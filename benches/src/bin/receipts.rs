//! What do receipts cost a lower master, and does everybody get every job although some are deaf for a while?
//!
//! A real MoM, Redis, bridge and shim; a real lower master with simulated minions (`benches::minions`). The same jobs are
//! published twice: without receipts, then with them and a part of the minions deaf for a time. Prints the lower
//! master's requests and processor time of both; fails when a job is missing anywhere or ran twice.
#![expect(
    clippy::print_stdout,
    reason = "the figures go to the terminal, and from there into docs/measurements.md"
)]

use std::{collections::BTreeSet, fs, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use benches::{
    minions::{Minions, Plan, Receipts, Requests},
    print_table,
};
use clap::{Parser, ValueEnum};
use real_tests::ledger::{ask, wait_for_site};
use serde_json::json;
use testkit::{EventRecorder, KeyPair, SaltVersion, Tree, now, wait_until};

/// How long the bridge may take to know the site.
const KNOWN_WITHIN: Duration = Duration::from_secs(60);
/// How long the jobs of one round may take after the last was published: `job_ttl`.
const DONE_WITHIN: Duration = Duration::from_secs(300);
/// What `test.sleep` stands for.
const SLOW: Duration = Duration::from_secs(3);
/// What everything else takes a minion: less than the minion-shim waits before it sends a receipt.
const QUICK: Duration = Duration::from_millis(10);

/// How minions tell what they took.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum How {
    /// A minion-shim beside each.
    Shim,
    /// Salt 3008's start events.
    StartEvent,
}

/// Measures what receipts cost a lower master.
#[derive(Parser)]
struct Arguments {
    /// Salt version of the masters: 3006 or 3008.
    #[arg(long, default_value = "3006", value_parser = version)]
    salt: SaltVersion,
    /// Where receipts come from.
    #[arg(long, value_enum, default_value = "shim")]
    receipts: How,
    /// Simulated minions.
    #[arg(long, default_value_t = 2_000)]
    minions: usize,
    /// How many of a hundred are deaf while receipts are on.
    #[arg(long, default_value_t = 5)]
    deaf_percent: usize,
    /// For how many seconds.
    #[arg(long, default_value_t = 30)]
    deaf_seconds: u64,
    /// Bursts of jobs.
    #[arg(long, default_value_t = 2)]
    bursts: usize,
    /// Jobs of one burst that take a moment.
    #[arg(long, default_value_t = 4)]
    quick: usize,
    /// Jobs of one burst that take 3 s.
    #[arg(long, default_value_t = 4)]
    slow: usize,
}

fn version(text: &str) -> Result<SaltVersion, String> {
    match text {
        "3006" => Ok(SaltVersion::V3006),
        "3008" => Ok(SaltVersion::V3008),
        other => Err(format!("3006 or 3008, not {other}")),
    }
}

/// What one round cost.
struct Round {
    requests: Requests,
    cpu: Duration,
    repeated: u64,
    wall: Duration,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let tree = Tree::with_saltway(arguments.salt)
        .site("site1", arguments.salt, &[])
        .daemon_log("warn")
        .shim_extra("receipts: {start_event: true}")
        .start()?;
    let minions = sign_in(&tree, arguments.minions)?;
    let mut recorder = tree.mom.record()?;
    until_everybody_hears(&mut recorder, &minions)?;

    let off = round(&tree, &minions, &mut recorder, &arguments, &[])?;
    minions.give_receipts(match arguments.receipts {
        How::Shim => Receipts::Shim,
        How::StartEvent => Receipts::StartEvent,
    });
    // The shim learns from their first receipts who gives any.
    learn(&tree, &minions, &mut recorder, arguments.minions)?;
    let count = arguments.minions * arguments.deaf_percent / 100;
    let step = arguments.minions.checked_div(count).unwrap_or(1).max(1);
    let deaf: Vec<usize> = (0..count).map(|number| number * step).collect();
    let on = round(&tree, &minions, &mut recorder, &arguments, &deaf)?;
    print(&arguments, deaf.len(), &off, &on);
    Ok(())
}

fn sign_in(tree: &Tree, count: usize) -> Result<Minions> {
    let master = &tree.sites[0].master;
    let pki_dir = tree.workspace().path().join("simulated");
    fs::create_dir_all(&pki_dir)?;
    let key = KeyPair::take(tree.workspace())?;
    key.place(&pki_dir, "minion")?;
    master
        .key()
        .place_public(&pki_dir.join("syndic_master.pub"))?;
    let ids: Vec<String> = (0..count).map(|number| format!("m{number:05}")).collect();
    for id in &ids {
        master.accept(id, &key)?;
    }
    let known = u64::try_from(count)?;
    wait_for_site(tree, "site1", "up", known, KNOWN_WITHIN)?;
    let began = now();
    let minions = Minions::start(Plan {
        ids,
        publish: master.socket(4505),
        request: master.socket(4506),
        pki_dir,
        takes: |fun| if fun == "test.sleep" { SLOW } else { QUICK },
    })?;
    println!(
        "{count} minions have signed in, {:.1} s",
        began.elapsed().as_secs_f64()
    );
    Ok(minions)
}

/// A subscription takes effect at the master some time after the connection.
fn until_everybody_hears(recorder: &mut EventRecorder, minions: &Minions) -> Result<()> {
    let mut before = 0;
    wait_until("everybody to hear a job", KNOWN_WITHIN * 5, || {
        let heard = minions.runs();
        let deaf = heard.iter().filter(|runs| runs.is_empty()).count();
        if deaf == 0 {
            return Ok(());
        }
        // Another job once the last one has come wherever it came.
        let runs: usize = heard.iter().map(Vec::len).sum();
        if runs == before || before == 0 {
            let sent = recorder.publish("*", "glob", "test.ping", json!([]));
            sent.map_err(|err| format!("{err:#}"))?;
        }
        before = runs;
        Err(format!("{deaf} have heard nothing"))
    })?;
    // Behind this one nothing of the others is under way, and no return of them belongs to a round.
    let last = recorder.publish("*", "glob", "test.ping", json!([]))?;
    let last = last.jid.context("the MoM publishes it")?;
    await_all(minions, &BTreeSet::from([last]))?;
    wait_until("the first returns", DONE_WITHIN, || {
        let runs: usize = minions.runs().iter().map(Vec::len).sum();
        let returns = usize::try_from(minions.requests().returns).unwrap_or(usize::MAX);
        if returns == runs {
            Ok(())
        } else {
            Err(format!("{returns} of {runs}"))
        }
    })
}

fn learn(tree: &Tree, minions: &Minions, recorder: &mut EventRecorder, count: usize) -> Result<()> {
    let published = recorder.publish("*", "glob", "test.sleep", json!([3]))?;
    let jid = published.jid.context("the MoM publishes it")?;
    await_all(minions, &BTreeSet::from([jid.clone()]))?;
    await_complete(tree, &jid, count)
}

/// Publishes the bursts, lets `deaf` hear again when it is time, and waits until everything has run and returned.
fn round(
    tree: &Tree,
    minions: &Minions,
    recorder: &mut EventRecorder,
    arguments: &Arguments,
    deaf: &[usize],
) -> Result<Round> {
    let pid = tree.sites[0].master.process()?.pid();
    let usage = || testkit::usage(pid).map(|usage| usage.cpu_tree);
    let (requests, cpu, repeated) = (minions.requests(), usage()?, minions.repeated());
    let began = now();
    minions.deafen(deaf);
    let deaf_for = Duration::from_secs(arguments.deaf_seconds);
    let pause = deaf_for / u32::try_from(arguments.bursts)?.max(1);
    let mut jids = BTreeSet::new();
    for burst in 0..arguments.bursts {
        let slow = (0..arguments.slow).map(|_| ("test.sleep", json!([3])));
        let quick = (0..arguments.quick).map(|_| ("test.ping", json!([])));
        for (fun, arg) in slow.chain(quick) {
            let published = recorder.publish("*", "glob", fun, arg)?;
            jids.insert(published.jid.context("the MoM publishes it")?);
        }
        let next = pause * u32::try_from(burst + 1)?;
        thread::sleep(next.saturating_sub(began.elapsed()));
    }
    minions.hear_again()?;
    await_all(minions, &jids)?;
    for jid in &jids {
        await_complete(tree, jid, arguments.minions)?;
    }
    let after = minions.requests();
    Ok(Round {
        requests: Requests {
            returns: after.returns - requests.returns,
            events: after.events - requests.events,
            failed: after.failed - requests.failed,
        },
        cpu: usage()?.saturating_sub(cpu),
        repeated: minions.repeated() - repeated,
        wall: began.elapsed(),
    })
}

/// Waits until every minion has run each of these, and checks that none ran any job twice.
fn await_all(minions: &Minions, jids: &BTreeSet<String>) -> Result<()> {
    wait_until("every job to run everywhere", DONE_WITHIN, || {
        let missing = |runs: &Vec<String>| {
            let runs: BTreeSet<&String> = runs.iter().collect();
            jids.iter().filter(|jid| !runs.contains(jid)).count()
        };
        let missing: usize = minions.runs().iter().map(missing).sum();
        if missing == 0 {
            Ok(())
        } else {
            Err(format!("{missing} have not run"))
        }
    })?;
    for (minion, runs) in minions.runs().iter().enumerate() {
        let once: BTreeSet<&String> = runs.iter().collect();
        ensure!(once.len() == runs.len(), "minion {minion} ran a job twice");
    }
    Ok(())
}

fn await_complete(tree: &Tree, jid: &str, count: usize) -> Result<()> {
    let bridge = tree.bridge.as_ref().context("the tree has a bridge")?;
    wait_until("the ledger to have every return", DONE_WITHIN, || {
        let job = ask(bridge, &format!("jobs/{jid}?limit=1")).map_err(|err| format!("{err:#}"))?;
        if job["returned"] == count {
            Ok(())
        } else {
            Err(format!("{jid}: {} returned", job["returned"]))
        }
    })
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn print(arguments: &Arguments, deaf: usize, off: &Round, on: &Round) {
    let total = |round: &Round| (round.requests.returns + round.requests.events) as f64;
    let row = |name: &str, round: &Round| {
        vec![
            name.to_owned(),
            round.requests.returns.to_string(),
            round.requests.events.to_string(),
            round.requests.failed.to_string(),
            format!("{:.1} s", round.cpu.as_secs_f64()),
            format!("{:.1} s", round.wall.as_secs_f64()),
            round.repeated.to_string(),
        ]
    };
    let head = [
        "",
        "returns",
        "events",
        "unanswered",
        "master's CPU",
        "wall",
        "repeated",
    ];
    let grown = vec![
        "growth".to_owned(),
        String::new(),
        format!("requests {:+.1} %", (total(on) / total(off) - 1.0) * 100.0),
        String::new(),
        format!(
            "{:+.1} %",
            (on.cpu.as_secs_f64() / off.cpu.as_secs_f64() - 1.0) * 100.0
        ),
    ];
    print_table(
        &format!(
            "{} simulated minions on a lower master of {:?}, {} bursts of {} slow and {} quick jobs; with receipts ({:?}) {deaf} minions were deaf for {} s: everything ran, nothing twice",
            arguments.minions,
            arguments.salt,
            arguments.bursts,
            arguments.slow,
            arguments.quick,
            arguments.receipts,
            arguments.deaf_seconds
        ),
        &[
            head.map(str::to_owned).to_vec(),
            row("receipts off", off),
            row("receipts on", on),
            grown,
        ],
    );
}

//! How long from a publish on the top master (MoM) to the last return on its event bus, without faults?
//!
//! Beside it the same job on the site's own master, in the same tree, taken in turns; and, in a second tree, salt-syndic
//! in the shim's place. Also: how long does `salt '*' test.ping` take on the MoM, and what do the daemons cost when idle?

use std::{env, thread, time::Duration};

use anyhow::{Context, Result, bail};
use benches::{Samples, print_table, ratio, seconds};
use serde_json::json;
use testkit::{EventRecorder, Relay, SaltVersion, Tree};

/// The minions of the site that is measured.
const MINIONS: [&str; 3] = ["a1", "a2", "a3"];

/// Jobs that warm up both ways: first imports, first sign-ins.
const WARM_UP: usize = 5;

/// `salt` commands timed.
const PINGS: usize = 3;

/// How long an idle daemon is watched.
const IDLE: Duration = Duration::from_secs(20);

fn main() -> Result<()> {
    let mut version = SaltVersion::V3008;
    let mut jobs = 200;
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{argument} needs a value"))?;
        match argument.as_str() {
            "--salt" => version = value.parse()?,
            "--jobs" => jobs = value.parse()?,
            other => bail!("unknown argument {other}: --salt 3006|3007|3008, --jobs N"),
        }
    }
    let mut latency = vec![row(["way", "jobs", "p50", "p99", "p50/own", "p99/own"])];
    let mut ping = vec![row(["way", "median"])];
    let mut idle = vec![row(["process", "RSS", "CPU of a core"])];
    for relay in [Relay::Saltway, Relay::Syndic] {
        measure(version, relay, jobs, &mut latency, &mut ping, &mut idle)?;
    }
    let version = version.to_string();
    print_table(
        &format!(
            "publish to last return on the bus, {} minions, Salt {version}",
            MINIONS.len()
        ),
        &latency,
    );
    print_table(
        &format!("salt '*' test.ping on the MoM, syndic_wait: 1, Salt {version}"),
        &ping,
    );
    print_table(&format!("idle for {} s", IDLE.as_secs()), &idle);
    Ok(())
}

fn measure(
    version: SaltVersion,
    relay: Relay,
    jobs: usize,
    latency: &mut Vec<Vec<String>>,
    ping: &mut Vec<Vec<String>>,
    idle: &mut Vec<Vec<String>>,
) -> Result<()> {
    let name = match relay {
        Relay::Saltway => "Saltway",
        Relay::Syndic => "salt-syndic",
        Relay::Nothing => "nothing",
    };
    eprintln!("[bench] starting a tree with {name}");
    let tree = Tree::builder(version, relay)
        .site("site1", version, &MINIONS)
        .syndic_wait(1)
        .start()?;
    let site = tree.sites.first().context("the tree has a site")?;
    let mut mom = tree.mom.record()?;
    let mut own = site.master.record()?;
    eprintln!("[bench] {jobs} jobs each way");
    let mut through = Samples::default();
    let mut direct = Samples::default();
    for number in 0..WARM_UP + jobs {
        let (above, below) = (job(&mut mom)?, job(&mut own)?);
        if number >= WARM_UP {
            through.push(above);
            direct.push(below);
        }
    }
    for (way, samples) in [("own master", &direct), ("MoM", &through)] {
        let way = format!("{way} (tree with {name})");
        let (p50, p99) = (samples.percentile(50), samples.percentile(99));
        latency.push(vec![
            way,
            samples.len().to_string(),
            seconds(p50),
            seconds(p99),
            ratio(p50, direct.percentile(50)),
            ratio(p99, direct.percentile(99)),
        ]);
    }
    let mut pings = Samples::default();
    for _ in 0..PINGS {
        let output = tree.mom.salt(&["*", "test.ping"])?;
        pings.push(output.wall);
    }
    ping.push(vec![name.to_owned(), seconds(pings.percentile(50))]);
    if relay == Relay::Saltway {
        eprintln!("[bench] watching the idle daemons");
        let bridge = tree.bridge.as_ref().context("the tree has a bridge")?;
        let shim = site.shim.as_ref().context("the site has a shim")?;
        for (name, daemon) in [("bridge", bridge), ("master-shim", shim)] {
            let before = daemon.process()?.usage()?;
            thread::sleep(IDLE);
            let after = daemon.process()?.usage()?;
            let busy = (after.cpu - before.cpu).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
            let mebibytes = after.rss as f64 / f64::from(1 << 20);
            idle.push(vec![
                name.to_owned(),
                format!("{mebibytes:.1} MiB"),
                format!("{busy:.2} %"),
            ]);
        }
    }
    Ok(())
}

/// One job on the three minions: from the call of Salt's client to the last return on that master's bus.
fn job(master: &mut EventRecorder) -> Result<Duration> {
    let published = master.publish("a*", "glob", "test.ping", json!([]))?;
    let jid = published.jid.context("the job has a jid")?;
    let returns = master.wait_for_returns(&jid, MINIONS.len(), Duration::from_secs(30))?;
    let last = returns
        .iter()
        .map(|event| event.at)
        .fold(f64::MIN, f64::max);
    master.clear();
    Ok(Duration::from_secs_f64((last - published.began).max(0.0)))
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

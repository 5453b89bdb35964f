//! How much memory does a daemon take through an outage?
//!
//! - The bridge: Redis is away while 100,000 publications arrive; then it catches up.
//! - The shim: it stands still while 100,000 publications arrive, then it catches up; the MoM answers nothing while 100,000
//!   returns arrive, then it takes them.
//!
//! Prints the highest resident memory of each phase, and fails above the bound that the design sets.
#![expect(
    clippy::print_stdout,
    reason = "the figures go to the terminal, and from there into docs/measurements.md"
)]

use std::{ops::RangeInclusive, time::Duration};

use anyhow::{Result, ensure};
use standin::{Relay, StandinMom, jid, job};
use testkit::{Daemon, RedisServer, Signal, Workspace, wait_until};

/// What each daemon may take.
const RSS_MAX: u64 = 64 << 20;

const PUBLICATIONS: u32 = 100_000;

/// A site answers some of the jobs for itself as well, so that it may have more returns than there are.
type Values = RangeInclusive<f64>;
const ALL: Values = PUBLICATIONS as f64..=f64::INFINITY;
const NONE: Values = 0.0..=0.0;

/// A job of an ordinary `salt '*' state.apply`, encrypted.
const FRAME_BYTES: usize = 500;

const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let highest = bridge()?.max(shim()?);
    ensure!(highest < RSS_MAX, "{} MiB, not below 64 MiB", mib(highest));
    Ok(())
}

/// The most that a bridge takes.
fn bridge() -> Result<u64> {
    let workspace = Workspace::new()?;
    let mom = StandinMom::start(&workspace, "mom")?;
    let mut redis = RedisServer::builder("redis").start(&workspace)?;
    let mut bridge = Daemon::bridge("bridge", mom.config_file())
        .redis(&redis.url())
        .log("warn")
        .start(&workspace)?;
    bridge.ready()?;
    mom.await_subscriber(PATIENCE)?;
    println!("{:<28} {:>6} MiB", "bridge, idle", mib(resident(&bridge)?));

    redis.kill();
    let mut most = 0;
    for sent in 1..=PUBLICATIONS {
        let frame = format!("{sent:08} {}", "x".repeat(FRAME_BYTES));
        mom.send(frame.as_bytes())?;
        if sent % 1_000 == 0 {
            most = most.max(resident(&bridge)?);
        }
    }
    await_count(&bridge, "unappended", ALL, &mut most)?;
    println!("{:<28} {:>6} MiB", "bridge, Redis away", mib(most));
    let highest = most;

    redis.start()?;
    let mut most = 0;
    let began = testkit::now();
    await_count(&bridge, "unappended", NONE, &mut most)?;
    let took = began.elapsed().as_secs_f64();
    println!(
        "{:<28} {:>6} MiB, {took:.1} s",
        "bridge, catching up",
        mib(most)
    );
    Ok(highest.max(most))
}

/// The most that a shim takes, and the bridge beside it.
fn shim() -> Result<u64> {
    let relay = Relay::builder()
        .site("site1", &["a1"])
        .log("warn")
        .bridge_extra("publications_max: 200000")
        .start()?;
    let site = relay.site(0)?;
    println!("{:<28} {:>6} MiB", "shim, idle", mib(resident(&site.shim)?));
    relay.mom.sign_publications(false);
    let process = site.shim.process()?;
    process.signal(Signal::STOP)?;
    for number in 0..PUBLICATIONS {
        relay
            .mom
            .publish(job(&jid(number.into()), "*", "test.ping"))?;
    }
    let mut bridge = 0;
    await_metric(
        &relay.bridge,
        "saltway_publications_total",
        &[("hop", "redis")],
        ALL,
        &mut bridge,
    )?;
    println!("{:<28} {:>6} MiB", "bridge, site away", mib(bridge));
    process.signal(Signal::CONT)?;
    let mut most = 0;
    await_metric(
        &site.shim,
        "saltway_publications_total",
        &[("hop", "lower_master")],
        ALL,
        &mut most,
    )?;
    println!("{:<28} {:>6} MiB", "shim, catching up", mib(most));
    let highest = bridge.max(most);

    relay.mom.set_paused(true);
    for number in 0..PUBLICATIONS {
        let ret = "x".repeat(100).as_str().into();
        let jid = jid(number.into());
        site.lower.bus.fire_return(&jid, "a1", "test.ping", ret)?;
    }
    let mut most = 0;
    let labels = [("class", "return")];
    await_metric(&site.shim, "saltway_spool_entries", &labels, ALL, &mut most)?;
    println!("{:<28} {:>6} MiB", "shim, MoM away", mib(most));
    relay.mom.set_paused(false);
    await_metric(
        &site.shim,
        "saltway_spool_entries",
        &labels,
        NONE,
        &mut most,
    )?;
    println!("{:<28} {:>6} MiB", "shim, MoM back", mib(most));
    Ok(highest.max(most))
}

fn await_count(bridge: &Daemon, queue: &str, count: Values, most: &mut u64) -> Result<()> {
    let labels = [("queue", queue)];
    await_metric(bridge, "saltway_queue_entries", &labels, count, most)
}

/// Waits until a metric has such a value, and notes the most memory on the way.
fn await_metric(
    daemon: &Daemon,
    name: &str,
    labels: &[(&str, &str)],
    expected: Values,
    most: &mut u64,
) -> Result<()> {
    wait_until(name, PATIENCE, || {
        let rss = resident(daemon).map_err(|err| err.to_string())?;
        *most = rss.max(*most);
        let value = daemon.metric(name, labels).ok().flatten().unwrap_or(-1.0);
        if expected.contains(&value) {
            return Ok(());
        }
        Err(format!("{value}"))
    })
}

fn resident(daemon: &Daemon) -> Result<u64> {
    Ok(daemon.process()?.usage()?.rss)
}

const fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

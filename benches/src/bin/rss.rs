//! How much memory does a bridge take while Redis is away and 100,000 publications arrive, and while it catches up?
//!
//! Prints the highest resident memory of each phase, and fails above the bound that the design sets.
#![expect(
    clippy::print_stdout,
    reason = "the figures go to the terminal, and from there into docs/measurements.md"
)]

use std::time::Duration;

use anyhow::{Result, ensure};
use standin::StandinMom;
use testkit::{Daemon, RedisServer, Workspace, wait_until};

/// What each daemon may take.
const RSS_MAX: u64 = 64 << 20;

const PUBLICATIONS: u32 = 100_000;

/// A job of an ordinary `salt '*' state.apply`, encrypted.
const FRAME_BYTES: usize = 500;

const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
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
    await_count(&bridge, "unappended", f64::from(PUBLICATIONS), &mut most)?;
    println!("{:<28} {:>6} MiB", "bridge, Redis away", mib(most));
    let highest = most;

    redis.start()?;
    let mut most = 0;
    let began = testkit::now();
    await_count(&bridge, "unappended", 0.0, &mut most)?;
    let took = began.elapsed().as_secs_f64();
    println!(
        "{:<28} {:>6} MiB, {took:.1} s",
        "bridge, catching up",
        mib(most)
    );
    let highest = highest.max(most);
    ensure!(highest < RSS_MAX, "{} MiB, not below 64 MiB", mib(highest));
    Ok(())
}

fn await_count(bridge: &Daemon, queue: &str, count: f64, most: &mut u64) -> Result<()> {
    wait_until(queue, PATIENCE, || {
        let rss = resident(bridge).map_err(|err| err.to_string())?;
        *most = rss.max(*most);
        let metric = bridge.metric("saltway_queue_entries", &[("queue", queue)]);
        let entries = metric.ok().flatten().unwrap_or(-1.0);
        if (entries - count).abs() < 0.5 {
            return Ok(());
        }
        Err(format!("{entries}"))
    })
}

fn resident(bridge: &Daemon) -> Result<u64> {
    Ok(bridge.process()?.usage()?.rss)
}

const fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

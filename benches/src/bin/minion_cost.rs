//! What does a minion-shim cost on its host: memory, processor time when idle and for each job?
//!
//! The static program beside one real minion of each version, on one real master. Prints the figures and fails above the bounds
//! that the design sets: 4 MiB, a ten-thousandth of one processor when idle, 1 ms for each job.
#![expect(
    clippy::print_stdout,
    reason = "the figures go to the terminal, and from there into docs/measurements.md"
)]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::json;
use testkit::{EventRecorder, Master, Minion, MinionShim, SaltVersion, Workspace, usage};

const RSS_MAX: u64 = 4 << 20;

/// Of one processor.
const IDLE_MAX: f64 = 1e-4;

const JOB_MAX: Duration = Duration::from_millis(1);

const PATIENCE: Duration = Duration::from_secs(120);

/// What one minion-shim takes of its host
#[derive(Parser)]
struct Arguments {
    /// The static program; `make static` builds it
    #[arg(long, default_value = "target/static/saltway-minion-shim")]
    program: std::path::PathBuf,
    /// Seconds without any job
    #[arg(long, default_value_t = 30)]
    idle: u64,
    /// Short jobs, one after the other; and a tenth of them that run for two seconds, together
    #[arg(long, default_value_t = 100)]
    jobs: usize,
}

fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    let program = arguments.program.canonicalize();
    arguments.program = program.context("the static program is not there; run `make static`")?;
    for version in [SaltVersion::V3006, SaltVersion::V3008] {
        measure(version, &arguments).with_context(|| format!("beside a minion of {version}"))?;
    }
    Ok(())
}

fn measure(version: SaltVersion, arguments: &Arguments) -> Result<()> {
    let workspace = Workspace::new()?;
    let mut master = Master::builder(version, "m").start(&workspace)?;
    let mut minion = Minion::builder(version, "web1").start(&[&master])?;
    let config = minion.config_file();
    let mut shim = MinionShim::start(&workspace, "shim", &[config.as_path()])?
        .with_program(&arguments.program)?;
    master.ready()?;
    minion.ready()?;
    shim.joined("web1")?;
    master.wait_for_minions(&["web1"])?;
    let mut events = master.record()?;
    let pid = shim.process()?.pid();

    let before = cpu(pid)?;
    std::thread::sleep(Duration::from_secs(arguments.idle));
    let idle =
        (cpu(pid)? - before).as_secs_f64() / Duration::from_secs(arguments.idle).as_secs_f64();

    let before = cpu(pid)?;
    for _ in 0..arguments.jobs {
        let jid = publish(&mut events, "test.ping", json!([]))?;
        events.wait_for_returns(&jid, 1, PATIENCE)?;
    }
    let short = (cpu(pid)? - before) / u32::try_from(arguments.jobs)?;
    let short_receipts = receipts(&mut events)?.len();

    let before = cpu(pid)?;
    events.clear();
    let long = arguments.jobs.div_ceil(10);
    let jids: Vec<String> = (0..long)
        .map(|_| publish(&mut events, "test.sleep", json!([2])))
        .collect::<Result<_>>()?;
    for jid in &jids {
        events.wait_for_returns(jid, 1, PATIENCE)?;
    }
    let each = (cpu(pid)? - before) / u32::try_from(long)?;
    let long_receipts = receipts(&mut events)?;
    let told = jids
        .iter()
        .filter(|jid| long_receipts.iter().any(|list| list.contains(jid)));
    let told = told.count();
    let rss = usage(pid)?.rss;

    println!("salt {version}");
    println!("  memory                       {:>8} KiB", rss >> 10);
    println!(
        "  idle                         {:>8.4} % of a processor",
        idle * 100.0
    );
    println!(
        "  each short job               {:>8} µs; {short_receipts} receipts for {} jobs",
        short.as_micros(),
        arguments.jobs
    );
    println!(
        "  each job of two seconds      {:>8} µs; {} receipts for {long} jobs, {told} told",
        each.as_micros(),
        long_receipts.len()
    );
    ensure!(rss < RSS_MAX, "{} KiB, not below 4 MiB", rss >> 10);
    ensure!(idle < IDLE_MAX, "{idle} of a processor when idle");
    ensure!(
        short <= JOB_MAX && each <= JOB_MAX,
        "{short:?} and {each:?} for a job"
    );
    ensure!(told == long, "{told} of {long} jobs have a receipt");
    Ok(())
}

fn publish(events: &mut EventRecorder, fun: &str, arg: serde_json::Value) -> Result<String> {
    let job = events.publish("web1", "glob", fun, arg)?;
    job.jid
        .with_context(|| format!("no jid: {:?}", job.refused))
}

/// The jobs of each receipt so far.
fn receipts(events: &mut EventRecorder) -> Result<Vec<Vec<String>>> {
    let receipts = events
        .events()?
        .iter()
        .filter(|event| event.tag.ends_with("/receipt"));
    let jids = receipts.map(|event| {
        let jids = event.data["data"]["jids"].as_array();
        jids.into_iter()
            .flatten()
            .filter_map(|jid| jid.as_str().map(str::to_owned))
            .collect()
    });
    Ok(jids.collect())
}

/// Processor time of the one thread, to the nanosecond.
fn cpu(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/schedstat");
    let text = std::fs::read_to_string(Path::new(&path))
        .with_context(|| format!("{path} is not there"))?;
    let nanos = text
        .split_whitespace()
        .next()
        .context("an empty schedstat")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

//! How many publications a second come out at two sites, and how many returns a second go up?
//!
//! A stand-in MoM pushes its publications as fast as the bridge takes them; two shims publish them on two stand-in lower
//! masters, each exactly once and in order, or the program fails. Beside it redis-benchmark runs the bridge's own append
//! step, with a frame of the same size, on the same Redis. Then the sites' buses fire returns, until the MoM has them all.

use std::{
    env,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use benches::print_table;
use standin::{Relay, jid, job};
use testkit::{Daemon, RedisServer};

const MINIONS: [&str; 3] = ["a1", "a2", "a3"];

/// The bridge's own step, as the benchmark's command.
const APPEND: &str = concat!(
    include_str!("../../../crates/redis-link/src/lua/call.lua"),
    include_str!("../../../crates/redis-link/src/lua/head.lua"),
    include_str!("../../../crates/redis-link/src/lua/append.lua"),
);

/// The epoch that the benchmark appends to, and the run of the server that it was begun on.
const EPOCH: &str = "1795000000000";
const RUN: &str =
    "0123456789abcdef0123456789abcdef01234567:0123456789abcdef0123456789abcdef01234567";

/// Nothing here takes longer unless it hangs.
const WITHIN: Duration = Duration::from_secs(180);

fn main() -> Result<()> {
    let jobs = match env::args().nth(1) {
        Some(count) => count
            .parse()
            .context("the argument is the number of publications")?,
        None => 10_000,
    };
    let relay = Relay::builder()
        .site("site1", &MINIONS)
        .site("site2", &MINIONS)
        .start()?;
    eprintln!("[bench] signing {jobs} publications");
    let jids: Vec<String> = (1..=jobs).map(jid).collect();
    let frames: Vec<_> = jids
        .iter()
        .map(|jid| relay.mom.frame(job(jid, "*", "test.ping")))
        .collect::<Result<_>>()?;

    let cpu_before = cpu(&relay)?;
    let began = clock();
    for frame in &frames {
        relay.mom.send(frame)?;
    }
    for site in &relay.sites {
        site.lower.await_jobs(jids.len(), WITHIN)?;
    }
    let down = began.elapsed();
    let cpu_down = cpu(&relay)?;
    for site in &relay.sites {
        ensure!(
            site.lower.jids() == jids,
            "a site got the publications in another order, or some twice"
        );
    }

    let frame_bytes = frames.first().map_or(0, |frame| frame.len());
    let redis = redis_benchmark(&relay.redis, jobs, frame_bytes)?;

    relay.mom.forget();
    let began = clock();
    for site in &relay.sites {
        for jid in &jids {
            site.lower
                .bus
                .fire_return(jid, "a1", "test.ping", true.into())?;
        }
    }
    relay
        .mom
        .await_returns(jids.len() * relay.sites.len(), WITHIN)?;
    let up = began.elapsed();

    let per_second = |count: u64, took: Duration| count as f64 / took.as_secs_f64();
    let published = per_second(jobs, down);
    let row =
        |what: &str, rate: f64, note: String| vec![what.to_owned(), format!("{rate:.0}/s"), note];
    let sites = relay.sites.len();
    print_table(
        &format!("{jobs} publications of {frame_bytes} bytes, {sites} sites, in order, each once"),
        &[
            row(
                "MoM socket to both lower masters",
                published,
                format!("{:.0} % of redis-benchmark", published / redis * 100.0),
            ),
            row(
                "redis-benchmark, same step, no subscriber",
                redis,
                String::new(),
            ),
            row(
                "returns, both sites' buses to the MoM",
                per_second(jobs * sites as u64, up),
                String::new(),
            ),
        ],
    );
    let each = |(before, after): (&(String, f64), &(String, f64))| {
        let micros = (after.1 - before.1) / jobs as f64 * 1e6;
        vec![before.0.clone(), format!("{micros:.0} us")]
    };
    let rows: Vec<_> = cpu_before.iter().zip(&cpu_down).map(each).collect();
    print_table("processor time for each publication on its way down", &rows);
    Ok(())
}

/// Appends `jobs` frames of the same size with redis-benchmark: one connection, 256 in a pipeline, as the bridge.
fn redis_benchmark(redis: &RedisServer, jobs: u64, frame_bytes: usize) -> Result<f64> {
    let loaded = redis.cli(&["SCRIPT", "LOAD", APPEND])?;
    let digest = loaded.stdout.trim();
    redis.cli(&[
        "HSET",
        "bench:head",
        "epoch",
        EPOCH,
        "number",
        "0",
        "run",
        RUN,
    ])?;
    let frame = "x".repeat(frame_bytes);
    let socket = redis.socket();
    let output = Command::new("redis-benchmark")
        .args([
            "-h",
            &socket.ip().to_string(),
            "-p",
            &socket.port().to_string(),
        ])
        .args([
            "-n",
            &jobs.to_string(),
            "-c",
            "1",
            "-P",
            "256",
            "-r",
            "1000000000",
            "--csv",
        ])
        .args([
            "EVALSHA",
            digest,
            "3",
            "bench:head",
            "bench:stream",
            "bench:seen:__rand_int__",
        ])
        .args([RUN, EPOCH, "0", &frame, EPOCH, "bench/1795000000000"])
        .args(["100000", "900000", "bench:channel", "bench", "262144"])
        .output()
        .context("failed to run redis-benchmark, which comes with redis-tools")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text
        .lines()
        .last()
        .and_then(|line| line.rsplit("\",\"").nth(6)?.parse().ok());
    match rate {
        Some(rate) if output.status.success() => Ok(rate),
        _ => bail!(
            "redis-benchmark printed no rate: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

/// Processor seconds so far of the bridge, of Redis and of each shim.
fn cpu(relay: &Relay) -> Result<Vec<(String, f64)>> {
    let daemon = |daemon: &Daemon| {
        let seconds = daemon.metric("process_cpu_seconds_total", &[])?;
        seconds.context("no process_cpu_seconds_total")
    };
    let redis = relay.redis.info("cpu")?;
    let redis = redis
        .lines()
        .filter(|line| line.starts_with("used_cpu_sys:") || line.starts_with("used_cpu_user:"))
        .filter_map(|line| line.split_once(':')?.1.trim().parse::<f64>().ok())
        .sum();
    let mut all = vec![
        ("bridge".to_owned(), daemon(&relay.bridge)?),
        ("redis-server".to_owned(), redis),
    ];
    for site in &relay.sites {
        all.push(("master-shim".to_owned(), daemon(&site.shim)?));
    }
    Ok(all)
}

#[expect(
    clippy::disallowed_methods,
    reason = "no runtime here whose time could be paused"
)]
fn clock() -> Instant {
    Instant::now()
}

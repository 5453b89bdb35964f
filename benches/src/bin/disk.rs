//! How fast the stores on disk are: one idle append, batches, single records, job records; what a thread costs in memory.
//!
//! Run it on the disk that counts: `store DIRECTORY` (default: the system's temporary directory).
#![expect(
    clippy::print_stdout,
    reason = "the figures go to the terminal, and from there into docs/measurements.md"
)]

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use store::{Begin, Class, Done, Jobs, JobsConfig, NewRecord, PartKey, Spool, SpoolConfig};
use tokio::time::Instant;

const BODY: &[u8] = &[7; 200];

fn main() -> anyhow::Result<()> {
    let directory = match std::env::args_os().nth(1) {
        Some(directory) => tempfile::tempdir_in(directory),
        None => tempfile::tempdir(),
    };
    let directory = directory.context("no directory to write in")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(measure(directory.path()))
}

async fn measure(directory: &Path) -> anyhow::Result<()> {
    let (spool, _) = Spool::open(&directory.join("spool"), SpoolConfig::default())?;
    idle_appends(&spool).await?;
    singles(&spool).await?;
    drop(spool);
    let (spool, _) = Spool::open(&directory.join("batches"), SpoolConfig::default())?;
    batches(&spool).await?;
    let (jobs, _) = Jobs::open(&directory.join("jobs"), JobsConfig::default())?;
    job_records(&jobs).await?;
    println!("resident memory: {} MiB", resident_mib()?);
    drop((spool, jobs));
    let began = Instant::now();
    let (_, opened) = Spool::open(&directory.join("batches"), SpoolConfig::default())?;
    let took = began.elapsed().as_millis();
    println!("open a spool of {} records: {took} ms", opened.records);
    Ok(())
}

fn records(count: usize) -> Vec<NewRecord> {
    let record = NewRecord {
        class: Class::Return,
        body: Bytes::from_static(BODY),
    };
    vec![record; count]
}

async fn idle_appends(spool: &Spool) -> anyhow::Result<()> {
    let mut took = Vec::new();
    for _ in 0..500 {
        // The thread sleeps by then, and a core has to wake up.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let began = Instant::now();
        spool.append(0, records(1), 1).await?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    let (half, most) = (took[250].as_micros(), took[495].as_micros());
    println!("one append, idle: {half} us (median), {most} us (99 %)");
    Ok(())
}

async fn singles(spool: &Spool) -> anyhow::Result<()> {
    const COUNT: u32 = 5_000;
    let began = Instant::now();
    for _ in 0..COUNT {
        spool.append(0, records(1), 1).await?;
    }
    let rate = f64::from(COUNT) / began.elapsed().as_secs_f64();
    println!("one append after the other: {rate:.0} records/s");
    Ok(())
}

async fn batches(spool: &Spool) -> anyhow::Result<()> {
    const BATCHES: u32 = 800;
    let began = Instant::now();
    let mut ids = Vec::new();
    for _ in 0..BATCHES {
        ids.push(spool.append(0, records(500), 1).await?.ids);
    }
    let rate = f64::from(BATCHES * 500) / began.elapsed().as_secs_f64();
    println!("batches of 500, 200 bytes each: {rate:.0} records/s");
    let began = Instant::now();
    let mut after = 0;
    let mut count = 0_u32;
    loop {
        let read = spool.read(0, after, 500, 1 << 20).await?;
        let Some(last) = read.last() else { break };
        after = last.id;
        count += u32::try_from(read.len())?;
    }
    let rate = f64::from(count) / began.elapsed().as_secs_f64();
    println!("read in batches of 500: {rate:.0} records/s");
    let began = Instant::now();
    let half = ids.len() / 2;
    for ids in ids.drain(..half) {
        spool.remove(ids).await?;
    }
    let rate = f64::from(BATCHES / 2 * 500) / began.elapsed().as_secs_f64();
    println!("removed in batches of 500: {rate:.0} records/s");
    Ok(())
}

async fn job_records(jobs: &Jobs) -> anyhow::Result<()> {
    const BATCHES: u64 = 4_000;
    let began = Instant::now();
    for batch in 0..BATCHES {
        let numbers = batch * 64..batch * 64 + 64;
        let key = |number: u64| PartKey {
            jid: format!("{number:020}"),
            part: [1; 16],
        };
        let begin = |number: u64| Begin {
            key: key(number),
            frame: u128::from(number).to_le_bytes(),
            upstream: 0,
            entry: (1, number),
            at_ms: 1,
        };
        jobs.begin(numbers.clone().map(begin).collect()).await?;
        let done = |number: u64| Done {
            key: key(number),
            fun: "test.ping".to_owned(),
            minions: vec!["minion-0001".to_owned(); 10],
            answers_for_site: true,
        };
        jobs.done(numbers.map(done).collect()).await?;
    }
    let took = began.elapsed().as_secs_f64();
    let rate = f64::from(u32::try_from(BATCHES * 64)?) / took;
    println!("jobs begun and done in batches of 64: {rate:.0} a second");
    println!("{:?}", jobs.state());
    Ok(())
}

fn resident_mib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no VmRSS")?.parse::<u64>()? / 1024)
}

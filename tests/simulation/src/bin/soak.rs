//! `make soak`: many seeds in parallel, one seed with its whole trace, or the table of mutations.
#![expect(clippy::print_stdout, reason = "a command for people")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use simulation::{Mutation, Stats, run};

/// Failing seeds printed before the rest is only counted.
const PRINTED_MAX: u64 = 20;

fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty());
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

fn mutation() -> Option<Mutation> {
    let name = std::env::var("MUTATION").ok()?;
    Mutation::ALL
        .into_iter()
        .find(|mutation| format!("{mutation:?}") == name)
}

fn main() -> ExitCode {
    if std::env::var("SEED").is_ok_and(|seed| !seed.is_empty()) {
        return one(number("SEED", 0));
    }
    if std::env::args().any(|argument| argument == "--mutations") {
        return mutations(number("SEEDS", 3_000));
    }
    many(number("FROM", 0), number("SEEDS", 100_000))
}

/// Replays one seed and prints all of it.
fn one(seed: u64) -> ExitCode {
    let outcome = run(seed, mutation(), true);
    for line in &outcome.lines {
        println!("{line}");
    }
    println!("hash {:016x}, {:?}", outcome.hash, outcome.stats);
    if outcome.violations.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("{}", outcome.report());
    ExitCode::FAILURE
}

fn many(from: u64, seeds: u64) -> ExitCode {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (next, failed) = (AtomicU64::new(from), AtomicU64::new(0));
    let totals: Vec<Stats> = thread::scope(|scope| {
        let work = || {
            let mut total = Stats::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= from + seeds {
                    return total;
                }
                let outcome = run(seed, mutation(), false);
                total.add(&outcome.stats);
                if !outcome.violations.is_empty()
                    && failed.fetch_add(1, Ordering::Relaxed) < PRINTED_MAX
                {
                    println!("{}", outcome.report());
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a run does not panic"))
            .collect()
    });
    let mut total = Stats::default();
    totals.iter().for_each(|stats| total.add(stats));
    let failed = failed.into_inner();
    println!("{seeds} seeds from {from}: {failed} failed; {total:?}");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Which invariant catches which mutation, and after how many seeds.
fn mutations(seeds: u64) -> ExitCode {
    let missed = AtomicBool::new(false);
    for mutation in Mutation::ALL {
        let caught = (0..seeds).find_map(|seed| {
            let outcome = run(seed, Some(mutation), false);
            let (invariant, _) = outcome.violations.first()?;
            Some((seed + 1, *invariant))
        });
        match caught {
            Some((seeds, invariant)) => println!("| {mutation:?} | {invariant:?} | {seeds} |"),
            None => {
                missed.store(true, Ordering::Relaxed);
                println!("| {mutation:?} | NOT CAUGHT | {seeds} |");
            }
        }
    }
    if missed.into_inner() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

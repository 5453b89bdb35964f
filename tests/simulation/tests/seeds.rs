//! Ten thousand worlds in which every promise is kept, and replays that are exact.

use simulation::{Stats, run};

/// Seeds of one test: four of them fill two cores for less than half a minute.
const SEEDS: u64 = 2_500;

#[track_caller]
#[expect(clippy::print_stdout, reason = "what the worlds were like")]
fn every_promise_is_kept(part: u64) {
    let mut total = Stats::default();
    let mut broken = Vec::new();
    for seed in part * SEEDS..(part + 1) * SEEDS {
        let outcome = run(seed, None, false);
        total.add(&outcome.stats);
        if !outcome.violations.is_empty() {
            broken.push(outcome.report());
        }
    }
    println!("{total:?}");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    // A world in which nothing happens proves nothing.
    for (what, count, least) in [
        ("delivered", total.delivered, 50_000),
        ("returns", total.returns, 50_000),
        ("expired", total.expired, 100),
        ("repeated", total.repeated, 100),
        ("gaps", total.gaps, 100),
    ] {
        assert!(count >= least, "{what}: only {count}");
    }
    // Ages are guessed where the clock that counts was never heard: rarely wrong.
    assert!(total.misjudged_excused <= 10, "{}", total.misjudged_excused);
}

#[test]
fn every_promise_is_kept_in_the_first_quarter() {
    every_promise_is_kept(0);
}

#[test]
fn every_promise_is_kept_in_the_second_quarter() {
    every_promise_is_kept(1);
}

#[test]
fn every_promise_is_kept_in_the_third_quarter() {
    every_promise_is_kept(2);
}

#[test]
fn every_promise_is_kept_in_the_last_quarter() {
    every_promise_is_kept(3);
}

#[test]
fn same_seed_gives_the_same_run_to_the_last_step() {
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let (one, two) = (run(seed, None, false), run(seed, None, true));
        assert_eq!(one.hash, two.hash, "seed {seed}");
        assert_eq!(one.stats, two.stats, "seed {seed}");
        assert!(two.lines.len() > 100, "seed {seed} did nothing");
        hashes.insert(one.hash);
    }
    assert_eq!(hashes.len(), 100, "different seeds are different runs");
}

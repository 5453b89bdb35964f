//! Every guarantee is broken once, and the simulation sees it: by the invariant that stands for it.

use simulation::{Invariant, Mutation, run};

/// Which invariant has to see the mutation, within so many seeds (about thrice what it took when written).
#[track_caller]
#[expect(
    clippy::print_stdout,
    reason = "the table of docs/decisions/0012-simulation.md"
)]
fn caught(mutation: Mutation, by: Invariant, within: u64) {
    let seen = (0..within).find(|seed| {
        let outcome = run(*seed, Some(mutation), false);
        outcome
            .violations
            .iter()
            .any(|(invariant, _)| *invariant == by)
    });
    match seen {
        Some(seed) => println!("| `{mutation:?}` | `{by:?}` | {} |", seed + 1),
        None => panic!("{mutation:?}: not seen as {by:?} within {within} seeds"),
    }
}

#[test]
fn what_a_bridge_must_not_forget() {
    caught(Mutation::JournalInMemory, Invariant::Undelivered, 500);
    caught(Mutation::NoAppendAgain, Invariant::Undelivered, 100);
    caught(Mutation::NoJournalBound, Invariant::OutOfBounds, 100);
}

#[test]
fn what_redis_may_forget() {
    caught(Mutation::NoEpoch, Invariant::Undelivered, 100);
    caught(Mutation::RunIdIgnored, Invariant::Undelivered, 100);
    caught(Mutation::OldMarkersCount, Invariant::Undelivered, 1_500);
    caught(Mutation::NoMarker, Invariant::AppendedTwice, 20);
}

#[test]
fn what_must_not_run_twice() {
    caught(Mutation::NoDedupe, Invariant::PublishedTwice, 50);
    caught(
        Mutation::BeginAfterPublish,
        Invariant::PublishedTwice,
        1_500,
    );
    caught(Mutation::NoJobCacheQuestion, Invariant::PublishedTwice, 50);
    caught(Mutation::NoDedupe, Invariant::RunTwice, 500);
}

#[test]
fn what_must_not_be_passed_over() {
    caught(Mutation::CursorAhead, Invariant::CursorAhead, 20);
    caught(Mutation::BeatsIgnored, Invariant::Undelivered, 500);
}

#[test]
fn who_may_work() {
    caught(Mutation::LeaseIgnored, Invariant::TwoActive, 20);
    caught(Mutation::LeaseWithoutWait, Invariant::TwoActive, 200);
    caught(Mutation::NoFencing, Invariant::PositionBack, 5_000);
    caught(Mutation::PositionIgnored, Invariant::TakeoverBehind, 200);
}

#[test]
fn what_is_too_old() {
    caught(Mutation::NoClockCorrection, Invariant::FalseExpiry, 50);
    caught(Mutation::NoClockCorrection, Invariant::LateRun, 500);
    caught(Mutation::SteppingClock, Invariant::FalseExpiry, 200);
    caught(Mutation::NoExpiry, Invariant::LateRun, 200);
}

#[test]
fn whose_age_must_be_looked_at_twice() {
    caught(Mutation::AgeJudgedOnce, Invariant::LateRun, 5_000);
}

#[test]
fn what_must_not_leave_the_spool() {
    caught(Mutation::RemovedBeforeReply, Invariant::LeftSpoolEarly, 20);
    caught(Mutation::ReturnedBeforeSpooled, Invariant::ReturnLost, 500);
    caught(Mutation::NoFetch, Invariant::ReturnLost, 50);
    caught(Mutation::NoResend, Invariant::NoProgress, 50);
    caught(Mutation::ShedsReturnsFirst, Invariant::ShedWrongClass, 100);
}

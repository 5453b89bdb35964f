//! The short half of `make faults`: nothing is lost, nothing runs twice or late, and all is well again soon.

use std::{fs, time::Duration};

use real_tests::{
    faults::{Case, Kind, Outcome, Stand, run_case},
    stream::{self, publish_number},
};
use testkit::{Relay, SaltVersion, Tree};

/// From the end of a fault until all that has waited is published on the lower masters: the relay's own part, and what a master that was killed
/// needs to have its minions back.
const DELIVERED_WITHIN: f64 = 3.0;
const MINIONS_BACK_WITHIN: f64 = 9.0;

/// The lease of a killed shim has to run out: 5 s are promised, 1 s is for this machine.
const TAKEN_OVER_WITHIN: f64 = 3.0;

/// The same until all daemons are ready and a new job is answered by everybody. That is 3 s where nothing else runs. Here it has in it what
/// Salt's minions take to run what has waited, all at once, on two processors that another tree uses as well: 14.5 s were seen where the
/// relay had delivered everything after 1.2 s.
const HEALTHY_WITHIN: f64 = 25.0;

/// A minion whose master was killed in the middle of its return tries again after a time-out of its own, up to 10 s each.
const HEALTHY_AFTER_TIME_OUTS: f64 = 45.0;

fn assert_nothing_lost(cases: &[Case]) {
    let mut stand: Option<Stand> = None;
    for case in cases {
        // A kind of stand of its own needs a new one; all others go on with what the fault before has left.
        let mut ready = match stand.take().filter(|stand| stand.kind() == case.kind()) {
            Some(ready) => ready,
            None => Stand::start(case.kind(), Relay::Saltway, SaltVersion::V3008, |_| {})
                .expect("everything starts"),
        };
        let outcome = run_case(&mut ready, *case).expect("the fault can be made");
        eprintln!("{outcome:?}");
        assert_whole(*case, &outcome);
        stand = Some(ready);
    }
}

fn assert_whole(case: Case, outcome: &Outcome) {
    assert!(outcome.jobs >= 10, "{case}: {} jobs", outcome.jobs);
    // What Salt's own minion drops because its master has just died, no relay has ever seen.
    let given_up = match case {
        Case::KillLowerMaster => outcome.given_up(),
        _ => 0,
    };
    let missing = outcome.lost.len() - given_up;
    assert_eq!(missing, 0, "{case}: lost {:?}", outcome.lost);
    assert_eq!(outcome.run, outcome.wanted, "{case}: run");
    let recorded = outcome.recorded + given_up;
    assert_eq!(recorded, outcome.wanted, "{case}: recorded");
    assert_eq!(outcome.twice, 0, "{case}: run twice");
    assert_eq!(outcome.late, 0, "{case}: run late");
    if let Some(control) = &outcome.control {
        assert_eq!(control.recorded, control.wanted, "{case}: control site");
    }
    let more = match case {
        Case::KillLowerMaster => MINIONS_BACK_WITHIN,
        Case::TwoShims => TAKEN_OVER_WITHIN,
        _ => 0.0,
    };
    assert!(
        outcome.delivered <= DELIVERED_WITHIN + more,
        "{case}: delivered after {:.1} s",
        outcome.delivered
    );
    assert!(
        outcome.misjudged.is_empty(),
        "{case}: the ledger is wrong about {:?}",
        outcome.misjudged
    );
    let well_within = match case {
        Case::KillLowerMaster => HEALTHY_AFTER_TIME_OUTS,
        _ => HEALTHY_WITHIN,
    };
    assert!(
        outcome.healthy.is_some_and(|after| after <= well_within),
        "{case}: healthy after {:?}",
        outcome.healthy
    );
}

#[test]
fn real_faults_of_a_link_lose_nothing_and_double_nothing() {
    assert_nothing_lost(&[Case::Silence10, Case::HalfOpen, Case::CutDown]);
}

#[test]
fn real_killed_processes_lose_nothing_and_double_nothing() {
    assert_nothing_lost(&[
        Case::KillShim,
        Case::KillBridge,
        Case::KillRedis,
        Case::RedisEmpty,
        Case::KillLowerMaster,
    ]);
}

#[test]
fn real_shim_takes_over_from_the_active_one_of_its_site() {
    assert_eq!(Case::TwoShims.kind(), Kind::TwoShims);
    assert_nothing_lost(&[Case::TwoShims]);
}

#[test]
fn real_job_that_expires_while_the_link_is_silent_never_runs() {
    let mut stand = Stand::start(
        Case::Expiry.kind(),
        Relay::Saltway,
        SaltVersion::V3008,
        |_| {},
    )
    .expect("everything starts");
    let outcome = run_case(&mut stand, Case::Expiry).expect("the fault can be made");
    eprintln!("{outcome:?}");
    assert!(outcome.expired >= 10, "{} expired", outcome.expired);
    assert_whole(Case::Expiry, &outcome);
}

const WITHIN: Duration = Duration::from_secs(60);

/// Salt's minion drops a jid that it has run, but only as long as it lives; then the site has to know.
#[test]
fn real_minion_restarted_between_two_deliveries_of_a_jid_runs_it_once() {
    let mut tree = Tree::with_saltway(SaltVersion::V3008)
        .site("site1", SaltVersion::V3006, &["a1"])
        .start()
        .expect("the tree starts");
    let mut above = tree.mom.record().expect("the recorder connects");
    let file = tree.workspace().path().join("runs");
    let first = publish_number(&mut above, "*", &file, 1).expect("the MoM publishes");
    stream::wait_for_runs(&file, 1, 1, &["a1"], WITHIN).expect("it runs");
    stream::wait_for_recorded(&tree.mom, &[first], &["a1"], WITHIN).expect("it is recorded");

    // As if the shim had died between the publish and its record: neither it nor Redis remembers the job or the place in the stream.
    let shim = tree.sites[0].shim.as_mut().expect("the site has a shim");
    shim.kill();
    for entry in fs::read_dir(shim.state_dir()).expect("a directory") {
        let entry = entry.expect("readable");
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("jobs") || name.starts_with("cursor") {
            fs::remove_file(entry.path()).expect("a plain file");
        }
    }
    let redis = tree.redis.as_ref().expect("the tree has Redis");
    let position = redis
        .cli(&["DEL", "saltway:{main}:position:site1"])
        .expect("redis-cli runs");
    assert_eq!(position.stdout.trim(), "1", "the position was there");
    let site = &mut tree.sites[0];
    // A killed one leaves a pid file behind, which may stop the next.
    site.minions[0].terminate().expect("the minion ends");
    site.minions[0].start().expect("the minion starts");
    site.minions[0].ready().expect("the minion gets ready");
    site.master
        .wait_for_minions(&["a1"])
        .expect("the minion answers");
    tree.start_shim(0).expect("the shim starts");

    // The second job comes behind the first one's second delivery.
    publish_number(&mut above, "*", &file, 2).expect("the MoM publishes");
    stream::wait_for_runs(&file, 2, 2, &["a1"], WITHIN).expect("it runs");
    let runs = stream::runs(&file).expect("readable");
    assert_eq!(runs.get(&(1, "a1".to_owned())), Some(&1), "{runs:?}");
    let shim = tree.sites[0].shim.as_ref().expect("the site has a shim");
    let skipped = shim
        .metric("saltway_publications_duplicate_total", &[])
        .expect("/metrics");
    assert!(
        skipped.is_some_and(|skipped| skipped >= 1.0),
        "it was delivered a second time: {skipped:?}"
    );
}

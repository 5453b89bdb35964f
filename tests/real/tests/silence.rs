//! No silence: who did not get a job is named by the `salt` command, with a site cut off and without; a long job is waited for.

use std::time::Duration;

use real_tests::ledger::{site_states, wait_for_site};
use testkit::{Direction, Master, Output, SaltVersion, Tree};

/// A whole site is missed within the lease's time to live and a little.
const NOTICED_WITHIN: Duration = Duration::from_secs(15);

/// `salt` from start to end: 2 s on a quiet machine (`benches/src/bin/silence.rs`), more where another tree runs beside. Well below the
/// 16 s of Salt's time-outs, which it would run into if anybody were expected in vain.
const ANSWERED_WITHIN: Duration = Duration::from_secs(12);

const CUT_OFF: [&str; 3] = ["b1", "b2", "b3"];
const LEFT: [&str; 3] = ["a1", "a2", "a3"];

fn tree(mom: SaltVersion, sites: SaltVersion) -> Tree {
    let tree = Tree::with_saltway(mom)
        .site("site1", sites, &LEFT)
        .site("site2", sites, &CUT_OFF)
        .proxied(true)
        .start()
        .expect("the tree starts");
    for site in ["site1", "site2"] {
        wait_for_site(&tree, site, "up", 3, NOTICED_WITHIN).expect("the bridge knows the site");
    }
    tree
}

fn salt(mom: &Master, args: &[&str]) -> Output {
    mom.salt(args).expect("salt runs")
}

fn is_named(output: &Output, id: &str) -> bool {
    output.stdout.lines().any(|line| line == format!("{id}:"))
}

fn assert_whole(output: &Output) {
    assert_eq!(output.code, 0, "{output:?}");
    for id in LEFT.iter().chain(&CUT_OFF) {
        assert!(is_named(output, id), "{id} is there: {output:?}");
    }
    assert!(!output.stdout.contains("did not return"), "{output:?}");
    assert!(output.wall < ANSWERED_WITHIN, "{output:?}");
}

/// Everybody who is there has answered; each of the others is named, and the exit code says so.
fn assert_names_all_missing(mom: &Master, args: &[&str]) {
    let output = salt(mom, args);
    assert_ne!(output.code, 0, "{output:?}");
    for id in CUT_OFF {
        let at = output.stdout.find(&format!("{id}:\n"));
        let said = at.and_then(|at| output.stdout.get(at..)?.lines().nth(1));
        assert!(
            said.is_some_and(|said| said.contains("did not return")),
            "{id} is named as missing: {output:?}"
        );
    }
    for id in LEFT {
        assert!(is_named(&output, id), "{id} is there: {output:?}");
    }
    // Told as missing, they are not waited for.
    assert!(output.wall < ANSWERED_WITHIN, "{output:?}");
}

fn assert_cut_off_site_is_told(mom: SaltVersion, sites: SaltVersion) {
    let tree = tree(mom, sites);
    for _ in 0..3 {
        assert_whole(&salt(&tree.mom, &["*", "test.ping"]));
    }
    let link = tree.sites[1].redis_link.as_ref().expect("a proxied tree");
    link.silence(Direction::Both);
    wait_for_site(&tree, "site2", "down", 3, NOTICED_WITHIN).expect("the bridge misses the site");

    let all = "a1,a2,a3,b1,b2,b3";
    assert_names_all_missing(&tree.mom, &["*", "test.ping"]);
    assert_names_all_missing(&tree.mom, &["-L", all, "test.ping"]);
    assert_names_all_missing(&tree.mom, &["-E", "[ab].", "test.ping"]);
    assert_names_all_missing(&tree.mom, &["-C", "a* or b*", "test.ping"]);
    let by_grain = salt(&tree.mom, &["-G", "kernel:Linux", "test.ping"]);
    assert_ne!(by_grain.code, 0, "{by_grain:?}");
    assert!(is_named(&by_grain, "site2"), "{by_grain:?}");
    // Nobody who is meant is there: no site is named for it.
    let spared = salt(&tree.mom, &["a*", "test.ping"]);
    assert_eq!(spared.code, 0, "{spared:?}");
    assert!(!spared.stdout.contains("site2"), "{spared:?}");

    link.heal().expect("the address is still ours");
    wait_for_site(&tree, "site2", "up", 3, NOTICED_WITHIN).expect("the bridge sees it again");
    assert_whole(&salt(&tree.mom, &["*", "test.ping"]));
    assert_eq!(
        site_states(&tree).expect("the bridge answers"),
        [
            ("site1".to_owned(), "up".to_owned()),
            ("site2".to_owned(), "up".to_owned())
        ]
    );
}

#[test]
fn real_3008_names_each_minion_of_a_site_that_is_cut_off() {
    assert_cut_off_site_is_told(SaltVersion::V3008, SaltVersion::V3008);
}

#[test]
fn real_3006_names_each_minion_of_a_site_that_is_cut_off() {
    assert_cut_off_site_is_told(SaltVersion::V3006, SaltVersion::V3006);
}

/// Longer than `timeout` (5 s) and `gather_job_timeout` (10 s) together.
fn assert_long_job_is_waited_for(mom: SaltVersion, sites: SaltVersion) {
    let tree = tree(mom, sites);
    let output = tree
        .mom
        .command("salt", &["*", "test.sleep", "40"], Duration::from_secs(90))
        .expect("salt runs");
    assert_eq!(output.code, 0, "{output:?}");
    assert!(!output.stdout.contains("did not return"), "{output:?}");
    for id in LEFT.iter().chain(&CUT_OFF) {
        assert!(is_named(&output, id), "{id} is there: {output:?}");
    }
    assert!(output.wall > Duration::from_secs(40), "{output:?}");
}

#[test]
fn real_3008_waits_for_a_job_longer_than_its_time_outs() {
    assert_long_job_is_waited_for(SaltVersion::V3008, SaltVersion::V3008);
}

#[test]
fn real_3006_waits_for_a_job_longer_than_its_time_outs() {
    assert_long_job_is_waited_for(SaltVersion::V3006, SaltVersion::V3006);
}

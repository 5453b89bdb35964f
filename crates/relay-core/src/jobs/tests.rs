use super::*;

fn jobs() -> SiteJobs {
    SiteJobs::new(SiteJobsConfig::default())
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn answer(expected: usize, failed: usize, missing: &[&str]) -> Action {
    Action::Answer(Answer {
        jid: "j".to_owned(),
        fun: "test.ping".to_owned(),
        expected,
        returned: expected - missing.len(),
        failed,
        missing: names(missing),
        missing_count: missing.len(),
        retcode: u8::from(!missing.is_empty()),
    })
}

fn probe(minions: &[&str]) -> Action {
    Action::Probe {
        jid: "j".to_owned(),
        minions: names(minions),
    }
}

fn still_running(query: &str, running: usize) -> Action {
    Action::StillRunning {
        jid: "j".to_owned(),
        query: query.to_owned(),
        running,
    }
}

fn not_running(query: &str) -> Action {
    Action::NotRunning {
        jid: "j".to_owned(),
        query: query.to_owned(),
    }
}

#[test]
fn the_site_answers_once_when_all_have_returned() {
    let mut jobs = jobs();
    assert_eq!(
        jobs.published("j", "test.ping", names(&["a", "b"]), true),
        []
    );
    assert_eq!(jobs.returned("j", "a", true), []);
    assert_eq!(jobs.returned("j", "a", true), []);
    assert_eq!(jobs.returned("j", "stranger", true), []);
    assert_eq!(jobs.returned("j", "b", false), [answer(2, 1, &[])]);
    assert_eq!(jobs.returned("j", "b", false), []);
    assert_eq!(
        jobs.published("j", "test.ping", names(&["a", "b"]), true),
        []
    );
    assert_eq!(jobs.unanswered(), 0);
}

#[test]
fn a_job_without_minions_is_answered_at_once() {
    assert_eq!(
        jobs().published("j", "test.ping", [], true),
        [answer(0, 0, &[])]
    );
}

#[test]
fn returns_that_overtake_the_publication_count() {
    let mut jobs = jobs();
    assert_eq!(jobs.returned("j", "a", true), []);
    assert_eq!(jobs.returned("j", "b", false), []);
    assert_eq!(
        jobs.published("j", "test.ping", names(&["a", "b"]), true),
        [answer(2, 1, &[])]
    );
}

#[test]
fn a_job_that_does_not_mean_the_site_is_not_answered() {
    let mut jobs = jobs();
    assert_eq!(jobs.published("j", "test.ping", names(&["a"]), false), []);
    assert_eq!(jobs.returned("j", "a", true), []);
    assert_eq!(jobs.asked("j", "q"), [not_running("q")]);
}

#[test]
fn the_part_of_a_batch_that_means_the_site_is_answered() {
    let mut jobs = jobs();
    assert_eq!(jobs.published("j", "test.ping", names(&["a"]), false), []);
    assert_eq!(jobs.returned("j", "a", true), []);
    // A return that overtakes the publication of its part.
    assert_eq!(jobs.returned("j", "b", true), []);
    assert_eq!(
        jobs.published("j", "test.ping", names(&["b"]), true),
        [answer(1, 0, &[])]
    );
}

#[test]
fn the_site_runs_a_job_as_long_as_one_minion_does() {
    let mut jobs = jobs();
    assert_eq!(
        jobs.published("j", "test.ping", names(&["a", "b", "c"]), true),
        []
    );
    assert_eq!(jobs.returned("j", "a", true), []);
    assert_eq!(jobs.asked("j", "q1"), [probe(&["b", "c"])]);
    assert_eq!(jobs.asked("j", "q2"), []);
    assert_eq!(
        jobs.probed("j", ["b", "a"], 0),
        [still_running("q1", 1), still_running("q2", 1)]
    );
    assert_eq!(jobs.asked("j", "q3"), [probe(&["b", "c"])]);
    assert_eq!(jobs.probed("j", [], 1_000), []);
    assert_eq!(jobs.next_tick_ms(), Some(2_000));
    assert_eq!(jobs.tick(1_999), []);
    assert_eq!(
        jobs.tick(2_000),
        [answer(3, 0, &["b", "c"]), not_running("q3")]
    );
    assert_eq!(jobs.tick(9_000), []);
    assert_eq!(jobs.returned("j", "b", true), []);
    assert_eq!(jobs.next_tick_ms(), None);
}

#[test]
fn a_return_on_its_way_while_the_probe_finds_nobody_still_counts() {
    let mut jobs = jobs();
    assert_eq!(jobs.published("j", "test.ping", names(&["a"]), true), []);
    assert_eq!(jobs.asked("j", "q"), [probe(&["a"])]);
    assert_eq!(jobs.probed("j", [], 0), []);
    assert_eq!(
        jobs.returned("j", "a", true),
        [answer(1, 0, &[]), not_running("q")]
    );
    assert_eq!(jobs.tick(10_000), []);
}

#[test]
fn unknown_jobs_are_not_running() {
    assert_eq!(jobs().asked("j", "q"), [not_running("q")]);
    assert_eq!(jobs().probed("j", ["a"], 0), []);
}

#[test]
fn the_oldest_unanswered_job_is_shed_and_said_so() {
    let mut jobs = SiteJobs::new(SiteJobsConfig {
        jobs_max: 2,
        ..SiteJobsConfig::default()
    });
    assert_eq!(jobs.published("1", "f", names(&["a"]), true), []);
    assert_eq!(jobs.published("2", "f", names(&["a"]), true), []);
    assert_eq!(
        jobs.published("3", "f", names(&["a"]), true),
        [Action::Shed {
            jid: "1".to_owned()
        }]
    );
    assert_eq!(jobs.unanswered(), 2);
}

#[test]
fn names_and_early_returns_are_bounded() {
    let config = SiteJobsConfig {
        minions_max: 3,
        early_jobs_max: 2,
        early_minions_max: 3,
        missing_named_max: 1,
        ..SiteJobsConfig::default()
    };
    let mut jobs = SiteJobs::new(config);
    assert_eq!(jobs.published("1", "f", names(&["a", "b"]), true), []);
    let shed = [Action::Shed {
        jid: "1".to_owned(),
    }];
    assert_eq!(jobs.published("2", "f", names(&["a", "b"]), true), shed);
    for jid in 0..1000 {
        for minion in ["a", "b"] {
            assert_eq!(jobs.returned(&format!("early-{jid}"), minion, true), []);
        }
    }
    assert!(jobs.early.jobs.len() <= 2 && jobs.early.minions <= 3);
    assert_eq!(jobs.early.jobs.len(), jobs.early.order.len());
    assert_eq!(jobs.asked("2", "q").len(), 1);
    assert_eq!(jobs.probed("2", [], 0), []);
    match jobs.tick(5_000).as_slice() {
        [Action::Answer(answer), _] => {
            assert_eq!((answer.missing.len(), answer.missing_count), (1, 2))
        }
        other => panic!("{other:?}"),
    }
}

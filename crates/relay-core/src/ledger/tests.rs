#![expect(
    clippy::let_underscore_must_use,
    reason = "most events are told for what the ledger says later"
)]

use super::*;
use crate::{
    names::{MOM, Up},
    roster::{Announced, Announcement, Digest, Kind},
};

mod convergence;
mod disk;
mod receipts;
mod sizes;

/// When the jobs of these tests are published.
const T: u64 = 1_000_000;
const TTL: u64 = 300_000;
/// The end of a job that is published at `T`, with the default grace.
const DEADLINE: u64 = T + TTL + 30_000;

fn roster(number: u64, ids: &[&str]) -> Announcement {
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    Announcement {
        run: "r".to_owned(),
        number,
        parts: 1,
        part: 0,
        kind: Kind::Full,
        digest: Digest::of_sorted(sorted),
        ids: ids.iter().map(|id| ((*id).to_owned(), Up::Yes)).collect(),
        removed: Vec::new(),
        is_complete: true,
    }
}

fn announce(ledger: &mut Ledger, site: &str, number: u64, ids: &[&str]) -> Vec<Action> {
    let (announced, actions) = ledger.announce(site, &roster(number, ids));
    assert!(
        !matches!(announced, Announced::Stale { .. }),
        "{announced:?}"
    );
    actions
}

/// Two sites that live, s1 with a1 a2 a3 and s2 with b1 b2 b3.
fn ledger() -> Ledger {
    let mut ledger = Ledger::new(LedgerConfig::default());
    announce(&mut ledger, "s1", 1, &["a1", "a2", "a3"]);
    announce(&mut ledger, "s2", 1, &["b1", "b2", "b3"]);
    for site in ["s1", "s2"] {
        assert_eq!(ledger.site_up(site, 1).len(), 1);
    }
    assert_eq!(ledger.tick(T), []);
    ledger
}

fn job(jid: &str, tgt_type: &str, tgt: &str) -> Published {
    Published {
        jid: jid.to_owned(),
        fun: "test.ping".to_owned(),
        asks_about: None,
        user: "root".to_owned(),
        tgt: Target::Text(tgt.to_owned()),
        tgt_type: tgt_type.to_owned(),
        at_ms: T,
        ttl_ms: TTL,
        mom_minions: Vec::new(),
        is_past: false,
    }
}

fn publish(ledger: &mut Ledger, tgt_type: &str, tgt: &str) -> Vec<Action> {
    ledger.published(&job("j", tgt_type, tgt))
}

fn ack(ledger: &mut Ledger, site: &str, minions: &str) {
    let actions = ledger.accepted("j", site, minions.split_whitespace(), [], T + 100);
    assert!(
        actions
            .iter()
            .all(|action| matches!(action, Action::Load { .. })),
        "{actions:?}"
    );
}

fn ret<'a>(minion: &'a str) -> Returned<'a> {
    Returned {
        jid: "j",
        minion,
        fun: "test.ping",
        is_failed: false,
        is_empty: false,
        at_ms: T + 500,
    }
}

fn returned(ledger: &mut Ledger, minions: &str) {
    for minion in minions.split_whitespace() {
        let actions = ledger.returned(&ret(minion));
        assert!(
            actions
                .iter()
                .all(|action| matches!(action, Action::Load { .. })),
            "{actions:?}"
        );
    }
}

/// Every minion of the job, as `site/id step verdict`, sorted.
fn told(ledger: &Ledger) -> Vec<String> {
    let view = ledger.job("j").expect("the job is known");
    let mut told: Vec<String> = view
        .minions()
        .map(|minion| {
            let (step, verdict) = (minion.step.as_str(), minion.verdict.as_str());
            format!("{}/{} {step} {verdict}", minion.site, minion.id)
        })
        .collect();
    told.sort_unstable();
    told
}

fn check(ledger: &Ledger, expected: &[&str]) {
    assert_eq!(told(ledger), expected);
}

fn state(ledger: &Ledger) -> State {
    ledger.job("j").expect("the job is known").state()
}

/// How the job ended, by the actions: state, expected, returned, missing minions, sites that were asked.
fn ended(actions: &[Action]) -> Vec<String> {
    let of = |action: &Action| match action {
        Action::Ended {
            state,
            summary,
            missing,
            asked,
        } => {
            assert_eq!(summary.state, *state);
            let Figures {
                expected, returned, ..
            } = summary.figures;
            let (missing, asked) = (missing.join(","), asked.join(","));
            format!(
                "{} {expected} {returned} [{missing}] [{asked}]",
                state.as_str()
            )
        }
        other => panic!("{other:?}"),
    };
    actions.iter().map(of).collect()
}

fn expect_action(site: &str, minions: &[&str], missing: &[&str]) -> Action {
    let own = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    Action::Expect {
        jid: "j".to_owned(),
        site: site.to_owned(),
        minions: own(minions),
        missing: own(missing),
    }
}

fn load() -> Action {
    Action::Load {
        jid: "j".to_owned(),
    }
}

#[test]
fn a_job_is_complete_when_all_have_returned() {
    let mut ledger = ledger();
    let expected = [
        load(),
        expect_action("s1", &["a1", "a2", "a3"], &[]),
        expect_action("s2", &["b1", "b2", "b3"], &[]),
    ];
    assert_eq!(publish(&mut ledger, "glob", "*"), expected);
    ack(&mut ledger, "s1", "a1 a2 a3");
    ack(&mut ledger, "s2", "b1 b2 b3");
    let _ = ledger.received("j", ["a1", "b2"], T + 200);
    returned(&mut ledger, "a1 a2 a3 b1 b2");
    assert_eq!(ledger.tick(T + 60_000), []);
    let figures = ledger.job("j").unwrap().summary().figures;
    let wanted = Figures {
        expected: 6,
        accepted: 6,
        received: 5,
        returned: 5,
        failed: 0,
        missing: 1,
        no_receipts: 1,
    };
    assert_eq!(figures, wanted);
    returned(&mut ledger, "b3 b3");
    assert_eq!(ended(&ledger.tick(T + 60_500)), [] as [&str; 0]);
    assert_eq!(ended(&ledger.tick(T + 61_000)), ["complete 6 6 [] []"]);
    assert_eq!(ledger.tick(DEADLINE + 1), []);
    let summary = ledger.job("j").unwrap().summary();
    assert_eq!((summary.took_ms, summary.user.as_str()), (500, "root"));
    assert_eq!(summary.sites.len(), 2);
    assert_eq!(summary.sites[1].count(Verdict::Returned), 3);
}

#[test]
fn a_job_that_means_nobody_is_complete_soon() {
    let mut ledger = ledger();
    assert_eq!(publish(&mut ledger, "glob", "nobody"), [load()]);
    assert_eq!(ended(&ledger.tick(T + 1_000)), ["complete 0 0 [] []"]);
}

#[test]
fn a_site_that_is_cut_off_is_named_with_its_minions_at_once() {
    for (tgt_type, tgt) in [
        ("glob", "*"),
        ("list", "a1,a2,a3,b1,b2,b3"),
        ("pcre", "[ab][123]"),
        ("compound", "a* or b*"),
    ] {
        let mut ledger = ledger();
        assert_eq!(
            ledger
                .site_down("s2", T - 12_000, "no sign of life for 12 s")
                .len(),
            1
        );
        let actions = publish(&mut ledger, tgt_type, tgt);
        assert_eq!(actions[1], expect_action("s1", &["a1", "a2", "a3"], &[]));
        assert_eq!(actions[2], expect_action("s2", &[], &["b1", "b2", "b3"]));
        match actions.get(3) {
            Some(Action::SiteMissing(missing)) if tgt == "*" => assert_eq!(
                missing.text(),
                "s2 cannot be asked: no sign of life for 12 s; expected 3, missing 3: b1, b2, b3"
            ),
            other => assert!(other.is_none() && tgt != "*", "{tgt}: {other:?}"),
        }
        check(
            &ledger,
            &[
                "s1/a1 expected waiting",
                "s1/a2 expected waiting",
                "s1/a3 expected waiting",
                "s2/b1 expected unreachable",
                "s2/b2 expected unreachable",
                "s2/b3 expected unreachable",
            ],
        );
    }
}

#[test]
fn a_target_that_only_sites_can_answer_names_those_that_cannot_be_asked() {
    let mut ledger = ledger();
    let _ = ledger.site_down("s2", T - 5_000, "gone");
    let actions = publish(&mut ledger, "grain", "os:Debian");
    let [Action::Load { .. }, Action::SiteMissing(missing)] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert_eq!(
        missing.text(),
        "s2 cannot be asked: gone; only the site knows whom the job means"
    );
    ack(&mut ledger, "s1", "a1");
    returned(&mut ledger, "a1");
    assert_eq!(ledger.tick(T + 10_000), []);
    assert_eq!(ended(&ledger.tick(DEADLINE)), ["incomplete 1 1 [] [s2]"]);
    // It is back, and has taken the job from the stream.
    let _ = ledger.site_up("s2", DEADLINE);
    ack(&mut ledger, "s2", "b1");
    check(
        &ledger,
        &["s1/a1 returned returned", "s2/b1 accepted silent"],
    );
    returned(&mut ledger, "b1");
    assert_eq!(
        ended(&ledger.tick(DEADLINE + 2_000)),
        ["complete 2 2 [] []"]
    );
}

#[test]
fn a_site_that_is_lost_before_it_has_answered_is_named_then() {
    let mut ledger = ledger();
    let actions = publish(&mut ledger, "grain", "os:Debian");
    assert_eq!(actions, [load()]);
    ack(&mut ledger, "s1", "a1");
    let actions = ledger.site_down("s1", T + 3_000, "gone");
    assert!(
        matches!(actions.as_slice(), [Action::SiteDown { .. }]),
        "{actions:?}"
    );
    let actions = ledger.site_down("s2", T + 3_000, "gone");
    assert!(
        matches!(
            actions.as_slice(),
            [Action::SiteDown { minions: 3, .. }, Action::SiteMissing(_)]
        ),
        "{actions:?}"
    );
    assert_eq!(ledger.site_down("s2", T + 4_000, "gone"), []);
}

#[test]
fn a_site_that_answers_that_nobody_is_meant_has_answered() {
    let mut ledger = ledger();
    let _ = publish(&mut ledger, "grain", "os:Debian");
    for _ in 0..2 {
        let _ = ledger.site_said("j", "s1", Said::NoMatch, "", T + 100);
    }
    assert_eq!(ledger.tick(T + 5_000), []);
    let _ = ledger.site_said("j", "s2", Said::NoMatch, "", T + 5_000);
    assert_eq!(ended(&ledger.tick(T + 6_000)), ["complete 0 0 [] []"]);
}

/// A job on a1, what is done to it, and what is said of its minions when it is over.
fn check_end(what: impl FnOnce(&mut Ledger), expected: &str) {
    let mut ledger = ledger();
    let _ = publish(&mut ledger, "list", "a1");
    what(&mut ledger);
    let _ = ledger.tick(DEADLINE - 1);
    let _ = ledger.tick(DEADLINE);
    assert_eq!(told(&ledger).join("; "), expected);
}

#[test]
fn verdicts_say_what_is_known_and_no_more() {
    let said = |said| move |ledger: &mut Ledger| drop(ledger.site_said("j", "s1", said, "why", T));
    check_end(|_| (), "s1/a1 expected not_received");
    check_end(|ledger| ack(ledger, "s1", "a1"), "s1/a1 accepted silent");
    check_end(
        |ledger| drop(ledger.received("j", ["a1"], T)),
        "s1/a1 received running",
    );
    check_end(|ledger| returned(ledger, "a1"), "s1/a1 returned returned");
    check_end(
        |ledger| {
            drop(ledger.returned(&Returned {
                is_failed: true,
                ..ret("a1")
            }))
        },
        "s1/a1 failed failed",
    );
    check_end(said(Said::Expired), "s1/a1 expected expired");
    check_end(said(Said::Refused), "s1/a1 expected not_received");
    check_end(
        |ledger| ack(ledger, "s1", "a2"),
        "s1/a1 unmatched unmatched; s1/a2 accepted silent",
    );
    check_end(
        |ledger| drop(ledger.accepted("j", "s1", ["a2"], ["a1"], T)),
        "s1/a1 unmatched unmatched; s1/a2 accepted silent",
    );
    check_end(said(Said::NoMatch), "s1/a1 unmatched unmatched");
    check_end(
        |ledger| drop(ledger.site_down("s1", T, "gone")),
        "s1/a1 expected unreachable",
    );
    check_end(
        |ledger| {
            ack(ledger, "s1", "a1");
            drop(ledger.site_down("s1", T + 1_000, "gone"));
        },
        "s1/a1 accepted unreachable",
    );
    // What the site does afterwards does not change how the job ended.
    check_end(
        |ledger| {
            let _ = ledger.site_down("s1", T, "gone");
            let _ = ledger.tick(DEADLINE);
            let _ = ledger.site_up("s1", DEADLINE + 1);
        },
        "s1/a1 expected unreachable",
    );
    // The ledger was away: that it heard no ack tells nothing.
    check_end(Ledger::missed, "s1/a1 expected unknown");
    check_end(
        |ledger| {
            ledger.missed();
            ledger.caught_up("j");
        },
        "s1/a1 expected not_received",
    );
    check_end(
        |ledger| {
            ledger.missed();
            ack(ledger, "s1", "a2");
        },
        "s1/a1 expected unknown; s1/a2 accepted silent",
    );
}

#[test]
fn a_site_that_nobody_has_looked_at_is_not_judged() {
    let mut ledger = Ledger::new(LedgerConfig::default());
    announce(&mut ledger, "s1", 1, &["a1"]);
    let _ = publish(&mut ledger, "glob", "*");
    check(&ledger, &["s1/a1 expected waiting"]);
    let _ = ledger.tick(DEADLINE);
    check(&ledger, &["s1/a1 expected unknown"]);
}

#[test]
fn a_job_is_expired_when_all_that_are_missing_are() {
    let expire =
        |ledger: &mut Ledger, site| drop(ledger.site_said("j", site, Said::Expired, "old", T));
    let mut ledger = ledger();
    let _ = publish(&mut ledger, "glob", "*");
    ack(&mut ledger, "s1", "a1 a2 a3");
    returned(&mut ledger, "a1 a2 a3");
    expire(&mut ledger, "s2");
    assert_eq!(ended(&ledger.tick(DEADLINE)), ["expired 6 3 [b1,b2,b3] []"]);

    let mut ledger = self::ledger();
    let _ = publish(&mut ledger, "glob", "*");
    ack(&mut ledger, "s1", "a1 a2 a3");
    returned(&mut ledger, "a1 a2");
    expire(&mut ledger, "s2");
    assert_eq!(
        ended(&ledger.tick(DEADLINE)),
        ["incomplete 6 2 [a3,b1,b2,b3] []"]
    );
    returned(&mut ledger, "a3");
    assert_eq!(
        ended(&ledger.tick(DEADLINE + 2_000)),
        ["expired 6 3 [b1,b2,b3] []"]
    );

    // A site that was asked, and has let it expire: nobody is missing by name, and yet it is not complete.
    let mut ledger = self::ledger();
    let _ = publish(&mut ledger, "grain", "os:x");
    expire(&mut ledger, "s1");
    expire(&mut ledger, "s2");
    assert_eq!(ended(&ledger.tick(DEADLINE)), ["expired 0 0 [] [s1,s2]"]);
}

#[test]
fn late_returns_count_and_make_a_job_complete() {
    let mut ledger = ledger();
    let _ = publish(&mut ledger, "glob", "a*");
    ack(&mut ledger, "s1", "a1 a2 a3");
    returned(&mut ledger, "a1 a2");
    assert_eq!(ended(&ledger.tick(DEADLINE)), ["incomplete 3 2 [a3] []"]);
    assert_eq!(ledger.tick(DEADLINE + 60_000), []);
    returned(&mut ledger, "a3");
    assert_eq!(
        ended(&ledger.tick(DEADLINE + 61_000)),
        ["complete 3 3 [] []"]
    );
}

#[test]
fn a_site_s_own_answer_is_no_minion_s() {
    let mut ledger = ledger();
    let mut published = job("j", "glob", "*");
    published.mom_minions = ["s1", "s2", "own"].map(str::to_owned).to_vec();
    let _ = ledger.published(&published);
    returned(&mut ledger, "a1 a2 a3 b1 b2 b3 s1 s2");
    assert_eq!(ledger.tick(T + 10_000), []);
    assert_eq!(ledger.job("j").unwrap().minion("s1"), None);
    let own = ledger.job("j").unwrap().minion("own").unwrap();
    assert_eq!((own.site, own.verdict), (MOM, Verdict::Waiting));
    returned(&mut ledger, "own");
    assert_eq!(ended(&ledger.tick(T + 12_000)), ["complete 7 7 [] []"]);
}

#[test]
fn a_site_that_also_runs_a_minion_under_its_id_is_one() {
    let mut ledger = ledger();
    announce(&mut ledger, "s1", 2, &["a1", "s1"]);
    let _ = publish(&mut ledger, "glob", "s1");
    check(&ledger, &["s1/s1 expected waiting"]);
    returned(&mut ledger, "s1");
    assert_eq!(ended(&ledger.tick(T + 10_000)), ["complete 1 1 [] []"]);
}

#[test]
fn what_was_taken_for_a_minion_turns_out_to_be_a_site() {
    let mut ledger = Ledger::new(LedgerConfig::default());
    let mut published = job("j", "glob", "*");
    published.mom_minions = ["s9".to_owned()].to_vec();
    let _ = ledger.published(&published);
    returned(&mut ledger, "s9 s8");
    check(
        &ledger,
        &["/s8 returned returned", "mom/s9 returned returned"],
    );
    ack(&mut ledger, "s9", "x1");
    let actions = announce(&mut ledger, "s8", 1, &["y1"]);
    assert_eq!(actions, [expect_action("s8", &["y1"], &[])]);
    check(
        &ledger,
        &["s8/y1 expected waiting", "s9/x1 accepted waiting"],
    );
}

#[test]
fn minions_of_the_top_master_itself_were_given_the_job_by_it() {
    let mut ledger = ledger();
    let mut published = job("j", "glob", "*1");
    // The placeholder key of a minion below a site is no minion of the top master's.
    published.mom_minions = ["own1", "a1"].map(str::to_owned).to_vec();
    let _ = ledger.published(&published);
    let _ = ledger.tick(DEADLINE);
    check(
        &ledger,
        &[
            "mom/own1 accepted silent",
            "s1/a1 expected not_received",
            "s2/b1 expected not_received",
        ],
    );
}

#[test]
fn a_job_that_is_first_known_by_an_ack_or_a_return_is_kept_with_what_is_known() {
    let mut ledger = ledger();
    returned(&mut ledger, "b1 stranger");
    ack(&mut ledger, "s1", "a1");
    check(
        &ledger,
        &[
            "/stranger returned returned",
            "s1/a1 accepted waiting",
            "s2/b1 returned returned",
        ],
    );
    let summary = ledger.job("j").unwrap().summary();
    assert!(!summary.is_published && summary.fun == "test.ping" && summary.user.is_empty());
    // Nobody is told of its end: whom it meant is not known.
    assert_eq!(ledger.tick(DEADLINE + 60_000), []);
    assert_eq!(state(&ledger), State::Incomplete);
    returned(&mut ledger, "a1");
    assert_eq!(ledger.tick(DEADLINE + 70_000), []);
    assert_eq!(state(&ledger), State::Complete);
}

#[test]
fn the_publication_may_come_after_acks_and_returns() {
    let mut ledger = ledger();
    ack(&mut ledger, "s1", "a1 a2 a3");
    returned(&mut ledger, "a1 a2 a3 b1 b2");
    let actions = publish(&mut ledger, "glob", "*");
    assert_eq!(actions, [expect_action("s2", &["b3"], &[])]);
    returned(&mut ledger, "b3");
    assert_eq!(ended(&ledger.tick(T + 10_000)), ["complete 6 6 [] []"]);
}

#[test]
fn what_comes_twice_counts_once() {
    let mut ledger = ledger();
    for _ in 0..3 {
        let _ = publish(&mut ledger, "glob", "*");
        ack(&mut ledger, "s1", "a1 a2 a3");
        returned(&mut ledger, "a1");
        let _ = ledger.received("j", ["a1", "a2"], T);
    }
    let figures = ledger.job("j").unwrap().summary().figures;
    assert_eq!(
        (
            figures.expected,
            figures.accepted,
            figures.received,
            figures.returned
        ),
        (6, 3, 2, 1)
    );
    let counts = ledger.deliveries();
    let s1 = Deliveries {
        expected: 3,
        accepted: 3,
        received: 2,
        returned: 1,
    };
    let s2 = Deliveries {
        expected: 3,
        ..Deliveries::default()
    };
    assert_eq!(counts, [("s1", s1), ("s2", s2)]);
    assert_eq!(publish(&mut ledger, "glob", "*"), []);
}

#[test]
fn the_parts_of_a_batch_are_one_job() {
    let mut ledger = ledger();
    let mut at_ms = T;
    let mut ended_at = Vec::new();
    for ids in ["a1,b1", "a2,b2", "a3,b3"] {
        let part = Published {
            at_ms,
            ..job("j", "list", ids)
        };
        let told = ledger.published(&part);
        assert_eq!(
            told.iter()
                .filter(|action| matches!(action, Action::Expect { .. }))
                .count(),
            2
        );
        ended_at.extend(ledger.tick(at_ms));
        for (site, id) in ["s1", "s2"].iter().zip(ids.split(',')) {
            let _ = ledger.accepted("j", site, [id], [], at_ms + 100);
            returned(&mut ledger, id);
        }
        // The next part comes half a second after the last return.
        at_ms += 500;
        ended_at.extend(ledger.tick(at_ms));
    }
    assert_eq!(ended_at, []);
    assert_eq!(ended(&ledger.tick(at_ms + 1_000)), ["complete 6 6 [] []"]);
    let summary = ledger.job("j").unwrap().summary();
    assert_eq!(
        (summary.tgt.as_str(), summary.at_ms),
        ("a1,b1,a2,b2,a3,b3", T)
    );
}

#[test]
fn a_part_that_comes_long_after_opens_the_job_again() {
    let mut ledger = ledger();
    let _ = publish(&mut ledger, "list", "a1");
    returned(&mut ledger, "a1");
    assert_eq!(ended(&ledger.tick(T + 5_000)), ["complete 1 1 [] []"]);
    let part = Published {
        at_ms: T + 20_000,
        ..job("j", "list", "a2")
    };
    assert_eq!(ledger.published(&part), [expect_action("s1", &["a2"], &[])]);
    assert_eq!(state(&ledger), State::Open);
    returned(&mut ledger, "a2");
    assert_eq!(ended(&ledger.tick(T + 30_000)), ["complete 2 2 [] []"]);
}

#[test]
fn an_ack_of_one_part_does_not_make_another_s_minions_unmatched() {
    let mut ledger = ledger();
    let _ = publish(&mut ledger, "list", "a1");
    let _ = publish(&mut ledger, "list", "a2");
    // Sent twice, as a request is whose reply was lost.
    ack(&mut ledger, "s1", "a1");
    ack(&mut ledger, "s1", "a1");
    assert_eq!(ledger.tick(T + 60_000), []);
    check(
        &ledger,
        &["s1/a1 accepted waiting", "s1/a2 expected waiting"],
    );
    ack(&mut ledger, "s1", "a2");
    check(
        &ledger,
        &["s1/a1 accepted waiting", "s1/a2 accepted waiting"],
    );
}

#[test]
fn what_a_lower_master_does_not_have_is_unmatched_and_not_waited_for() {
    let mut ledger = ledger();
    let _ = publish(&mut ledger, "glob", "a*");
    ack(&mut ledger, "s1", "a1 a2");
    returned(&mut ledger, "a1 a2");
    let _ = ledger.tick(T + 200);
    check(
        &ledger,
        &[
            "s1/a1 returned returned",
            "s1/a2 returned returned",
            "s1/a3 expected waiting",
        ],
    );
    assert_eq!(ended(&ledger.tick(T + 1_100)), [] as [&str; 0]);
    assert_eq!(ended(&ledger.tick(T + 2_100)), ["complete 2 2 [] []"]);
    // A second ack of the same job names it after all.
    ack(&mut ledger, "s1", "a3");
    assert_eq!(state(&ledger), State::Complete);
    let _ = ledger.tick(T + 2_200);
    assert_eq!(state(&ledger), State::Open);
    check(
        &ledger,
        &[
            "s1/a1 returned returned",
            "s1/a2 returned returned",
            "s1/a3 accepted waiting",
        ],
    );
}

#[test]
fn a_minion_on_two_sites_counts_where_it_is_named() {
    let two_sites = || {
        let mut ledger = ledger();
        announce(&mut ledger, "s2", 2, &["b1", "both"]);
        announce(&mut ledger, "s1", 2, &["a1", "both"]);
        ledger
    };
    let mut ledger = two_sites();
    let actions = publish(&mut ledger, "list", "both");
    assert_eq!(actions[1..], [expect_action("s1", &["both"], &[])]);
    ack(&mut ledger, "s1", "a1");
    ack(&mut ledger, "s2", "both");
    check(
        &ledger,
        &["s1/a1 accepted waiting", "s2/both accepted waiting"],
    );
    // Named by both: the first by name, in whatever order.
    ack(&mut ledger, "s1", "both");
    check(
        &ledger,
        &["s1/a1 accepted waiting", "s1/both accepted waiting"],
    );
    ack(&mut ledger, "s2", "both");
    returned(&mut ledger, "both a1");
    check(
        &ledger,
        &["s1/a1 returned returned", "s1/both returned returned"],
    );

    // A return that overtakes the ack goes with it.
    let mut ledger = two_sites();
    let _ = publish(&mut ledger, "list", "both");
    returned(&mut ledger, "both");
    check(&ledger, &["s1/both returned returned"]);
    ack(&mut ledger, "s2", "both");
    check(&ledger, &["s2/both returned returned"]);

    // Its first site is cut off, the other lives: it is waited for.
    let mut ledger = two_sites();
    let _ = ledger.site_down("s1", T, "gone");
    let actions = publish(&mut ledger, "list", "a1,both");
    assert_eq!(
        actions[1..],
        [
            expect_action("s1", &["both"], &[]),
            expect_action("s1", &[], &["a1"])
        ]
    );
    // One of its sites has not named it; the other has said nothing.
    let mut ledger = two_sites();
    let _ = publish(&mut ledger, "list", "both");
    ack(&mut ledger, "s1", "a1");
    let _ = ledger.tick(T + 10_000);
    check(
        &ledger,
        &["s1/a1 accepted waiting", "s1/both expected waiting"],
    );
}

#[test]
fn a_site_that_turns_up_takes_the_open_jobs() {
    let mut ledger = ledger();
    let _ = publish(&mut ledger, "glob", "*1");
    let actions = announce(&mut ledger, "s3", 1, &["c1", "c2"]);
    assert_eq!(actions, [expect_action("s3", &["c1"], &[])]);
    // A minion that its roster names later came too late for the job.
    assert_eq!(announce(&mut ledger, "s3", 2, &["c1", "c2", "c11"]), []);
    let _ = ledger.tick(T + TTL);
    assert_eq!(announce(&mut ledger, "s4", 1, &["d1"]), []);
    let view = ledger.job("j").unwrap();
    assert!(
        view.minion("c1").is_some() && view.minion("c11").is_none() && view.minion("d1").is_none()
    );
}

#[test]
fn a_roster_that_changes_while_a_job_is_open_changes_nothing_of_it() {
    let mut ledger = ledger();
    let _ = publish(&mut ledger, "glob", "a*");
    announce(&mut ledger, "s1", 2, &["a1", "a4"]);
    returned(&mut ledger, "a1 a2");
    check(
        &ledger,
        &[
            "s1/a1 returned returned",
            "s1/a2 returned returned",
            "s1/a3 expected waiting",
        ],
    );
}

#[test]
fn find_jobs_are_followed_and_are_no_jobs() {
    let mut ledger = ledger();
    let _ = publish(&mut ledger, "glob", "a*");
    ack(&mut ledger, "s1", "a1 a2 a3");
    let query = Published {
        fun: FIND_JOB.to_owned(),
        asks_about: Some("j".to_owned()),
        ..job("q", "list", "a1,a2,a3,s1")
    };
    assert_eq!(ledger.published(&query), []);
    assert_eq!(ledger.accepted("q", "s1", ["a1", "a2", "a3"], [], T), []);
    let answer = |ledger: &mut Ledger, minion, is_empty| {
        let returned = Returned {
            jid: "q",
            fun: FIND_JOB,
            is_empty,
            ..ret(minion)
        };
        assert_eq!(ledger.returned(&returned), []);
    };
    answer(&mut ledger, "a1", false);
    answer(&mut ledger, "a2", true);
    answer(&mut ledger, "s1", false);
    check(
        &ledger,
        &[
            "s1/a1 running running",
            "s1/a2 accepted waiting",
            "s1/a3 accepted waiting",
        ],
    );
    assert!(ledger.job("q").is_none());
    answer(&mut ledger, "a1", true);
    returned(&mut ledger, "a3");
    answer(&mut ledger, "a3", false);
    check(
        &ledger,
        &[
            "s1/a1 received waiting",
            "s1/a2 accepted waiting",
            "s1/a3 returned returned",
        ],
    );
    // One whose publication passed unheard.
    let unheard = Returned {
        jid: "q2",
        fun: FIND_JOB,
        ..ret("a1")
    };
    assert_eq!(ledger.accepted("q2", "s1", ["a1"], [], T).len(), 1);
    assert_eq!(ledger.returned(&unheard), []);
    assert!(ledger.job("q2").is_none());
    assert_eq!(ledger.state().jobs, 1);
}

#[test]
fn a_job_from_the_job_cache_is_told_to_nobody_but_counts() {
    let mut ledger = ledger();
    let _ = ledger.site_down("s2", T, "gone");
    let past = Published {
        is_past: true,
        ..job("j", "glob", "*")
    };
    assert_eq!(ledger.published(&past), [load()]);
    returned(&mut ledger, "a1 a2 a3");
    assert_eq!(
        ended(&ledger.tick(DEADLINE)),
        ["incomplete 6 3 [b1,b2,b3] []"]
    );
}

#[test]
fn a_ledger_that_has_caught_up_judges_what_it_left_open() {
    let mut ledger = ledger();
    let _ = publish(&mut ledger, "glob", "a*");
    ledger.missed();
    let _ = ledger.tick(T + 20_000);
    ack(&mut ledger, "s1", "a1 a2");
    returned(&mut ledger, "a1 a2");
    assert_eq!(ledger.tick(T + 40_000), []);
    ledger.caught_up("j");
    let _ = ledger.tick(T + 40_001);
    assert_eq!(
        ended(&ledger.tick(T + 42_000)),
        ["complete 2 2 [] []"],
        "a3 is unmatched"
    );
}

#[test]
fn long_lists_of_minions_come_in_several_actions() {
    let config = LedgerConfig {
        expected_named_max: 2,
        missing_named_max: 1,
        ..LedgerConfig::default()
    };
    let mut ledger = Ledger::new(config);
    announce(&mut ledger, "s1", 1, &["a1", "a2", "a3"]);
    let actions = publish(&mut ledger, "glob", "*");
    assert_eq!(
        actions[1..],
        [
            expect_action("s1", &["a1", "a2"], &[]),
            expect_action("s1", &["a3"], &[])
        ]
    );
    assert_eq!(ended(&ledger.tick(DEADLINE)), ["incomplete 3 0 [a1] []"]);
    let _ = ledger.site_down("s1", T, "gone");
    let actions = ledger.published(&job("k", "glob", "*"));
    let Some(Action::SiteMissing(missing)) = actions.last() else {
        panic!("{actions:?}");
    };
    assert_eq!(
        missing.text(),
        "s1 cannot be asked: gone; expected 3, missing 3: a1, ..."
    );
}

#[test]
fn the_oldest_job_makes_room() {
    let config = LedgerConfig {
        jobs_max: 3,
        ..LedgerConfig::default()
    };
    let mut ledger = Ledger::new(config);
    announce(&mut ledger, "s1", 1, &["a1"]);
    for jid in ["1", "2", "3"] {
        let _ = ledger.published(&job(jid, "glob", "*"));
        ledger.loaded(jid, None).unwrap();
    }
    assert_eq!(ledger.tick(T), []);
    let _ = ledger.published(&job("4", "glob", "*"));
    ledger.loaded("4", None).unwrap();
    let actions = ledger.tick(T + 1);
    assert!(
        matches!(actions.as_slice(), [Action::Shed { jid }, Action::Ended { state: State::Incomplete, .. }] if jid == "1"),
        "{actions:?}"
    );
    // It leaves once it is on disk.
    assert_eq!(ledger.state().jobs, 4);
    assert!(ledger.take_unsaved(usize::MAX).is_some());
    assert_eq!(ledger.tick(T + 2), []);
    assert_eq!((ledger.state().jobs, ledger.state().open), (3, 3));
    assert!(ledger.job("1").is_none());
    let jids: Vec<&str> = ledger.jobs(Some("4")).map(|view| view.jid()).collect();
    assert_eq!(jids, ["3", "2"]);
}

#[test]
fn memory_is_bounded_although_nothing_can_be_written() {
    let config = LedgerConfig {
        jobs_max: 10,
        queries_max: 10,
        ..LedgerConfig::default()
    };
    let mut ledger = Ledger::new(config);
    announce(&mut ledger, "s1", 1, &["a1"]);
    for jid in 0..1_000 {
        let jid = format!("{jid:04}");
        let _ = ledger.published(&job(&jid, "glob", "*"));
        let query = Published {
            fun: FIND_JOB.to_owned(),
            asks_about: Some(jid.clone()),
            ..job(&format!("q{jid}"), "list", "a1")
        };
        let _ = ledger.published(&query);
        let _ = ledger.tick(T);
        assert!(ledger.state().jobs <= 21, "{:?}", ledger.state());
        assert!(ledger.queries.order.len() <= 10 && ledger.queries.asked.len() <= 10);
        assert_eq!(ledger.order.len(), ledger.jobs.len());
        assert!(ledger.timers.len() <= ledger.jobs.len());
    }
    assert!(ledger.job("0999").is_some());
    let sum: usize = ledger.jobs.values().map(Job::bytes).sum();
    assert_eq!(ledger.state().bytes, sum);
    let open = ledger
        .jobs
        .values()
        .filter(|job| job.state == State::Open)
        .count();
    assert_eq!(ledger.state().open, open);
}

#[test]
fn names_that_do_not_fit_are_counted() {
    let config = LedgerConfig {
        rosters: RostersConfig {
            ids_max: 2,
            ..RostersConfig::default()
        },
        ..LedgerConfig::default()
    };
    let mut ledger = Ledger::new(config);
    announce(&mut ledger, "s1", 1, &["a1", "a2"]);
    ack(&mut ledger, "s1", "a1 a2 a3");
    returned(&mut ledger, "a4");
    assert_eq!(ledger.state().unnamed, 2);
    check(
        &ledger,
        &["s1/a1 accepted waiting", "s1/a2 accepted waiting"],
    );
}

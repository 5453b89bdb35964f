//! What receipts tell of a job, and what their absence does.

use super::*;

/// How each minion stands, as `id step verdict receipts received_ms`.
fn with_receipts(ledger: &Ledger) -> Vec<String> {
    let view = ledger.job("j").expect("the job is known");
    let mut told: Vec<String> = view
        .minions()
        .map(|minion| {
            let (step, verdict) = (minion.step.as_str(), minion.verdict.as_str());
            let at = minion
                .received_ms
                .map_or_else(|| "-".to_owned(), |ms| ms.to_string());
            format!(
                "{} {step} {verdict} {} {at}",
                minion.id, minion.gives_receipts
            )
        })
        .collect();
    told.sort_unstable();
    told
}

fn receipt(ledger: &mut Ledger, minion: &str, at_ms: u64) {
    let _ = ledger.receipts("j", "s1", [minion], at_ms);
}

#[test]
fn received_has_its_time_and_a_return_is_a_receipt() {
    let mut ledger = ledger();
    let _ = publish(&mut ledger, "list", "a1,a2,a3");
    ack(&mut ledger, "s1", "a1 a2 a3");
    receipt(&mut ledger, "a1", T + 40);
    receipt(&mut ledger, "a1", T + 90);
    returned(&mut ledger, "a2");
    assert_eq!(
        with_receipts(&ledger),
        [
            "a1 received running true 40",
            "a2 returned returned false 500",
            "a3 accepted waiting false -"
        ]
    );
    returned(&mut ledger, "a1");
    assert_eq!(with_receipts(&ledger)[0], "a1 returned returned true 40");
}

#[test]
fn only_who_gives_receipts_can_be_said_to_have_missed_a_job() {
    let mut ledger = ledger();
    ledger.gives_receipts("s1", ["a1", "a2"]);
    let _ = publish(&mut ledger, "list", "a1,a2,a3");
    ack(&mut ledger, "s1", "a1 a2 a3");
    receipt(&mut ledger, "a2", T + 40);
    let _ = ledger.tick(DEADLINE);
    let over = [
        "a1 accepted not_received true -",
        "a2 received running true 40",
        "a3 accepted silent false -",
    ];
    assert_eq!(with_receipts(&ledger), over);
    let summary = ledger.job("j").expect("known").summary();
    assert_eq!(summary.figures.no_receipts, 1);
    // What is learnt later is no word about this job.
    ledger.gives_receipts("s1", ["a3"]);
    assert_eq!(with_receipts(&ledger)[2], "a3 accepted silent true -");
    // A late return counts all the same.
    returned(&mut ledger, "a1");
    assert_eq!(with_receipts(&ledger)[0], "a1 returned returned true 500");
}

#[test]
fn a_ledger_that_did_not_hear_all_names_nobody_as_missed() {
    let mut ledger = ledger();
    ledger.gives_receipts("s1", ["a1"]);
    let _ = publish(&mut ledger, "list", "a1");
    ack(&mut ledger, "s1", "a1");
    ledger.missed();
    let _ = ledger.tick(DEADLINE);
    assert_eq!(with_receipts(&ledger), ["a1 accepted silent true -"]);
}

#[test]
fn salts_own_questions_are_never_acknowledged() {
    let mut ledger = ledger();
    ledger.gives_receipts("s1", ["a1"]);
    let _ = ledger.published(&Published {
        fun: "saltutil.running".to_owned(),
        ..job("j", "list", "a1")
    });
    ack(&mut ledger, "s1", "a1");
    let _ = ledger.tick(DEADLINE);
    assert_eq!(with_receipts(&ledger), ["a1 accepted silent true -"]);
}

#[test]
fn a_minion_that_took_it_and_runs_it_no_more_is_silent() {
    let mut ledger = ledger();
    let _ = publish(&mut ledger, "list", "a1");
    ack(&mut ledger, "s1", "a1");
    receipt(&mut ledger, "a1", T + 40);
    let find_job = |jid: &str| Published {
        fun: FIND_JOB.to_owned(),
        asks_about: Some("j".to_owned()),
        ..job(jid, "list", "a1")
    };
    let answer = |ledger: &mut Ledger, jid: &str, is_empty| {
        let _ = ledger.published(&find_job(jid));
        let _ = ledger.returned(&Returned {
            jid,
            fun: FIND_JOB,
            is_empty,
            ..ret("a1")
        });
    };
    answer(&mut ledger, "q1", false);
    assert_eq!(with_receipts(&ledger), ["a1 running running true 40"]);
    answer(&mut ledger, "q2", true);
    assert_eq!(with_receipts(&ledger), ["a1 received waiting true 40"]);
    // The same receipt once more tells nothing new.
    receipt(&mut ledger, "a1", T + 600);
    let _ = ledger.tick(DEADLINE);
    assert_eq!(with_receipts(&ledger), ["a1 received silent true 40"]);
}

#[test]
fn who_gives_receipts_and_the_times_outlive_the_process() {
    let mut ledger = ledger();
    ledger.gives_receipts("s1", ["a2"]);
    let _ = publish(&mut ledger, "list", "a1,a2");
    ack(&mut ledger, "s1", "a1 a2");
    receipt(&mut ledger, "a1", T + 7_000);
    let _ = ledger.loaded("j", None);
    let mut saved = Saved {
        table: 1,
        ..Saved::default()
    };
    let unsaved = ledger.take_unsaved(usize::MAX).expect("all is new");
    saved.names = unsaved
        .names
        .into_iter()
        .map(|part| (part.table, part.bytes))
        .collect();
    saved.rosters = unsaved
        .rosters
        .into_iter()
        .map(|(_, bytes)| bytes)
        .collect();
    saved.jobs = unsaved.jobs.into_iter().map(|job| job.bytes).collect();
    let (restored, errors) = Ledger::restore(LedgerConfig::default(), &saved);
    assert_eq!(errors, []);
    assert_eq!(with_receipts(&restored), with_receipts(&ledger));
    assert_eq!(
        with_receipts(&restored),
        [
            "a1 received running true 7000",
            "a2 accepted waiting true -"
        ]
    );
}

#[test]
fn a_job_that_is_sent_again_by_hand_is_open_anew() {
    let mut ledger = ledger();
    ledger.gives_receipts("s1", ["a1"]);
    let _ = publish(&mut ledger, "list", "a1");
    ack(&mut ledger, "s1", "a1");
    assert_eq!(ended(&ledger.tick(DEADLINE)), ["incomplete 1 0 [a1] []"]);
    let at_ms = DEADLINE + 60_000;
    let _ = ledger.tick(at_ms);
    let _ = ledger.sent_again("j", at_ms);
    assert_eq!(ledger.job("j").expect("known").state(), State::Open);
    receipt(&mut ledger, "a1", at_ms + 100);
    let _ = ledger.returned(&Returned {
        at_ms: at_ms + 500,
        ..ret("a1")
    });
    assert_eq!(ended(&ledger.tick(at_ms + 2_000)), ["complete 1 1 [] []"]);
}

#[test]
fn a_job_that_only_the_disk_knows_is_open_anew_once_it_is_read() {
    let mut ledger = ledger();
    let _ = publish(&mut ledger, "list", "a1");
    ack(&mut ledger, "s1", "a1");
    let _ = ledger.loaded("j", None);
    let _ = ledger.tick(DEADLINE);
    let stored = ledger.take_unsaved(usize::MAX).expect("it is over");
    let leaves_ms = DEADLINE + LedgerConfig::default().linger_ms;
    let _ = ledger.tick(leaves_ms);
    assert!(ledger.job("j").is_none());
    let again_ms = leaves_ms + 1_000;
    let _ = ledger.tick(again_ms);
    let actions = ledger.sent_again("j", again_ms);
    assert!(
        matches!(actions.as_slice(), [Action::Load { .. }]),
        "{actions:?}"
    );
    ledger
        .loaded("j", Some(&stored.jobs[0].bytes))
        .expect("its own bytes");
    assert_eq!(told(&ledger), ["s1/a1 accepted waiting"]);
    let _ = ledger.returned(&Returned {
        at_ms: again_ms + 500,
        ..ret("a1")
    });
    assert_eq!(
        ended(&ledger.tick(again_ms + 2_000)),
        ["complete 1 1 [] []"]
    );
}

#[test]
fn the_times_in_memory_are_bounded_and_the_oldest_go_first() {
    let mut ledger = Ledger::new(LedgerConfig {
        times_bytes_max: 400,
        ..LedgerConfig::default()
    });
    announce(&mut ledger, "s1", 1, &["a1"]);
    for jid in ["1", "2", "3"] {
        let _ = ledger.published(&job(jid, "list", "a1"));
        let _ = ledger.receipts(jid, "s1", ["a1"], T + 40);
    }
    let _ = ledger.tick(T + 100);
    let time = |jid| {
        let view = ledger.job(jid).expect("known");
        view.minion("a1").expect("meant").received_ms
    };
    assert_eq!(
        [time("1"), time("2"), time("3")],
        [None, Some(40), Some(40)]
    );
    assert!(ledger.state().times_bytes <= 400);
}

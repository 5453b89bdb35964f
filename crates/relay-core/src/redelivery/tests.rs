use super::*;

const TIMEOUT_MS: u64 = 5_000;
const EXPIRES_MS: u64 = 300_000;

/// A redelivery with minions `a`, `b`, `c` that have shims, `s` that gives start events, and `n` that gives nothing.
struct Site {
    redelivery: Redelivery,
    now_ms: u64,
}

impl Site {
    fn new() -> Self {
        Self::with(RedeliveryConfig::default())
    }

    fn with(config: RedeliveryConfig) -> Self {
        let mut redelivery = Redelivery::new(config);
        for minion in ["a", "b", "c"] {
            assert!(redelivery.gives_receipts(minion, Source::Shim));
        }
        assert!(redelivery.gives_receipts("s", Source::StartEvent));
        Self {
            redelivery,
            now_ms: 1_000_000,
        }
    }

    fn publish(&mut self, jid: &str, minions: &[&str]) {
        self.publish_as(jid, minions, Policy::Safe, true);
    }

    fn publish_as(&mut self, jid: &str, minions: &[&str], policy: Policy, asked: bool) {
        let sent = Sent {
            jid,
            policy,
            asked_start_event: asked,
            now_ms: self.now_ms,
            expires_ms: self.now_ms + EXPIRES_MS,
        };
        self.redelivery.published(sent, minions.iter().copied());
    }

    fn receipt(&mut self, minion: &str, jid: &str) -> Receipt {
        self.redelivery.received(minion, jid, self.now_ms)
    }

    fn report(&mut self, minion: &str, report: Report, taken: &[&str], covers_ms: u64) {
        let taken = taken.iter().copied();
        let _ = self
            .redelivery
            .reported(minion, report, taken, covers_ms, self.now_ms);
    }

    /// What goes again within this time, as `<ms since now> jid:minion,minion`.
    fn pass(&mut self, ms: u64) -> Vec<String> {
        let (from_ms, until_ms) = (self.now_ms, self.now_ms + ms);
        let mut sent = Vec::new();
        while let Some(due_ms) = self.redelivery.next_due_ms().filter(|due| *due <= until_ms) {
            self.now_ms = self.now_ms.max(due_ms);
            for again in self.redelivery.tick(self.now_ms) {
                let minions = again.minions.join(",");
                sent.push(format!("{} {}:{minions}", self.now_ms - from_ms, again.jid));
            }
        }
        self.now_ms = until_ms;
        sent
    }
}

#[test]
fn the_silent_are_sent_it_again_together_and_each_time_later() {
    let mut site = Site::new();
    site.publish("1", &["a", "b", "c"]);
    site.now_ms += 40;
    assert_eq!(site.receipt("b", "1"), Receipt::First { after_ms: 40 });
    assert_eq!(site.receipt("b", "1"), Receipt::Again);
    assert_eq!(site.pass(4_999), [] as [&str; 0]);
    assert_eq!(site.pass(1), ["1 1:a,c"]);
    site.redelivery.returned("c", "1", site.now_ms);
    assert_eq!(site.pass(200_000), ["10000 1:a"], "one attempt is left");
    let figures = site.redelivery.figures();
    assert_eq!((figures.expected, figures.received), (3, 2));
    assert_eq!((figures.missed, figures.redelivered), (2, 3));
    assert_eq!(figures.after_ms_median, Some(40));
}

#[test]
fn the_job_that_a_silent_minion_was_tried_with_goes_first_over_a_new_connection() {
    let mut site = Site::new();
    site.publish("0", &["s"]);
    assert_eq!(site.receipt("s", "0"), Receipt::First { after_ms: 0 });
    for jid in ["1", "2", "3"] {
        site.publish(jid, &["s"]);
    }
    let tried = site.pass(60_000);
    assert_eq!(tried.len(), 2, "{tried:?}");
    site.redelivery.connection_opened(site.now_ms);
    let sent = site.pass(5_000);
    let jids: Vec<&str> = sent
        .iter()
        .filter_map(|again| again.split_once(' '))
        .map(|(_, again)| again)
        .collect();
    assert_eq!(jids, ["1:s", "2:s", "3:s"]);
}

#[test]
fn what_was_sent_a_moment_before_the_return_still_goes_first() {
    let mut site = Site::new();
    for jid in ["1", "2", "3"] {
        site.publish(jid, &["a"]);
    }
    assert_eq!(site.pass(5_500), ["5000 1:a"]);
    site.report("a", Report::Started, &[], 60_000);
    assert_eq!(site.pass(2_000), ["500 1:a", "500 2:a", "500 3:a"]);
}

#[test]
fn nobody_without_receipts_for_this_job_is_sent_it_again() {
    let mut site = Site::new();
    site.publish_as("1", &["n", "s"], Policy::Safe, false);
    site.publish_as("2", &["n", "s"], Policy::Safe, true);
    assert_eq!(site.pass(TIMEOUT_MS), ["5000 2:s"]);
    assert_eq!(site.redelivery.figures().expected, 1);
}

#[test]
fn a_job_that_is_never_redelivered_is_followed() {
    let mut site = Site::new();
    site.publish_as("1", &["a", "b"], Policy::Never, true);
    site.now_ms += 10;
    assert_eq!(site.receipt("a", "1"), Receipt::First { after_ms: 10 });
    site.redelivery.connection_opened(site.now_ms + 1_000);
    assert_eq!(site.pass(400_000), [] as [&str; 0]);
    let figures = site.redelivery.figures();
    assert_eq!((figures.missed, figures.jobs), (1, 0));
    assert_eq!(site.redelivery.forgotten(), [] as [&str; 0]);
}

#[test]
fn what_has_expired_is_not_sent_again_and_forgotten() {
    let mut site = Site::new();
    site.publish("1", &["a"]);
    site.pass(EXPIRES_MS);
    assert_eq!(site.redelivery.forgotten(), ["1"]);
    site.redelivery.started("a", site.now_ms);
    site.redelivery.connection_opened(site.now_ms);
    assert_eq!(site.pass(60_000), [] as [&str; 0]);
    // Who tells of it afterwards tells news, once.
    assert_eq!(site.receipt("a", "1"), Receipt::Unknown);
    assert_eq!(site.receipt("a", "1"), Receipt::Again);
}

#[test]
fn by_time_alone_only_the_oldest_goes_until_the_minion_is_heard() {
    let mut site = Site::new();
    for jid in ["1", "2", "3"] {
        site.publish(jid, &["a"]);
        site.now_ms += 1_000;
    }
    assert_eq!(site.pass(3_000), ["2000 1:a"]);
    // The repeated one gets through: nothing else was on its way, so all the rest follows.
    site.receipt("a", "1");
    assert_eq!(site.pass(1_100), ["1000 2:a", "1000 3:a"]);
}

#[test]
fn a_later_job_that_arrived_shows_what_was_missed() {
    let mut site = Site::new();
    site.publish("1", &["a", "b"]);
    site.publish("2", &["a", "b"]);
    site.now_ms += 2_000;
    site.publish("3", &["a", "b"]);
    site.now_ms += 20;
    site.receipt("a", "3");
    // Receipts of one minion may overtake each other by seconds.
    assert_eq!(site.pass(2_979), [] as [&str; 0]);
    assert_eq!(site.pass(1), ["1 1:a,b", "1 2:a"]);
}

#[test]
fn nobody_is_deaf_while_the_answers_stream_in() {
    let names: Vec<String> = (0..100).map(|n| format!("m{n:02}")).collect();
    let mut site = Site::new();
    for name in &names {
        site.redelivery.gives_receipts(name, Source::StartEvent);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    site.publish("1", &names);
    site.publish("2", &names);
    for name in &names {
        assert_eq!(site.pass(250), [] as [&str; 0]);
        site.redelivery.returned(name, "2", site.now_ms);
        site.redelivery.returned(name, "1", site.now_ms);
    }
    assert_eq!(site.pass(60_000), [] as [&str; 0]);
    assert_eq!(site.redelivery.figures().missed, 0);
    // But not for ever.
    site.publish("3", &names);
    for name in names.iter().take(29) {
        assert_eq!(site.pass(4_000), [] as [&str; 0]);
        site.redelivery.returned(name, "3", site.now_ms);
    }
    assert_eq!(site.pass(4_000).len(), 1);
}

/// The answers for the first job wait before those for the second: a master takes a hundred a second.
#[test]
fn nobody_is_deaf_whose_answer_waits_behind_those_of_all_others() {
    let names: Vec<String> = (0..1_000).map(|n| format!("m{n:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut site = Site::new();
    for name in &names {
        site.redelivery.gives_receipts(name, Source::Shim);
    }
    site.publish("1", &names);
    site.publish("2", &names);
    site.redelivery.connection_opened(site.now_ms);
    for jid in ["1", "2"] {
        for name in &names {
            assert_eq!(site.pass(10), [] as [&str; 0], "{jid} {name}");
            site.redelivery.returned(name, jid, site.now_ms);
        }
    }
    assert_eq!(site.redelivery.figures().missed, 0);
    // One that is deaf is sent it soon after the others are done.
    site.publish("3", &names);
    for name in names.iter().skip(1) {
        assert_eq!(site.pass(10), [] as [&str; 0]);
        site.redelivery.returned(name, "3", site.now_ms);
    }
    assert_eq!(site.pass(6_000).len(), 1);
}

#[test]
fn neighbours_whose_receipts_come_the_other_way_round_are_not_missed() {
    let mut site = Site::new();
    site.publish("1", &["a"]);
    site.publish("2", &["a"]);
    site.now_ms += 20;
    site.receipt("a", "2");
    site.now_ms += 100;
    site.receipt("a", "1");
    assert_eq!(site.pass(60_000), [] as [&str; 0]);
    assert_eq!(site.redelivery.forgotten(), ["2", "1"]);
}

#[test]
fn forty_missed_jobs_go_within_a_second_in_order_and_over_minions() {
    let mut site = Site::new();
    let jids: Vec<String> = (0..40).map(|n| format!("2026{n:02}")).collect();
    for jid in &jids {
        site.publish(jid, &["s", "c"]);
        site.now_ms += 10;
    }
    site.now_ms += 1_000;
    site.report("c", Report::Reconnected, &[], 3_600_000);
    site.redelivery.started("s", site.now_ms);
    let sent = site.pass(1_000);
    let expected: Vec<String> = jids.iter().map(|jid| format!("0 {jid}:c,s")).collect();
    assert_eq!(sent, expected);
}

#[test]
fn the_way_out_is_paced() {
    let mut site = Site::new();
    for n in 0..45 {
        site.publish(&format!("{n:02}"), &["s"]);
    }
    site.now_ms += 1_000;
    site.redelivery.started("s", site.now_ms);
    let sent = site.pass(300);
    assert_eq!(sent.len(), 45);
    assert_eq!(sent.last().map(String::as_str), Some("250 44:s"));
}

#[test]
fn a_long_list_goes_in_parts() {
    let mut site = Site::with(RedeliveryConfig {
        minions_per_publication_max: 2,
        ..RedeliveryConfig::default()
    });
    site.publish("1", &["a", "b", "c"]);
    assert_eq!(site.pass(TIMEOUT_MS), ["5000 1:a,b", "5000 1:c"]);
}

#[test]
fn a_new_connection_has_all_that_are_silent_sent_again() {
    let mut site = Site::new();
    site.publish("1", &["s"]);
    site.now_ms += 1_000;
    site.publish("2", &["s"]);
    site.now_ms += 100;
    site.redelivery.connection_opened(site.now_ms);
    assert_eq!(site.pass(900), ["300 1:s", "300 2:s"]);
}

#[test]
fn a_minion_with_a_shim_is_waited_for_after_a_new_connection() {
    let mut site = Site::new();
    site.publish("1", &["a", "b"]);
    site.publish("2", &["a", "b"]);
    site.now_ms += 1_000;
    site.redelivery.connection_opened(site.now_ms);
    assert_eq!(site.pass(500), [] as [&str; 0]);
    site.report("a", Report::Started, &["1"], 60_000);
    // The other one was not the one that connected.
    assert_eq!(site.pass(3_000), ["0 2:a", "2500 1:b", "2500 2:b"]);
}

#[test]
fn after_a_restart_only_what_the_report_does_not_list_goes() {
    let mut site = Site::new();
    site.publish("1", &["a"]);
    site.publish("2", &["a"]);
    site.now_ms += 2_000;
    site.redelivery.started("a", site.now_ms);
    assert_eq!(site.pass(1_000), [] as [&str; 0]);
    site.report("a", Report::Started, &["1"], 60_000);
    assert_eq!(site.pass(600), ["0 2:a"]);
    assert_eq!(site.receipt("a", "1"), Receipt::Again);
}

#[test]
fn the_start_event_behind_its_report_holds_nothing_up() {
    let mut site = Site::new();
    site.publish("1", &["a"]);
    site.now_ms += 2_000;
    site.report("a", Report::Started, &[], 60_000);
    site.redelivery.started("a", site.now_ms);
    site.redelivery.connection_opened(site.now_ms);
    assert_eq!(site.pass(600), ["0 1:a"]);
    assert!(!site.redelivery.is_unsafe("1", "a"));
}

#[test]
fn after_a_restart_without_a_report_what_was_published_before_is_unsafe() {
    let mut site = Site::new();
    site.publish("1", &["a"]);
    site.now_ms += 2_000;
    site.redelivery.started("a", site.now_ms);
    site.now_ms += 1_000;
    site.publish("2", &["a"]);
    assert_eq!(site.pass(6_000), ["5000 2:a"]);
    assert!(site.redelivery.is_unsafe("1", "a"));
    site.receipt("a", "2");
    assert_eq!(site.pass(30_000), [] as [&str; 0]);
    assert_eq!(site.redelivery.figures().unsafe_, 1);
    // A report that comes late tells after all.
    site.report("a", Report::Started, &[], 120_000);
    assert_eq!(site.pass(600), ["0 1:a"]);
}

#[test]
fn a_report_that_does_not_reach_back_leaves_it_unsafe() {
    for report in [Report::Hello, Report::Started] {
        let mut site = Site::new();
        site.publish("1", &["a"]);
        site.now_ms += 2_000;
        site.report("a", report, &[], 1_000);
        assert_eq!(site.pass(60_000), [] as [&str; 0]);
        assert!(site.redelivery.is_unsafe("1", "a"));
    }
}

#[test]
fn what_a_killed_minion_took_never_goes_again() {
    let mut site = Site::new();
    site.publish("1", &["a", "s"]);
    site.now_ms += 50;
    site.receipt("s", "1");
    site.now_ms += 3_000;
    site.redelivery.connection_opened(site.now_ms);
    site.redelivery.started("a", site.now_ms);
    site.redelivery.started("s", site.now_ms);
    site.now_ms += 500;
    site.report("a", Report::Started, &["1"], 600_000);
    assert_eq!(site.pass(60_000), [] as [&str; 0]);
}

#[test]
fn what_a_minion_may_have_forgotten_is_not_sent_by_time() {
    for (newer, sent) in [(50, vec!["5000 0:a"]), (51, vec![])] {
        let mut site = Site::new();
        site.publish("0", &["a"]);
        for n in 0..newer {
            site.publish_as(&format!("1{n:03}"), &["a"], Policy::Never, false);
        }
        assert_eq!(site.pass(TIMEOUT_MS), sent, "{newer}");
    }
}

#[test]
fn a_report_of_a_new_connection_makes_up_for_what_a_minion_may_have_forgotten() {
    let mut site = Site::new();
    site.publish("0", &["a", "s"]);
    for n in 0..95 {
        site.publish_as(&format!("1{n:03}"), &["a", "s"], Policy::Never, false);
    }
    site.now_ms += 4_000;
    site.receipt("s", "1094");
    assert_eq!(site.pass(500), [] as [&str; 0]);
    site.report("a", Report::Reconnected, &["1094"], 60_000);
    assert_eq!(site.pass(500), ["0 0:a"]);
}

#[test]
fn one_attempt_is_kept_for_the_return_to_life() {
    let mut site = Site::new();
    site.publish("1", &["a"]);
    assert_eq!(site.pass(100_000).len(), 2);
    site.redelivery.connection_opened(site.now_ms);
    assert_eq!(site.pass(100_000).len(), 1);
    site.publish("2", &["a"]);
    site.now_ms += 10;
    site.receipt("a", "2");
    assert_eq!(site.pass(100_000), ["300 1:a"]);
    site.publish("3", &["a"]);
    site.receipt("a", "3");
    assert_eq!(site.pass(100_000), [] as [&str; 0]);
}

#[test]
fn a_minion_that_sends_other_events_is_probed_anew() {
    let mut site = Site::new();
    site.publish("1", &["a"]);
    assert_eq!(site.pass(6_000), ["5000 1:a"]);
    site.redelivery.sign_of_life("a", site.now_ms);
    assert_eq!(site.pass(5_000), ["4000 1:a"]);
}

#[test]
fn receipts_before_the_publication_is_known_count() {
    let mut site = Site::new();
    assert_eq!(site.receipt("a", "1"), Receipt::Unknown);
    site.redelivery.returned("b", "1", site.now_ms);
    site.publish("1", &["a", "b", "c"]);
    assert_eq!(site.pass(TIMEOUT_MS), ["5000 1:c"]);
    assert_eq!(site.redelivery.figures().received, 2);
}

#[test]
fn a_copy_under_the_same_jid_makes_nobody_silent_again() {
    let mut site = Site::new();
    site.publish("1", &["a"]);
    site.receipt("a", "1");
    site.publish("1", &["a", "b"]);
    assert_eq!(site.pass(TIMEOUT_MS), ["5000 1:b"]);
}

#[test]
fn by_hand_all_go_that_are_not_known_to_have_it() {
    let mut site = Site::new();
    site.publish_as("1", &["a", "b", "n"], Policy::Never, false);
    site.receipt("a", "1");
    let expires_ms = site.now_ms + EXPIRES_MS;
    let site_now_ms = site.now_ms;
    let by_hand = |site: &mut Site, jid, minions: &[&'static str]| {
        site.redelivery
            .by_hand(jid, minions, site_now_ms, expires_ms)
    };
    assert_eq!(by_hand(&mut site, "1", &["n", "a", "b"]), ["n", "b"]);
    site.receipt("c", "0");
    assert_eq!(by_hand(&mut site, "0", &["b", "c"]), ["b"]);
    // By itself it does not go again.
    assert_eq!(site.pass(60_000), [] as [&str; 0]);
    assert!(matches!(site.receipt("b", "0"), Receipt::First { .. }));
}

#[test]
fn everything_is_bounded_and_what_is_dropped_is_counted() {
    let mut site = Site::with(RedeliveryConfig {
        jobs_max: 3,
        cells_max: 5,
        minions_max: 5,
        early_max: 4,
        ..RedeliveryConfig::default()
    });
    for jid in ["1", "2", "3", "4"] {
        site.publish(jid, &["a"]);
    }
    assert_eq!(site.redelivery.figures().dropped.jobs, 1);
    site.publish("5", &["a", "b", "c", "s", "x", "y"]);
    let figures = site.redelivery.figures();
    assert_eq!((figures.dropped.minions, figures.jobs), (1, 1));
    assert_eq!(figures.silent, 5);
    for n in 0..9 {
        site.receipt("a", &format!("early{n}"));
    }
    assert_eq!(site.redelivery.figures().dropped.early, 5);
    site.redelivery.load_dropped("5");
    assert_eq!(site.pass(60_000), [] as [&str; 0]);
    assert_eq!(site.redelivery.forgotten(), ["1", "2", "3", "4"]);
}

#[test]
fn what_may_have_been_told_while_nobody_listened_goes_only_where_a_shim_tells_again() {
    let mut site = Site::new();
    site.publish("1", &["a", "s"]);
    site.now_ms += 1_000;
    site.redelivery.unheard(site.now_ms);
    site.publish("2", &["s"]);
    // Not by a start either: the job may be what ended the minion.
    site.now_ms += 400;
    site.redelivery.started("s", site.now_ms);
    site.redelivery.connection_opened(site.now_ms);
    let sent = site.pass(60_000).join(" ");
    assert!(sent.contains("1:a") && sent.contains("2:s"), "{sent}");
    assert!(!sent.contains("1:s") && !sent.contains("1:a,s"), "{sent}");
}

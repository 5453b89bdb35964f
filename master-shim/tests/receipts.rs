//! Receipts and redelivery through a real master-shim, between stand-in masters: what goes up, what goes again, and what does not.

use std::{fs, path::Path, path::PathBuf, time::Duration};

use salt_wire::{
    ids::Jid,
    msgpack::Value,
    saltway::{Happened, MinionEvent, MinionState, MinionWord, Receipt, Receipts, SiteEvent},
};
use standin::{Relay, jid, job, minion_event};
use testkit::await_that;

const SOON: Duration = Duration::from_secs(20);

/// Long enough for whatever would be sent again by time, three times over, and for a busy machine.
const SILENCE: Duration = Duration::from_secs(4);

const QUICK: &str = "receipts: {start_event: true, receipt_timeout: 500ms}\n";

fn relay(extra: &str) -> Relay {
    let builder = Relay::builder().site("site1", &["a1", "a2", "a3"]);
    let relay = builder.shim_extra(extra).start().expect("a relay");
    let site = relay.site(0).expect("a site");
    site.lower.keep_job_cache();
    site.lower.bus.await_listener(SOON).expect("the shim");
    relay
}

fn fire(relay: &Relay, tag: &str, data: &Value) {
    let site = relay.site(0).expect("a site");
    site.lower.bus.fire(tag, data).expect("fired");
}

/// As a minion of 3008 does when it begins a job.
fn fire_start_event(relay: &Relay, jid: &str, minion: &str) {
    let tag = format!("salt/job/{jid}/start/{minion}");
    let data = Value::map([("id", minion.into()), ("jid", jid.into())]);
    fire(relay, &tag, &minion_event(&tag, minion, data));
}

fn shims_word(minion: &str, what: MinionWord) -> MinionEvent {
    MinionEvent {
        id: minion.parse().expect("an id"),
        what,
    }
}

/// As the minion-shim beside a minion does.
fn fire_receipt(relay: &Relay, minion: &str, jids: &[&str]) {
    let held = |jid: &&str| -> (Jid, u32) { (jid.parse().expect("a jid"), 20) };
    let jobs = jids.iter().map(held).collect();
    let run = "1-1".to_owned();
    let event = shims_word(minion, MinionWord::Receipt(Receipt { run, jobs }));
    fire(
        relay,
        &event.tag(),
        &minion_event(&event.tag(), minion, event.data()),
    );
}

fn fire_state(relay: &Relay, minion: &str, what: Happened, covers_ms: u64, taken: &[&str]) {
    let jid = |jid: &&str| -> Jid { jid.parse().expect("a jid") };
    let state = MinionState {
        run: "1-1".to_owned(),
        version: "0.5.0".to_owned(),
        what,
        covers_ms,
        taken: taken.iter().map(jid).collect(),
        undelivered: Vec::new(),
    };
    let event = shims_word(minion, MinionWord::State(state));
    fire(
        relay,
        &event.tag(),
        &minion_event(&event.tag(), minion, event.data()),
    );
}

fn publish(relay: &Relay, number: u64) -> String {
    publish_load(relay, job(&jid(number), "*", "state.apply"))
}

/// Publishes it and waits until the lower master has it.
fn publish_load(relay: &Relay, load: Value) -> String {
    let jid = load.get_str("jid").expect("a jid").to_owned();
    relay.mom.publish(load).expect("published");
    let lower = &relay.site(0).expect("a site").lower;
    await_that("the job at the lower master", SOON, || {
        lower.jids().contains(&jid).then_some(()).ok_or("not there")
    });
    jid
}

/// All receipts that the MoM was told so far.
fn receipts_at_mom(relay: &Relay) -> Vec<Receipts> {
    let tag = "saltway/site/site1/receipts";
    relay.mom.seen(|seen| {
        let events = seen.events.iter().filter(|event| event.tag == tag);
        let parsed = events.map(|event| SiteEvent::parse(&event.tag, &event.data));
        let receipts = parsed.map(|event| match event {
            Ok(Some(SiteEvent::Receipts(receipts))) => receipts,
            other => panic!("{other:?}"),
        });
        receipts.collect()
    })
}

fn got(receipts: &[Receipts]) -> Vec<(String, String)> {
    let jobs = receipts.iter().flat_map(|event| &event.jobs);
    let mut cells: Vec<_> = jobs
        .flat_map(|job| {
            let names = job.minions.iter().map(str::to_owned);
            names.map(|minion| (job.jid.to_string(), minion))
        })
        .collect();
    cells.sort();
    cells
}

#[track_caller]
fn await_receipts(relay: &Relay, expected: &[(&str, &str)]) {
    let expected: Vec<(String, String)> = expected
        .iter()
        .map(|(jid, minion)| ((*jid).to_owned(), (*minion).to_owned()))
        .collect();
    await_that("the receipts at the MoM", SOON, || {
        let cells = got(&receipts_at_mom(relay));
        (cells == expected)
            .then_some(())
            .ok_or(format!("{cells:?}"))
    });
}

fn metric(relay: &Relay, name: &str, labels: &[(&str, &str)]) -> f64 {
    let shim = &relay.site(0).expect("a site").shim;
    let value = shim.metric(name, labels).expect("metrics");
    value.expect("a metric")
}

/// Until the shim has taken everything that was fired before: its answer to a last return has come to the MoM.
fn await_heard(relay: &Relay, number: u64) {
    let before = relay.mom.seen(|seen| seen.returns.len());
    let site = relay.site(0).expect("a site");
    site.lower
        .bus
        .fire_return(&jid(number), "a1", "test.ping", true.into())
        .expect("fired");
    relay
        .mom
        .await_returns(before + 1, SOON)
        .expect("the last return");
}

/// Every file of the lower master's job cache, and what is in it.
fn job_cache(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(job_cache(&path));
        } else {
            let bytes = fs::read(&path).expect("a file");
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

fn names(load: &Value) -> Vec<String> {
    let names = load.get("tgt").and_then(Value::as_array);
    let names = names.unwrap_or_default().iter().filter_map(Value::as_str);
    names.map(str::to_owned).collect()
}

#[test]
fn real_receipts_go_up_and_start_events_that_only_the_shim_asked_for_do_not() {
    let relay = relay("receipts: {start_event: true}\n");
    let first = publish(&relay, 1);
    let lower = &relay.site(0).expect("a site").lower;
    let jobs = lower.jobs();
    let kwargs = jobs
        .first()
        .and_then(|job| job.get("kwargs"))
        .expect("kwargs");
    assert_eq!(kwargs.get("start_event"), Some(&Value::Bool(true)));
    let new = Value::map([
        ("jid", first.as_str().into()),
        ("minions", Value::array(["a1", "a2", "a3"])),
    ]);
    fire(&relay, &format!("salt/job/{first}/new"), &new);
    fire_start_event(&relay, &first, "a1");
    fire_receipt(&relay, "a2", &[&first]);
    await_receipts(&relay, &[(&first, "a1"), (&first, "a2")]);
    let receipts = receipts_at_mom(&relay);
    let mut gives: Vec<&str> = receipts
        .iter()
        .flat_map(|event| event.gives.iter())
        .collect();
    gives.sort_unstable();
    assert_eq!(gives, ["a1", "a2"]);
    let delays = receipts.iter().flat_map(|event| &event.jobs);
    let known = delays.flat_map(|job| &job.after_ms).all(Option::is_some);
    assert!(known, "{receipts:?}");

    // The MoM asked itself: the event goes up, and the receipt as well.
    let mut load = job(&jid(2), "*", "state.apply");
    load.set("start_event", true);
    let second = publish_load(&relay, load);
    fire_start_event(&relay, &second, "a1");
    let expected = [(&*first, "a1"), (&first, "a2"), (&second, "a1")];
    await_receipts(&relay, &expected);
    // A question asks nobody for a start event.
    publish_load(&relay, job(&jid(3), "*", "saltutil.find_job"));
    let jobs = lower.jobs();
    let kwargs = jobs
        .last()
        .and_then(|job| job.get("kwargs"))
        .expect("kwargs");
    assert_eq!(kwargs.get("start_event"), None);

    await_heard(&relay, 2);
    let starts: Vec<String> = relay.mom.seen(|seen| {
        let tags = seen.events.iter().map(|event| event.tag.clone());
        tags.filter(|tag| tag.contains("/start/")).collect()
    });
    assert_eq!(starts, [format!("salt/job/{second}/start/a1")]);
    let by_shim = metric(&relay, "saltway_receipts_total", &[("source", "shim")]);
    let by_event = metric(
        &relay,
        "saltway_receipts_total",
        &[("source", "start_event")],
    );
    assert_eq!((by_shim, by_event), (1.0, 2.0));
}

#[test]
fn real_silent_minion_is_sent_the_job_again_alone_and_past_the_job_cache() {
    let relay = relay(QUICK);
    let lower = &relay.site(0).expect("a site").lower;
    let known = publish(&relay, 1);
    for minion in ["a1", "a2"] {
        fire_receipt(&relay, minion, &[&known]);
    }
    await_receipts(&relay, &[(&known, "a1"), (&known, "a2")]);
    let cache = job_cache(&lower.dir().join("cache/jobs"));
    let mut load = job(&jid(2), "*", "state.apply");
    let metadata = Value::map([("marker", Value::Int(7))]);
    load.set("metadata", metadata.clone());
    let missed = publish_load(&relay, load);
    fire_receipt(&relay, "a1", &[&missed]);
    let cache_after = job_cache(&lower.dir().join("cache/jobs"));
    let requests = lower.requests();
    let loads = lower.publisher.await_loads(1, SOON).expect("again");
    let again = loads.first().expect("one");
    // a3 gives no receipts: nobody knows whether it has the job.
    assert_eq!(names(again), ["a2"]);
    assert_eq!(again.get_str("jid"), Some(&*missed));
    assert_eq!(again.get_str("tgt_type"), Some("list"));
    assert_eq!(again.get("metadata"), Some(&metadata));
    assert_eq!(again.get("start_event"), Some(&Value::Bool(true)));
    fire_receipt(&relay, "a2", &[&missed]);
    let receipts = [
        (&*known, "a1"),
        (&known, "a2"),
        (&missed, "a1"),
        (&missed, "a2"),
    ];
    await_receipts(&relay, &receipts);
    let sent = lower.publisher.loads().len();
    std::thread::sleep(SILENCE);
    assert_eq!(lower.publisher.loads().len(), sent, "it has got it");
    assert_eq!(lower.requests(), requests, "the request port is not asked");
    let now = job_cache(&lower.dir().join("cache/jobs"));
    assert!(now == cache_after && now != cache, "the job cache stays");
    assert_eq!(metric(&relay, "saltway_deliveries_missed_total", &[]), 1.0);
}

#[test]
fn real_what_must_not_be_sent_again_is_told_as_missed_and_stays() {
    let relay = relay(QUICK);
    let lower = &relay.site(0).expect("a site").lower;
    let known = publish(&relay, 1);
    for minion in ["a1", "a2", "a3"] {
        fire_receipt(&relay, minion, &[&known]);
    }
    await_receipts(&relay, &[(&known, "a1"), (&known, "a2"), (&known, "a3")]);
    let mut load = job(&jid(2), "*", "state.apply");
    load.set(
        "metadata",
        Value::map([("saltway_redeliver", Value::Bool(false))]),
    );
    publish_load(&relay, load);
    publish_load(&relay, job(&jid(3), "*", "system.reboot"));
    let missed = || metric(&relay, "saltway_deliveries_missed_total", &[]);
    await_that("the missed ones to be told", SOON, || match missed() {
        6.0 => Ok(()),
        other => Err(other),
    });
    assert!(lower.publisher.loads().is_empty(), "nothing goes again");
}

#[test]
fn real_minion_that_comes_back_gets_what_it_missed_in_order_and_nothing_that_it_has() {
    let relay = relay("receipts: {start_event: true, receipt_timeout: 30s}\n");
    let lower = &relay.site(0).expect("a site").lower;
    let known = publish(&relay, 1);
    for minion in ["a1", "a2"] {
        fire_receipt(&relay, minion, &[&known]);
    }
    await_receipts(&relay, &[(&known, "a1"), (&known, "a2")]);
    let jids: Vec<String> = (2..12).map(|number| publish(&relay, number)).collect();
    let all: Vec<&str> = jids.iter().map(String::as_str).collect();
    fire_receipt(&relay, "a1", &all);
    // A job of the last moment is no missed one.
    std::thread::sleep(Duration::from_millis(500));
    // It began the second of them before it was restarted: its own shim tells.
    let taken = [known.as_str(), all[1]];
    fire_state(&relay, "a2", Happened::Started, 600_000, &taken);
    let loads = lower.publisher.await_loads(9, SOON).expect("again");
    let again: Vec<&str> = loads
        .iter()
        .filter_map(|load| load.get_str("jid"))
        .collect();
    let expected: Vec<&str> = all.iter().copied().filter(|jid| *jid != all[1]).collect();
    assert_eq!(again, expected);
    for load in &loads {
        assert_eq!(names(load), ["a2"]);
    }
}

#[test]
fn real_lies_of_minions_cost_a_line_in_the_log() {
    let relay = relay(QUICK);
    let lower = &relay.site(0).expect("a site").lower;
    let known = publish(&relay, 1);
    for minion in ["a1", "a2"] {
        fire_receipt(&relay, minion, &[&known]);
    }
    await_receipts(&relay, &[(&known, "a1"), (&known, "a2")]);
    let second = publish(&relay, 2);
    // a1 speaks for a2, in both ways.
    let tag = format!("salt/job/{second}/start/a2");
    fire(&relay, &tag, &minion_event(&tag, "a1", Value::Nil));
    let word = Receipt {
        run: "1-1".to_owned(),
        jobs: vec![(second.parse().expect("a jid"), 0)],
    };
    let event = shims_word("a2", MinionWord::Receipt(word));
    let tag = event.tag();
    fire(&relay, &tag, &minion_event(&tag, "a1", event.data()));
    // A list without end, and things that are none.
    let many = Value::array(
        (0..100_000u64)
            .map(jid)
            .map(|jid| Value::from(jid.as_str())),
    );
    let mut data = event.data();
    data.set("jids", many);
    let lies = [
        data,
        Value::Nil,
        Value::map([("v", Value::Int(1))]),
        Value::map([("v", Value::Int(99))]),
        Value::array(["x"]),
    ];
    for lie in lies {
        fire(&relay, &tag, &minion_event(&tag, "a2", lie));
    }
    fire(&relay, &tag, &Value::map([("id", "a2".into())]));
    fire_receipt(&relay, "a1", &[&second]);
    let receipts = [(&*known, "a1"), (&known, "a2"), (&second, "a1")];
    await_receipts(&relay, &receipts);
    let loads = lower.publisher.await_loads(1, SOON).expect("again");
    assert_eq!(names(loads.first().expect("one")), ["a2"], "a2 is silent");
    let malformed = metric(&relay, "saltway_malformed_total", &[("from", "event_bus")]);
    assert_eq!(malformed, 7.0);
    // None of it went up.
    let above: usize = relay.mom.seen(|seen| {
        let tags = seen.events.iter().map(|event| event.tag.as_str());
        tags.filter(|tag| tag.starts_with("saltway/minion/"))
            .count()
    });
    assert_eq!(above, 0);
}

#[test]
fn real_job_by_hand_goes_to_those_that_had_it_and_gave_no_receipt() {
    let relay = relay("receipts: {start_event: true, redeliver: never}\n");
    let lower = &relay.site(0).expect("a site").lower;
    let first = publish(&relay, 1);
    fire_receipt(&relay, "a1", &[&first]);
    await_receipts(&relay, &[(&first, "a1")]);
    let cache = job_cache(&lower.dir().join("cache/jobs"));
    let by_hand = |minions: &[&str]| {
        let mut load = job(&first, "*", "state.apply");
        load.set("tgt", Value::array(minions.iter().copied()));
        load.set("tgt_type", "list");
        load.set("saltway_redelivery", true);
        relay.mom.publish(load).expect("published");
    };
    by_hand(&["a1", "a2", "b7"]);
    let loads = lower.publisher.await_loads(1, SOON).expect("again");
    assert_eq!(names(&loads[0]), ["a2"]);
    assert_eq!(loads[0].get("saltway_redelivery"), None);
    // And once more: an operator may be as stubborn as the network.
    by_hand(&["a2"]);
    let loads = lower.publisher.await_loads(2, SOON).expect("again");
    assert_eq!(names(&loads[1]), ["a2"]);
    // The MoM hears whom the job meant at first, since it keeps the latest ack.
    let acks: Vec<Vec<String>> = relay.mom.seen(|seen| {
        let acks = seen.events.iter().filter(|event| event.tag == first);
        let minions = acks.filter_map(|event| event.data.get("minions")?.as_array());
        let names = |minions: &[Value]| {
            let names = minions.iter().filter_map(Value::as_str);
            names.map(str::to_owned).collect()
        };
        minions.map(names).collect()
    });
    assert_eq!(acks, vec![vec!["a1", "a2", "a3"]; 3]);
    assert_eq!(job_cache(&lower.dir().join("cache/jobs")), cache);
    assert_eq!(lower.jids(), [first.as_str()], "no second publish");
    let by_hand = metric(
        &relay,
        "saltway_redeliveries_total",
        &[("outcome", "by_hand")],
    );
    assert_eq!(by_hand, 2.0);
    // A job that never came here is published as any other.
    let mut load = job(&jid(9), "*", "state.apply");
    load.set("tgt", Value::array(["a2"]));
    load.set("tgt_type", "list");
    load.set("saltway_redelivery", true);
    publish_load(&relay, load);
}

#[test]
fn real_what_may_have_been_taken_while_nobody_listened_is_not_sent_again() {
    let relay = relay("receipts: {start_event: true, receipt_timeout: 4s}\n");
    let lower = &relay.site(0).expect("a site").lower;
    let known = publish(&relay, 1);
    fire_start_event(&relay, &known, "a1");
    fire_receipt(&relay, "a2", &[&known]);
    await_receipts(&relay, &[(&known, "a1"), (&known, "a2")]);
    let second = publish(&relay, 2);
    // What a master took in its last two seconds goes again when it comes back, to all: that is another rule.
    std::thread::sleep(Duration::from_millis(2_500));
    // a1's start event and a2's receipt are fired into a bus that nobody hears; a shim would tell a2's again.
    lower.bus.disconnect();
    lower.bus.await_listener(SOON).expect("the shim is back");
    let loads = lower.publisher.await_loads(1, SOON).expect("again");
    assert_eq!(loads[0].get_str("jid"), Some(&*second));
    assert_eq!(names(&loads[0]), ["a2"]);
    let held_back = || {
        let labels = [("outcome", "held_back")];
        metric(&relay, "saltway_redeliveries_total", &labels)
    };
    await_that("a1 to be held back", SOON, || match held_back() {
        1.0 => Ok(()),
        other => Err(other),
    });
    // It starts anew: what it took may have been what ended it.
    let tag = "salt/minion/a1/start";
    fire(&relay, tag, &minion_event(tag, "a1", Value::Nil));
    std::thread::sleep(SILENCE);
    let again = lower.publisher.loads();
    let for_a1 = again
        .iter()
        .any(|load| names(load).contains(&"a1".to_owned()));
    assert!(!for_a1, "{again:?}");
}

#[test]
fn real_shim_that_begins_anew_sends_nothing_again_that_an_earlier_one_published() {
    let mut relay = relay(QUICK);
    let known = publish(&relay, 1);
    fire_receipt(&relay, "a1", &[&known]);
    await_receipts(&relay, &[(&known, "a1")]);
    let second = publish(&relay, 2);
    let site = relay.sites.first_mut().expect("a site");
    site.shim.kill();
    site.shim.start().expect("started again");
    site.shim.ready().expect("ready");
    site.lower.bus.await_listener(SOON).expect("the shim");
    // a1 is known to give receipts again, and was silent about the second one.
    let third = publish(&relay, 3);
    fire_receipt(&relay, "a1", &[&third]);
    let fourth = publish(&relay, 4);
    let lower = &relay.site(0).expect("a site").lower;
    let loads = lower.publisher.await_loads(1, SOON).expect("again");
    std::thread::sleep(SILENCE);
    assert_eq!(loads[0].get_str("jid"), Some(&*fourth));
    let again = lower.publisher.loads();
    let jids: Vec<&str> = again
        .iter()
        .filter_map(|load| load.get_str("jid"))
        .collect();
    assert!(!jids.contains(&&*second), "{jids:?}");
}

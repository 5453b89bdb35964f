//! The program beside real minions of each version.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{
    Address, EventRecorder, Master, Minion, Proxy, RecordedEvent, SaltVersion, Workspace,
};

/// Real servers on a busy machine of two cores; 3007 says nothing of a return that it gave up for 45 s.
const PATIENCE: Duration = Duration::from_secs(100);

/// A minion that gives a return up after a second or two.
const HASTY: &str = "return_retry_timer: 1\nreturn_retry_timer_max: 2\nreturn_retry_tries: 1";

fn word<'a>(event: &'a RecordedEvent, key: &str) -> &'a Value {
    &event.data["data"][key]
}

fn lists(event: &RecordedEvent, key: &str, jid: &str) -> bool {
    word(event, key)
        .as_array()
        .is_some_and(|jids| jids.iter().any(|known| known == jid))
}

fn state(events: &mut EventRecorder, id: &str, what: &str) -> RecordedEvent {
    let tag = format!("saltway/minion/{id}/state");
    let wanted = |event: &RecordedEvent| event.tag == tag && word(event, "what") == what;
    events.wait_for(1, PATIENCE, wanted).unwrap().remove(0)
}

fn receipt(events: &mut EventRecorder, id: &str, jid: &str) -> RecordedEvent {
    let tag = format!("saltway/minion/{id}/receipt");
    let wanted = |event: &RecordedEvent| event.tag == tag && lists(event, "jids", jid);
    events.wait_for(1, PATIENCE, wanted).unwrap().remove(0)
}

fn sleep(events: &mut EventRecorder, id: &str, seconds: f64) -> String {
    let job = events
        .publish(id, "glob", "test.sleep", json!([seconds]))
        .unwrap();
    job.jid.unwrap()
}

fn beside_a_minion_of(version: SaltVersion, extra: &str) {
    let workspace = Workspace::new().unwrap();
    let mut master = Master::builder(version, "m").start(&workspace).unwrap();
    let builder = Minion::builder(version, "web1").extra(&format!("{HASTY}\n{extra}"));
    let mut minion = builder.start(&[&master]).unwrap();
    master.ready().unwrap();
    let mut events = master.record().unwrap();
    minion.start_shim().unwrap().joined("web1").unwrap();
    minion.ready().unwrap();
    master.wait_for_minions(&["web1"]).unwrap();
    let hello = state(&mut events, "web1", "hello");
    assert_eq!(hello.data["id"], "web1");

    // A job that runs is told before it returns.
    let jid = sleep(&mut events, "web1", 2.0);
    let told = receipt(&mut events, "web1", &jid);
    let ret = events.wait_for_returns(&jid, 1, PATIENCE).unwrap();
    assert!(told.at < ret[0].at - 1.0, "{told:?} {ret:?}");
    assert!(
        word(&told, "held_ms")[0].as_u64().unwrap() < 1000,
        "{told:?}"
    );

    a_minion_that_is_killed_tells_what_it_took(&mut minion, &master, &mut events);
    a_return_that_the_master_did_not_take_reaches_it_later(&mut minion, &mut master);
    eprintln!("{}", minion.shim.as_ref().unwrap().log_tail(60));
}

fn a_minion_that_is_killed_tells_what_it_took(
    minion: &mut Minion,
    master: &Master,
    events: &mut EventRecorder,
) {
    let jid = sleep(events, "web1", 60.0);
    receipt(events, "web1", &jid);
    minion.kill();
    minion.start().unwrap();
    let started = state(events, "web1", "started");
    assert!(lists(&started, "taken", &jid), "{started:?}");
    assert!(
        word(&started, "covers_ms").as_u64().unwrap() > 500,
        "{started:?}"
    );
    minion.ready().unwrap();
    master.wait_for_minions(&["web1"]).unwrap();
}

fn a_return_that_the_master_did_not_take_reaches_it_later(
    minion: &mut Minion,
    master: &mut Master,
) {
    let mut events = master.record().unwrap();
    let jid = sleep(&mut events, "web1", 3.0);
    receipt(&mut events, "web1", &jid);
    drop(events);
    master.terminate().unwrap();
    let log = || minion.shim.as_ref().unwrap().log_tail(1000);
    let gave_up = || match log().contains(&format!("did not take the return of jid={jid}")) {
        true => Ok(()),
        false => Err(log()),
    };
    // 3007 keeps the request until the master is back.
    if master.version() != SaltVersion::V3007 {
        testkit::wait_until("the minion gives the return up", PATIENCE, gave_up).unwrap();
    }
    master.restart().unwrap();
    master.ready().unwrap();
    let mut events = master.record().unwrap();
    events.wait_for_returns(&jid, 1, PATIENCE).unwrap();
    if master.version() != SaltVersion::V3007 {
        // The master is a new connection, too.
        let reported = |event: &RecordedEvent| lists(event, "undelivered", &jid);
        events.wait_for(1, PATIENCE, reported).unwrap();
    }
}

#[test]
fn real_3006_minion_has_receipts() {
    beside_a_minion_of(SaltVersion::V3006, "");
}

#[test]
fn real_3007_minion_has_receipts() {
    beside_a_minion_of(SaltVersion::V3007, "");
}

#[test]
fn real_3008_minion_has_receipts_from_its_own_copies() {
    beside_a_minion_of(SaltVersion::V3008, "cache_jobs: True");
}

#[test]
fn real_minion_with_a_new_connection_says_so() {
    let workspace = Workspace::new().unwrap();
    let version = SaltVersion::V3006;
    let mut master = Master::builder(version, "m").start(&workspace).unwrap();
    let link = Address::lease().unwrap();
    let publish = Proxy::start(link.socket(4505), master.socket(4505)).unwrap();
    let _request = Proxy::start(link.socket(4506), master.socket(4506)).unwrap();
    let builder = Minion::builder(version, "web1").option("master", link.ip().to_string());
    let mut minion = builder.start(&[&master]).unwrap();
    master.ready().unwrap();
    let mut events = master.record().unwrap();
    minion.start_shim().unwrap().joined("web1").unwrap();
    minion.ready().unwrap();
    master.wait_for_minions(&["web1"]).unwrap();
    state(&mut events, "web1", "hello");
    let jid = sleep(&mut events, "web1", 30.0);
    receipt(&mut events, "web1", &jid);
    // The shim looks at the connection as soon as the minion answers.
    let known = || match minion.shim.as_ref().unwrap().log_tail(1000) {
        log if log.contains("knows the connection of minion=web1") => Ok(()),
        log => Err(log),
    };
    testkit::wait_until("the connection is known", PATIENCE, known).unwrap();
    publish.reset_all();
    let again = state(&mut events, "web1", "reconnected");
    assert!(lists(&again, "taken", &jid), "{again:?}");
}

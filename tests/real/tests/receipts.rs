//! Which minions got a job, with real Salt: told before the return of any job that takes a while, and whose silence says nothing.

use std::time::Duration;

use real_tests::ledger::{ask, wait_for_site};
use serde_json::{Value, json};
use testkit::{EventRecorder, Minion, SaltVersion, Tree, await_that};

const WITHIN: Duration = Duration::from_secs(60);

/// Longer than the receipts take on a busy machine, shorter than the test.
const SLEEP: u64 = 8;

fn job(tree: &Tree, jid: &str) -> Value {
    let bridge = tree.bridge.as_ref().expect("a bridge");
    ask(bridge, &format!("jobs/{jid}")).expect("the ledger has the job")
}

fn publish(recorder: &mut EventRecorder, fun: &str, arg: Value) -> String {
    let published = recorder.publish("*", "glob", fun, arg).expect("published");
    published.jid.expect("a top master publishes")
}

/// The minion of the job's, in the ledger.
fn minion<'a>(job: &'a Value, id: &str) -> &'a Value {
    let minions = job["minions"].as_array().expect("minions");
    let found = minions.iter().find(|minion| minion["id"] == id);
    found.expect("the minion is there")
}

/// While the job runs each minion is known to have it; when it is over each has the time of its receipt.
fn assert_received_before_returned(tree: &Tree, recorder: &mut EventRecorder, ids: &[&str]) {
    let jid = publish(recorder, "test.sleep", json!([SLEEP]));
    await_that("every receipt", Duration::from_secs(SLEEP), || {
        let job = job(tree, &jid);
        if job["returned"] != 0 {
            return Err(format!("somebody has returned before: {job}"));
        }
        let received = |id: &&str| {
            let minion = minion(&job, id);
            minion["step"] == "received" && minion["received_ms"].is_u64()
        };
        ids.iter()
            .all(received)
            .then_some(())
            .ok_or(job.to_string())
    });
    recorder
        .wait_for_returns(&jid, ids.len(), WITHIN)
        .expect("all return");
    await_that("the ledger to close the job", WITHIN, || {
        let job = job(tree, &jid);
        (job["state"] == "complete")
            .then_some(())
            .ok_or(job.to_string())
    });
    let job = job(tree, &jid);
    for id in ids {
        let received = minion(&job, id)["received_ms"].as_u64();
        let received = received.expect("its time is kept");
        assert!(received < SLEEP * 1_000, "{id}: {received} ms in {job}");
    }
}

#[test]
fn real_minions_tell_what_they_got_and_those_that_cannot_are_not_called_lost() {
    let mut tree = Tree::with_saltway(SaltVersion::V3008)
        .site("site1", SaltVersion::V3006, &["a1", "a2"])
        .site("site2", SaltVersion::V3008, &["b1", "b2"])
        .shim_extra("receipts: {start_event: true}")
        .start()
        .expect("the tree starts");
    for minion in &mut tree.sites[0].minions {
        let id = minion.id().to_owned();
        let shim = minion.start_shim().expect("the shim starts");
        shim.joined(&id).expect("it finds its minion");
    }
    let without = Minion::builder(SaltVersion::V3006, "a3");
    let mut without = without.start(&[&tree.sites[0].master]).expect("started");
    without.ready().expect("ready");
    tree.sites[0].minions.push(without);
    wait_for_site(&tree, "site1", "up", 3, WITHIN).expect("the bridge knows it");
    wait_for_site(&tree, "site2", "up", 2, WITHIN).expect("the bridge knows it");
    let mut recorder = tree.mom.record().expect("the recorder connects");
    let all = publish(&mut recorder, "test.ping", json!([]));
    recorder
        .wait_for_returns(&all, 5, WITHIN)
        .expect("all return");

    // 3008 tells by itself when it is asked; 3006 by its shim.
    assert_received_before_returned(&tree, &mut recorder, &["a1", "a2", "b1", "b2"]);
    // The MoM did not ask for start events, and does not see any.
    let events = recorder.events().expect("the recorder runs");
    let shown = events.iter().find(|event| event.tag.contains("/start/"));
    assert!(shown.is_none(), "{shown:?}");

    // A minion of 3006 alone: nobody knows whether it has the job. It is not called lost.
    tree.sites[0].minions[2]
        .process()
        .expect("it runs")
        .pause()
        .expect("it stands still");
    let jid = publish(&mut recorder, "test.ping", json!([]));
    recorder
        .wait_for_returns(&jid, 4, WITHIN)
        .expect("the others return");
    let told = job(&tree, &jid);
    let silent = minion(&told, "a3");
    assert_eq!(silent["receipts"], false, "{told}");
    assert_ne!(silent["verdict"], "not_received", "{told}");
    assert_eq!(told["no_receipts"], 1, "{told}");
    tree.sites[0].minions[2]
        .process()
        .expect("it runs")
        .resume()
        .expect("it goes on");
    recorder
        .wait_for_returns(&jid, 5, WITHIN)
        .expect("it returns, too");
}

#[test]
fn real_operator_who_asks_for_start_events_sees_them() {
    let tree = Tree::with_saltway(SaltVersion::V3008)
        .site("site1", SaltVersion::V3008, &["a1"])
        .start()
        .expect("the tree starts");
    wait_for_site(&tree, "site1", "up", 1, WITHIN).expect("the bridge knows it");
    let mut recorder = tree.mom.record().expect("the recorder connects");
    let salt = tree.mom.salt(&["--start-event", "*", "test.ping"]);
    assert_eq!(salt.expect("salt runs").code, 0);
    let start = |event: &testkit::RecordedEvent| {
        event.tag.starts_with("salt/job/") && event.tag.ends_with("/start/a1")
    };
    recorder
        .wait_for(1, WITHIN, start)
        .expect("the start event goes up");
}

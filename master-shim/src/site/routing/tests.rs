use bytes::Bytes;
use salt_wire::msgpack::{Dialect, encode};

use super::*;

const JID: &str = "20261120200000000001";

fn event(tag: &str, data: &Value) -> Event {
    Event {
        tag: tag.to_owned(),
        data: encode(data, Dialect::New),
    }
}

fn route(router: &mut Router, event: &Event) -> Route {
    match decode(event) {
        Some(data) => router.route(event, data),
        None => Route::Skip(SkipReason::Malformed),
    }
}

fn router(mode: SyndicMode) -> Router {
    Router::new(mode, Some(MasterId::Text("lower".to_owned())))
}

fn jid() -> Jid {
    JID.parse().expect("a jid")
}

/// A router that knows that MoM 1 asked for the job.
fn router_with_job(mode: SyndicMode) -> Router {
    let mut router = router(mode);
    router.origins.note(
        &jid(),
        Origin::Upstream {
            index: 1,
            bare_jid_seen: false,
            hides_start: false,
        },
    );
    router
}

fn return_data() -> Value {
    Value::map([
        ("jid", JID.into()),
        ("id", "a1".into()),
        ("fun", "test.ping".into()),
        ("return", Value::Bool(true)),
        ("retcode", Value::Int(0)),
        ("success", Value::Bool(true)),
        ("_stamp", "2026-11-20T20:00:00.000000".into()),
        ("cmd", "_return".into()),
        ("out", "nested".into()),
    ])
}

fn return_tag() -> String {
    format!("salt/job/{JID}/ret/a1")
}

fn changed(mut data: Value, key: &str, value: impl Into<Value>) -> Value {
    data.set(key, value);
    data
}

#[track_caller]
fn check_skipped(router: &mut Router, tag: &str, data: &Value, expected: SkipReason) {
    assert_eq!(
        route(router, &event(tag, data)),
        Route::Skip(expected),
        "{tag}"
    );
}

#[track_caller]
fn check_forwarded(router: &mut Router, tag: &str, data: &Value) {
    assert_eq!(
        route(router, &event(tag, data)),
        Route::Event { data: data.clone() },
        "{tag}"
    );
}

#[test]
fn return_goes_to_the_mom_that_asked_with_all_its_fields() {
    let mut router = router_with_job(SyndicMode::Sync);
    let Route::Return {
        ret,
        upstream,
        trimmed,
    } = route(&mut router, &event(&return_tag(), &return_data()))
    else {
        panic!("not a return");
    };
    assert_eq!((upstream, trimmed), (Some(1), false));
    assert_eq!((ret.event.jid.as_str(), ret.event.id.as_str()), (JID, "a1"));
    assert_eq!(ret.load, None, "the MoM has its own load");
    let names: Vec<_> = ret
        .event
        .fields
        .as_map()
        .expect("a map")
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["return", "retcode", "success", "out"].map(Some));
}

#[test]
fn every_return_of_a_local_job_carries_its_load() {
    let mut router = router(SyndicMode::Sync);
    let new = Value::map([
        ("jid", JID.into()),
        ("tgt", "*".into()),
        ("tgt_type", "glob".into()),
        ("fun", "test.ping".into()),
        ("arg", Value::array(["x"])),
        ("user", "root".into()),
        ("minions", Value::array(["a1", "a2"])),
    ]);
    check_forwarded(&mut router, &format!("salt/job/{JID}/new"), &new);
    let mut loads = Vec::new();
    for _ in 0..2 {
        let Route::Return { ret, upstream, .. } =
            route(&mut router, &event(&return_tag(), &return_data()))
        else {
            panic!("not a return");
        };
        assert_eq!(upstream, None);
        loads.push(ret.load);
    }
    let [Some(load), Some(again)] = loads.as_slice() else {
        panic!("{loads:?}")
    };
    assert_eq!(load, again, "whichever request the MoM takes first");
    for key in ["jid", "tgt", "tgt_type", "fun", "arg", "user"] {
        assert_eq!(load.get(key), new.get(key), "{key}");
    }
    assert_eq!(load.get("Minions"), new.get("minions"));
    assert_eq!(load.get_str("ret"), Some(""));
}

#[test]
fn new_event_of_a_job_from_above_does_not_make_it_local() {
    let mut router = router_with_job(SyndicMode::Sync);
    route(
        &mut router,
        &event(
            &format!("salt/job/{JID}/new"),
            &Value::map([("jid", JID.into())]),
        ),
    );
    assert_eq!(
        router.origins.get(&jid()),
        Some(&Origin::Upstream {
            index: 1,
            bare_jid_seen: false,
            hides_start: false,
        })
    );
}

#[test]
fn bare_jid_event_of_a_job_from_above_is_skipped_once() {
    let data = Value::map([("minions", Value::array(["a1"])), ("_stamp", "now".into())]);
    let mut router = router_with_job(SyndicMode::Sync);
    check_skipped(&mut router, JID, &data, SkipReason::Acked);
    check_forwarded(&mut router, JID, &data);
}

#[test]
fn bare_jid_event_of_another_syndic_is_not_taken_for_our_masters_own() {
    // A syndic below fires its ack with the jid in the data; our lower master's own event has none.
    let data = Value::map([("jid", JID.into()), ("minions", Value::array(["b1"]))]);
    let mut router = router_with_job(SyndicMode::Sync);
    check_forwarded(&mut router, JID, &data);
}

#[test]
fn own_find_job_stays_at_the_site() {
    let mut router = router(SyndicMode::Sync);
    router.origins.note(&jid(), Origin::Probe);
    let minions = Value::map([("minions", Value::array(["a1"]))]);
    check_skipped(&mut router, JID, &minions, SkipReason::OwnProbe);
    check_skipped(
        &mut router,
        &format!("salt/job/{JID}/new"),
        &minions,
        SkipReason::OwnProbe,
    );
    check_skipped(
        &mut router,
        &format!("salt/job/{JID}/publish"),
        &minions,
        SkipReason::OwnProbe,
    );
}

#[test]
fn find_job_answer_says_whether_the_job_runs() {
    let mut router = router(SyndicMode::Sync);
    router.origins.note(&jid(), Origin::Probe);
    let mut check = |answer: Value, expected: bool| {
        let data = changed(return_data(), "return", answer.clone());
        let Route::Probe {
            probe,
            minion,
            running,
        } = route(&mut router, &event(&return_tag(), &data))
        else {
            panic!("not an answer");
        };
        assert_eq!((probe.as_str(), minion.as_str()), (JID, "a1"));
        assert_eq!(running, expected, "{answer:?}");
    };
    check(Value::map::<&str>([]), false);
    check(Value::map([("jid", "1".into())]), true);
    check(Value::Nil, false);
    check("".into(), false);
    check("'saltutil.find_job' is not available.".into(), true);
}

#[test]
fn value_that_salt_cut_off_is_seen_at_any_depth_of_maps() {
    let mut router = router_with_job(SyndicMode::Sync);
    let mut check = |value: Value, expected: bool| {
        let data = changed(return_data(), "return", value);
        let Route::Return { trimmed, .. } = route(&mut router, &event(&return_tag(), &data)) else {
            panic!("not a return");
        };
        assert_eq!(trimmed, expected);
    };
    check("VALUE_TRIMMED".into(), true);
    check(Value::map([("stdout", "VALUE_TRIMMED".into())]), true);
    check("no VALUE_TRIMMED in sight".into(), false);
}

#[test]
fn returns_that_make_no_sense_are_malformed() {
    let mut router = router_with_job(SyndicMode::Sync);
    let tag = return_tag();
    check_skipped(
        &mut router,
        &tag,
        &changed(return_data(), "jid", "20261120200000000002"),
        SkipReason::Malformed,
    );
    check_skipped(
        &mut router,
        &tag,
        &changed(return_data(), "jid", Value::Int(1)),
        SkipReason::Malformed,
    );
    check_skipped(
        &mut router,
        &tag,
        &changed(return_data(), "id", "../../etc/passwd"),
        SkipReason::Malformed,
    );
    check_skipped(
        &mut router,
        &tag,
        &changed(return_data(), "id", Value::Nil),
        SkipReason::Malformed,
    );
    let mut without = return_data();
    without.remove("jid");
    check_skipped(&mut router, &tag, &without, SkipReason::NotForwarded);
}

#[test]
fn data_that_is_no_map_is_malformed() {
    let mut router = router(SyndicMode::Sync);
    for data in [Value::Nil, "text".into(), Value::array(["a"])] {
        check_skipped(&mut router, "salt/x", &data, SkipReason::Malformed);
    }
    let broken = Event {
        tag: "salt/x".to_owned(),
        data: Bytes::from_static(b"\x81\xa1"),
    };
    assert_eq!(
        route(&mut router, &broken),
        Route::Skip(SkipReason::Malformed)
    );
}

#[test]
fn sync_mode_forwards_everything_but_what_has_a_retcode() {
    let mut router = router(SyndicMode::Sync);
    let data = Value::map([("key", "value".into())]);
    for tag in [
        "my/own/tag",
        "salt/auth",
        "salt/minion/a1/start",
        "salt/job/1/new",
        "salt/job/x/ret/a1",
    ] {
        check_forwarded(&mut router, tag, &data);
    }
    let data = changed(data, "retcode", Value::Int(0));
    check_skipped(&mut router, "my/own/tag", &data, SkipReason::NotForwarded);
}

#[test]
fn cluster_mode_forwards_job_events_with_minions_only() {
    let mut router = router(SyndicMode::Cluster);
    let with = Value::map([("minions", Value::array(["a1"]))]);
    let without = Value::map([("fun", "test.ping".into())]);
    let new = format!("salt/job/{JID}/new");
    check_forwarded(&mut router, &new, &with);
    check_skipped(&mut router, &new, &without, SkipReason::NotForwarded);
    check_skipped(&mut router, "my/own/tag", &with, SkipReason::NotForwarded);
}

#[test]
fn cluster_mode_keeps_returns_of_the_masters_own_jobs() {
    let mut router = router_with_job(SyndicMode::Cluster);
    let own = changed(return_data(), "master_id", "lower");
    check_skipped(&mut router, &return_tag(), &own, SkipReason::NotForwarded);
    for master_id in ["mom", "lower2"] {
        let data = changed(return_data(), "master_id", master_id);
        let route = route(&mut router, &event(&return_tag(), &data));
        assert!(
            matches!(
                route,
                Route::Return {
                    upstream: Some(1),
                    ..
                }
            ),
            "{route:?}"
        );
    }
}

//! What each event of the bus tells, in the forms of every release.

use salt_wire::msgpack::{Dialect, encode};

use super::*;

const JID: &str = "20261121180000000001";
const HEARD: Heard = Heard {
    at_ms: 7,
    ttl_ms: 300_000,
};

fn event(tag: &str, data: &Value) -> Event {
    Event {
        tag: tag.replace("JID", JID),
        data: encode(data, Dialect::New),
    }
}

fn told(tag: &str, data: &Value) -> String {
    match decode(&event(tag, data), HEARD) {
        Ok(News::Returned(ret)) => {
            let (failed, empty) = (ret.is_failed, ret.is_empty);
            format!("{} {} failed {failed} empty {empty}", ret.minion, ret.fun)
        }
        Ok(News::Received { minion, .. }) => format!("{minion} received"),
        Ok(News::Accepted {
            site,
            minions,
            missing,
            ..
        }) => format!("{site} {minions:?} {missing:?}"),
        Ok(News::Published { published, .. }) => format!("{published:?}"),
        Ok(news) => format!("{news:?}"),
        Err(refused) => format!("{refused:?}"),
    }
}

fn ret(fields: &[(&str, Value)]) -> Value {
    let mut ret = Value::map([("id", Value::from("a1")), ("fun", "test.ping".into())]);
    for (key, value) in fields {
        ret.set(key, value.clone());
    }
    ret
}

#[test]
fn returns_fail_by_their_retcode_or_else_by_success() {
    let check = |fields: &[(&str, Value)], expected: &str| {
        let told = told("salt/job/JID/ret/a1", &ret(fields));
        assert_eq!(told, format!("a1 test.ping {expected}"), "{fields:?}");
    };
    let codes = |codes: [i64; 2]| Value::array(codes);
    check(
        &[("return", true.into()), ("retcode", 0.into())],
        "failed false empty false",
    );
    check(
        &[("retcode", 1.into()), ("success", true.into())],
        "failed true empty false",
    );
    check(&[("retcode", Value::Int(-1))], "failed true empty false");
    check(&[("retcode", 300.into())], "failed true empty false");
    check(&[("success", false.into())], "failed true empty false");
    check(
        &[("success", false.into()), ("retcode", 0.into())],
        "failed false empty false",
    );
    check(&[("retcode", codes([0, 0]))], "failed false empty false");
    check(&[("retcode", codes([0, 2]))], "failed true empty false");
    let by_name = Value::map([("test.ping", Value::Int(0)), ("x.y", Value::Int(3))]);
    check(&[("retcode", by_name)], "failed true empty false");
    check(
        &[("return", Value::Map(Vec::new()))],
        "failed false empty true",
    );
}

#[test]
fn a_job_is_read_with_its_target_in_every_form() {
    let new = |tgt: Value, fun: Value, arg: Value| {
        let fields = [
            ("jid", JID.into()),
            ("tgt_type", "glob".into()),
            ("tgt", tgt),
            ("user", "sudo_alice".into()),
            ("fun", fun),
            ("arg", arg),
            ("minions", Value::array(["site1", "bad/id"])),
        ];
        let event = event("salt/job/JID/new", &Value::map(fields));
        match decode(&event, HEARD) {
            Ok(News::Published { published, .. }) => *published,
            other => panic!("{other:?}"),
        }
    };
    let job = new("*".into(), "test.ping".into(), Value::Nil);
    assert_eq!((job.at_ms, job.ttl_ms, job.is_past), (7, 300_000, false));
    assert_eq!(job.tgt, Target::Text("*".to_owned()));
    assert_eq!(
        job.mom_minions,
        ["site1"],
        "what cannot be an id is left out"
    );
    let job = new(
        Value::array(["a", "b"]),
        Value::array(["x.y", "z.w"]),
        Value::Nil,
    );
    assert_eq!(job.tgt, Target::List(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!((job.fun.as_str(), job.asks_about), ("x.y,z.w", None));
    let question = new("*".into(), FIND_JOB.into(), Value::array(["1234"]));
    assert_eq!(question.asks_about.as_deref(), Some("1234"));
    let other = new("*".into(), "test.echo".into(), Value::array(["1234"]));
    assert_eq!(other.asks_about, None);
}

#[test]
fn acks_are_told_from_what_bridges_and_lower_masters_fire() {
    let ack = |more: &[(&str, Value)]| {
        let mut data = Value::map([("minions", Value::array(["a1", "a2"]))]);
        for (key, value) in more {
            data.set(key, value.clone());
        }
        told("syndic/site1/JID", &data)
    };
    assert_eq!(ack(&[]), r#"site1 ["a1", "a2"] []"#);
    let whole = [("jid", JID.into()), ("missing", Value::array(["x"]))];
    assert_eq!(ack(&whole), r#"site1 ["a1", "a2"] ["x"]"#);
    assert_eq!(ack(&[(EXPECTED_BY, "bridge".into())]), "NoNews");
    assert_eq!(ack(&[("jid", "another".into())]), "NoNews");
    let answer = ret(&[(ANSWERED_BY, "bridge".into()), ("retcode", 1.into())]);
    assert_eq!(told("salt/job/JID/ret/site1", &answer), "NoNews");
}

#[test]
fn only_what_the_ledger_needs_is_taken_from_the_bus() {
    for tag in [
        "salt/job/1/new",
        "salt/job/1/ret/a1",
        "salt/job/1/start/a1",
        "syndic/site1/1",
        "saltway/site/site1/status",
        "saltway/job/1/redeliver",
    ] {
        assert!(is_wanted(tag), "{tag}");
    }
    for tag in [
        "1",
        "salt/auth",
        "salt/job/1/publish",
        "salt/job/1",
        "syndic/site1/salt/job/1/ret/a1",
        "syndic/site1/saltway/site/site1/roster",
        "saltway/job/1/complete",
        "minion/refresh/a1",
    ] {
        assert!(!is_wanted(tag), "{tag}");
    }
}

#[test]
fn what_an_operator_had_sent_again_names_its_own_job() {
    let said = |fields: &[(&str, Value)]| {
        let mut data = Value::map([("v", Value::Int(1)), ("jid", JID.into())]);
        data.set("minions", Value::array(["a1", "../x"]));
        for (key, value) in fields {
            data.set(key, value.clone());
        }
        told("saltway/job/JID/redeliver", &data)
    };
    let told = said(&[("user", "alice".into())]);
    assert!(
        told.contains(r#"["a1"]"#) && told.contains("alice"),
        "{told}"
    );
    let refused = r#"Malformed("redeliver")"#;
    assert_eq!(said(&[("jid", "another".into())]), refused);
    assert_eq!(said(&[("v", Value::Int(2))]), refused);
}

#[test]
fn hostile_events_are_refused_by_a_word() {
    let map = Value::map([("minions", Value::Nil)]);
    let check = |tag: &str, data: &[u8], expected: &str| {
        let event = Event {
            tag: tag.to_owned(),
            data: Bytes::copy_from_slice(data),
        };
        let told = match decode(&event, HEARD) {
            Ok(news) => format!("{news:?}"),
            Err(refused) => format!("{refused:?}"),
        };
        assert!(told.starts_with(expected), "{tag}: {told}");
    };
    let map = encode(&map, Dialect::New);
    check("salt/job/1/new", b"\xc1", r#"Malformed("msgpack")"#);
    check("salt/job/1/new", b"\x01", r#"Malformed("not_map")"#);
    check("salt/job/1/new", &map, r#"Malformed("target")"#);
    check("salt/job/1/ret/a1", b"\x91\x01", r#"Malformed("not_map")"#);
    check("salt/job/../ret/a1", &map, r#"Malformed("jid")"#);
    check("salt/job/1/ret/a\\1", &map, r#"Malformed("minion")"#);
    check("saltway/site/site1/roster", &map, "Saltway");
    check("saltway/site/site1/other", &map, "NoNews");
    check("syndic/site1/1", &map, "Accepted");
}

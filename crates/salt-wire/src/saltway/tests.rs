use proptest::prelude::*;

use super::*;
use crate::{
    ids::Jid,
    msgpack::{Dialect, Limits, decode, encode},
};

fn site() -> MinionId {
    "site1".parse().expect("an id")
}

fn digest(ids: &[&str]) -> RosterDigest {
    RosterDigest::of_sorted(ids.iter().copied())
}

fn roster() -> Roster {
    Roster {
        site: site(),
        run: "host/4711".to_owned(),
        number: 3,
        parts: 2,
        part: 1,
        kind: RosterKind::Full,
        digest: digest(&["a1", "a2", "größe"]),
        members: Members::new([("a2", Presence::Down), ("größe", Presence::Unknown)]).expect("ids"),
        removed: IdList::default(),
        complete: true,
    }
}

fn change() -> Roster {
    Roster {
        parts: 1,
        part: 0,
        kind: RosterKind::Change {
            base: digest(&["a1"]),
        },
        members: Members::new([("a2", Presence::Up)]).expect("ids"),
        removed: IdList::new(["a1"]).expect("ids"),
        complete: false,
        ..roster()
    }
}

fn status() -> Status {
    Status {
        site: site(),
        run: "host/4711".to_owned(),
        version: "0.4.0".to_owned(),
        minions: 3,
        up: 2,
        roster: Some(digest(&["a1"])),
        entry: Some(EntryNumber {
            epoch: 1_795_000_000_000,
            number: 17,
        }),
        lag_entries: 2,
        lag_seconds: 0.25,
        spool: SpoolFigures {
            entries: 5,
            bytes: 1_000,
        },
        lost: vec![(LostAt::Redis, 3), (LostAt::Site, 1)],
        expired: 1,
        active: true,
        last_hop: Some(LastHop {
            expected: 600,
            received: 597,
            missed: 5,
            redelivered: 3,
            held_back: 1,
            after_ms_median: 31,
            after_ms_p99: 118,
        }),
    }
}

fn jid() -> Jid {
    Jid::parse("20261121175418824928").expect("a jid")
}

fn receipts() -> Receipts {
    Receipts {
        site: site(),
        gives: IdList::new(["a2"]).expect("ids"),
        jobs: vec![JobReceipts {
            jid: jid(),
            minions: IdList::new(["a1", "größe"]).expect("ids"),
            after_ms: vec![Some(31), None],
        }],
    }
}

fn minion_events() -> [MinionEvent; 2] {
    let receipt = MinionWord::Receipt(Receipt {
        run: "4711".to_owned(),
        jobs: vec![(jid(), 20)],
    });
    let state = MinionWord::State(MinionState {
        run: "4711".to_owned(),
        version: "0.4.0".to_owned(),
        what: Happened::Reconnected,
        covers_ms: 600_000,
        taken: vec![jid()],
        undelivered: vec![jid()],
    });
    [receipt, state].map(|what| MinionEvent {
        id: "größe".parse().expect("an id"),
        what,
    })
}

/// As the minion sends it on.
fn load(id: &str, data: Value) -> Value {
    Value::map([
        ("cmd", "_minion_event".into()),
        ("id", id.into()),
        ("data", data),
    ])
}

fn notice() -> JobNotice {
    JobNotice {
        site: site(),
        jid: Jid::parse("20261121175418824928").expect("a jid"),
        what: NotPublished::Expired,
        age_seconds: 301.5,
        reason: "older than job_ttl".to_owned(),
    }
}

/// As it arrives: out of the bytes of an event.
fn travelled(event: &SiteEvent) -> SiteEvent {
    let bytes = encode(&event.data(), Dialect::New);
    let data = decode(&bytes, Limits::CONTENT).expect("a document");
    let parsed = SiteEvent::parse(&event.tag(), &data).expect("an event of ours");
    parsed.expect("a tag of ours")
}

#[test]
fn events_arrive_as_they_were_sent() {
    let no_roster = Status {
        roster: None,
        entry: None,
        lost: Vec::new(),
        last_hop: None,
        ..status()
    };
    let events = [
        SiteEvent::Roster(roster()),
        SiteEvent::Roster(change()),
        SiteEvent::Roster(Roster {
            members: Members::default(),
            digest: digest(&[]),
            ..roster()
        }),
        SiteEvent::Status(status()),
        SiteEvent::Status(no_roster),
        SiteEvent::Job(notice()),
        SiteEvent::Receipts(receipts()),
    ];
    for event in events {
        assert_eq!(travelled(&event), event);
    }
}

#[test]
fn tags_are_those_of_the_documentation() {
    assert_eq!(roster().tag(), "saltway/site/site1/roster");
    assert_eq!(status().tag(), "saltway/site/site1/status");
    assert_eq!(notice().tag(), "saltway/site/site1/job");
    assert_eq!(receipts().tag(), "saltway/site/site1/receipts");
    let [receipt, state] = minion_events();
    assert_eq!(receipt.tag(), "saltway/minion/größe/receipt");
    assert_eq!(state.tag(), "saltway/minion/größe/state");
    for other in [
        "syndic/site1/saltway/site/site1/roster",
        "saltway/site/site1/up",
        "saltway/site/site1",
        "salt/job/20261121175418824928/new",
        "",
    ] {
        assert_eq!(SiteTag::parse(other), None, "{other}");
    }
}

#[test]
fn roster_names_ids_and_presence_in_the_same_order() {
    let data = roster().data();
    assert_eq!(data.get_str("ids"), Some("a2\ngröße"));
    assert_eq!(data.get_str("up"), Some("0?"));
    assert_eq!(data.get_str("base"), Some(""));
    assert_eq!(
        data.get("complete"),
        None,
        "true is what is meant without it"
    );
    let members = roster().members;
    let members: Vec<_> = members.iter().collect();
    let expected = [("a2", Presence::Down), ("größe", Presence::Unknown)];
    assert_eq!(members, expected);
}

#[test]
fn digest_is_that_of_any_other_implementation() {
    // printf 'a1\na2\nb1\n' | sha256sum | head -c 16
    assert_eq!(digest(&["a1", "a2", "b1"]).to_string(), "3f57ef1ac4751a13");
    // printf '' | sha256sum | head -c 16
    assert_eq!(digest(&[]).to_string(), "e3b0c44298fc1c14");
    let parsed = RosterDigest::parse("e3b0c44298fc1c14");
    assert_eq!(parsed, Some(digest(&[])));
    for wrong in [
        "e3b0c44298fc1c1",
        "E3B0C44298FC1C14",
        "+3b0c44298fc1c14",
        "",
    ] {
        assert_eq!(RosterDigest::parse(wrong), None, "{wrong}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let check = |event: SiteEvent, name: &str, value: Option<Value>, expected: &str| {
        let mut data = event.data();
        match value {
            Some(value) => data.set(name, value),
            None => drop(data.remove(name)),
        }
        let err = SiteEvent::parse(&event.tag(), &data).expect_err(expected);
        assert_eq!(err.to_string(), expected);
    };
    let roster = || SiteEvent::Roster(roster());
    let change = || SiteEvent::Roster(change());
    let status = || SiteEvent::Status(status());
    let notice = || SiteEvent::Job(notice());
    let version = |found: &str| {
        format!(
            "version {found} of the event is not known: this is version 1; upgrade the older end"
        )
    };
    check(roster(), "v", Some(Value::Int(2)), &version("2"));
    check(roster(), "v", None, &version("none"));
    check(roster(), "v", Some("1".into()), &version("?"));
    let other = "the data is about another site than the tag";
    check(roster(), "site", Some("site2".into()), other);
    check(notice(), "site", None, other);
    check(
        roster(),
        "part",
        Some(Value::Int(2)),
        "key part: not below the number of parts",
    );
    check(
        roster(),
        "parts",
        Some(Value::Int(0)),
        "key parts: no sensible number of parts",
    );
    check(
        roster(),
        "parts",
        Some(Value::Int(1 << 40)),
        "key parts: too large",
    );
    check(
        roster(),
        "number",
        Some(Value::Int(-1)),
        "key number: no whole number",
    );
    check(
        roster(),
        "up",
        Some("1".into()),
        "key up: not one character for each id",
    );
    check(
        roster(),
        "up",
        Some("1ß".into()),
        "key up: not one character for each id",
    );
    let no_id = "key ids: holds a text that is no minion id";
    check(roster(), "ids", Some("a1\n".into()), no_id);
    check(roster(), "ids", Some("a1\n../x".into()), no_id);
    check(roster(), "ids", None, "key ids: no text");
    check(
        roster(),
        "run",
        Some("x\ny".into()),
        "key run: no short text on one line",
    );
    check(
        roster(),
        "kind",
        Some("new".into()),
        "key kind: neither full nor change",
    );
    check(
        roster(),
        "complete",
        Some("no".into()),
        "key complete: neither true nor false",
    );
    check(
        change(),
        "base",
        Some("".into()),
        "key base: not 16 hex digits",
    );
    check(
        change(),
        "parts",
        Some(Value::Int(2)),
        "key parts: a change has one part",
    );
    check(
        status(),
        "entry",
        Some("17".into()),
        "key entry: not <epoch>-<number>",
    );
    check(
        status(),
        "lag_seconds",
        Some(f64::NAN.into()),
        "key lag_seconds: no number of seconds",
    );
    check(
        status(),
        "lag_seconds",
        Some((-1.0).into()),
        "key lag_seconds: no number of seconds",
    );
    check(
        status(),
        "spool",
        Some(Value::Nil),
        "key spool: not a map of entries and bytes",
    );
    check(status(), "lost", None, "key lost: no map");
    check(
        notice(),
        "what",
        Some("done".into()),
        "key what: not a word that this version knows",
    );
    check(notice(), "jid", Some("a/b".into()), "key jid: not a jid");
    let receipts = || SiteEvent::Receipts(receipts());
    let jobs = |name: &str, value: Value| {
        let mut job = Value::map([
            ("jid", (&jid()).into()),
            ("minions", "a1".into()),
            ("after_ms", Value::array([Value::Int(1)])),
        ]);
        job.set(name, value);
        Some(Value::array([job]))
    };
    let cases = [
        (
            "gives",
            Some("a b\n".into()),
            "key gives: holds what is no minion id",
        ),
        ("jobs", None, "key jobs: no list"),
        (
            "jobs",
            Some(Value::array(vec![Value::Nil; JOBS_MAX + 1])),
            "key jobs: too many",
        ),
        (
            "jobs",
            jobs("jid", "a/b".into()),
            "key jobs: one without a jid",
        ),
        (
            "jobs",
            jobs("minions", "a/b".into()),
            "key jobs: one without minions",
        ),
        (
            "jobs",
            jobs("after_ms", Value::Array(Vec::new())),
            "key jobs: one without a delay for each minion",
        ),
        (
            "jobs",
            jobs("after_ms", Value::array([Value::Int(-2)])),
            "key jobs: a delay that is none",
        ),
    ];
    for (name, value, expected) in cases {
        check(receipts(), name, value, expected);
    }
    let hop = Some(Value::Map(Vec::new()));
    check(
        status(),
        "last_hop",
        hop,
        "key last_hop: not a map of counts",
    );
    let tag = "saltway/site/a b/c/roster";
    assert!(SiteEvent::parse(tag, &Value::Nil).is_err());
    let nothing = SiteEvent::parse("saltway/site/site1/roster", &Value::Nil);
    assert_eq!(nothing, Err(SaltwayError::NoMap));
}

#[test]
fn words_of_a_minion_shim_arrive_in_the_load_of_its_own_minion_alone() {
    for event in minion_events() {
        assert!(MinionEvent::is_tag(&event.tag()));
        let arrived = MinionEvent::parse(&event.tag(), &load("größe", event.data()));
        assert_eq!(arrived, Ok(Some(event.clone())));
        let err = MinionEvent::parse(&event.tag(), &load("a1", event.data()));
        let err = err.expect_err("of another minion");
        assert_eq!(err.to_string(), "key id: another minion's than the tag's");
    }
    for other in [
        "saltway/minion/a1/roster",
        "saltway/minion/receipt",
        "salt/minion/a1/start",
    ] {
        assert_eq!(MinionEvent::parse(other, &Value::Nil), Ok(None), "{other}");
    }
}

#[test]
fn what_is_wrong_in_the_word_of_a_minion_shim_is_named() {
    let check = |event: &MinionEvent, name: &str, value: Value, expected: &str| {
        let mut data = event.data();
        data.set(name, value);
        let err = MinionEvent::parse(&event.tag(), &load("größe", data)).expect_err(expected);
        assert_eq!(err.to_string(), expected);
    };
    let [receipt, state] = minion_events();
    check(
        &receipt,
        "held_ms",
        Value::Array(Vec::new()),
        "key held_ms: not one for each job",
    );
    check(
        &receipt,
        "held_ms",
        Value::array([Value::Int(-1)]),
        "key held_ms: holds what is no time",
    );
    check(
        &receipt,
        "jids",
        Value::array(["../x"]),
        "key jids: holds what is no jid",
    );
    check(
        &state,
        "what",
        "gone".into(),
        "key what: not a word that this version knows",
    );
    check(
        &state,
        "covers_ms",
        Value::Int(-1),
        "key covers_ms: no whole number",
    );
    let many = Value::array(vec!["20261121175418824928"; JIDS_MAX + 1]);
    check(&state, "taken", many, "key taken: too many jobs");
    check(
        &state,
        "run",
        "a\nb".into(),
        "key run: no short text on one line",
    );
}

#[test]
fn keys_and_words_of_later_versions_are_passed_over() {
    let mut data = status().data();
    data.set("new", "x");
    data.set(
        "lost",
        Value::map([("moon", Value::Int(1)), ("mom", Value::Int(2))]),
    );
    let Ok(Some(SiteEvent::Status(status))) = SiteEvent::parse(&status().tag(), &data) else {
        panic!("a status");
    };
    assert_eq!(status.lost, [(LostAt::Mom, 2)]);
    let mut data = roster().data();
    data.set("up", "x1");
    let Ok(Some(SiteEvent::Roster(roster))) = SiteEvent::parse(&roster().tag(), &data) else {
        panic!("a roster");
    };
    let presences: Vec<_> = roster
        .members
        .iter()
        .map(|(_, presence)| presence)
        .collect();
    assert_eq!(presences, [Presence::Unknown, Presence::Up]);
}

#[test]
fn long_reason_is_cut_where_it_is_made() {
    let long = JobNotice {
        reason: "ß".repeat(2_000),
        ..notice()
    };
    let SiteEvent::Job(arrived) = travelled(&SiteEvent::Job(long)) else {
        panic!("a notice");
    };
    assert_eq!(arrived.reason, "ß".repeat(500));
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::UInt),
        any::<f64>().prop_map(Value::Float64),
        "\\PC{0,20}".prop_map(|text| text.as_str().into()),
        "[a-c\n]{0,20}".prop_map(|text| text.as_str().into()),
        Just(Value::Map(Vec::new())),
        Just(Value::Array(Vec::new())),
    ]
}

proptest! {
    /// Whatever stands under any key: no panic, and what is taken is what is sent on.
    #[test]
    fn any_value_under_any_key_is_refused_or_taken(which in 0_usize..5, key in 0_usize..20, value in any_value()) {
        let event = match which {
            0 => SiteEvent::Roster(roster()),
            1 => SiteEvent::Roster(change()),
            2 => SiteEvent::Status(status()),
            3 => SiteEvent::Receipts(receipts()),
            _ => SiteEvent::Job(notice()),
        };
        let mut data = event.data();
        let names: Vec<String> = data.as_map().expect("a map").iter()
            .filter_map(|(name, _)| name.as_str().map(str::to_owned)).collect();
        let name = names.get(key % names.len()).expect("a key");
        data.set(name, value);
        if let Ok(Some(taken)) = SiteEvent::parse(&event.tag(), &data) {
            prop_assert_eq!(travelled(&taken), taken);
        }
    }

    #[test]
    fn ids_come_back_as_they_went(ids in proptest::collection::vec("[a-zA-Z0-9_.ü-]{1,12}", 0..50)) {
        let ids: Vec<&str> = ids.iter().map(String::as_str).filter(|id| !matches!(*id, "." | "..")).collect();
        let list = IdList::new(ids.iter().copied()).expect("ids");
        prop_assert_eq!(list.iter().collect::<Vec<_>>(), ids.clone());
        let parsed = IdList::parse(list.as_text()).expect("ids");
        prop_assert_eq!(parsed, list);
    }
}

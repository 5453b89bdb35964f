//! Drives the bodies of the fuzz targets on the stable compiler, from a fixed seed: with random
//! bytes, and with real frames in which some bytes were changed, cut or repeated.

use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::Path;

use openssl::base64;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use salt_wire::hostile;
use salt_wire::ids::{Jid, MinionId};
use salt_wire::msgpack::{Dialect, Value, encode};
use salt_wire::saltway::{
    Happened, IdList, JobReceipts, LastHop, LostAt, Members, MinionEvent, MinionState, MinionWord,
    Presence, Receipt, Receipts, Roster, RosterDigest, RosterKind, SpoolFigures, Status,
};
use serde_json::Value as Json;

/// All base64 texts of a vector that are long enough to be frames or parts of frames.
fn collect(json: &Json, frames: &mut Vec<Vec<u8>>) {
    match json {
        Json::String(text) if text.len() >= 40 => frames.extend(base64::decode_block(text).ok()),
        Json::Array(items) => items.iter().for_each(|item| collect(item, frames)),
        Json::Object(entries) => entries.values().for_each(|value| collect(value, frames)),
        _ => {}
    }
}

fn recorded(names: &[&str]) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vectors/3008.3");
    let mut frames = Vec::new();
    for name in names {
        let text = std::fs::read(directory.join(format!("{name}.json"))).expect("a vector file");
        collect(&serde_json::from_slice(&text).expect("JSON"), &mut frames);
    }
    assert!(!frames.is_empty());
    frames
}

#[derive(Clone, Debug)]
enum Damage {
    Set(Index, u8),
    Cut(Index),
    Repeat(Index),
    Insert(Index, u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        5 => any::<(Index, u8)>().prop_map(|(at, byte)| Damage::Set(at, byte)),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => any::<Index>().prop_map(Damage::Repeat),
        2 => any::<(Index, u8)>().prop_map(|(at, byte)| Damage::Insert(at, byte)),
    ]
}

fn apply(mut frame: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let length = frame.len().max(1);
        match damage {
            Damage::Set(at, byte) => {
                if let Some(slot) = frame.get_mut(at.index(length)) {
                    *slot = *byte;
                }
            }
            Damage::Cut(at) => frame.truncate(at.index(length)),
            Damage::Repeat(at) => frame.extend_from_within(at.index(length).min(frame.len())..),
            Damage::Insert(at, byte) => frame.insert(at.index(length).min(frame.len()), *byte),
        }
    }
    frame
}

/// Runs a body over damaged recorded frames and random bytes.
fn drive(body: impl Fn(&[u8]) + UnwindSafe + RefUnwindSafe, cases: u32, names: &[&str]) {
    drive_from(body, cases, recorded(names));
}

/// Runs a body over a number of inputs, made of these; a failing input is made smaller and printed.
fn drive_from(body: impl Fn(&[u8]) + UnwindSafe + RefUnwindSafe, cases: u32, frames: Vec<Vec<u8>>) {
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let seed = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let damaged = (prop::sample::select(frames), vec(damage(), 0..6))
        .prop_map(|(frame, damages)| apply(frame, &damages));
    let inputs = prop_oneof![3 => damaged, 1 => vec(any::<u8>(), 0..400)];
    let result = TestRunner::new_with_rng(config, seed).run(&inputs, |input| {
        body(&input);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

#[test]
fn msgpack() {
    drive(
        hostile::msgpack,
        4000,
        &["auth_token", "return", "pub_signed", "event_bus"],
    );
}

#[test]
fn publication() {
    drive(
        hostile::publication,
        2000,
        &["pub_signed", "pub_unsigned", "pub_filtered"],
    );
}

#[test]
fn reply() {
    drive(
        hostile::reply,
        2000,
        &["return", "publish_cli", "publish_syndic_nomatch", "pillar"],
    );
}

#[test]
fn gate() {
    drive(
        hostile::gate,
        4000,
        &["auth_token", "extra_auth_sha224", "return", "publish_cli"],
    );
}

#[test]
fn auth_reply() {
    drive(
        hostile::auth_reply,
        300,
        &["auth_token", "auth_pending", "extra_auth_v1"],
    );
}

#[test]
fn bus() {
    drive(hostile::bus, 4000, &["event_bus", "event_pull"]);
}

#[test]
fn site_event() {
    let site = || MinionId::parse("fuzz").expect("an id");
    let members = Members::new([("a1", Presence::Up), ("b2", Presence::Unknown)]);
    let roster = Roster {
        site: site(),
        run: "run".to_owned(),
        number: 2,
        parts: 1,
        part: 0,
        kind: RosterKind::Full,
        digest: RosterDigest::of_sorted(["a1", "b2"]),
        members: members.expect("ids"),
        removed: IdList::default(),
        complete: true,
    };
    let status = Status {
        site: site(),
        run: "run".to_owned(),
        version: "0.1.0".to_owned(),
        minions: 2,
        up: 1,
        roster: Some(roster.digest),
        entry: None,
        lag_entries: 3,
        lag_seconds: 0.5,
        spool: SpoolFigures {
            entries: 1,
            bytes: 100,
        },
        lost: vec![(LostAt::Redis, 4)],
        expired: 0,
        active: true,
        last_hop: Some(LastHop::default()),
    };
    let receipts = Receipts {
        site: site(),
        gives: IdList::new(["a1"]).expect("ids"),
        jobs: vec![JobReceipts {
            jid: Jid::parse("20261121175418824928").expect("a jid"),
            minions: IdList::new(["a1", "b2"]).expect("ids"),
            after_ms: vec![Some(17), None],
        }],
    };
    let kinds = [(0, roster.data()), (1, status.data()), (3, receipts.data())];
    let frames = kinds.map(|(kind, data)| {
        let mut frame = vec![kind];
        frame.extend(encode(&data, Dialect::New));
        frame
    });
    drive_from(hostile::site_event, 4000, frames.to_vec());
}

#[test]
fn minion_event() {
    let jid = || Jid::parse("20261121175418824928").expect("a jid");
    let receipt = MinionWord::Receipt(Receipt {
        run: "run".to_owned(),
        jobs: vec![(jid(), 20)],
    });
    let state = MinionWord::State(MinionState {
        run: "run".to_owned(),
        version: "0.1.0".to_owned(),
        what: Happened::Started,
        covers_ms: 60_000,
        taken: vec![jid()],
        undelivered: Vec::new(),
    });
    let frames = [(0, receipt), (1, state)].map(|(kind, what)| {
        let id = MinionId::parse("fuzz").expect("an id");
        let data = MinionEvent { id, what }.data();
        let load = Value::map([("id", "fuzz".into()), ("data", data)]);
        let mut frame = vec![kind];
        frame.extend(encode(&load, Dialect::New));
        frame
    });
    drive_from(hostile::minion_event, 4000, frames.to_vec());
}

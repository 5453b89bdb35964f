//! Publications of masters with and without signatures and topics.

use bytes::Bytes;
use salt_wire::crypticle::AesKey;
use salt_wire::keys::SigAlgo;
use salt_wire::publication::topics::{Selection, select};
use salt_wire::publication::{Publication, PublicationError, PublicationLoad, Signature};
use serde_json::Value as Json;

use crate::support::{
    aes_key, daemon_key, daemon_public_key, for_each, jsonish, open, raw, read, unbase64,
};

pub(crate) const FILES: &[&str] = &["pub_filtered", "pub_signed", "pub_unsigned"];

fn frames(item: &Json) -> Vec<Bytes> {
    item["frames"]
        .as_array()
        .unwrap()
        .iter()
        .map(unbase64)
        .collect()
}

fn check(version: &str, payload: &Bytes, aes: &AesKey, signed: bool) -> PublicationLoad {
    let publication = Publication::parse(payload).unwrap();
    let signature = publication
        .verify(&daemon_public_key(version, "mom"))
        .unwrap();
    let envelope = read(payload);
    let container = raw(&envelope, "load");
    if signed {
        assert_eq!(signature, Signature::Valid);
        let other = publication.verify(&daemon_public_key(version, "ds"));
        assert!(matches!(other, Err(PublicationError::BadSignature)));
        let sig = daemon_key(version, "mom")
            .sign(SigAlgo::Pkcs1v15Sha1, container)
            .unwrap();
        assert_eq!(sig, *raw(&envelope, "sig"), "signed again");
    } else {
        assert_eq!(signature, Signature::Absent);
    }
    read(&open(aes, container));
    let wrong_key = publication
        .decrypt(&AesKey::generate().unwrap())
        .unwrap_err();
    assert!(wrong_key.is_wrong_key());
    publication.decrypt(aes).unwrap()
}

#[test]
fn publications_of_one_frame() {
    for_each(&["pub_signed", "pub_unsigned"], |version, name, json| {
        let aes = aes_key(json, "aes_key");
        let mut serials = Vec::new();
        for item in json["publications"].as_array().unwrap() {
            let frames = frames(item);
            assert_eq!(select(&frames), Selection::Payload(frames[0].clone()));
            let load = check(version, &frames[0], &aes, name == "pub_signed");
            assert_eq!(jsonish(load.fields()), item["decoded_load"]);
            assert_eq!(load.jid().as_str(), item["decoded_load"]["jid"]);
            assert_eq!(load.master_id(), Some("mom-id"));
            assert_eq!(load.unknown_fields(), Vec::<&str>::new());
            serials.push(load.serial().unwrap());
        }
        assert!(
            serials.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "{serials:?}"
        );
        assert!(
            name == "pub_signed" || serials[0] == 1,
            "a new master begins at 1"
        );
    });
}

#[test]
fn of_filtered_publications_exactly_one_copy_is_kept() {
    for_each(&["pub_filtered"], |version, _, json| {
        let aes = aes_key(json, "aes_key");
        let (mut kept, mut others) = (Vec::new(), 0);
        for item in json["publications"].as_array().unwrap() {
            let frames = frames(item);
            let load = check(version, &frames[1], &aes, true);
            assert_eq!(jsonish(load.fields()), item["decoded_load"]);
            match select(&frames) {
                Selection::Payload(payload) => {
                    assert_eq!(payload, frames[1]);
                    kept.push(load.serial().unwrap());
                }
                Selection::OtherTopic => others += 1,
                Selection::Malformed { .. } => panic!("two frames are well-formed"),
            }
        }
        assert!(
            kept.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "{kept:?}"
        );
        assert!(others > 0);
        let subscriptions = json["subscriptions_of_syndic"].as_array().unwrap();
        let mut subscriptions: Vec<Bytes> = subscriptions.iter().map(unbase64).collect();
        subscriptions.sort();
        assert_eq!(subscriptions, [&b"\0"[..], b"\x01broadcast", b"\x01syndic"]);
    });
}

#[test]
fn messages_of_no_or_three_frames_are_no_publications() {
    let frame = Bytes::from_static(b"x");
    assert_eq!(select(&[]), Selection::Malformed { frames: 0 });
    let three = [frame.clone(), frame.clone(), frame];
    assert_eq!(select(&three), Selection::Malformed { frames: 3 });
}

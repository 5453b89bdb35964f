//! Requests to port 4506 and their replies: returns, events, publish, pillar; and all the keys.

use bytes::Bytes;
use salt_wire::commands::{
    MinionEvent, MinionEvents, Publish, PublishReply, Return, RootKey, SyndicReturn,
    SyndicReturnElement,
};
use salt_wire::crypticle::AesKey;
use salt_wire::gate::{Refusal, RequestKind, inspect};
use salt_wire::ids::{Jid, MinionId};
use salt_wire::keys::{EncAlgo, PrivateKey, SigAlgo};
use salt_wire::msgpack::{Dialect, Value, encode};
use salt_wire::publication::{Publication, PublicationLoad};
use salt_wire::request::{
    Identity, Nonce, Reply, complete_load, decode_reply, encode_envelope, open_reply,
};
use serde_json::Value as Json;

use crate::support::{
    VERSIONS, aes_key, daemon_key, daemon_public_key, for_each, jsonish, open, payload, raw, read,
    text, unbase64, vector,
};

pub(crate) const FILES: &[&str] = &[
    "keys",
    "minion_event_forward",
    "minion_event_minion_start",
    "minion_event_start",
    "pillar",
    "publish_cli",
    "publish_syndic",
    "publish_syndic_nomatch",
    "return",
    "return_nonzero",
    "syndic_return",
    "syndic_return_two_jids",
];

/// Checks one AES request and its reply in both directions; `command` makes the map of the command
/// again, from typed parts.
fn check_aes(version: &str, json: &Json, command: impl Fn(&Value, &Identity) -> Value) {
    let session = aes_key(json, "session_key");
    let id = MinionId::parse(text(json, "client_id")).unwrap();
    let key = daemon_key(version, id.as_str());
    let identity = Identity::new(id.clone(), &key, EncAlgo::default(), SigAlgo::default()).unwrap();
    let request = payload(json, "request_frames");
    assert_eq!(inspect(&request), Ok(RequestKind::Aes { id }));
    let container = raw(&read(&request), "load").clone();
    assert_eq!(
        encode_envelope(&identity, container.to_vec()),
        request,
        "the envelope again"
    );

    let plaintext = open(&session, &container);
    let load = read(&plaintext);
    assert_eq!(jsonish(&load), json["decoded_request"]);
    assert_eq!(raw(&load, "tok"), identity.tok(), "tok is deterministic");
    let recovered = key
        .public_key()
        .unwrap()
        .x931_recover(raw(&load, "tok"))
        .unwrap();
    assert_eq!(recovered, b"salt");
    let nonce = Nonce::parse(load.get_str("nonce").unwrap()).unwrap();
    let ts = load.get("ts").and_then(Value::as_u64).unwrap();
    let again = complete_load(&identity, &nonce, ts, command(&load, &identity));
    assert_eq!(
        encode(&again, Dialect::Old),
        plaintext,
        "the load is made again"
    );

    let reply = payload(json, "reply_frames");
    assert_eq!(
        jsonish(&open_reply(&session, &nonce, &reply).unwrap()),
        json["decoded_reply"]
    );
    let Reply::Encrypted(container) = decode_reply(&reply).unwrap() else {
        panic!("a container")
    };
    open(&session, &container);
    let other = AesKey::generate().unwrap();
    assert!(
        open_reply(&other, &nonce, &reply)
            .unwrap_err()
            .needs_sign_in()
    );
    assert!(open_reply(&session, &Nonce::random().unwrap(), &reply).is_err());
}

fn owned(load: &Value, key: &str) -> Option<String> {
    load.get_str(key).map(str::to_owned)
}

fn minion_id(load: &Value, key: &str) -> MinionId {
    MinionId::parse(load.get_str(key).unwrap()).unwrap()
}

fn jid(load: &Value) -> Jid {
    Jid::parse(load.get_str("jid").unwrap()).unwrap()
}

#[test]
fn returns_of_minions() {
    for_each(&["return", "return_nonzero"], |version, name, json| {
        check_aes(version, json, |load, _| {
            let ret = Return {
                id: minion_id(load, "id"),
                jid: jid(load),
                fun: load.get("fun").unwrap().clone(),
                fun_args: load.get("fun_args").unwrap().clone(),
                ret: load.get("return").unwrap().clone(),
                retcode: load.get("retcode").and_then(Value::as_i64).unwrap(),
                success: load.get("success").and_then(Value::as_bool).unwrap(),
                user: owned(load, "user"),
                master_id: owned(load, "master_id"),
                metadata: load.get("metadata").cloned(),
                out: owned(load, "out"),
            };
            assert_eq!(ret.retcode, if name == "return" { 0 } else { 3 });
            // A minion adds fields that a master does not look at, and orders them in its own way.
            let typed = ret.into_load();
            let Value::Map(mut again) = load.clone() else {
                panic!("a map")
            };
            for (key, value) in &mut again {
                let key = key.as_str().unwrap().to_owned();
                if let Some(typed) = typed.get(&key) {
                    *value = typed.clone();
                }
            }
            assert_eq!(
                typed.as_map().unwrap().len(),
                again.len() - own_fields(load)
            );
            Value::Map(again)
        });
    });
}

/// `nonce`, `ts` and `tok` of the request, and what only minions send.
fn own_fields(load: &Value) -> usize {
    let names = [
        "nonce",
        "ts",
        "tok",
        "_stamp",
        "resource_targets",
        "start_time",
        "duration",
    ];
    names.iter().filter(|name| load.get(name).is_some()).count()
}

#[test]
fn returns_of_syndics() {
    for_each(
        &["syndic_return", "syndic_return_two_jids"],
        |version, name, json| {
            check_aes(version, json, |load, _| {
                let elements = load.get("load").and_then(Value::as_array).unwrap();
                assert_eq!(elements.len() == 1, name == "syndic_return");
                let element = |element: &Value| SyndicReturnElement {
                    id: minion_id(element, "id"),
                    jid: jid(element),
                    fun: element.get("fun").unwrap().clone(),
                    load: element.get("load").cloned(),
                    returns: element
                        .get("return")
                        .and_then(Value::as_map)
                        .unwrap()
                        .iter()
                        .map(|(id, ret)| {
                            (MinionId::parse(id.as_str().unwrap()).unwrap(), ret.clone())
                        })
                        .collect(),
                    master_id: owned(element, "master_id"),
                    out: None,
                    fun_args: None,
                };
                SyndicReturn {
                    elements: elements.iter().map(element).collect(),
                }
                .into_load()
            });
        },
    );
}

#[test]
fn events_of_minions_and_syndics() {
    for_each(&["minion_event_forward"], |version, _, json| {
        check_aes(version, json, |load, identity| {
            let events = load.get("events").and_then(Value::as_array).unwrap();
            let event = |event: &Value| MinionEvent {
                tag: owned(event, "tag").unwrap(),
                data: event.get("data").unwrap().clone(),
            };
            let events = events.iter().map(event).collect();
            MinionEvents::of_syndic(identity.id(), events).into_load(identity)
        });
    });
    for_each(
        &["minion_event_start", "minion_event_minion_start"],
        |version, _, json| {
            check_aes(version, json, |load, identity| {
                let tag = owned(load, "tag").unwrap();
                let data = load.get("data").unwrap().clone();
                in_order_of(load, MinionEvents::Single { tag, data }.into_load(identity))
            });
        },
    );
}

/// The same map with its keys as they were captured: their order has no meaning.
fn in_order_of(captured: &Value, mut load: Value) -> Value {
    let names = captured
        .as_map()
        .unwrap()
        .iter()
        .filter_map(|(name, _)| name.as_str());
    let mut ordered = Value::Map(Vec::new());
    for name in names {
        if let Some(value) = load.remove(name) {
            ordered.set(name, value);
        }
    }
    assert_eq!(load, Value::Map(Vec::new()), "nothing but what Salt sends");
    ordered
}

fn check_publish(json: &Json) -> (Publish, PublishReply) {
    let request = payload(json, "request_frames");
    assert_eq!(
        inspect(&request),
        Err(Refusal::ClearCommand),
        "no command passes the bridge"
    );
    let load = read(&request).get("load").unwrap().clone();
    assert_eq!(jsonish(&load), json["decoded_request"]);
    let field = |name: &str| load.get(name).unwrap().clone();
    let publish = Publish {
        tgt: field("tgt"),
        fun: field("fun"),
        arg: field("arg"),
        key: RootKey::parse(load.get_str("key").unwrap()).unwrap(),
        tgt_type: field("tgt_type"),
        ret: field("ret"),
        jid: field("jid"),
        kwargs: field("kwargs"),
        user: owned(&load, "user").unwrap(),
        to: load.get("to").and_then(Value::as_i64),
    };
    assert_eq!(publish.encode(), request, "the request is made again");
    let reply = payload(json, "reply_frames");
    assert_eq!(jsonish(&read(&reply)), json["decoded_reply"]);
    (publish, PublishReply::parse(&reply).unwrap())
}

#[test]
fn publish_commands() {
    let ids = |names: &[&str]| -> Vec<MinionId> {
        names
            .iter()
            .map(|name| MinionId::parse(name).unwrap())
            .collect()
    };
    for_each(&["publish_cli", "publish_syndic"], |_, name, json| {
        let (_, reply) = check_publish(json);
        let PublishReply::Published {
            minions, missing, ..
        } = reply
        else {
            panic!("{reply:?}")
        };
        let expected: &[&str] = if name == "publish_cli" {
            &["syn1"]
        } else {
            &["m1", "m2"]
        };
        let mut minions = minions;
        minions.sort();
        assert_eq!(minions, ids(expected));
        assert!(missing.is_empty());
    });
    for_each(&["publish_syndic_nomatch"], |_, _, json| {
        let (_, reply) = check_publish(json);
        assert!(matches!(reply, PublishReply::NoMatch { text } if text.contains("['syn1']")));
    });
}

#[test]
fn a_publication_becomes_the_publish_that_salts_own_syndic_sends() {
    for version in VERSIONS {
        let (publish, _) = check_publish(&vector(version, "publish_syndic"));
        let captured = vector(version, "pub_filtered");
        let aes = aes_key(&captured, "aes_key");
        let publications = captured["publications"].as_array().unwrap().iter();
        let load = publications
            .map(|item| Publication::parse(&unbase64(&item["frames"][1])).unwrap())
            .map(|publication| publication.decrypt(&aes).unwrap())
            .find(|load| *load.fun() == publish.fun && *load.tgt() == publish.tgt)
            .expect("the same command was published while publications were recorded");
        // It was another run of the command, with a jid of its own.
        let mut fields = load.fields().clone();
        fields.set("jid", publish.jid.clone());
        let load = PublicationLoad::new(fields).unwrap();
        let mut made = Publish::from_load(&load, publish.key.clone(), "root");
        // The syndic's own master had no `order_masters`, for which its client leaves this out.
        assert_eq!(made.to.take(), Some(7));
        assert_eq!(made.encode(), publish.encode());
    }
}

#[test]
fn pillar_replies_open_with_the_key_inside() {
    for_each(&["pillar"], |version, _, json| {
        let reply = payload(json, "reply_frames");
        let Reply::Map(reply) = decode_reply(&reply).unwrap() else {
            panic!("a map")
        };
        let client = daemon_key(version, text(json, "client_id"));
        let key = client
            .decrypt(EncAlgo::OaepSha1, raw(&reply, "key"))
            .unwrap();
        let key = AesKey::parse(std::str::from_utf8(&key).unwrap()).unwrap();
        let signed = read(&open(&key, raw(&reply, "pillar")));
        let (data, sig) = (raw(&signed, "data"), raw(&signed, "sig"));
        let master = daemon_public_key(version, text(json, "master_key"));
        assert!(master.verify(SigAlgo::Pkcs1v15Sha1, data, sig));
        let data = read(data);
        assert_eq!(data.get_str("nonce"), Some(text(json, "request_nonce")));
        assert_eq!(data.get("key"), reply.get("key"));
        assert_eq!(data.get("pillar"), Some(&Value::Map(Vec::new())));
    });
}

#[test]
fn keys_of_all_daemons() {
    for_each(&["keys"], |_, _, json| {
        let keys = json["keys"].as_object().unwrap();
        assert_eq!(keys.len(), 5);
        for key in keys.values() {
            let der: Bytes = unbase64(&key["private_pkcs1_der"]);
            let private = PrivateKey::from_der(&der).unwrap();
            let public = private.public_key().unwrap();
            assert_eq!(public.to_pem(), text(key, "public_pem").trim());
            assert!(public.is_canonical());
            assert_eq!(public.bits(), 2048);
            let again = PrivateKey::from_pem(private.to_pem().unwrap().as_bytes()).unwrap();
            assert_eq!(again.public_key().unwrap(), public);
        }
    });
}

#[test]
fn fingerprints_are_those_that_salt_prints() {
    // salt.utils.crypt.pem_finger of 3006.27 and 3008.3 on this key.
    let key = daemon_public_key("3006.27", "mom");
    let expected = "29:98:18:8c:ec:e4:ca:49:c5:a2:29:f0:06:70:6a:42:\
                    e8:8f:fd:38:2a:17:22:92:68:f1:06:d7:61:96:f0:6a";
    assert_eq!(key.fingerprint("sha256").unwrap(), expected);
    let md5 = "6a:1c:3b:91:c4:ed:b7:50:b6:47:9b:5f:f8:7b:dc:a5";
    assert_eq!(key.fingerprint("md5").unwrap(), md5);
}

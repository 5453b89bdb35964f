use super::*;
use bytes::Bytes;
use proptest::prelude::*;

use crate::ids::{Jid, MinionId};
use crate::keys::{EncAlgo, PrivateKey, SigAlgo};
use crate::msgpack::{Dialect, Limits, Value, decode, encode};
use crate::publication::PublicationLoad;
use crate::request::Identity;

const JID: &str = "20261120175418824928";

fn root_key() -> RootKey {
    RootKey::parse(&format!("{}=\n", "k".repeat(75))).unwrap()
}

fn publish_load(load: Value) -> Value {
    let load = PublicationLoad::new(load).unwrap();
    let frame = Publish::from_load(&load, root_key(), "root").encode();
    decode(&frame, Limits::CONTENT)
        .unwrap()
        .get("load")
        .unwrap()
        .clone()
}

#[test]
fn every_field_of_a_publication_reaches_the_master_below() {
    let whole = Value::map([
        ("fun", Value::array(["test.ping", "cmd.run"])),
        (
            "arg",
            Value::Array(vec![Value::Array(vec![]), Value::array(["id"])]),
        ),
        ("tgt", "os|Debian".into()),
        ("jid", JID.into()),
        ("ret", "mysql".into()),
        ("tgt_type", "grain".into()),
        ("user", "sudo_ada".into()),
        ("master_id", "mom".into()),
        ("to", Value::Int(9)),
        ("auth_list", Value::array(["test.*"])),
        ("delimiter", "|".into()),
        ("metadata", Value::map([("ticket", Value::Int(1))])),
        ("ret_config", "alternative".into()),
        ("ret_kwargs", Value::map([("x", Value::Nil)])),
        ("module_executors", Value::array(["sudo"])),
        ("executor_opts", Value::map([("a", Value::from("b"))])),
        ("start_event", true.into()),
        ("id", "peer".into()),
        ("serial", Value::Int(3)),
    ]);
    assert!(
        PublicationLoad::new(whole.clone())
            .unwrap()
            .unknown_fields()
            .is_empty()
    );
    let sent = publish_load(whole.clone());
    for field in ["fun", "arg", "tgt", "tgt_type", "ret", "jid"] {
        assert_eq!(sent.get(field), whole.get(field), "{field}");
    }
    assert_eq!(sent.get_str("cmd"), Some("publish"));
    assert_eq!(sent.get_str("user"), Some("root"));
    assert_eq!(sent.get("to"), Some(&Value::Int(8)));
    let kwargs = sent.get("kwargs").unwrap();
    for field in [
        "auth_list",
        "master_id",
        "user",
        "delimiter",
        "metadata",
        "ret_config",
        "ret_kwargs",
        "module_executors",
        "executor_opts",
        "start_event",
        "id",
    ] {
        assert_eq!(kwargs.get(field), whole.get(field), "{field}");
    }
    assert_eq!(
        kwargs.as_map().unwrap().len(),
        11,
        "and nothing else: no serial, no eauth"
    );
}

#[test]
fn a_bare_publication_gets_what_publish_insists_on() {
    let bare = [
        ("fun", "test.ping"),
        ("tgt", "*"),
        ("jid", JID),
        ("eauth", "pam"),
        ("trace", "x"),
    ];
    let bare = Value::map(bare.map(|(name, text)| (name, Value::from(text))));
    let load = PublicationLoad::new(bare.clone()).unwrap();
    assert_eq!(load.unknown_fields(), ["eauth", "trace"]);
    assert_eq!(load.functions(), ["test.ping"]);
    let sent = publish_load(bare);
    assert_eq!(sent.get("arg"), Some(&Value::Array(vec![])));
    assert_eq!(
        (sent.get_str("ret"), sent.get_str("tgt_type")),
        (Some(""), Some("glob"))
    );
    assert_eq!(sent.get("kwargs"), Some(&Value::Map(vec![])));
    assert_eq!(sent.get("to"), None);
}

#[test]
fn answers_to_publish_are_told_apart() {
    let parse = |reply: Value| PublishReply::parse(&encode(&reply, Dialect::Old));
    let clear = |load| Value::map([("enc", "clear".into()), ("load", load)]);
    let error = |name: &str| {
        let error = Value::map([("name", name.into()), ("message", Value::from("no"))]);
        parse(Value::map([("error", error)])).unwrap()
    };
    let published = clear(Value::map([
        ("jid", JID.into()),
        ("minions", Value::array(["m1", "m2"])),
        ("missing", Value::array(["m3"])),
    ]));
    assert_eq!(
        parse(published).unwrap(),
        PublishReply::Published {
            jid: Jid::parse(JID).unwrap(),
            minions: ["m1", "m2"].map(|id| MinionId::parse(id).unwrap()).to_vec(),
            missing: vec!["m3".to_owned()],
        }
    );
    let nothing = clear(Value::map([
        ("jid", Value::Nil),
        ("error", Value::from("nobody")),
    ]));
    assert_eq!(
        parse(nothing).unwrap(),
        PublishReply::NoMatch {
            text: "nobody".to_owned()
        }
    );
    assert_eq!(
        error("AuthenticationError"),
        PublishReply::AuthenticationError
    );
    assert_eq!(
        error("AuthorizationError"),
        PublishReply::AuthorizationError
    );
    assert_eq!(error("Other"), PublishReply::Error("Other: no".to_owned()));
    let text = "Some exception handling minion payload";
    assert_eq!(
        parse(text.into()).unwrap(),
        PublishReply::Error(text.to_owned())
    );
    let no_jid = clear(Value::map([(
        "error",
        Value::from("Master failed to assign jid"),
    )]));
    assert!(matches!(parse(no_jid).unwrap(), PublishReply::Error(_)));
    assert!(parse(Value::Map(vec![])).is_err());
    assert!(parse(Value::Nil).is_err());
}

#[test]
fn a_master_below_may_have_many_minions() {
    let names: Vec<String> = (0..5000).map(|number| format!("m{number}")).collect();
    let load = Value::map([("jid", JID.into()), ("minions", Value::array(names))]);
    let reply = encode(&Value::map([("load", load)]), Dialect::Old);
    let reply = PublishReply::parse(&reply).unwrap();
    assert!(matches!(reply, PublishReply::Published { minions, .. } if minions.len() == 5000));
}

#[test]
fn root_keys_are_one_word_and_stay_secret() {
    assert!(RootKey::parse(" \n").is_err());
    assert!(RootKey::parse("two words").is_err());
    let load = PublicationLoad::new(Value::map(
        [("fun", "f"), ("tgt", "*"), ("jid", "1")].map(|(name, text)| (name, Value::from(text))),
    ));
    let publish = Publish::from_load(&load.unwrap(), root_key(), "root");
    assert!(!format!("{publish:?}").contains("kkk"));
}

#[test]
fn a_return_loses_what_its_receiver_sets_and_nothing_else() {
    let text = |(name, text): (&str, &str)| (Value::from(name), Value::from(text));
    let kept =
        ["out", "user", "metadata", "a_field_of_a_later_release"].map(|name| text((name, "x")));
    let mut data: Vec<_> = [
        ("cmd", "_return"),
        ("id", "m1"),
        ("jid", JID),
        ("fun", "test.ping"),
        ("_stamp", "now"),
        ("master_id", "mom"),
        ("sig", "s"),
        ("ts", "1"),
        ("resource_id", "r"),
        ("tok", "t"),
    ]
    .map(text)
    .to_vec();
    data.extend(kept.clone());
    data.push((
        "return".into(),
        Value::Map(vec![(Value::Int(1), Value::from(vec![0xff]))]),
    ));
    let event = ReturnEvent::parse(Value::Map(data)).unwrap();
    assert_eq!((event.jid.as_str(), event.id.as_str()), (JID, "m1"));
    assert_eq!(event.master_id.as_deref(), Some("mom"));
    let mut expected = kept.to_vec();
    expected.push((
        "return".into(),
        Value::Map(vec![(Value::Int(1), Value::from(vec![0xff]))]),
    ));
    assert_eq!(event.fields, Value::Map(expected));
}

#[test]
fn what_is_no_return_is_refused() {
    let parse = |fields: &[(&str, &str)]| {
        let fields = fields
            .iter()
            .map(|(name, text)| (*name, Value::from(*text)));
        ReturnEvent::parse(Value::map(fields)).map(drop)
    };
    assert_eq!(parse(&[]), Err(ReturnEventError::Field { field: "jid" }));
    assert_eq!(
        parse(&[("jid", "1"), ("id", "m")]),
        Err(ReturnEventError::Field { field: "return" })
    );
    let traversal = parse(&[("jid", "1"), ("id", "../m"), ("return", "")]);
    assert!(matches!(
        traversal,
        Err(ReturnEventError::Id { field: "id", .. })
    ));
    assert!(ReturnEvent::parse(Value::Nil).is_err());
}

#[test]
fn optional_parts_of_returns_are_sent_when_present() {
    let element = SyndicReturnElement {
        id: MinionId::parse("site").unwrap(),
        jid: Jid::parse(JID).unwrap(),
        fun: "test.ping".into(),
        load: None,
        returns: vec![(
            MinionId::parse("m1").unwrap(),
            Value::map([("return", Value::Bool(true))]),
        )],
        master_id: None,
        out: Some("txt".into()),
        fun_args: Some(Value::Array(vec![])),
    };
    let load = SyndicReturn {
        elements: vec![element],
    }
    .into_load();
    let element = &load.get("load").unwrap().as_array().unwrap()[0];
    assert_eq!(
        element.get("load"),
        Some(&Value::Map(vec![])),
        "empty: nothing is overwritten"
    );
    assert_eq!(element.get("master_id"), None);
    assert_eq!(element.get_str("out"), Some("txt"));
    assert_eq!(element.get("fun_args"), Some(&Value::Array(vec![])));
    assert_eq!(
        element
            .get("return")
            .unwrap()
            .get("m1")
            .unwrap()
            .get("return"),
        Some(&true.into())
    );

    let ret = Return {
        id: MinionId::parse("site").unwrap(),
        jid: Jid::parse(JID).unwrap(),
        fun: "test.ping".into(),
        fun_args: Value::Array(vec![]),
        ret: "2 of 3".into(),
        retcode: 1,
        success: false,
        user: None,
        master_id: None,
        metadata: Some("m".into()),
        out: Some("nested".to_owned()),
    };
    let load = ret.into_load();
    assert_eq!(
        (load.get_str("out"), load.get_str("metadata")),
        (Some("nested"), Some("m"))
    );
    assert_eq!(
        (load.get("user"), load.get("retcode")),
        (None, Some(&Value::Int(1)))
    );
}

#[test]
fn a_list_of_events_names_the_site_in_its_pretag() {
    let id = MinionId::parse("site").unwrap();
    let key = PrivateKey::generate(2048).unwrap();
    let identity = Identity::new(id.clone(), &key, EncAlgo::default(), SigAlgo::default()).unwrap();
    let data = Value::map([("minions", Value::array(["m1"]))]);
    let events = vec![MinionEvent {
        tag: JID.to_owned(),
        data,
    }];
    let load = MinionEvents::of_syndic(&id, events).into_load(&identity);
    assert_eq!(load.get_str("pretag"), Some("syndic/site"));
    let event = &load.get("events").unwrap().as_array().unwrap()[0];
    assert_eq!(event.get_str("tag"), Some(JID));
    assert_eq!(
        event.get("data").unwrap().get("minions"),
        Some(&Value::array(["m1"]))
    );
}

proptest! {
    #[test]
    fn a_return_goes_up_with_the_bytes_that_came_from_the_minion(
        raw in proptest::collection::vec(any::<u8>(), 0..400), number: i64, fraction in -1e300f64..1e300,
    ) {
        let result = Value::Map(vec![
            (Value::Int(number), Value::from(raw.clone())),
            (Value::from(raw), Value::Float64(fraction)),
            (Value::from("18446744073709551616"), Value::from("ünïcode")),
        ]);
        let sent = encode(&result, Dialect::Old);
        let event = Value::map([("jid", JID.into()), ("id", "m1".into()), ("return", result)]);
        let bus = encode(&event, Dialect::New);
        let event = ReturnEvent::parse(decode(&bus, Limits::CONTENT).unwrap()).unwrap();
        prop_assert_eq!(encode(event.fields.get("return").unwrap(), Dialect::Old), sent);
    }

    #[test]
    fn no_bytes_make_a_publish_reply_panic(frame in proptest::collection::vec(any::<u8>(), 0..300)) {
        drop(PublishReply::parse(&Bytes::from(frame)));
    }
}

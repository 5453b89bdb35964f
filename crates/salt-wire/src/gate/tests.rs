use std::sync::LazyLock;

use super::*;
use crate::crypticle::AesKey;
use crate::keys::PrivateKey;
use crate::msgpack::{Dialect, encode};
use crate::request::{Identity, encode_aes, encode_clear, encode_ping};

static KEY: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::generate(2048).unwrap());

fn auth_load() -> Value {
    Value::map([
        ("cmd", "_auth".into()),
        ("id", Value::from("syn1")),
        ("nonce", "0123456789abcdef0123456789abcdef".into()),
        ("enc_algo", "OAEP-SHA1".into()),
        ("sig_algo", "PKCS1v15-SHA1".into()),
        ("pub", KEY.public_key().unwrap().to_pem().into()),
    ])
}

fn auth_with(change: impl FnOnce(&mut Value)) -> Result<RequestKind, Refusal> {
    let mut load = auth_load();
    change(&mut load);
    inspect(&encode_clear(load))
}

fn aes_with(change: impl FnOnce(&mut Value)) -> Result<RequestKind, Refusal> {
    let id = MinionId::parse("syn1").unwrap();
    let identity = Identity::new(id, &KEY, EncAlgo::default(), SigAlgo::default()).unwrap();
    let load = Value::map([("cmd", "_return".into())]);
    let (session, nonce) = (AesKey::generate().unwrap(), Nonce::random().unwrap());
    let frame = encode_aes(&session, &identity, &nonce, 1, load).unwrap();
    let mut envelope = decode(&frame, Limits::CONTENT).unwrap();
    change(&mut envelope);
    inspect(&encode(&envelope, Dialect::Old))
}

fn id() -> MinionId {
    MinionId::parse("syn1").unwrap()
}

#[test]
fn well_formed_requests_pass() {
    assert_eq!(aes_with(|_| ()), Ok(RequestKind::Aes { id: id() }));
    assert_eq!(auth_with(|_| ()), Ok(RequestKind::Auth { id: id() }));
    let passes = |change: fn(&mut Value)| assert_eq!(auth_with(change).map(drop), Ok(()));
    passes(|load| load.set("token", vec![1; 256]));
    passes(|load| {
        load.set(
            "autosign_grains",
            Value::map([("role", Value::array(["web"]))]),
        )
    });
    passes(|load| drop((load.remove("enc_algo"), load.remove("sig_algo"))));
    passes(|load| load.set("enc_algo", "OAEP-SHA224"));
    passes(|load| load.set("a_field_of_a_later_release", 1i64));
    passes(|load| load.set("pub", format!("{}\n", KEY.public_key().unwrap().to_pem())));
}

#[test]
fn what_wedges_a_worker_of_3006_or_3007_is_refused() {
    let check = |change: fn(&mut Value), expected| assert_eq!(auth_with(change), Err(expected));
    check(|load| drop(load.remove("nonce")), Refusal::Nonce);
    check(|load| load.set("nonce", Value::Nil), Refusal::Nonce);
    check(|load| load.set("nonce", "short"), Refusal::Nonce);
    check(|load| drop(load.remove("pub")), Refusal::PublicKey);
    check(|load| load.set("pub", ""), Refusal::PublicKey);
    check(
        |load| {
            load.set(
                "pub",
                "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
            )
        },
        Refusal::PublicKey,
    );
    check(|load| load.set("enc_algo", "OAEP-SHA3"), Refusal::EncAlgo);
    check(|load| load.set("enc_algo", Value::Nil), Refusal::EncAlgo);
    check(|load| load.set("sig_algo", 7i64), Refusal::SigAlgo);
    check(|load| load.set("token", Value::Nil), Refusal::Token);
    check(
        |load| load.set("token", Value::array(["x"])),
        Refusal::Token,
    );
    check(
        |load| load.set("autosign_grains", "x"),
        Refusal::AutosignGrains,
    );
    check(|load| drop(load.remove("id")), Refusal::Id(None));
    check(|load| load.set("id", 7i64), Refusal::Id(None));
}

#[test]
fn keys_that_a_master_might_not_read_or_use_are_refused() {
    let refused = |pem: String| {
        assert_eq!(
            auth_with(|load| load.set("pub", pem)),
            Err(Refusal::PublicKey)
        )
    };
    // OAEP-SHA224 with a key of 1024 bits cannot carry a key string: the master would raise.
    refused(
        PrivateKey::generate(1024)
            .unwrap()
            .public_key()
            .unwrap()
            .to_pem()
            .to_owned(),
    );
    refused(KEY.to_pem().unwrap().to_string());
    refused(format!("a comment\n{}", KEY.public_key().unwrap().to_pem()));
}

#[test]
fn ids_that_are_no_file_names_are_refused() {
    for bad in ["", "..", "../../etc", "a\0b", "a\\b"] {
        assert!(
            matches!(
                auth_with(|load| load.set("id", bad)),
                Err(Refusal::Id(Some(_)))
            ),
            "{bad:?}"
        );
        assert!(matches!(
            aes_with(|envelope| envelope.set("id", bad)),
            Err(Refusal::Id(Some(_)))
        ));
    }
    let not_text = aes_with(|envelope| envelope.set("id", vec![0xff]));
    assert_eq!(not_text, Err(Refusal::Id(None)));
}

#[test]
fn clear_commands_do_not_pass() {
    for cmd in [
        "publish", "runner", "wheel", "mk_token", "ping", "_auth ", "_AUTH",
    ] {
        assert_eq!(
            auth_with(|load| load.set("cmd", cmd)),
            Err(Refusal::ClearCommand),
            "{cmd}"
        );
    }
    assert_eq!(
        auth_with(|load| drop(load.remove("cmd"))),
        Err(Refusal::ClearCommand)
    );
    assert_eq!(inspect(&encode_ping()), Err(Refusal::ClearCommand));
}

#[test]
fn envelopes_are_whole_and_mean_one_thing() {
    let check = |change: fn(&mut Value), expected| assert_eq!(aes_with(change), Err(expected));
    check(|envelope| envelope.set("enc", "pub"), Refusal::Enc);
    check(|envelope| drop(envelope.remove("enc")), Refusal::Enc);
    check(|envelope| envelope.set("load", vec![0; 63]), Refusal::Load);
    check(|envelope| envelope.set("load", vec![0; 65]), Refusal::Load);
    check(|envelope| envelope.set("load", auth_load()), Refusal::Load);
    check(
        |envelope| envelope.set("version", Value::Nil),
        Refusal::Version,
    );
    check(|envelope| envelope.set("version", 1i64), Refusal::Version);
    check(|envelope| envelope.set("version", "3"), Refusal::Version);
    check(
        |envelope| drop(envelope.remove("version")),
        Refusal::Version,
    );
    check(|envelope| envelope.set("enc_algo", "x"), Refusal::EncAlgo);
    check(
        |envelope| envelope.set("extra", Value::Ext(78, Bytes::new())),
        Refusal::Ext,
    );
    let repeat = |map: &mut Value, key: &str| {
        if let Value::Map(entries) = map {
            entries.push((key.into(), "clear".into()));
        }
    };
    assert_eq!(
        aes_with(|envelope| repeat(envelope, "enc")),
        Err(Refusal::RepeatedKey)
    );
    assert_eq!(
        auth_with(|load| repeat(load, "cmd")),
        Err(Refusal::RepeatedKey)
    );
    let unhashable = |map: &mut Value| {
        if let Value::Map(entries) = map {
            entries.push((Value::Array(Vec::new()), Value::Nil));
        }
    };
    assert_eq!(auth_with(unhashable), Err(Refusal::Key));
    assert_eq!(
        inspect(&encode(&Value::Nil, Dialect::Old)),
        Err(Refusal::NotMap)
    );
    let trailing = Bytes::from([&encode_clear(auth_load())[..], b"\xc0"].concat());
    assert!(matches!(inspect(&trailing), Err(Refusal::Msgpack(_))));
}

#[test]
fn refusals_have_distinct_words() {
    let all = [
        Refusal::NotMap,
        Refusal::Key,
        Refusal::RepeatedKey,
        Refusal::Ext,
        Refusal::Enc,
        Refusal::Version,
        Refusal::Load,
        Refusal::ClearCommand,
        Refusal::Id(None),
        Refusal::Nonce,
        Refusal::PublicKey,
        Refusal::EncAlgo,
        Refusal::SigAlgo,
        Refusal::Token,
        Refusal::AutosignGrains,
    ];
    let words: std::collections::BTreeSet<_> = all.iter().map(|refusal| refusal.as_str()).collect();
    assert_eq!(words.len(), all.len());
}

use std::sync::LazyLock;

use bytes::Bytes;

use super::*;
use crate::gate::read_auth;
use crate::msgpack::{Dialect, Limits, decode, encode};
use crate::standin::Master;

static CLIENT: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::generate(2048).unwrap());
static MASTER: LazyLock<Master> = LazyLock::new(master);
static IMPOSTOR: LazyLock<Master> = LazyLock::new(master);

fn master() -> Master {
    Master {
        key: PrivateKey::generate(2048).unwrap(),
        aes: AesKey::generate().unwrap(),
        session: AesKey::generate().unwrap(),
        publish_port: 4505,
    }
}

fn begin(master_key: Option<&PublicKey>) -> AuthExchange {
    AuthExchange::begin(&SignIn {
        id: &MinionId::parse("syn1").unwrap(),
        key: &CLIENT,
        master_key,
        enc_algo: EncAlgo::OaepSha224,
        sig_algo: SigAlgo::Pkcs1v15Sha224,
        autosign_grains: Some(Value::map([("role", "web".into())])),
    })
    .unwrap()
}

fn stored() -> PublicKey {
    MASTER.key.public_key().unwrap()
}

/// The reply to an exchange with its load changed and signed again.
fn tampered(exchange: &AuthExchange, change: impl FnOnce(&mut Value)) -> Bytes {
    let mut reply = decode(&MASTER.accept(exchange.request()).unwrap(), Limits::CONTENT).unwrap();
    let mut load = decode(
        reply.get("load").unwrap().as_bytes().unwrap(),
        Limits::CONTENT,
    )
    .unwrap();
    change(&mut load);
    let load = encode(&load, Dialect::Old);
    reply.set(
        "sig",
        MASTER.key.sign(exchange.request().sig_algo, &load).unwrap(),
    );
    reply.set("load", load);
    encode(&reply, Dialect::Old)
}

fn error(exchange: &AuthExchange, reply: &Bytes, check: &MasterCheck<'_>) -> AuthError {
    exchange
        .verify(reply, check)
        .expect_err("the reply is not to be believed")
}

fn credentials(exchange: &AuthExchange, reply: &Bytes, check: &MasterCheck<'_>) -> Credentials {
    match exchange.verify(reply, check).unwrap() {
        AuthOutcome::Accepted(credentials) => *credentials,
        other => panic!("not accepted: {other:?}"),
    }
}

#[test]
fn first_sign_in_trusts_and_returns_the_master_key() {
    let exchange = begin(None);
    let request = read_auth(&exchange.request().encode()).unwrap();
    assert!(request.token.is_none());
    assert_eq!(
        request.autosign_grains.as_ref().unwrap().get_str("role"),
        Some("web")
    );
    let reply = MASTER.accept(&request).unwrap();
    let credentials = credentials(&exchange, &reply, &MasterCheck::default());
    assert!(credentials.store_master_key);
    assert_eq!(credentials.master_key, stored());
    assert_eq!(
        (credentials.aes, credentials.session),
        (MASTER.aes.clone(), MASTER.session.clone())
    );
}

#[test]
fn later_sign_ins_prove_the_stored_key_by_a_token() {
    let exchange = begin(Some(&stored()));
    let request = read_auth(&exchange.request().encode()).unwrap();
    assert!(request.token.is_some());
    let reply = MASTER.accept(&request).unwrap();
    assert!(!credentials(&exchange, &reply, &MasterCheck::default()).store_master_key);
    for replayed in [Value::Nil, Value::from(vec![7; 256])] {
        let reply = tampered(&exchange, |load| load.set("token", replayed));
        assert!(matches!(
            error(&exchange, &reply, &MasterCheck::default()),
            AuthError::WrongToken
        ));
    }
}

#[test]
fn another_master_key_than_the_stored_one_is_refused_with_what_to_do() {
    let exchange = begin(Some(&stored()));
    let reply = IMPOSTOR.accept(exchange.request()).unwrap();
    let error = error(&exchange, &reply, &MasterCheck::default());
    assert!(matches!(error, AuthError::MasterKeyChanged { .. }));
    assert!(
        error
            .to_string()
            .contains("delete the stored one (syndic_master.pub in pki_dir)")
    );
    assert!(!error.is_transient());
}

#[test]
fn refusals_are_believed_from_the_stored_key_only() {
    let check = MasterCheck::default();
    for exchange in [begin(None), begin(Some(&stored()))] {
        let answer = |ret: Value| MASTER.answer(exchange.request(), ret).unwrap();
        let outcome = |ret| exchange.verify(&answer(ret), &check).unwrap();
        assert!(matches!(outcome(true.into()), AuthOutcome::Pending));
        let refused = outcome(false.into());
        assert!(matches!(
            refused,
            AuthOutcome::Refused(RefusedReason::RejectedOrDenied)
        ));
        assert!(matches!(
            outcome("full".into()),
            AuthOutcome::Refused(RefusedReason::Full)
        ));
        let odd = error(&exchange, &answer("?".into()), &check);
        assert!(matches!(odd, AuthError::Malformed { field: "ret" }));
    }
    let exchange = begin(Some(&stored()));
    let forged = IMPOSTOR.answer(exchange.request(), false).unwrap();
    assert!(matches!(
        error(&exchange, &forged, &check),
        AuthError::SignedByAnother { .. }
    ));
}

#[test]
fn unsigned_answers_are_algorithm_refusals_or_nothing() {
    let exchange = begin(Some(&stored()));
    let unsigned = |ret: &str| {
        let load = Value::map([("ret", ret.into())]);
        encode(
            &Value::map([("enc", "clear".into()), ("load", load)]),
            Dialect::Old,
        )
    };
    let verify = |ret| exchange.verify(&unsigned(ret), &MasterCheck::default());
    let refused = verify("bad enc algo").unwrap();
    assert!(matches!(
        refused,
        AuthOutcome::Refused(RefusedReason::BadEncAlgo)
    ));
    assert!(matches!(verify("full"), Err(AuthError::Malformed { .. })));
    let text = encode(&"bad load".into(), Dialect::Old);
    let error = error(&exchange, &text, &MasterCheck::default());
    assert!(matches!(&error, AuthError::Text { text } if text == "bad load"));
    assert!(error.is_transient());
}

#[test]
fn each_part_of_an_accepting_reply_is_checked() {
    let exchange = begin(None);
    let plain = MasterCheck::default();
    let request = exchange.request();
    let sealed = |data: &[u8]| request.public_key.encrypt(request.enc_algo, data).unwrap();

    let mut unsigned = decode(&MASTER.accept(request).unwrap(), Limits::CONTENT).unwrap();
    unsigned.set("sig", vec![0; 256]);
    let unsigned = encode(&unsigned, Dialect::Old);
    assert!(matches!(
        error(&exchange, &unsigned, &plain),
        AuthError::BadSignature
    ));

    let other = begin(None);
    let replayed = MASTER.accept(other.request()).unwrap();
    assert!(matches!(
        error(&exchange, &replayed, &plain),
        AuthError::WrongNonce
    ));

    let key = AesKey::generate().unwrap().to_text();
    let swapped = tampered(&exchange, |load| load.set("aes", sealed(key.as_bytes())));
    assert!(matches!(
        error(&exchange, &swapped, &plain),
        AuthError::AesKeyNotSigned
    ));

    let no_key = tampered(&exchange, |load| load.set("session", sealed(b"short")));
    let no_key = error(&exchange, &no_key, &plain);
    assert!(matches!(
        no_key,
        AuthError::Undecryptable {
            field: "session",
            source: None
        }
    ));

    let old_master = tampered(&exchange, |load| drop(load.remove("session")));
    assert!(matches!(
        error(&exchange, &old_master, &plain),
        AuthError::NoSession
    ));

    let bad_port = tampered(&exchange, |load| load.set("publish_port", 70_000u32));
    assert!(matches!(
        error(&exchange, &bad_port, &plain),
        AuthError::Malformed { .. }
    ));
}

#[test]
fn a_configured_finger_must_fit() {
    let exchange = begin(None);
    let reply = MASTER.accept(exchange.request()).unwrap();
    let finger = stored().fingerprint("sha512").unwrap();
    let check = |finger| MasterCheck {
        finger,
        hash_type: "sha512",
        ..MasterCheck::default()
    };
    credentials(&exchange, &reply, &check(Some(&finger)));
    let wrong = error(&exchange, &reply, &check(Some("aa:bb")));
    assert!(matches!(&wrong, AuthError::WrongFinger { actual, .. } if *actual == finger));
}

#[test]
fn a_signing_key_vouches_for_new_and_changed_master_keys() {
    let signing = PrivateKey::generate(2048).unwrap();
    let signing_key = signing.public_key().unwrap();
    let check = MasterCheck {
        signing_key: Some(&signing_key),
        ..MasterCheck::default()
    };
    let impostor_key = IMPOSTOR.key.public_key().unwrap();
    for (known, must_store) in [
        (None, true),
        (Some(&impostor_key), true),
        (Some(&stored()), false),
    ] {
        let exchange = begin(known);
        let sign = |by: &PrivateKey| {
            let sig = by
                .sign(exchange.request().sig_algo, stored().to_pem().as_bytes())
                .unwrap();
            let mut lines = openssl::base64::encode_block(&sig);
            lines.insert(76, '\n');
            tampered(&exchange, |load| load.set("pub_sig", lines))
        };
        let signed = sign(&signing);
        assert_eq!(
            credentials(&exchange, &signed, &check).store_master_key,
            must_store
        );
        let unexpected = error(&exchange, &signed, &MasterCheck::default());
        assert!(matches!(unexpected, AuthError::PubSigUnexpected));
        let bare = MASTER.accept(exchange.request()).unwrap();
        assert!(matches!(
            error(&exchange, &bare, &check),
            AuthError::PubSigMissing
        ));
        let always = MasterCheck {
            always_verify_signature: true,
            ..check
        };
        let forged = sign(&IMPOSTOR.key);
        assert!(matches!(
            error(&exchange, &forged, &always),
            AuthError::PubSigInvalid
        ));
    }
}

#[test]
fn debug_shows_neither_token_nor_keys() {
    let exchange = begin(Some(&stored()));
    let reply = MASTER.accept(exchange.request()).unwrap();
    let credentials = credentials(&exchange, &reply, &MasterCheck::default());
    let token = exchange.token.as_ref().unwrap().0.as_str();
    let shown = format!("{exchange:?} {credentials:?} {:?}", *MASTER);
    for secret in [token, &MASTER.aes.to_text(), &MASTER.session.to_text()] {
        assert!(!shown.contains(secret));
    }
}

use super::*;

fn identity() -> Identity {
    let key = PrivateKey::generate(2048).unwrap();
    Identity::new(
        MinionId::parse("syn1").unwrap(),
        &key,
        EncAlgo::default(),
        SigAlgo::default(),
    )
    .unwrap()
}

fn raw(bytes: &[u8]) -> Bytes {
    encode(&bytes.into(), Dialect::Old)
}

#[test]
fn reply_opens_with_its_own_nonce_and_key_only() {
    let (session, other) = (AesKey::generate().unwrap(), AesKey::generate().unwrap());
    let (nonce, stale) = (Nonce::random().unwrap(), Nonce::random().unwrap());
    let answer = encode(&Value::Nil, Dialect::Old);
    let reply = raw(&session.encrypt_with_nonce(&nonce, &answer).unwrap());
    assert_eq!(open_reply(&session, &nonce, &reply).unwrap(), Value::Nil);
    assert!(matches!(open_reply(&other, &nonce, &reply), Err(error) if error.needs_sign_in()));
    let stale = open_reply(&session, &stale, &reply).unwrap_err();
    assert!(matches!(
        stale,
        ReplyError::Container(CrypticleError::WrongNonce)
    ));
}

#[test]
fn error_replies_say_whether_to_sign_in_again() {
    let session = AesKey::generate().unwrap();
    let nonce = Nonce::random().unwrap();
    let needs_sign_in = |frame: Bytes| {
        open_reply(&session, &nonce, &frame)
            .unwrap_err()
            .needs_sign_in()
    };
    let map = |key: &str, text: &str| encode(&Value::map([(key, text.into())]), Dialect::Old);
    assert!(needs_sign_in(raw(b"bad load")));
    assert!(needs_sign_in(map("msg", "bad load")));
    assert!(
        needs_sign_in(raw(&[0xfe; 96])),
        "the shape of a container, under no key of ours"
    );
    assert!(!needs_sign_in(raw(
        b"Some exception handling minion payload"
    )));
    assert!(!needs_sign_in(map("error", "Routing error")));
    assert!(
        !needs_sign_in(raw(&[0xfe; 95])),
        "no container has this length"
    );
    assert!(!needs_sign_in(encode(&Value::Nil, Dialect::Old)));
    assert!(!needs_sign_in(Bytes::from_static(b"\xc1")));
}

#[test]
fn aes_requests_say_who_sends_them_inside_and_outside() {
    let identity = identity();
    let session = AesKey::generate().unwrap();
    let nonce = Nonce::random().unwrap();
    let load = Value::map([("cmd", "_master_opts".into()), ("env_only", true.into())]);
    let frame = encode_aes(&session, &identity, &nonce, 1_795_197_258, load).unwrap();
    let envelope = decode(&frame, Limits::ENVELOPE).unwrap();
    assert_eq!(envelope.get_str("id"), Some("syn1"));
    assert_eq!(envelope.get_str("enc_algo"), Some("OAEP-SHA1"));
    let container = envelope.get("load").and_then(Value::as_bytes).unwrap();
    let load = decode(&session.decrypt(container).unwrap(), Limits::CONTENT).unwrap();
    assert_eq!(load.get_str("id"), Some("syn1"));
    assert_eq!(
        load.get("tok").and_then(Value::as_bytes),
        Some(identity.tok())
    );
    assert_eq!(load.get_str("nonce"), Some(nonce.as_str()));
    assert_eq!(load.get("ts").and_then(Value::as_i64), Some(1_795_197_258));
}

#[test]
fn nonces_are_hex_and_fresh() {
    let nonce = Nonce::random().unwrap();
    assert_eq!(Nonce::parse(nonce.as_str()), Ok(nonce.clone()));
    assert_ne!(Nonce::random().unwrap(), nonce);
    for text in ["", "abc", &"g".repeat(32), &"A".repeat(32), &"a".repeat(33)] {
        assert_eq!(Nonce::parse(text), Err(NonceError), "{text:?}");
    }
}

#[test]
fn replies_of_strangers_cannot_take_much_memory() {
    let map = Value::map([("x", Value::Array(vec![Value::Nil; 100_000]))]);
    let error = decode_reply(&encode(&map, Dialect::Old)).unwrap_err();
    assert!(matches!(
        error,
        ReplyError::Malformed(Some(DecodeError::TooManyElements { .. }))
    ));
}

//! What no bytes may break: the bodies of the fuzz targets in `fuzz/`.
//!
//! Each function takes bytes as a peer may send them, runs a decoder, and panics if a promise of
//! that decoder does not hold. They are ordinary functions, so that the stable tests drive them,
//! too, with random bytes and with damaged real frames.

use std::sync::LazyLock;

use bytes::Bytes;

use crate::auth::{AuthExchange, AuthOutcome, MasterCheck, SignIn};
use crate::bus::{BusDecoder, Decoded};
use crate::commands::{PublishReply, ReturnEvent};
use crate::crypticle::AesKey;
use crate::gate::{RequestKind, inspect, read_auth};
use crate::ids::MinionId;
use crate::keys::{EncAlgo, PrivateKey, SigAlgo};
use crate::msgpack::{Dialect, Limits, Value, decode, decode_prefix, encode};
use crate::publication::{Publication, PublicationLoad, topics};
use crate::request::{Nonce, decode_reply, open_reply};
use crate::saltway::{MinionEvent, SiteEvent};

/// Small, so that inputs of a fuzzer reach beyond it.
const BUS_FRAME_BYTES_MAX: usize = 4096;

struct Keys {
    client: PrivateKey,
    master: PrivateKey,
    aes: AesKey,
    nonce: Nonce,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let key = || PrivateKey::generate(2048).expect("the library makes keys");
    Keys {
        client: key(),
        master: key(),
        aes: AesKey::generate().expect("the library has random numbers"),
        nonce: Nonce::random().expect("the library has random numbers"),
    }
});

/// Documents that are read are written and read again with the same content, in both dialects.
pub fn msgpack(input: &[u8]) {
    let input = Bytes::copy_from_slice(input);
    let Ok(value) = decode(&input, Limits::CONTENT) else {
        if let Ok((_, end)) = decode_prefix(&input, Limits::CONTENT) {
            assert!(end < input.len(), "a document that fills the input is read");
        }
        return;
    };
    let old = encode(&value, Dialect::Old);
    let read_again =
        |document: &Bytes| decode(document, Limits::CONTENT).expect("what is written can be read");
    let new = encode(&read_again(&old), Dialect::New);
    assert_eq!(
        encode(&read_again(&new), Dialect::Old),
        old,
        "the dialects carry the same"
    );
    drop(format!("{value:?}"));
}

/// Payload frames, and loads that a master of ours could have enclosed.
pub fn publication(input: &[u8]) {
    let keys = &*KEYS;
    let frame = Bytes::copy_from_slice(input);
    if let Ok(publication) = Publication::parse(&frame) {
        let key = keys
            .master
            .public_key()
            .expect("a private key has a public one");
        drop(publication.verify(&key));
        drop(publication.decrypt(&keys.aes));
    }
    let topic = frame.clone();
    drop(topics::select(&[topic, frame.clone()]));
    let Ok(fields) = decode(&frame, Limits::CONTENT) else {
        return;
    };
    if let Ok(load) = PublicationLoad::new(fields) {
        assert!(!load.jid().as_str().contains('/'));
        drop((
            load.functions(),
            load.unknown_fields(),
            load.tgt_type(),
            load.serial(),
        ));
    }
}

/// Replies of port 4506: to AES requests and to `publish`, in the open and inside a container.
pub fn reply(input: &[u8]) {
    let keys = &*KEYS;
    let frame = Bytes::copy_from_slice(input);
    drop(decode_reply(&frame));
    drop(PublishReply::parse(&frame));
    assert!(
        open_reply(&keys.aes, &keys.nonce, &frame).is_err(),
        "nobody can make a reply without the session key"
    );
    let container = keys
        .aes
        .encrypt_with_nonce(&keys.nonce, input)
        .expect("it is short enough");
    let enclosed = encode(&container.into(), Dialect::Old);
    if let Ok(value) = open_reply(&keys.aes, &keys.nonce, &enclosed) {
        // Compared as bytes, since a float may be none that equals itself.
        let sent = decode(&frame, Limits::CONTENT).expect("its copy has just been read");
        assert_eq!(encode(&value, Dialect::Old), encode(&sent, Dialect::Old));
        drop(ReturnEvent::parse(value));
    }
}

/// What passes the gate is what a master can take.
pub fn gate(input: &[u8]) {
    let frame = Bytes::copy_from_slice(input);
    match inspect(&frame) {
        Ok(RequestKind::Auth { id }) => {
            let request = read_auth(&frame).expect("it has just passed");
            assert_eq!(request.id, id);
            assert!(
                inspect(&request.encode()).is_ok(),
                "its plain form passes, too"
            );
        }
        Ok(RequestKind::Aes { id }) => assert!(MinionId::parse(id.as_str()).is_ok()),
        Err(refusal) => assert!(!refusal.as_str().is_empty()),
    }
}

/// Replies to `_auth`: as they come, and with a load that the master has really signed.
pub fn auth_reply(input: &[u8]) {
    let keys = &*KEYS;
    let master_key = keys
        .master
        .public_key()
        .expect("a private key has a public one");
    let exchange = AuthExchange::begin(&SignIn {
        id: &MinionId::parse("fuzz").expect("a valid id"),
        key: &keys.client,
        master_key: Some(&master_key),
        enc_algo: EncAlgo::default(),
        sig_algo: SigAlgo::default(),
        autosign_grains: None,
    })
    .expect("both keys are long enough");
    let check = MasterCheck::default();
    let is_accepted =
        |reply: &Bytes| matches!(exchange.verify(reply, &check), Ok(AuthOutcome::Accepted(_)));
    assert!(
        !is_accepted(&Bytes::copy_from_slice(input)),
        "nobody can sign for the master"
    );
    let sig = keys
        .master
        .sign(SigAlgo::default(), input)
        .expect("the library signs");
    let signed = Value::map([
        ("enc", "clear".into()),
        ("load", Value::from(input)),
        ("sig", sig.into()),
    ]);
    assert!(
        !is_accepted(&encode(&signed, Dialect::Old)),
        "the nonce is not known"
    );
}

/// The event bus, in pieces whose size the first byte chooses.
pub fn bus(input: &[u8]) {
    let Some((piece, stream)) = input.split_first() else {
        return;
    };
    let mut decoder = BusDecoder::new(BUS_FRAME_BYTES_MAX);
    let piece = usize::from(*piece) + 1;
    for bytes in stream.chunks(piece) {
        decoder.feed(bytes);
        loop {
            match decoder.next_event(|tag| !tag.starts_with('-')) {
                Ok(Some(Decoded::Event(event))) => {
                    drop(decode(&event.data, Limits::CONTENT).map(ReturnEvent::parse));
                }
                Ok(Some(Decoded::Malformed { .. })) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(decoder.buffered_bytes() <= BUS_FRAME_BYTES_MAX + piece + 4);
    }
}

/// The data of a site's own events, of the kind that the first byte chooses: what is read is written and read again with the
/// same content.
pub fn site_event(input: &[u8]) {
    let Some((kind, data)) = input.split_first() else {
        return;
    };
    let kind = ["roster", "status", "job", "receipts"][usize::from(*kind) % 4];
    let tag = format!("saltway/site/fuzz/{kind}");
    let Ok(data) = decode(&Bytes::copy_from_slice(data), Limits::CONTENT) else {
        return;
    };
    if let Ok(Some(event)) = SiteEvent::parse(&tag, &data) {
        let (tag, data) = match &event {
            SiteEvent::Roster(roster) => (roster.tag(), roster.data()),
            SiteEvent::Status(status) => (status.tag(), status.data()),
            SiteEvent::Job(notice) => (notice.tag(), notice.data()),
            SiteEvent::Receipts(receipts) => (receipts.tag(), receipts.data()),
        };
        let again = SiteEvent::parse(&tag, &data);
        assert_eq!(again, Ok(Some(event)), "what is written can be read");
    }
}

/// The load of a minion-shim's event, of the kind that the first byte chooses: what is read is written and read again with
/// the same content.
pub fn minion_event(input: &[u8]) {
    let Some((kind, load)) = input.split_first() else {
        return;
    };
    let kind = ["receipt", "state"][usize::from(*kind) % 2];
    let tag = format!("saltway/minion/fuzz/{kind}");
    let Ok(load) = decode(&Bytes::copy_from_slice(load), Limits::CONTENT) else {
        return;
    };
    if let Ok(Some(event)) = MinionEvent::parse(&tag, &load) {
        let load = Value::map([("id", "fuzz".into()), ("data", event.data())]);
        let again = MinionEvent::parse(&event.tag(), &load);
        assert_eq!(again, Ok(Some(event)), "what is written can be read");
    }
}

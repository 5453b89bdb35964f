//! What is written to a minion's event bus.

use bytes::Bytes;
use salt_wire::bus::{EncodeError, Framing, encode_event};
use salt_wire::ids::MinionId;
use salt_wire::msgpack::{Dialect, Value, encode};
use salt_wire::saltway::MinionEvent;

/// Before the id of a request that a process hands to the minion.
pub(crate) const REQUEST: &str = "__master_req_channel_payload/";

/// Before the id of a request that was answered.
pub(crate) const ANSWER: &str = "__master_req_channel_return/";

/// Before the ids of our own requests.
pub(crate) const OWN: &str = "saltway-";

/// An event that only comes back.
pub(crate) fn probe(tag: &str, framing: Framing) -> Result<Bytes, EncodeError> {
    encode_event(tag, &encode(&Value::Map(Vec::new()), Dialect::New), framing)
}

/// An event that the minion sends to its masters, if it is connected to them.
pub(crate) fn fire(event: &MinionEvent, framing: Framing) -> Result<Bytes, EncodeError> {
    let data = Value::map([
        ("tag", event.tag().into()),
        ("data", event.data()),
        ("events", Value::Nil),
        ("pretag", Value::Nil),
    ]);
    encode_event("fire_master", &encode(&data, Dialect::New), framing)
}

/// The same as a request to one of its masters, which is answered.
pub(crate) fn ask(
    event: &MinionEvent,
    request: &str,
    master: &str,
    framing: Framing,
) -> Result<Bytes, EncodeError> {
    let load = Value::map([
        ("cmd", "_minion_event".into()),
        ("id", Value::from(&event.id)),
        ("pretag", Value::Nil),
        ("tag", event.tag().into()),
        ("data", event.data()),
    ]);
    raw_request(&encode(&load, Dialect::New), request, master, framing)
}

/// A request whose load is encoded already.
pub(crate) fn raw_request(
    load: &[u8],
    request: &str,
    master: &str,
    framing: Framing,
) -> Result<Bytes, EncodeError> {
    encode_event(&format!("{REQUEST}{request}/{master}"), load, framing)
}

/// The load of a return that the minion keeps (`return.p`): the same map with the command and the id in front.
pub(crate) fn kept_return(kept: &[u8], id: &MinionId) -> Option<Vec<u8>> {
    let (count, entries) = match kept {
        [marker @ 0x80..=0x8f, rest @ ..] => (u32::from(marker & 0x0f), rest),
        [0xde, a, b, rest @ ..] => (u32::from(u16::from_be_bytes([*a, *b])), rest),
        [0xdf, a, b, c, d, rest @ ..] => (u32::from_be_bytes([*a, *b, *c, *d]), rest),
        _ => return None,
    };
    let mut load = vec![0xdf];
    load.extend(count.checked_add(2)?.to_be_bytes());
    for text in ["cmd", "_return", "id", id.as_str()] {
        load.extend_from_slice(&encode(&Value::from(text), Dialect::New));
    }
    load.extend_from_slice(entries);
    Some(load)
}

#[cfg(test)]
mod tests {
    use salt_wire::msgpack::{Limits, decode};

    use super::*;

    #[test]
    fn a_kept_return_is_the_return_that_the_minion_sent() {
        let kept = Value::map([("jid", Value::from("1")), ("return", Value::Bool(true))]);
        let id = MinionId::parse("web1").unwrap();
        for dialect in [Dialect::Old, Dialect::New] {
            let load = kept_return(&encode(&kept, dialect), &id).unwrap();
            let load = decode(&Bytes::from(load), Limits::CONTENT).unwrap();
            assert_eq!(load.get_str("cmd"), Some("_return"));
            assert_eq!(
                (load.get_str("id"), load.get_str("jid")),
                (Some("web1"), Some("1"))
            );
            assert_eq!(load.as_map().map(<[_]>::len), Some(4));
        }
        assert_eq!(kept_return(b"", &id), None);
        assert_eq!(kept_return(b"\x93abc", &id), None);
    }
}

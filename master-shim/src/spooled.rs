//! The form that returns and events have in the spool: one msgpack map each.
//!
//! Format version 1, the key `v`. Unknown keys are ignored; another version is not read.

use bytes::Bytes;
use salt_wire::{
    commands::ReturnEvent,
    ids::{Jid, MinionId},
    msgpack::{self, Dialect, Limits, Value},
};
use store::Class;

use crate::{lane::Item, site::routing::Return, upstream::ForwardedEvent};

const VERSION: i64 = 1;

impl Item for Return {
    fn wire_bytes(&self) -> usize {
        self.bytes
    }

    fn class(&self) -> Class {
        Class::Return
    }

    fn encode(&self) -> Bytes {
        let event = &self.event;
        let optional = |value: Option<Value>| value.unwrap_or(Value::Nil);
        let master_id = event.master_id.as_deref().map(Value::from);
        let map = Value::map([
            ("v", Value::Int(VERSION)),
            ("jid", (&event.jid).into()),
            ("id", (&event.id).into()),
            ("fun", event.fun.clone()),
            ("master_id", optional(master_id)),
            ("fields", event.fields.clone()),
            ("load", optional(self.load.clone())),
            ("heard", self.heard_ms.into()),
        ]);
        msgpack::encode(&map, Dialect::New)
    }

    fn decode(body: &Bytes) -> Option<Self> {
        let map = decode_map(body)?;
        let present = |name| map.get(name).filter(|value| !value.is_nil()).cloned();
        let event = ReturnEvent {
            jid: Jid::parse(map.get_str("jid")?).ok()?,
            id: MinionId::parse(map.get_str("id")?).ok()?,
            fun: map.get("fun")?.clone(),
            master_id: map.get_str("master_id").map(str::to_owned),
            fields: map.get("fields")?.clone(),
        };
        Some(Self {
            event,
            load: present("load"),
            heard_ms: map.get("heard").and_then(Value::as_u64).unwrap_or(0),
            bytes: body.len(),
        })
    }
}

impl Item for ForwardedEvent {
    fn wire_bytes(&self) -> usize {
        self.tag.len() + self.bytes
    }

    fn class(&self) -> Class {
        if self.is_ack {
            Class::Ack
        } else {
            Class::Event
        }
    }

    fn encode(&self) -> Bytes {
        let map = Value::map([
            ("v", Value::Int(VERSION)),
            ("tag", self.tag.as_str().into()),
            ("data", self.data.clone()),
            ("ack", Value::Bool(self.is_ack)),
        ]);
        msgpack::encode(&map, Dialect::New)
    }

    fn decode(body: &Bytes) -> Option<Self> {
        let map = decode_map(body)?;
        Some(Self {
            tag: map.get_str("tag")?.to_owned(),
            data: map.get("data")?.clone(),
            bytes: body.len(),
            is_ack: map.get("ack") == Some(&Value::Bool(true)),
        })
    }
}

fn decode_map(body: &Bytes) -> Option<Value> {
    let map = msgpack::decode(body, Limits::CONTENT).ok()?;
    (map.get("v").and_then(Value::as_i64) == Some(VERSION)).then_some(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ret(load: Option<Value>, master_id: Option<&str>) -> Return {
        let fields = Value::map([
            ("return", Value::Raw(Bytes::from_static(b"\xff\x00"))),
            ("retcode", Value::Int(0)),
            ("out", Value::Nil),
        ]);
        let event = ReturnEvent {
            jid: "20261121200000000001".parse().expect("a jid"),
            id: "a1".parse().expect("a minion id"),
            fun: "test.ping".into(),
            master_id: master_id.map(str::to_owned),
            fields,
        };
        Return {
            event,
            load,
            bytes: 0,
            heard_ms: 1_795_000_000_000,
        }
    }

    #[test]
    fn return_comes_back_whole() {
        let load = Value::map([("tgt", "*".into())]);
        for ret in [ret(None, None), ret(Some(load), Some("mom"))] {
            let back = Return::decode(&ret.encode()).expect("a return");
            assert_eq!(
                (back.event, back.load, back.heard_ms),
                (ret.event, ret.load, ret.heard_ms)
            );
        }
    }

    #[test]
    fn event_comes_back_whole() {
        for is_ack in [true, false] {
            let event = ForwardedEvent {
                tag: "salt/beacon/a1".to_owned(),
                data: Value::map([("x", Value::Int(1))]),
                bytes: 0,
                is_ack,
            };
            let back = ForwardedEvent::decode(&event.encode()).expect("an event");
            assert_eq!(
                (back.tag, back.data, back.is_ack),
                (event.tag, event.data, event.is_ack)
            );
        }
    }

    #[test]
    fn other_versions_and_nonsense_are_refused() {
        let other = Value::map([("v", Value::Int(2)), ("tag", "x".into())]);
        let other = msgpack::encode(&other, Dialect::New);
        for body in [other, Bytes::from_static(b"nonsense"), Bytes::new()] {
            assert!(Return::decode(&body).is_none());
            assert!(ForwardedEvent::decode(&body).is_none());
        }
    }
}

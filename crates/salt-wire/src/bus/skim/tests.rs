use proptest::prelude::*;

use super::*;
use crate::bus::encode_event;
use crate::msgpack::{Dialect, Value, encode};

const KEYS: &[&str] = &["jid", "ret", "cmd"];

/// What a reader makes of bytes that come in pieces of this size.
fn skim(stream: &[u8], piece: usize, wanted: Wanted) -> Result<Vec<Skimmed>, FramingError> {
    let mut skimmer = Skimmer::new(KEYS);
    let mut found = Vec::new();
    for part in stream.chunks(piece.max(1)) {
        skimmer.feed(part, &mut |_| wanted, &mut |event| found.push(event))?;
    }
    Ok(found)
}

fn frames(events: &[(&str, &Value)], framing: Framing) -> Vec<u8> {
    let frame = |(tag, value): &(&str, &Value)| {
        encode_event(tag, &encode(value, Dialect::New), framing).unwrap()
    };
    events.iter().flat_map(frame).collect()
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z\u{e4}]{0,40}".prop_map(Value::from),
        proptest::collection::vec(any::<u8>(), 0..700).prop_map(Value::from),
        (any::<i8>(), proptest::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(kind, data)| Value::Ext(kind, data.into())),
    ];
    leaf.prop_recursive(4, 40, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..20).prop_map(Value::Array),
            proptest::collection::vec((inner.clone(), inner), 0..20).prop_map(Value::Map),
        ]
    })
}

fn expected(value: Option<&Value>) -> Option<Field> {
    Some(match value? {
        Value::Nil => Field::Nil,
        Value::Bool(flag) => Field::Bool(*flag),
        Value::Raw(raw) if raw.len() <= FIELD_BYTES_MAX => match std::str::from_utf8(raw) {
            Ok(text) => Field::Text(text.to_owned()),
            Err(_) => Field::Other,
        },
        _ => Field::Other,
    })
}

proptest! {
    #[test]
    fn fields_are_those_of_the_whole_map(
        mut entries in proptest::collection::vec((value(), value()), 0..20),
        wanted in proptest::collection::vec((0..4_usize, value()), 0..4),
        piece in 1..200_usize,
        streaming: bool,
        old: bool,
    ) {
        for (key, value) in wanted {
            let key = ["jid", "ret", "cmd", "other"][key];
            entries.push((key.into(), value));
        }
        let map = Value::Map(entries);
        let framing = if streaming { Framing::Streaming } else { Framing::LengthPrefix };
        let dialect = if old { Dialect::Old } else { Dialect::New };
        let data = encode(&map, dialect);
        let frame = encode_event("a/tag", &data, framing).unwrap();
        let stream = [&frame[..], &frame[..]].concat();
        let found = skim(&stream, piece, Wanted::Copy(1 << 20)).unwrap();
        let fields: Vec<Option<Field>> = KEYS.iter().map(|key| expected(map.get(key))).collect();
        prop_assert_eq!(found.len(), 2);
        for event in found {
            prop_assert_eq!(&event.tag, "a/tag");
            prop_assert_eq!(&event.fields, &fields);
            prop_assert_eq!(event.copy.as_deref(), Some(&data[..]));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), piece in 1..50_usize) {
        drop(skim(&bytes, piece, Wanted::Fields));
        let mut framed = b"\x82\xa4head\x80\xa4body\xc5\x01\x00t\n\n".to_vec();
        framed.extend(bytes);
        drop(skim(&framed, piece, Wanted::Copy(10)));
    }
}

#[test]
fn a_large_event_is_read_without_being_kept() {
    let large = Value::map([
        ("return", Value::from(vec![0_u8; 3 << 20])),
        ("cmd", Value::from("x".repeat(FIELD_BYTES_MAX + 1))),
        ("jid", Value::from("20261121000000000000")),
    ]);
    for framing in [Framing::LengthPrefix, Framing::Streaming] {
        let stream = frames(&[("t", &large)], framing);
        let mut skimmer = Skimmer::new(KEYS);
        let mut found = Vec::new();
        for part in stream.chunks(4096) {
            let wanted = &mut |_: &str| Wanted::Copy(1 << 20);
            skimmer
                .feed(part, wanted, &mut |event| found.push(event))
                .unwrap();
            assert!(skimmer.copy.is_none() && skimmer.tag.len() < 16);
        }
        assert_eq!(found[0].text(0), Some("20261121000000000000"));
        assert_eq!(found[0].fields[2], Some(Field::Other));
        assert!(found[0].copy.is_none() && found[0].data_bytes > 3 << 20);
    }
}

#[test]
fn what_nobody_wants_is_passed_over() {
    let map = Value::map([("jid", Value::from("1"))]);
    let stream = frames(&[("a", &map), ("b", &map), ("a", &map)], Framing::Streaming);
    let mut skimmer = Skimmer::new(KEYS);
    let mut found = Vec::new();
    let mut wanted = |tag: &str| {
        if tag == "b" {
            Wanted::Fields
        } else {
            Wanted::Skip
        }
    };
    skimmer
        .feed(&stream, &mut wanted, &mut |event| found.push(event.tag))
        .unwrap();
    assert_eq!(found, ["b"]);
}

#[test]
fn a_wrong_frame_is_skipped_where_its_end_is_known() {
    let map = Value::map([("jid", Value::from("1"))]);
    let good = frames(&[("a", &map)], Framing::LengthPrefix);
    for wrong in [
        &b"\x00\x00\x00\x03\xff\xff\xff"[..],
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x12\x82\xa4head\x80\xa4body\xc4\x01aaaa",
        b"\x00\x00\x00\x11\x82\xa4head\x80\xa4body\xc4\x03t\n\n",
        b"\x00\x00\x00\x12\x82\xa4head\x80\xa4body\xc4\x04t\n\n\xc1",
        b"\x00\x00\x00\x13\x82\xa4head\x80\xa4body\xc4\x05t\n\n\x80\x80",
    ] {
        for piece in [1, 7, 100] {
            let stream = [wrong, &good].concat();
            let found = skim(&stream, piece, Wanted::Fields).unwrap();
            assert_eq!(found.len(), 1, "{wrong:02x?}");
        }
    }
    assert!(skim(b"\x82\xa4head\x80\xa4bodx\xc4\x01", 100, Wanted::Fields).is_err());
    assert!(skim(b"\x7f\xff\xff\xff", 100, Wanted::Fields).is_err());
}

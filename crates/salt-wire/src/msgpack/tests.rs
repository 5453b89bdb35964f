use super::*;
use bytes::Bytes;
use proptest::prelude::*;

fn read(input: &[u8]) -> Result<Value, DecodeError> {
    decode(&Bytes::copy_from_slice(input), Limits::CONTENT)
}

#[test]
fn every_marker_is_read() {
    let check = |input: &[u8], expected: Value| assert_eq!(read(input), Ok(expected), "{input:x?}");
    check(&[0xc0], Value::Nil);
    check(&[0xc2], Value::Bool(false));
    check(&[0x7f], Value::Int(127));
    check(&[0xe0], Value::Int(-32));
    check(&[0xcc, 200], Value::Int(200));
    check(&[0xd0, 0x80], Value::Int(-128));
    check(&[0xcd, 1, 0], Value::Int(256));
    check(&[0xd1, 0xff, 0], Value::Int(-256));
    check(&[0xce, 0xff, 0xff, 0xff, 0xff], Value::Int(0xffff_ffff));
    check(&[0xd2, 0x80, 0, 0, 0], Value::Int(i32::MIN.into()));
    check(
        &[0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        Value::UInt(u64::MAX),
    );
    check(&[0xcf, 0, 0, 0, 0, 0, 0, 0, 1], Value::Int(1));
    check(&[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0], Value::Int(i64::MIN));
    check(&[0xca, 0x3f, 0x80, 0, 0], Value::Float32(1.0));
    check(&[0xcb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0], Value::Float64(1.0));
    for text in [
        &b"\xa2ab"[..],
        b"\xd9\x02ab",
        b"\xda\0\x02ab",
        b"\xdb\0\0\0\x02ab",
    ] {
        check(text, "ab".into());
    }
    for bin in [&b"\xc4\x02ab"[..], b"\xc5\0\x02ab", b"\xc6\0\0\0\x02ab"] {
        check(bin, "ab".into());
    }
    for array in [&[0x91, 1][..], &[0xdc, 0, 1, 1], &[0xdd, 0, 0, 0, 1, 1]] {
        check(array, Value::Array(vec![Value::Int(1)]));
    }
    for map in [
        &[0x81, 1, 2][..],
        &[0xde, 0, 1, 1, 2],
        &[0xdf, 0, 0, 0, 1, 1, 2],
    ] {
        check(map, Value::Map(vec![(Value::Int(1), Value::Int(2))]));
    }
    check(&[0xd4, 78, 9], Value::Ext(78, Bytes::from_static(&[9])));
    check(
        &[0xc7, 3, 0xff, 1, 2, 3],
        Value::Ext(-1, Bytes::from_static(&[1, 2, 3])),
    );
    check(&[0xc8, 0, 1, 5, 6], Value::Ext(5, Bytes::from_static(&[6])));
    check(
        &[0xc9, 0, 0, 0, 1, 5, 6],
        Value::Ext(5, Bytes::from_static(&[6])),
    );
    check(
        &[0xd8, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        Value::Ext(5, vec![0; 16].into()),
    );
}

#[test]
fn damaged_documents_say_where() {
    let check = |input: &[u8], expected| assert_eq!(read(input), Err(expected), "{input:x?}");
    check(
        &[],
        DecodeError::Truncated {
            offset: 0,
            missing: 1,
        },
    );
    check(
        &[0xa5, b'x'],
        DecodeError::Truncated {
            offset: 2,
            missing: 4,
        },
    );
    check(
        &[0xcd, 1],
        DecodeError::Truncated {
            offset: 2,
            missing: 1,
        },
    );
    check(
        &[0x93, 1, 2],
        DecodeError::Truncated {
            offset: 3,
            missing: 1,
        },
    );
    check(
        &[0xc0, 0xc0, 0xc0],
        DecodeError::Trailing {
            offset: 1,
            length: 2,
        },
    );
    check(&[0x91, 0xc1], DecodeError::Reserved { offset: 1 });
}

#[test]
fn declared_lengths_are_not_believed() {
    for bomb in [0xdd, 0xdf, 0xdb, 0xc6, 0xc9] {
        let input = [bomb, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert!(
            matches!(read(&input), Err(DecodeError::Truncated { .. })),
            "{bomb:x}"
        );
    }
    // Each level alone could be filled by what follows; all of them together could not.
    let mut nested = [0xdd, 0, 0, 8, 0].repeat(500);
    nested.resize(4096, 0xc0);
    assert!(matches!(read(&nested), Err(DecodeError::Truncated { .. })));
}

#[test]
fn envelopes_have_few_elements_and_little_depth() {
    let wide = Bytes::from([&[0xdc, 4, 1][..], &[0xc0; 1025]].concat());
    assert!(decode(&wide, Limits::CONTENT).is_ok());
    assert_eq!(
        decode(&wide, Limits::ENVELOPE),
        Err(DecodeError::TooManyElements { limit: 1024 })
    );
    let deep = Bytes::from([&[0x91; 9][..], &[0xc0]].concat());
    assert_eq!(
        decode(&deep, Limits::ENVELOPE),
        Err(DecodeError::TooDeep { limit: 8 })
    );
}

#[test]
fn deep_nesting_is_refused_and_the_deepest_accepted_is_written_and_dropped() {
    let nested = |levels: usize| [vec![0x91; levels], vec![0xc0]].concat();
    assert_eq!(
        read(&nested(MAX_DEPTH + 1)),
        Err(DecodeError::TooDeep { limit: MAX_DEPTH })
    );
    assert_eq!(
        read(&nested(1_000_000)),
        Err(DecodeError::TooDeep { limit: MAX_DEPTH })
    );
    let deepest = nested(MAX_DEPTH);
    assert_eq!(encode(&read(&deepest).unwrap(), Dialect::Old), deepest);
}

#[test]
fn strings_get_the_markers_of_their_dialect() {
    let markers = |length: usize, byte: u8| {
        let value = Value::from(vec![byte; length]);
        [Dialect::Old, Dialect::New].map(|dialect| encode(&value, dialect)[0])
    };
    assert_eq!(markers(31, b'x'), [0xbf, 0xbf]);
    assert_eq!(markers(32, b'x'), [0xda, 0xd9]);
    assert_eq!(markers(255, b'x'), [0xda, 0xd9]);
    assert_eq!(markers(256, b'x'), [0xda, 0xda]);
    assert_eq!(markers(65_535, b'x'), [0xda, 0xda]);
    assert_eq!(markers(65_536, b'x'), [0xdb, 0xdb]);
    assert_eq!(markers(1, 0xff), [0xa1, 0xc4]);
    assert_eq!(markers(255, 0xff), [0xda, 0xc4]);
    assert_eq!(markers(256, 0xff), [0xda, 0xc5]);
    assert_eq!(markers(65_536, 0xff), [0xdb, 0xc6]);
}

#[test]
fn a_long_string_is_not_copied_when_read() {
    let frame = encode(&Value::array([vec![b'x'; 50 << 20]]), Dialect::New);
    let value = decode(&frame, Limits::CONTENT).unwrap();
    let text = value.as_array().unwrap()[0].as_bytes().unwrap();
    assert!(frame.as_ptr_range().contains(&text.as_ptr()));
}

#[test]
fn the_last_of_repeated_keys_counts() {
    let mut map = read(b"\x83\xa1a\x01\xa1b\x02\xc4\x01a\x03").unwrap();
    assert_eq!(map.get("a").and_then(Value::as_i64), Some(3));
    map.set("b", 4i64);
    assert_eq!(map.remove("a"), Some(Value::Int(3)));
    assert_eq!(map, Value::map([("b", Value::Int(4))]));
    assert_eq!(map.remove("a"), None);
}

#[test]
fn debug_shows_no_key() {
    let load = Value::map([
        ("key", "k".repeat(76).into()),
        ("cmd", Value::from("publish")),
    ]);
    assert_eq!(
        format!("{load:?}"),
        r#"{"key": raw(76 bytes), "cmd": "publish"}"#
    );
}

#[test]
fn both_dialects_are_the_bytes_that_salts_own_packer_writes() {
    // salt.payload.dumps of 3006.27 and of 3008.3, without and with use_bin_type, of
    // {"ret": {1: "x", "b": b"\xff\xfe", "u": "\u00fcn\u00ef", "big": 2**70, "f": 1.5, "neg": -129,
    // "u64": 2**64 - 1, "l": [None, True, (1, 2)], "s": "y" * 200, "dt": <a datetime>}}.
    let salt = |bin: &str, str8: &str| {
        let hex = [
            "81a37265748a01a178a162",
            bin,
            "fffea175a5c3bc6ec3afa3626967b631313830353931363230373137343131333033343234",
            "a166cb3ff8000000000000a36e6567d1ff7fa3753634cfffffffffffffffff",
            "a16c93c0c3920102a173",
            str8,
            &"79".repeat(200),
            "a26474c7184e32303236303130325430333a30343a30352e303030303036",
        ];
        let hex = hex.concat();
        let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2).unwrap(), 16).unwrap();
        Bytes::from((0..hex.len()).step_by(2).map(byte).collect::<Vec<_>>())
    };
    let (old, new) = (salt("a2", "da00c8"), salt("c402", "d9c8"));
    let value = decode(&old, Limits::CONTENT).unwrap();
    assert_eq!(decode(&new, Limits::CONTENT).as_ref(), Ok(&value));
    assert_eq!(encode(&value, Dialect::Old), old);
    assert_eq!(encode(&value, Dialect::New), new);
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-200i64..70_000).prop_map(Value::Int),
        any::<u64>().prop_map(Value::from),
        any::<f32>()
            .prop_filter("compared by value", |f| !f.is_nan())
            .prop_map(Value::Float32),
        any::<f64>()
            .prop_filter("compared by value", |f| !f.is_nan())
            .prop_map(Value::Float64),
        ".{0,40}".prop_map(Value::from),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(Value::from),
        (any::<i8>(), proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(kind, data)| Value::Ext(kind, data.into())),
    ];
    leaf.prop_recursive(6, 64, 20, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..20).prop_map(Value::Array),
            proptest::collection::vec((inner.clone(), inner), 0..20).prop_map(Value::Map),
        ]
    })
}

proptest! {
    #[test]
    fn values_survive_both_dialects(value in any_value()) {
        for dialect in [Dialect::Old, Dialect::New] {
            prop_assert_eq!(decode(&encode(&value, dialect), Limits::CONTENT), Ok(value.clone()));
        }
    }

    #[test]
    fn what_goes_over_the_bus_arrives_as_the_bytes_that_came_in(value in any_value()) {
        let sent = encode(&value, Dialect::Old);
        let bus = encode(&decode(&sent, Limits::CONTENT).unwrap(), Dialect::New);
        prop_assert_eq!(encode(&decode(&bus, Limits::CONTENT).unwrap(), Dialect::Old), sent);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(input in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(value) = read(&input) {
            prop_assert_eq!(read(&encode(&value, Dialect::New)).map(|v| encode(&v, Dialect::Old)),
                Ok(encode(&value, Dialect::Old)));
        }
    }

    #[test]
    fn a_document_cut_anywhere_is_truncated(value in any_value(), cut in any::<prop::sample::Index>()) {
        let whole = encode(&value, Dialect::New);
        let part = whole.slice(..cut.index(whole.len()));
        let truncated = matches!(decode(&part, Limits::CONTENT), Err(DecodeError::Truncated { .. }));
        prop_assert!(truncated);
    }
}

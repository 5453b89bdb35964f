use super::*;

fn decode_all(decoder: &mut BusDecoder) -> Vec<Decoded> {
    let mut found = Vec::new();
    while let Some(decoded) = decoder
        .next_event(|_| true)
        .expect("the stream is well framed")
    {
        found.push(decoded);
    }
    found
}

fn event(tag: &str, data: &[u8]) -> Decoded {
    Decoded::Event(Event {
        tag: tag.to_owned(),
        data: Bytes::copy_from_slice(data),
    })
}

mod tags {
    use super::EventTag::*;
    use super::*;

    const JID: &str = "20261120175418824928";

    #[test]
    fn tags_are_taken_apart() {
        let table: &[(&str, EventTag<'_>)] = &[
            ("20261120175418824928", BareJid(JID)),
            (
                "20261120175418824928_77",
                BareJid("20261120175418824928_77"),
            ),
            ("20261120175418824928_", Other),
            ("2026112017541882492", Other),
            ("2026112017541882492x", Other),
            ("salt/job/20261120175418824928/new", JobNew { jid: JID }),
            ("salt/job/my-own-jid/new", JobNew { jid: "my-own-jid" }),
            ("salt/job//new", Other),
            (
                "salt/job/20261120175418824928/publish",
                JobPublish { jid: JID },
            ),
            (
                "salt/job/20261120175418824928/ret/m1.example",
                JobReturn {
                    jid: JID,
                    minion: "m1.example",
                },
            ),
            (
                "salt/job/20261120175418824928/ret/new",
                JobReturn {
                    jid: JID,
                    minion: "new",
                },
            ),
            ("salt/job/20261120175418824928/ret/", Other),
            ("salt/job/20261120175418824928/ret/a/b", Other),
            ("salt/job/20261120175418824928/ret", Other),
            (
                "salt/job/20261120175418824928/start/m1",
                JobStart {
                    jid: JID,
                    minion: "m1",
                },
            ),
            ("salt/job/20261120175418824928/error", JobError { jid: JID }),
            ("salt/job/20261120175418824928/prog/m1/2", Other),
            ("salt/job/20261120175418824928", Other),
            ("salt/auth", Auth),
            ("salt/key", Key),
            ("key", KeyRotation),
            ("salt/minion/m1/start", MinionStart { minion: "m1" }),
            ("salt/minion//start", Other),
            ("minion_start", LegacyMinionStart),
            ("salt/syndic/syn1/start", SyndicStart { syndic: "syn1" }),
            ("syndic_start", LegacySyndicStart),
            ("minion/refresh/m1", MinionRefresh { minion: "m1" }),
            ("salt/presence/present", PresencePresent),
            ("salt/presence/change", PresenceChange),
            (
                "syndic/syn1/20261120175418824928",
                Forwarded {
                    syndic: "syn1",
                    tag: JID,
                },
            ),
            ("syndic/syn1/", Other),
            ("", Other),
            ("my/own/tag", Other),
        ];
        for (tag, expected) in table {
            assert_eq!(EventTag::parse(tag), *expected, "{tag}");
        }
    }
}

mod vectors {
    use super::*;
    use serde_json::Value;

    fn load(version: &str, name: &str) -> Value {
        let path = format!(
            "{}/tests/data/vectors/{version}/{name}",
            env!("CARGO_MANIFEST_DIR")
        );
        let text = std::fs::read_to_string(&path).expect(&path);
        serde_json::from_str(&text).expect(&path)
    }

    fn raw(value: &Value) -> Vec<u8> {
        let text = value["raw"].as_str().expect("raw is base64 text");
        openssl::base64::decode_block(text).expect("raw is base64 text")
    }

    fn framing(value: &Value) -> Framing {
        match value["framing"].as_str() {
            Some("u32be-length+msgpack") => Framing::LengthPrefix,
            Some("msgpack-stream") => Framing::Streaming,
            other => panic!("unknown framing {other:?}"),
        }
    }

    fn data_of(event: &Event) -> Vec<u8> {
        event.data.to_vec()
    }

    #[test]
    fn every_captured_frame_decodes_and_encodes_to_the_same_bytes() {
        for version in ["3006.27", "3007.14", "3008.3"] {
            let capture = load(version, "event_bus.json");
            let frames = capture["frames"].as_array().expect("frames");
            assert!(frames.len() > 3, "{version}");
            for frame in frames {
                let bytes = raw(frame);
                let tag = frame["tag"].as_str().expect("tag");
                let mut decoder = BusDecoder::default();
                decoder.feed(&bytes);
                let found = decode_all(&mut decoder);
                let [Decoded::Event(event)] = found.as_slice() else {
                    panic!("{version} {tag}: {found:?}")
                };
                assert_eq!(event.tag, tag, "{version}");
                assert_eq!(decoder.framing(), Some(framing(frame)), "{version} {tag}");
                assert_eq!(decoder.buffered_bytes(), 0);
                let value = event.value().expect("the data is msgpack");
                for (key, captured) in frame["data"].as_object().expect("data is a map") {
                    let decoded = value.get(key).expect("the data is whole");
                    if let Some(text) = captured.as_str() {
                        assert_eq!(decoded.as_str(), Some(text), "{version} {tag} {key}");
                    }
                }
                let again = encode_event(tag, &data_of(event), framing(frame)).expect("encodes");
                assert_eq!(again, bytes, "{version} {tag}");
            }
        }
    }

    #[test]
    fn captured_frames_in_one_stream_decode_in_order_at_every_cut() {
        for version in ["3006.27", "3007.14", "3008.3"] {
            let capture = load(version, "event_bus.json");
            let frames = capture["frames"].as_array().expect("frames");
            let stream: Vec<u8> = frames.iter().flat_map(raw).collect();
            for chunk in [1, 2, 3, 7, 64, 4096] {
                let mut decoder = BusDecoder::default();
                let mut tags = Vec::new();
                for part in stream.chunks(chunk) {
                    decoder.feed(part);
                    for decoded in decode_all(&mut decoder) {
                        let Decoded::Event(event) = decoded else {
                            panic!("{decoded:?}")
                        };
                        tags.push(event.tag);
                    }
                }
                let expected: Vec<_> = frames
                    .iter()
                    .map(|frame| frame["tag"].as_str().expect("tag"))
                    .collect();
                assert_eq!(tags, expected, "{version}, fed {chunk} bytes at a time");
            }
        }
    }

    #[test]
    fn what_salts_own_client_writes_is_what_we_write() {
        for (version, framing) in [
            ("3006.27", Framing::LengthPrefix),
            ("3007.14", Framing::Streaming),
            ("3008.3", Framing::LengthPrefix),
        ] {
            let capture = load(version, "event_pull.json");
            let bytes = raw(&capture);
            let mut decoder = BusDecoder::default();
            decoder.feed(&bytes);
            let found = decode_all(&mut decoder);
            let [Decoded::Event(event)] = found.as_slice() else {
                panic!("{found:?}")
            };
            assert_eq!(Some(event.tag.as_str()), capture["tag"].as_str());
            assert_eq!(decoder.framing(), Some(framing), "{version}");
            assert_eq!(
                encode_event(&event.tag, &event.data, framing).expect("encodes"),
                bytes
            );
        }
    }
}

#[test]
fn events_of_every_length_form_survive_the_round_trip() {
    for framing in [Framing::LengthPrefix, Framing::Streaming] {
        for length in [0, 1, 240, 255, 256, 300, 65_000, 65_535, 65_536, 200_000] {
            let data = vec![0xab; length];
            let bytes = encode_event("a/tag", &data, framing).expect("encodes");
            let mut decoder = BusDecoder::default();
            decoder.feed(&bytes);
            decoder.feed(&bytes);
            let expected = event("a/tag", &data);
            assert_eq!(
                decode_all(&mut decoder),
                [expected.clone(), expected],
                "{framing:?} {length}"
            );
        }
    }
}

#[test]
fn data_may_hold_the_sequence_that_ends_the_tag() {
    let bytes = encode_event("t", b"a\n\nb\n\n", Framing::Streaming).expect("encodes");
    let mut decoder = BusDecoder::default();
    decoder.feed(&bytes);
    assert_eq!(decode_all(&mut decoder), [event("t", b"a\n\nb\n\n")]);
}

#[test]
fn a_tag_with_an_empty_line_is_refused() {
    let refused = encode_event("a\n\nb", b"", Framing::Streaming);
    assert_eq!(
        refused,
        Err(EncodeError::TagHoldsEnd {
            tag: "a\n\nb".to_owned()
        })
    );
}

#[test]
fn debug_output_holds_no_data() {
    let event = Event {
        tag: "t".to_owned(),
        data: Bytes::from_static(b"secret"),
    };
    assert_eq!(format!("{event:?}"), "Event { tag: \"t\", data_bytes: 6 }");
}

#[test]
fn unwanted_tags_are_passed_over() {
    let mut decoder = BusDecoder::default();
    for tag in ["no", "yes/1", "no/2", "yes/3", "no"] {
        decoder.feed(&encode_event(tag, b"\x80", Framing::Streaming).expect("encodes"));
    }
    let mut tags = Vec::new();
    while let Some(decoded) = decoder
        .next_event(|tag| tag.starts_with("yes"))
        .expect("framed")
    {
        let Decoded::Event(event) = decoded else {
            panic!("{decoded:?}")
        };
        tags.push(event.tag);
    }
    assert_eq!(tags, ["yes/1", "yes/3"]);
    assert_eq!(decoder.buffered_bytes(), 0);
}

#[test]
fn a_malformed_frame_is_skipped_and_the_next_event_read() {
    let good = encode_event("good", b"\x80", Framing::LengthPrefix).expect("encodes");
    let bodies: [&[u8]; 5] = [
        b"",
        b"\xc0",
        b"\x82\xa4head\x80\xa4body\xc0",
        b"\x82\xa4head\x80\xa4body\xc4\x03abc",
        b"\x82\xa4head\x80\xa4body\xc4\x04\xff\xff\n\n",
    ];
    for content in bodies {
        let mut decoder = BusDecoder::default();
        decoder.feed(&u32::try_from(content.len()).expect("short").to_be_bytes());
        decoder.feed(content);
        decoder.feed(&good);
        let found = decode_all(&mut decoder);
        let [Decoded::Malformed { .. }, last] = found.as_slice() else {
            panic!("{content:?}: {found:?}")
        };
        assert_eq!(*last, event("good", b"\x80"), "{content:?}");
    }
}

#[test]
fn a_length_above_the_limit_is_refused_before_anything_is_held() {
    let mut decoder = BusDecoder::new(1000);
    decoder.feed(&1001_u32.to_be_bytes());
    let refused = decoder.next_event(|_| true);
    assert_eq!(
        refused,
        Err(FramingError::TooLong {
            bytes: 1001,
            limit: 1000
        })
    );

    let mut decoder = BusDecoder::new(1000);
    decoder.feed(b"\x82\xa4head\x80\xa4body\xc6\xff\xff\xff\xff");
    assert!(matches!(
        decoder.next_event(|_| true),
        Err(FramingError::TooLong { .. })
    ));
}

#[test]
fn garbage_is_refused_for_good() {
    for garbage in [&b"\xff"[..], b"\xc1", b"\x90\x90\x90\x90"] {
        let mut decoder = BusDecoder::default();
        decoder.feed(garbage);
        assert!(decoder.next_event(|_| true).is_err(), "{garbage:?}");
        decoder.feed(&encode_event("t", b"", Framing::Streaming).expect("encodes"));
        assert!(decoder.next_event(|_| true).is_err(), "{garbage:?}");
    }
    // A good frame, then bytes that are none.
    let mut decoder = BusDecoder::default();
    decoder.feed(&encode_event("t", b"", Framing::Streaming).expect("encodes"));
    decoder.feed(b"\x00");
    assert!(matches!(decoder.next_event(|_| true), Ok(Some(_))));
    assert!(matches!(
        decoder.next_event(|_| true),
        Err(FramingError::NotAFrame { .. })
    ));
}

#[test]
fn a_frame_that_is_long_without_a_body_is_refused() {
    // An array of 2^32-1 elements, a map likewise, a deep nest, and a long text for `head`.
    let mut nest = b"\x82\xa4head".to_vec();
    nest.extend(std::iter::repeat_n(0x91, 100_000));
    let heads: [&[u8]; 4] = [
        b"\x82\xa4head\xdd\xff\xff\xff\xff",
        b"\x82\xa4head\xdf\xff\xff\xff\xff",
        &nest,
        b"\x82\xa4head\xdb\x00\x10\x00\x00",
    ];
    for head in heads {
        let mut decoder = BusDecoder::default();
        decoder.feed(head);
        assert!(decoder.next_event(|_| true).is_err());
    }
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(parts in proptest::collection::vec(
        proptest::collection::vec(proptest::num::u8::ANY, 0..40), 0..10)) {
        let mut decoder = BusDecoder::new(4096);
        let mut fed = 0;
        'stream: for part in &parts {
            decoder.feed(part);
            fed += part.len();
            loop {
                match decoder.next_event(|_| true) {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'stream,
                }
            }
            proptest::prop_assert!(decoder.buffered_bytes() <= fed);
        }
    }

    #[test]
    fn any_event_survives_the_round_trip(
        tag in "[a-z/0-9_]{0,60}",
        data in proptest::collection::vec(proptest::num::u8::ANY, 0..3000),
        cut in 0_usize..3000,
        prefixed in proptest::bool::ANY,
    ) {
        let framing = if prefixed { Framing::LengthPrefix } else { Framing::Streaming };
        let bytes = encode_event(&tag, &data, framing).expect("encodes");
        let cut = cut.min(bytes.len());
        let mut decoder = BusDecoder::default();
        decoder.feed(&bytes[..cut]);
        let early = decode_all(&mut decoder);
        proptest::prop_assert_eq!(early.is_empty(), cut < bytes.len());
        decoder.feed(&bytes[cut..]);
        let mut all = early;
        all.extend(decode_all(&mut decoder));
        proptest::prop_assert_eq!(all, vec![event(&tag, &data)]);
    }
}

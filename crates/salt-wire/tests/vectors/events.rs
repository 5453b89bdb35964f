//! Event data as it is on the bus; the framings themselves are tested in `src/bus/tests.rs`.

use salt_wire::bus::{BusDecoder, Decoded, Event, FRAME_BYTES_MAX, encode_event};
use salt_wire::commands::ReturnEvent;
use salt_wire::msgpack::{Dialect, Limits, decode, encode};
use serde_json::Value as Json;

use crate::support::{for_each, jsonish, text, unbase64};

pub(crate) const FILES: &[&str] = &["event_bus", "event_pull"];

fn read_frame(json: &Json) -> Event {
    let bytes = unbase64(&json["raw"]);
    let mut decoder = BusDecoder::new(FRAME_BYTES_MAX);
    decoder.feed(&bytes);
    let Some(Decoded::Event(event)) = decoder.next_event(|_| true).unwrap() else {
        panic!("no event");
    };
    assert_eq!(event.tag, text(json, "tag"));
    let data = decode(&event.data, Limits::CONTENT).unwrap();
    assert_eq!(
        encode(&data, Dialect::New),
        event.data,
        "the data is written again"
    );
    let framing = decoder.framing().unwrap();
    assert_eq!(
        encode_event(&event.tag, &event.data, framing).unwrap(),
        bytes,
        "framed again"
    );
    event
}

#[test]
fn events_on_the_bus() {
    for_each(&["event_bus"], |_, _, json| {
        let mut returns = 0;
        for frame in json["frames"].as_array().unwrap() {
            let event = read_frame(frame);
            let data = decode(&event.data, Limits::CONTENT).unwrap();
            assert_eq!(jsonish(&data), frame["data"]);
            if frame["what"] == "return of m1" {
                let ret = ReturnEvent::parse(data.clone()).unwrap();
                assert_eq!(
                    (ret.id.as_str(), ret.jid.as_str()),
                    ("m1", text(json, "jid"))
                );
                assert_eq!(ret.fields.get("return"), data.get("return"));
                assert!(ret.fields.get("_stamp").is_none());
                returns += 1;
            }
        }
        assert_eq!(returns, 2, "one on the minion's own master, one above");
    });
}

#[test]
fn events_written_by_salts_own_client() {
    for_each(&["event_pull"], |_, _, json| drop(read_frame(json)));
}

//! Many minions: whom a job expects is told at once, and the bus is folded faster than a MoM can fire.

use std::time::Duration;

use salt_wire::msgpack::Value;
use standin::{jid, return_data};

use crate::stage::{Stage, ids};

const SITES: usize = 4;
const MINIONS: usize = 20_000;

#[test]
fn real_eighty_thousand_minions_are_expected_at_once_and_their_returns_folded_in_seconds() {
    let stage = Stage::new("job_ttl: 60s\nlog: {level: warn}");
    let names: Vec<Vec<String>> = (0..SITES)
        .map(|site| (0..MINIONS).map(|n| format!("s{site}m{n:05}")).collect())
        .collect();
    for (number, minions) in names.iter().enumerate() {
        let minions: Vec<&str> = minions.iter().map(String::as_str).collect();
        stage.site(&format!("site{number}"), &minions);
    }
    let (job, soon) = (jid(1), Duration::from_secs(10));
    let began = testkit::now();
    stage.publish(&job, "glob", "*", &[]);
    let last = format!("syndic/site{}/{job}", SITES - 1);
    stage.bus.await_fired(&last, soon).expect("told");
    let expected = began.elapsed();
    testkit::await_that("everybody expected", soon, || {
        let fired = stage.bus.fired("syndic/");
        let told: usize = fired
            .iter()
            .map(|(_, data)| ids(data, "minions").len())
            .sum();
        let largest = fired
            .iter()
            .map(|(_, data)| ids(data, "minions").len())
            .max();
        if told == SITES * MINIONS {
            Ok(())
        } else {
            Err(format!("{told}, at most {largest:?}"))
        }
    });
    let frames = names.iter().flatten().flat_map(|minion| {
        let data = return_data(&job, minion, "test.ping", Value::Bool(true));
        let frame = stage
            .bus
            .bus()
            .frame(&format!("salt/job/{job}/ret/{minion}"), &data);
        frame.expect("a frame")
    });
    let frames: Vec<u8> = frames.collect();
    let began = testkit::now();
    for part in frames.chunks(1 << 20) {
        stage.bus.bus().fire_raw(part).expect("fired");
    }
    stage.await_job(&job, |job| job["returned"] == SITES * MINIONS);
    let folded = began.elapsed();
    let asked = testkit::now();
    stage.api(&format!("/api/v1/jobs/{job}"));
    let answered = asked.elapsed();
    let memory = stage.bridge.metric("process_resident_memory_bytes", &[]);
    let memory = memory.expect("metrics").unwrap_or_default() / 1024.0 / 1024.0;
    println!(
        "{} minions: expected after {expected:?}, returns folded in {folded:?}, answered in {answered:?}, {memory:.0} MiB",
        SITES * MINIONS
    );
    // A debug build on a busy machine; the figures of a release build are in docs/measurements.md.
    assert!(expected < Duration::from_secs(3), "{expected:?}");
    assert!(folded < Duration::from_secs(15), "{folded:?}");
    assert!(memory < 200.0, "{memory}");
}

//! The audit: who ran what, once when it appears and once when it is over.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::{Value as Json, json};
use standin::jid;
use testkit::await_that;

use crate::stage::{SOON, Stage};

fn lines(stage: &Stage, file: &str) -> Vec<Json> {
    let text = fs::read_to_string(stage.bridge.state_dir().join(file)).unwrap_or_default();
    let lines = text.lines().map(serde_json::from_str);
    lines
        .collect::<Result<_, _>>()
        .expect("whole lines of JSON")
}

fn await_lines(stage: &Stage, count: usize) -> Vec<Json> {
    await_that("the audit", SOON, || {
        let lines = lines(stage, "audit.jsonl");
        if lines.len() >= count {
            Ok(lines)
        } else {
            Err(format!("{lines:?}"))
        }
    })
}

fn run_a_job(stage: &Stage, number: u64) {
    stage.publish(&jid(number), "glob", "*", &["site1"]);
    stage.ack("site1", &jid(number), &["a1"]);
    stage.ret(&jid(number), "a1", 1);
}

#[test]
fn real_a_job_is_told_when_it_appears_and_when_it_is_over() {
    let stage = Stage::new("job_ttl: 1s");
    stage.site("site1", &["a1"]);
    run_a_job(&stage, 1);
    let told = await_lines(&stage, 2);
    let [job, end] = &told[..] else {
        panic!("{told:?}")
    };
    let expected = json!({
        "v": 1, "what": "job", "jid": jid(1), "user": "sudo_alice", "fun": "test.echo", "tgt": "*",
        "tgt_type": "glob", "expected": 1, "arg": ["hello", "password=secret"], "time": job["time"],
    });
    assert_eq!(job, &expected);
    let parts = ["what", "state", "expected", "returned", "failed", "missing"].map(|key| &end[key]);
    assert_eq!(
        parts.map(ToString::to_string),
        [r#""end""#, r#""complete""#, "1", "1", "1", "0"]
    );
    let file = fs::metadata(stage.bridge.state_dir().join("audit.jsonl")).expect("there");
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    // A question of the salt command's own is no job.
    let mut data =
        salt_wire::msgpack::Value::map([("tgt", "*".into()), ("fun", "saltutil.find_job".into())]);
    data.set("jid", jid(2).as_str());
    stage.fire(&format!("salt/job/{}/new", jid(2)), &data);
    // A job of a site that is down.
    stage.site_goes("site1");
    stage.publish(&jid(3), "glob", "a*", &[]);
    let told = await_lines(&stage, 3);
    assert_eq!(told[2]["jid"], jid(3));
}

#[test]
fn real_arguments_can_be_redacted_or_left_out_and_the_file_is_rotated() {
    let stage = Stage::new("audit: {arguments: redacted, max_bytes: 64KiB, files: 3}");
    stage.site("site1", &["a1"]);
    run_a_job(&stage, 1);
    let told = await_lines(&stage, 1);
    assert_eq!(told[0]["arg"], json!(["***", "password=***"]));
    for number in 2..=900 {
        stage.publish(&jid(number), "glob", "*", &["site1"]);
    }
    await_that("a third file", SOON, || {
        let third = stage.bridge.state_dir().join("audit.jsonl.2");
        if third.exists() {
            Ok(())
        } else {
            Err("not yet")
        }
    });
    let sizes = ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"].map(|file| {
        lines(&stage, file);
        fs::metadata(stage.bridge.state_dir().join(file))
            .expect("there")
            .len()
    });
    assert!(sizes.iter().all(|size| *size <= 64 << 10), "{sizes:?}");
    assert!(!stage.bridge.state_dir().join("audit.jsonl.3").exists());

    let silent = Stage::new("audit: {arguments: off}");
    silent.site("site1", &["a1"]);
    run_a_job(&silent, 1);
    let told = await_lines(&silent, 1);
    assert_eq!(told[0].get("arg"), None, "{told:?}");
}

#[test]
fn real_without_an_audit_no_file_is_written() {
    let stage = Stage::new("audit: {enabled: false}");
    stage.site("site1", &["a1"]);
    run_a_job(&stage, 1);
    stage
        .bus
        .await_fired(&format!("saltway/job/{}/complete", jid(1)), SOON)
        .expect("told");
    assert!(!stage.bridge.state_dir().join("audit.jsonl").exists());
}

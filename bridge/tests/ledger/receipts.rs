//! Receipts: who got a job and when, whose silence means something, and jobs that an operator has sent again.

use std::fs;

use salt_wire::{
    ids::{Jid, MinionId},
    msgpack::Value,
    saltway::{IdList, JobReceipts, LastHop, Receipts},
};
use serde_json::json;
use standin::jid;
use testkit::await_that;

use crate::stage::{SOON, Stage};

fn receipts(site: &str, gives: &[&str], jid: &str, minions: &[&str]) -> Receipts {
    let ids = |ids: &[&str]| IdList::new(ids.iter().copied()).expect("ids");
    let job = JobReceipts {
        jid: Jid::parse(jid).expect("a jid"),
        minions: ids(minions),
        after_ms: minions.iter().map(|_| Some(20)).collect(),
    };
    Receipts {
        site: MinionId::parse(site).expect("an id"),
        gives: ids(gives),
        jobs: Vec::from([job]),
    }
}

fn tell(stage: &Stage, receipts: &Receipts) {
    stage.fire(&receipts.tag(), &receipts.data());
}

/// `id step verdict receipts`, and whether there is a time, of each minion.
fn told(job: &serde_json::Value) -> Vec<String> {
    let minions = job["minions"].as_array().expect("minions");
    let mut told: Vec<String> = minions
        .iter()
        .map(|minion| {
            let [id, step, verdict] = ["id", "step", "verdict"].map(|key| minion[key].as_str());
            let words = [id, step, verdict].map(Option::unwrap_or_default).join(" ");
            let has_time = minion["received_ms"].is_u64();
            format!("{words} {} {has_time}", minion["receipts"])
        })
        .collect();
    told.sort_unstable();
    told
}

#[test]
fn real_received_is_told_from_never_received_and_outlives_the_bridge() {
    let mut stage = Stage::new("job_ttl: 1s");
    stage.site("site1", &["a1", "a2", "a3"]);
    stage.publish(&jid(1), "glob", "*", &["site1"]);
    stage.ack("site1", &jid(1), &["a1", "a2", "a3"]);
    tell(&stage, &receipts("site1", &["a1", "a2"], &jid(1), &["a1"]));
    let expected = [
        "a1 received running true true",
        "a2 accepted waiting true false",
        "a3 accepted waiting false false",
    ];
    let job = stage.await_job(&jid(1), |job| told(job) == expected);
    assert_eq!(
        (&job["received"], &job["no_receipts"]),
        (&1.into(), &1.into())
    );
    let missing = format!("/api/v1/jobs/{}/missing", jid(1));
    let missing = stage.await_api(&missing, |missing| {
        missing["missing"][0]["receipts"] == true
    });
    assert_eq!(missing["missing"].as_array().map(Vec::len), Some(3));
    // What was learnt is on disk within a second or so.
    await_that("the ledger on disk", SOON, || {
        let (_, status) = stage.api("/api/v1/status");
        match status["jobs"]["kept"].as_u64() {
            Some(kept) if kept > 0 => Ok(()),
            _ => Err(status.to_string()),
        }
    });
    stage.bridge.terminate().expect("ended");
    stage.restart();
    stage.await_job(&jid(1), |job| told(job) == expected);
}

#[test]
fn real_a_target_is_worked_out_without_a_job() {
    let stage = Stage::new("");
    stage.site("site1", &["a1", "a2"]);
    stage.site("site2", &["b1"]);
    let expect = |query: &str| stage.api(&format!("/api/v1/expect?{query}"));
    let site1 = json!({"id": "site1", "state": "up", "minions": ["a1", "a2"]});
    assert_eq!(
        expect("tgt=a*"),
        (200, json!({"sites": [site1], "ask": []}))
    );
    let site2 = json!({"id": "site2", "state": "up", "minions": ["b1"]});
    assert_eq!(
        expect("tgt=b1,x1&tgt_type=list"),
        (200, json!({"sites": [site2], "ask": []}))
    );
    assert_eq!(
        expect("tgt=os:Debian&tgt_type=grain"),
        (200, json!({"sites": [], "ask": ["site1", "site2"]}))
    );
    let (status, refused) = expect("tgt_type=glob");
    assert_eq!(status, 400, "{refused}");
    assert_eq!(stage.api("/api/v1/jobs").1["jobs"], json!([]));
}

#[test]
fn real_the_last_hop_is_told_by_site() {
    let stage = Stage::new("");
    stage.site("site1", &["a1"]);
    let mut status = stage.a_status("site1", "run", &[]);
    status.last_hop = Some(LastHop {
        expected: 200,
        received: 190,
        missed: 10,
        after_ms_median: 12,
        after_ms_p99: 250,
        ..LastHop::default()
    });
    stage.fire(&status.tag(), &status.data());
    let sites = stage.await_api("/api/v1/sites", |sites| {
        sites["sites"][0]["last_hop"]["missed"] == 10
    });
    assert_eq!(sites["sites"][0]["last_hop"]["after_ms_p99"], 250);
    await_that("the metrics", SOON, || {
        let (_, metrics) = stage
            .bridge
            .get("/metrics")
            .map_err(|err| err.to_string())?;
        let wanted = [
            r#"saltway_last_hop_missed_total{site="site1"} 10"#,
            r#"saltway_last_hop_delay_seconds{quantile="0.99",site="site1"} 0.25"#,
        ];
        match wanted.iter().all(|line| metrics.contains(line)) {
            true => Ok(()),
            false => Err(metrics),
        }
    });
}

#[test]
fn real_a_job_that_an_operator_has_sent_again_is_in_the_audit() {
    let stage = Stage::new("");
    stage.site("site1", &["a1"]);
    stage.publish(&jid(1), "glob", "*", &["site1"]);
    stage.ack("site1", &jid(1), &["a1"]);
    stage.ret(&jid(1), "a1", 0);
    stage.await_job(&jid(1), |job| job["state"] == "complete");
    let again = Value::map([
        ("v", Value::Int(1)),
        ("jid", jid(1).as_str().into()),
        ("minions", Value::array(["a1"])),
        ("user", "sudo_alice".into()),
    ]);
    stage.fire(&format!("saltway/job/{}/redeliver", jid(1)), &again);
    await_that("the audit", SOON, || {
        let file = stage.bridge.state_dir().join("audit.jsonl");
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.contains("redeliver"));
        let line = line.map(serde_json::from_str::<serde_json::Value>);
        match line {
            Some(Ok(line)) if line["user"] == "sudo_alice" && line["minions"] == json!(["a1"]) => {
                Ok(())
            }
            _ => Err(text),
        }
    });
}

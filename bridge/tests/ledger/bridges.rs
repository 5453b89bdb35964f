//! Two bridges hold the same ledger and one speaks; a bridge that was away catches up.

use std::{fs, path::Path, time::Duration};

use openssl::hash::{MessageDigest, hash};
use salt_wire::msgpack::{Dialect, Value, encode};
use standin::{cachedir, jid};
use testkit::{Daemon, await_that};

use crate::stage::{SOON, Stage, verdicts};

fn status_of(bridge: &Daemon, key: &str) -> serde_json::Value {
    let (_, body) = bridge.get("/api/v1/status").unwrap_or_default();
    let json: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    json[key].clone()
}

#[test]
fn real_one_of_two_bridges_speaks_and_the_other_takes_over_when_it_is_killed() {
    let mut stage = Stage::new("");
    let mut second = Daemon::bridge("second", stage.mom.config_file())
        .redis(&stage.redis.url())
        .log("info")
        .extra("bridge: second\naudit: {arguments: off}")
        .start(&stage.workspace)
        .expect("started");
    second.ready().expect("ready");
    await_that("the second bridge to hear the bus", SOON, || {
        let mom = status_of(&second, "mom");
        if mom["bus"] == "up" {
            Ok(())
        } else {
            Err(mom.to_string())
        }
    });
    stage.site("site1", &["a1", "a2"]);
    await_that("the second bridge to know the site", SOON, || {
        let sites = status_of(&second, "sites");
        if sites["up"] == 1 {
            Ok(())
        } else {
            Err(sites.to_string())
        }
    });
    assert_eq!(status_of(&second, "speaker"), false);
    let first = jid(1);
    stage.publish(&first, "glob", "*", &["site1"]);
    stage.ret(&first, "a1", 0);
    let tag = format!("syndic/site1/{first}");
    let told = stage.bus.await_fired(&tag, SOON).expect("told");
    assert_eq!(told.get_str("expected_by"), Some("bridge"));
    stage.await_job(&first, |job| job["returned"] == 1);
    // Both hold the same.
    let ask = |bridge: &Daemon| {
        let (_, body) = bridge
            .get(&format!("/api/v1/jobs/{first}"))
            .expect("an answer");
        verdicts(&serde_json::from_str(&body).expect("JSON"))
    };
    await_that("the second bridge's ledger", SOON, || {
        let seen = ask(&second);
        if seen == ask(&stage.bridge) {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    });
    assert_eq!(stage.bus.fired(&tag).len(), 1, "one of them speaks");

    let killed = testkit::now();
    stage.bridge.kill();
    await_that("the second bridge to speak", SOON, || {
        let speaks = status_of(&second, "speaker");
        if speaks == true {
            Ok(())
        } else {
            Err(speaks.to_string())
        }
    });
    assert!(
        killed.elapsed() < Duration::from_secs(5),
        "{:?}",
        killed.elapsed()
    );
    let next = jid(2);
    stage.publish(&next, "glob", "a*", &[]);
    let told = stage.bus.await_fired(&format!("syndic/site1/{next}"), SOON);
    assert_eq!(told.expect("told").get_str("expected_by"), Some("second"));
    // The first one comes back and is silent.
    stage.bridge.start().expect("started");
    stage.bridge.ready().expect("ready");
    assert_eq!(status_of(&stage.bridge, "speaker"), false);
}

/// Writes into the MoM's job cache as Salt does.
struct Cache(std::path::PathBuf);

impl Cache {
    fn new(stage: &Stage, jid: &str) -> Self {
        let digest = hash(MessageDigest::sha256(), jid.as_bytes()).expect("a digest");
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let (first, rest) = hex.split_at(2);
        let dir = cachedir(&stage.mom).join("jobs").join(first).join(rest);
        fs::create_dir_all(&dir).expect("made");
        fs::write(dir.join("jid"), jid).expect("written");
        Self(dir)
    }

    fn write(&self, name: &str, value: &Value) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("made");
        fs::write(path, encode(value, Dialect::New)).expect("written");
    }

    fn ret(&self, minion: &str) {
        let ret = Value::map([
            ("return", true.into()),
            ("retcode", Value::Int(0)),
            ("success", true.into()),
        ]);
        self.write(&format!("{minion}/return.p"), &ret);
    }
}

#[test]
fn real_a_ledger_outlives_its_bridge_and_catches_up_from_the_job_cache() {
    let mut stage = Stage::new("job_ttl: 120s");
    stage.site("site1", &["a1", "a2", "a3"]);
    let job = jid(1);
    stage.publish(&job, "glob", "*", &["site1"]);
    stage.ack("site1", &job, &["a1", "a2", "a3"]);
    stage.ret(&job, "a1", 0);
    stage.await_job(&job, |job| job["returned"] == 1);
    // It is on disk within a second or two; then the process dies as it may.
    await_that("the job on disk", SOON, || {
        let kept = status_of(&stage.bridge, "jobs");
        if kept["kept"] == 1 {
            Ok(())
        } else {
            Err(kept.to_string())
        }
    });
    std::thread::sleep(Duration::from_millis(1_500));
    stage.bridge.kill();
    // While nobody listens: a return, and a whole job with a minion that does not return.
    Cache::new(&stage, &job).ret("a2");
    let unheard = jid(2);
    let cache = Cache::new(&stage, &unheard);
    let load = Value::map([
        ("jid", unheard.as_str().into()),
        ("tgt", "a[23]".into()),
        ("tgt_type", "glob".into()),
        ("fun", "test.ping".into()),
        ("user", "root".into()),
        ("arg", Value::Array(Vec::new())),
    ]);
    cache.write(".load.p", &load);
    cache.write(".minions.p", &Value::Array(Vec::new()));
    cache.write(".minions.site1.p", &Value::array(["a2", "a3"]));
    cache.ret("a3");
    stage.bus.forget();
    stage.restart();
    // The roster is from the disk: no shim has announced it to this process.
    let seen = stage.await_job(&job, |job| job["returned"] == 2);
    assert_eq!(
        verdicts(&seen),
        ["a1 returned", "a2 returned", "a3 waiting"]
    );
    assert_eq!(seen["user"], "sudo_alice");
    let seen = stage.await_job(&unheard, |job| job["returned"] == 1);
    assert_eq!(verdicts(&seen), ["a2 waiting", "a3 returned"]);
    assert_eq!(seen["fun"], "test.ping");
    assert_eq!(
        stage.bus.fired("syndic/"),
        [],
        "nobody waits for it any more"
    );
    // The same with a bus that is away for a while.
    stage.bus.bus().pause().expect("paused");
    stage.await_api("/api/v1/status", |status| status["mom"]["bus"] == "down");
    Cache::new(&stage, &job).ret("a3");
    stage.bus.bus().resume().expect("resumed");
    stage.await_job(&job, |job| job["state"] == "complete");
    stage
        .bus
        .await_fired(&format!("saltway/job/{job}/complete"), SOON)
        .expect("told");
}

#[test]
fn real_jobs_on_disk_are_listed_with_those_in_memory() {
    let mut stage = Stage::new("job_ttl: 1s");
    stage.site("site1", &["a1"]);
    for number in 1..=7 {
        stage.publish(&jid(number), "glob", "*", &["site1"]);
        stage.ack("site1", &jid(number), &["a1"]);
        stage.ret(&jid(number), "a1", 0);
    }
    stage.await_job(&jid(7), |job| job["state"] == "complete");
    await_that("the jobs on disk", SOON, || {
        let kept = status_of(&stage.bridge, "jobs");
        if kept["kept"] == 7 && kept["open"] == 0 {
            Ok(())
        } else {
            Err(kept.to_string())
        }
    });
    assert!(stage.bridge.terminate().expect("ended").success());
    stage.restart();
    stage.publish(&jid(8), "glob", "*", &["site1"]);
    let listed = |path: &str| {
        let jobs = stage.await_api(path, |_| true);
        let jobs = jobs["jobs"].as_array().expect("a list").iter();
        let jobs = jobs.map(|job| (job["jid"].clone(), job["state"].clone()));
        jobs.map(|(jid, state)| {
            format!(
                "{}{}",
                jid.as_str().unwrap_or("").get(19..).unwrap_or(""),
                state.as_str().unwrap_or("").get(..1).unwrap_or("")
            )
        })
        .collect::<Vec<_>>()
        .join(" ")
    };
    stage.await_job(&jid(8), |_| true);
    let check = |path: &str, expected: &str| assert_eq!(listed(path), expected, "{path}");
    check("/api/v1/jobs", "8o 7c 6c 5c 4c 3c 2c 1c");
    check("/api/v1/jobs?limit=3", "8o 7c 6c");
    check(
        &format!("/api/v1/jobs?limit=3&before={}", jid(6)),
        "5c 4c 3c",
    );
    check("/api/v1/jobs?state=open", "8o");
    check("/api/v1/jobs?state=complete&limit=2", "7c 6c");
    check("/api/v1/jobs?state=expired", "");
    let old = stage.await_job(&jid(3), |_| true);
    assert_eq!(verdicts(&old), ["a1 returned"]);
    // What came last is on disk, too, when the bridge is asked to end.
    stage.publish(&jid(9), "glob", "*", &["site1"]);
    stage.ret(&jid(9), "a1", 0);
    stage.await_job(&jid(9), |job| job["returned"] == 1);
    assert!(stage.bridge.terminate().expect("ended").success());
    stage.restart();
    let last = stage.await_job(&jid(9), |_| true);
    assert_eq!(verdicts(&last), ["a1 returned"]);
}

//! `saltway redeliver` beside a stand-in MoM: what is published, who is told, and what a person is asked.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openssl::hash::{MessageDigest, hash};
use salt_wire::msgpack::{Dialect, Value, encode};
use serde_json::json;
use standin::{MomBus, PublishPull, StandinMom};
use testkit::Workspace;

use crate::common::{Answers, Bridge, Ran, data, run};

const JID: &str = "20261121173800110002";
const WITHIN: Duration = Duration::from_secs(10);

/// A MoM with a job in its cache, its publisher, its bus, and the bridge's answer about the job.
struct World {
    publisher: PublishPull,
    bus: MomBus,
    bridge: Bridge,
    config: PathBuf,
    _mom: StandinMom,
    _workspace: Workspace,
}

impl World {
    fn new(answer: (u16, String)) -> Self {
        let workspace = Workspace::new().expect("a directory");
        let mom = StandinMom::start(&workspace, "mom").expect("a MoM");
        let dir = mom.config_file().parent().expect("a directory").to_owned();
        let bus = MomBus::listen(&mom).expect("a bus");
        let publisher = PublishPull::listen(&dir.join("run")).expect("a publisher");
        save_job(&dir.join("cache"));
        let config = dir.join("saltway.yaml");
        let text = format!("mom: main\nsalt_config: {}\n", mom.config_file().display());
        fs::write(&config, text).expect("written");
        let path = format!("/api/v1/jobs/{JID}");
        Self {
            publisher,
            bus,
            bridge: Bridge::new(Answers::from([(path, vec![answer])]), None),
            config,
            _mom: mom,
            _workspace: workspace,
        }
    }

    /// A job of this age: two minions that missed it, one that has it, one that is back, one that may have run it.
    fn of_age(seconds: f64) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_secs_f64();
        let minion = |id: &str, step: &str, verdict: &str, receipts: bool| json!({"id": id, "site": "s1", "step": step, "verdict": verdict, "receipts": receipts, "received_ms": null});
        let minions = [
            minion("back", "returned", "returned", true),
            minion("missed", "accepted", "not_received", true),
            minion("cut", "expected", "unreachable", false),
            minion("has", "received", "running", true),
            minion("mute", "accepted", "silent", false),
        ];
        let job = json!({"jid": JID, "at": now - seconds, "minions": minions});
        Self::new((200, job.to_string()))
    }

    fn redeliver(&self, more: &[&str]) -> Ran {
        let config = self.config.to_str().expect("UTF-8");
        let mut args = vec![
            "--config",
            config,
            "--url",
            &self.bridge.url,
            "redeliver",
            JID,
        ];
        args.extend(more);
        run(&args)
    }

    fn targets(&self, count: usize) -> Vec<Vec<String>> {
        let loads = self
            .publisher
            .await_loads(count, WITHIN)
            .expect("published");
        loads.iter().map(|load| ids(load, "tgt")).collect()
    }
}

fn ids(map: &Value, key: &str) -> Vec<String> {
    let list = map.get(key).and_then(Value::as_array).unwrap_or_default();
    list.iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// The job as a master saves it.
fn save_job(cachedir: &std::path::Path) {
    let digest = hash(MessageDigest::sha256(), JID.as_bytes()).expect("a digest");
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let (first, rest) = hex.split_at(2);
    let dir = cachedir.join("jobs").join(first).join(rest);
    fs::create_dir_all(&dir).expect("created");
    fs::write(dir.join("jid"), JID).expect("written");
    let load = Value::map([
        ("cmd", Value::from("publish")),
        ("fun", "test.ping".into()),
        ("arg", Value::Array(Vec::new())),
        ("tgt", "*".into()),
        ("tgt_type", "glob".into()),
        ("ret", "".into()),
        ("user", "sudo_anna".into()),
        ("jid", JID.into()),
    ]);
    fs::write(dir.join(".load.p"), encode(&load, Dialect::New)).expect("written");
}

#[test]
fn those_who_missed_it_get_the_job_again_and_the_bridges_are_told() {
    let world = World::of_age(1.0);
    let ran = world.redeliver(&[]);
    // One that has it, and one that may have run it, are left out: not everybody was sent it.
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(world.targets(1), [["cut", "missed"]]);
    let load = &world.publisher.loads()[0];
    assert_eq!(load.get_str("jid"), Some(JID));
    assert_eq!(load.get_str("tgt_type"), Some("list"));
    assert_eq!(load.get_str("user"), Some("sudo_anna"));
    assert_eq!(load.get("saltway_redelivery"), Some(&Value::Bool(true)));
    let event = world
        .bus
        .await_fired(&format!("saltway/job/{JID}/redeliver"), WITHIN)
        .expect("fired");
    assert_eq!(ids(&event, "minions"), ["cut", "missed"]);
    assert_eq!(event.get("v").and_then(Value::as_i64), Some(1));
    for told in ["sent again to 2 minions", "has got the job", "--yes"] {
        assert!(
            ran.out.contains(told) || ran.err.contains(told),
            "{told}: {ran:?}"
        );
    }
    for line in ran.out.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn yes_takes_those_in_doubt_and_never_one_that_has_it() {
    let world = World::of_age(1.0);
    let ran = world.redeliver(&["--yes", "--json"]);
    assert_eq!(world.targets(1), [["cut", "missed", "mute"]]);
    let said: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(said["sent"], json!(["cut", "missed", "mute"]));
    assert_eq!(
        said["refused"]["has"],
        "has got the job, and has not returned yet"
    );
}

#[test]
fn an_expired_job_is_not_sent_without_a_yes() {
    let world = World::of_age(400.0);
    let ran = world.redeliver(&["--minions", "missed"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.err.contains("expired") && ran.err.contains("--yes"),
        "{ran:?}"
    );
    assert!(world.publisher.loads().is_empty());
    let ran = world.redeliver(&["--minions", "missed", "--yes"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(world.targets(1), [["missed"]]);
}

#[test]
fn whoever_is_named_and_has_returned_is_told_so() {
    let world = World::of_age(1.0);
    let ran = world.redeliver(&["--minions", "back,stranger", "--yes"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.out.contains("has returned") && ran.out.contains("the job did not mean it"),
        "{ran:?}"
    );
    assert!(world.publisher.loads().is_empty());
}

#[test]
fn a_job_that_the_bridge_does_not_know_wants_names() {
    let world = World::new((404, data("not-found")));
    let ran = world.redeliver(&["--yes"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("--minions"), "{ran:?}");
    let ran = world.redeliver(&["--minions", "a,b", "--yes"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(world.targets(1), [["a", "b"]]);
}

#[test]
fn a_large_job_goes_in_parts_that_an_event_can_name() {
    let minion =
        |at: u32| json!({"id": format!("m{at:05}"), "step": "expected", "verdict": "unreachable"});
    let minions: Vec<_> = (0..12_000).map(minion).collect();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let job = json!({"jid": JID, "at": now.as_secs_f64(), "minions": minions});
    let world = World::new((200, job.to_string()));
    let ran = world.redeliver(&["--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let sizes: Vec<usize> = world.targets(3).iter().map(Vec::len).collect();
    assert_eq!(sizes, [5_000, 5_000, 2_000]);
    let fired = world.bus.fired(&format!("saltway/job/{JID}/redeliver"));
    let named: Vec<usize> = fired
        .iter()
        .map(|(_, event)| ids(event, "minions").len())
        .collect();
    assert_eq!(named, sizes);
}

#[test]
fn a_mom_without_publisher_is_named_with_what_to_do() {
    let mut world = World::of_age(1.0);
    let other = tempfile::tempdir().expect("a directory");
    world.publisher = PublishPull::listen(other.path()).expect("elsewhere");
    let ran = world.redeliver(&[]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("does the master run"), "{ran:?}");
}

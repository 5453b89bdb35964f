//! Publishing past the master's request port, on a real salt-master of each version.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use salt_link::DirectPublisher;
use salt_wire::msgpack::Value;
use salt_wire::publication::PublicationLoad;
use serde_json::json;
use testkit::{Master, Minion, SaltVersion, Workspace, wait_until};

/// Real masters on a busy machine of two cores.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every file of the job cache but the returns, and what is in it.
fn job_files(cachedir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut directories = vec![cachedir.join("jobs")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            // A return is written to a file of another name first.
            } else if !path.ends_with("return.p")
                && !path.to_string_lossy().contains("___atomic_write")
            {
                found.push((path.clone(), fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn redelivered_past_the_job_cache(version: SaltVersion) {
    let workspace = Workspace::new().unwrap();
    let builder = Master::builder(version, "mom").order_masters(1);
    let mut master = builder.start(&workspace).unwrap();
    let mut minions: Vec<Minion> = ["a1", "a2"]
        .map(|id| Minion::builder(version, id).start(&[&master]).unwrap())
        .into();
    master.ready().unwrap();
    for minion in &mut minions {
        minion.ready().unwrap();
    }
    master.wait_for_minions(&["a1", "a2"]).unwrap();

    // The job is a1's alone, so that a2 has not had its jid.
    let mut bus = master.record().unwrap();
    let job = bus
        .publish("a1", "glob", "cmd.run", json!(["echo once"]))
        .unwrap();
    let jid = job.jid.unwrap();
    bus.wait_for_returns(&jid, 1, PATIENCE).unwrap();
    let cachedir = master.dir().join("cache/master");
    let new_tag = format!("salt/job/{jid}/new");
    let before = job_files(&cachedir);
    assert!(before.len() > 2, "{before:?}");

    let publisher = DirectPublisher::new(&master.sock_dir());
    let again = |minions: &[&str]| {
        let load = Value::map([
            ("fun", "cmd.run".into()),
            ("arg", Value::array(["echo once"])),
            ("tgt", Value::array(minions.iter().copied())),
            ("jid", jid.as_str().into()),
            ("ret", "".into()),
            ("tgt_type", "list".into()),
            ("user", "root".into()),
            ("serial", Value::Int(1)),
        ]);
        PublicationLoad::new(load).unwrap()
    };
    publisher.publish_blocking(&again(&["a2"])).unwrap();
    let returns = bus.wait_for_returns(&jid, 2, PATIENCE).unwrap();
    let by: Vec<&str> = returns
        .iter()
        .filter_map(|ret| ret.data["id"].as_str())
        .collect();
    assert_eq!(by, ["a1", "a2"]);
    assert_eq!(returns[1].data["return"], "once");

    // Again to both: each has had it, and none runs it twice. A ping tells when they are through.
    publisher.publish_blocking(&again(&["a1", "a2"])).unwrap();
    let ping = bus.publish("*", "glob", "test.ping", json!([])).unwrap();
    bus.wait_for_returns(&ping.jid.unwrap(), 2, PATIENCE)
        .unwrap();
    let ret_tag = format!("salt/job/{jid}/ret/");
    let events = bus.events().unwrap();
    let with = |prefix: &str| {
        let of_tag = events.iter().filter(|event| event.tag.starts_with(prefix));
        of_tag.count()
    };
    assert_eq!(with(&ret_tag), 2, "a jid runs once");
    assert_eq!(with(&new_tag), 1, "no second announcement");
    let after: Vec<_> = job_files(&cachedir)
        .into_iter()
        .filter(|(path, _)| before.iter().any(|(known, _)| known == path))
        .collect();
    assert_eq!(after, before, "the job cache stays as it was");
    let known = master
        .salt_run(&["--out=json", "jobs.list_job", &jid])
        .unwrap()
        .json()
        .unwrap();
    assert_eq!(known["Target"], "a1");

    // A master that comes back is found again, and one that is away is told.
    master.kill();
    let refused = || publisher.publish_blocking(&again(&["a2"])).is_err();
    wait_until("the publisher is missed", PATIENCE, || {
        if refused() { Ok(()) } else { Err("taken") }
    })
    .unwrap();
    master.start().unwrap();
    master.ready().unwrap();
    publisher.publish_blocking(&again(&["a2"])).unwrap();
}

#[test]
fn real_publisher_of_3006_takes_a_job_again_past_the_job_cache() {
    redelivered_past_the_job_cache(SaltVersion::V3006);
}

#[test]
fn real_publisher_of_3007_takes_a_job_again_past_the_job_cache() {
    redelivered_past_the_job_cache(SaltVersion::V3007);
}

#[test]
fn real_publisher_of_3008_takes_a_job_again_past_the_job_cache() {
    redelivered_past_the_job_cache(SaltVersion::V3008);
}

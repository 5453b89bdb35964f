//! The site's key at the MoM: pending, rejected, denied, the wrong master; and two MoMs above one site.

use std::{fs, path::Path, time::Duration};

use real_tests::answers::wait_for_answers;
use testkit::{Daemon, KeyPair, Master, Minion, RedisServer, SaltVersion, Workspace, await_that};

const WITHIN: Duration = Duration::from_secs(60);

/// Waits until `/readyz` is not 200 and names all of `parts`.
fn wait_for_refusal(shim: &Daemon, parts: &[&str]) {
    await_that(&format!("/readyz to tell {parts:?}"), WITHIN, || match shim
        .get("/readyz")
        .map_err(|err| format!("{err:#}"))?
    {
        (200, body) => Err(format!("ready: {body}")),
        (_, body) if parts.iter().all(|part| body.contains(part)) => Ok(()),
        (status, body) => Err(format!("{status}: {body}")),
    });
    let log = shim.log().expect("the shim logs");
    for part in parts {
        assert!(
            log.contains(part),
            "the log tells {part:?}: {}",
            shim.log_tail(10)
        );
    }
}

fn salt_key(mom: &Master, args: &[&str]) {
    let output = mom.salt_key(args).expect("salt-key runs");
    assert_eq!(
        output.code, 0,
        "{}: {}{}",
        output.command, output.stdout, output.stderr
    );
}

/// Puts a line into a Salt configuration file.
fn append(file: &Path, line: &str) {
    let text = fs::read_to_string(file).expect("readable");
    fs::write(file, format!("{text}\n{line}\n")).expect("writable");
}

#[test]
fn real_key_that_is_not_accepted_is_told_with_what_to_do_and_heals() {
    let workspace = Workspace::new().expect("/tmp is writable");
    let mut mom = Master::builder(SaltVersion::V3008, "mom")
        .order_masters(1)
        .start(&workspace)
        .expect("the MoM starts");
    let mut lower = Master::builder(SaltVersion::V3006, "site1")
        .below(&[&mom.ip().to_string()], "")
        .start(&workspace)
        .expect("the lower master starts");
    let mut minion = Minion::builder(SaltVersion::V3006, "a1")
        .start(&[&lower])
        .expect("the minion starts");
    let redis = RedisServer::builder("redis")
        .start(&workspace)
        .expect("Redis starts");
    mom.ready().expect("the MoM gets ready");
    lower.ready().expect("the lower master gets ready");
    let bridge = Daemon::bridge("bridge", &mom.conf_dir().join("master")).redis(&redis.url());
    let mut bridge = bridge.start(&workspace).expect("the bridge starts");
    bridge.ready().expect("the bridge gets ready");
    minion.ready().expect("the minion gets ready");
    lower.wait_for_minions(&["a1"]).expect("the minion answers");

    // Pending, then accepted by the operator, without a restart.
    let lower_config = lower.conf_dir().join("master");
    let shim = Daemon::master_shim("shim", &lower_config).redis(&redis.url());
    let mut shim = shim.start(&workspace).expect("the shim starts");
    wait_for_refusal(&shim, &["salt-key -a site1"]);
    salt_key(&mom, &["-y", "-a", "site1"]);
    shim.ready().expect("the shim goes on by itself");
    wait_for_answers(&mom, &["a1"], WITHIN).expect("jobs run");

    // Rejected.
    shim.terminate().expect("the shim ends");
    salt_key(&mom, &["-y", "--include-accepted", "-r", "site1"]);
    shim.start().expect("the shim starts");
    wait_for_refusal(&shim, &["rejected", "salt-key -L"]);
    salt_key(&mom, &["-y", "-d", "site1"]);
    shim.terminate().expect("the shim ends");

    // Denied: the MoM holds another key for this id.
    let other = KeyPair::take(&workspace).expect("a key");
    mom.accept("site1", &other).expect("stored");
    shim.start().expect("the shim starts");
    wait_for_refusal(&shim, &["another key for this id", "salt-key -d"]);
    shim.terminate().expect("the shim ends");
    salt_key(&mom, &["-y", "-d", "site1"]);
    mom.accept("site1", lower.syndic_key().expect("a lower master"))
        .expect("stored");

    // The MoM's stored key is another one: the message names the file and what to do.
    let stored = lower.dir().join("pki/minion/syndic_master.pub");
    fs::remove_file(&stored).expect("the key was stored at the first sign-in");
    other.place_public(&stored).expect("written");
    shim.start().expect("the shim starts");
    wait_for_refusal(
        &shim,
        &[&stored.display().to_string(), "delete the stored one"],
    );
    assert_eq!(
        shim.metric("saltway_sign_ins_total", &[("result", "accepted")])
            .expect("/metrics"),
        Some(0.0)
    );
    // What the message says to do is enough.
    fs::remove_file(&stored).expect("the key is there");
    shim.ready().expect("the shim goes on by itself");
    shim.terminate().expect("the shim ends");

    // A fingerprint that is not the MoM's.
    fs::remove_file(&stored).expect("the key was stored");
    let before = fs::read_to_string(&lower_config).expect("readable");
    let finger = "00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff";
    append(&lower_config, &format!("syndic_finger: '{finger}'"));
    shim.start().expect("the shim starts");
    wait_for_refusal(&shim, &["fingerprint", finger]);
    assert!(
        !stored.exists(),
        "a master with another fingerprint is not trusted"
    );
    shim.terminate().expect("the shim ends");
    fs::write(&lower_config, before).expect("writable");
    shim.start().expect("the shim starts");
    shim.ready().expect("the shim gets ready");
    wait_for_answers(&mom, &["a1"], WITHIN).expect("jobs run again");
}

#[test]
fn real_two_moms_get_the_returns_of_their_own_jobs_and_all_events() {
    let workspace = Workspace::new().expect("/tmp is writable");
    let start_mom = |id: &str| {
        Master::builder(SaltVersion::V3006, id)
            .order_masters(1)
            .start(&workspace)
            .expect("the MoM starts")
    };
    let mut moms = [start_mom("mom1"), start_mom("mom2")];
    let addresses = moms.each_ref().map(|mom| mom.ip().to_string());
    let mut lower = Master::builder(SaltVersion::V3006, "site1")
        .below(&addresses.each_ref().map(String::as_str), "")
        .start(&workspace)
        .expect("the lower master starts");
    for mom in &mut moms {
        mom.accept("site1", lower.syndic_key().expect("a lower master"))
            .expect("stored");
        mom.ready().expect("the MoM gets ready");
    }
    lower.ready().expect("the lower master gets ready");
    let mut minion = Minion::builder(SaltVersion::V3006, "a1")
        .start(&[&lower])
        .expect("the minion starts");
    let redis = RedisServer::builder("redis")
        .start(&workspace)
        .expect("Redis starts");
    let names = ["main", "second"];
    let mut bridges: Vec<Daemon> = names
        .iter()
        .zip(&moms)
        .map(|(name, mom)| {
            let bridge = Daemon::bridge(&format!("bridge-{name}"), &mom.conf_dir().join("master"));
            bridge
                .mom(name)
                .redis(&redis.url())
                .start(&workspace)
                .expect("the bridge starts")
        })
        .collect();
    let shim = Daemon::master_shim("shim", &lower.conf_dir().join("master"))
        .mom("[main, second]")
        .redis(&redis.url());
    let mut shim = shim.start(&workspace).expect("the shim starts");
    minion.ready().expect("the minion gets ready");
    for daemon in bridges.iter_mut().chain([&mut shim]) {
        daemon.ready().expect("the daemon gets ready");
    }
    lower.wait_for_minions(&["a1"]).expect("the minion answers");

    let mut buses = moms
        .each_ref()
        .map(|mom| mom.record().expect("the recorder connects"));
    let mut jids = Vec::new();
    for bus in &mut buses {
        let job = bus
            .publish("a1", "glob", "test.ping", serde_json::json!([]))
            .expect("published");
        let jid = job.jid.expect("a MoM publishes whoever matches");
        bus.wait_for_returns(&jid, 1, WITHIN)
            .expect("the job's own MoM gets the return");
        jids.push(jid);
    }
    // An event behind the returns, and on the same way, reaches both; so returns to the wrong MoM would have been there.
    let fired = lower
        .salt(&["a1", "event.send", "test/two_moms", "{number: 7}"])
        .expect("salt runs");
    assert_eq!(fired.code, 0, "{}{}", fired.stdout, fired.stderr);
    let marker = moms[0]
        .salt(&["-t", "10", "a1", "test.ping"])
        .expect("salt runs");
    assert_eq!(marker.code, 0, "{}{}", marker.stdout, marker.stderr);
    let marker = moms[1]
        .salt(&["-t", "10", "a1", "test.ping"])
        .expect("salt runs");
    assert_eq!(marker.code, 0, "{}{}", marker.stdout, marker.stderr);
    for (index, bus) in buses.iter_mut().enumerate() {
        bus.wait_for(1, WITHIN, |event| event.tag.starts_with("test/two_moms"))
            .expect("events go to both");
        let other = format!("salt/job/{}/ret/", jids[1 - index]);
        let strays: Vec<_> = bus
            .events()
            .expect("the recorder runs")
            .iter()
            .filter(|event| event.tag.starts_with(&other))
            .collect();
        assert!(
            strays.is_empty(),
            "MoM {index} got the other's return: {strays:?}"
        );
    }
}

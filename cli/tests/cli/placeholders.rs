//! Placeholder keys: `remove` restores what was before `add`, and no other key is ever touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::common::{Bridge, Ran, run};
use serde_json::{Value, json};
use testkit::{Master, SaltVersion, Workspace};

/// The minions of the bridge of the files.
const ROSTER: usize = 11;

/// A MoM's files, a configuration that names them, and a bridge.
struct Mom {
    pki: PathBuf,
    config: PathBuf,
    state: PathBuf,
    bridge: Bridge,
}

impl Mom {
    fn new(dir: &Path, salt_config: &Path, pki: PathBuf) -> Self {
        let config = dir.join("saltway.yaml");
        let state = dir.join("state");
        let text = json!({"mom": "main", "salt_config": salt_config, "state_dir": state});
        fs::write(&config, text.to_string()).expect("written");
        Self {
            pki,
            config,
            state,
            bridge: Bridge::of_files(),
        }
    }

    /// A MoM that never runs, with keys in every state.
    fn of_files(dir: &Path) -> Self {
        let pki = dir.join("pki");
        for (name, id) in [
            ("minions", "own"),
            ("minions", "fra-web1"),
            ("minions_pre", "nyc-db1"),
            ("minions_rejected", "nyc-db2"),
            ("minions_denied", "nyc-db3"),
        ] {
            fs::create_dir_all(pki.join(name)).expect(name);
            fs::write(pki.join(name).join(id), format!("key of {id}")).expect(id);
        }
        let salt_config = dir.join("master");
        fs::write(&salt_config, json!({"pki_dir": pki}).to_string()).expect("written");
        Self::new(dir, &salt_config, pki)
    }

    fn placeholders(&self, args: &[&str]) -> Ran {
        let config = self.config.to_str().expect("UTF-8");
        let mut all = vec![
            "--url",
            &self.bridge.url,
            "--config",
            config,
            "placeholders",
        ];
        all.extend(args);
        let ran = run(&all);
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        ran
    }

    /// Every file below `pki_dir`, with its mode and content.
    fn keys(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut found = BTreeMap::new();
        let mut dirs = vec![self.pki.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    dirs.push(path);
                    continue;
                }
                let mode = fs::metadata(&path).expect("there").permissions().mode();
                found.insert(path.clone(), (mode, fs::read(&path).expect("read")));
            }
        }
        found
    }

    fn record(&self) -> PathBuf {
        self.state.join("placeholders.json")
    }
}

#[test]
fn remove_restores_what_was_before_add() {
    let dir = tempfile::tempdir().expect("a directory");
    let mom = Mom::of_files(dir.path());
    let before = mom.keys();
    let ran = mom.placeholders(&["add"]);
    // Four ids of the roster have something already: accepted, pending, rejected, denied.
    assert!(
        ran.out
            .contains(&format!("added {} placeholder keys", ROSTER - 4)),
        "{}",
        ran.out
    );
    for told in [
        "kept fra-web1 (it has an accepted key",
        "kept nyc-db1",
        "kept nyc-db2",
        "kept nyc-db3",
    ] {
        assert!(ran.out.contains(told), "{told}: {}", ran.out);
    }
    assert_eq!(mom.keys().len(), before.len() + ROSTER - 4);
    assert!(
        mom.placeholders(&["add"])
            .out
            .contains(&format!("{} there already", ROSTER - 4))
    );
    assert!(
        mom.placeholders(&["list"])
            .out
            .contains(&format!("{} placeholder keys", ROSTER - 4))
    );
    mom.placeholders(&["remove"]);
    assert_eq!(mom.keys(), before);
    assert!(!mom.record().exists());
}

#[test]
fn without_its_record_remove_takes_away_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    let mom = Mom::of_files(dir.path());
    let before = mom.keys();
    mom.placeholders(&["add"]);
    fs::remove_file(mom.record()).expect("there");
    mom.placeholders(&["remove"]);
    assert_eq!(mom.keys(), before);
}

#[test]
fn a_placeholder_that_somebody_replaced_is_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let mom = Mom::of_files(dir.path());
    mom.placeholders(&["add"]);
    let real = mom.pki.join("minions/sgp-app1");
    fs::write(&real, "a real key").expect("written");
    let ran = mom.placeholders(&["remove"]);
    assert!(ran.out.contains("kept sgp-app1"), "{}", ran.out);
    assert_eq!(fs::read(&real).expect("there"), b"a real key");
    assert!(!mom.pki.join("minions/sgp-app2").exists());
}

#[test]
fn dry_run_does_nothing_and_a_site_is_done_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let mom = Mom::of_files(dir.path());
    let before = mom.keys();
    let ran = mom.placeholders(&["add", "--dry-run"]);
    assert!(ran.out.contains("would add sgp-app1 (sgp1)"), "{}", ran.out);
    assert_eq!((mom.keys(), mom.record().exists()), (before.clone(), false));
    mom.placeholders(&["add", "--site", "sgp1"]);
    assert_eq!(mom.keys().len(), before.len() + 3);
    mom.placeholders(&["add"]);
    let all = mom.keys();
    mom.placeholders(&["remove", "--dry-run"]);
    assert_eq!(mom.keys(), all);
    mom.placeholders(&["remove", "--site", "sgp1"]);
    assert_eq!(mom.keys().len(), all.len() - 3);
    mom.placeholders(&["remove"]);
    assert_eq!(mom.keys(), before);
}

/// What a real MoM makes of them: listed, asked by 3008's `salt`, of no use to whoever takes their name.
fn is_of_use_to_the_mom_alone(version: SaltVersion) {
    let workspace = Workspace::new().expect("/tmp is writable");
    let mut master = Master::builder(version, "mom")
        .order_masters(1)
        .extra("timeout: 1\ngather_job_timeout: 1\n")
        .start(&workspace)
        .expect("salt-master starts");
    master.ready().expect("the master gets ready");
    let pki = master.dir().join("pki/master");
    let pki = if pki.exists() {
        pki
    } else {
        master.dir().join("etc/pki/master")
    };
    let mom = Mom::new(workspace.path(), &master.conf_dir().join("master"), pki);
    let listed = |state: &str| {
        let keys = master
            .salt_key(&["-L", "--out=json"])
            .expect("salt-key runs")
            .json()
            .expect("JSON");
        let ids = keys[state].as_array().cloned().unwrap_or_default();
        ids.iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let heard = |args: &[&str]| {
        let mut events = master.record().expect("the recorder connects");
        let args = [&["--timeout=1"], args, &["test.ping"]].concat();
        master.salt(&args).expect("salt runs");
        events.events().expect("recorded").to_vec()
    };
    let asked = |id: &str| {
        heard(&[id]).iter().any(|event| {
            event.data["fun"] == "saltutil.find_job" && event.data["tgt"] == json!([id])
        })
    };
    let before = mom.keys();
    assert!(!asked("fra-web1"), "nobody is known by that id");
    mom.placeholders(&["add"]);
    assert_eq!(listed("minions").len(), ROSTER);
    assert!(asked("fra-web1"), "salt asks whom it has a key of");

    // What no key can answer: 3007.14 expects everybody whose grains it does not have, 3006.27 and
    // 3008.3 nobody.
    let of_grain = heard(&["-G", "rack:r1"]);
    let new = of_grain
        .iter()
        .find(|event| event.tag.ends_with("/new") && event.data["fun"] == "test.ping");
    let expected = new.map_or(0, |event| {
        event.data["minions"].as_array().map_or(0, Vec::len)
    });
    let all_are = if version == SaltVersion::V3007 {
        ROSTER
    } else {
        0
    };
    assert_eq!(expected, all_are, "{of_grain:?}");

    let told = sign_in(&master, version, &workspace, "fra-web1");
    assert!(!told.contains("True"), "an impostor got in: {told}");
    assert_eq!(listed("minions_denied"), ["fra-web1"], "{told}");
    assert_eq!(listed("minions").len(), ROSTER, "the placeholder stands");

    // The denied key is Salt's note of the impostor.
    fs::remove_file(mom.pki.join("minions_denied/fra-web1")).expect("there");
    mom.placeholders(&["remove"]);
    assert_eq!(mom.keys(), before);
    assert_eq!(listed("minions"), Vec::<String>::new());
    assert!(!asked("fra-web1"));
}

/// A minion with a key of its own signs in under `id`; what it was told.
fn sign_in(master: &Master, version: SaltVersion, workspace: &Workspace, id: &str) -> String {
    let dir = workspace.path().join("impostor");
    for part in ["pki", "cache", "sock"] {
        fs::create_dir_all(dir.join(part)).expect("a directory");
    }
    let options = json!({
        "id": id, "master": master.ip().to_string(), "root_dir": dir, "pki_dir": dir.join("pki"), "user": "root",
        "cachedir": dir.join("cache"), "sock_dir": dir.join("sock"), "log_file": dir.join("log"), "auth_tries": 1, "auth_timeout": 3,
        "acceptance_wait_time": 1, "acceptance_wait_time_max": 1, "request_channel_timeout": 3,
    });
    fs::write(dir.join("minion"), options.to_string()).expect("written");
    let mut call = Command::new(version.program("salt-call").expect("installed"));
    call.arg("-c")
        .arg(&dir)
        .args(["--log-level=info", "--out=json", "test.ping"]);
    // A denied minion asks again for ever: it is ended after it has had its answer.
    match testkit::run(workspace, call, Duration::from_secs(25)) {
        Ok(output) => format!("{}{}", output.stdout, output.stderr),
        Err(err) => format!("{err:#}"),
    }
}

#[test]
fn real_3008_mom_asks_placeholders_and_lets_nobody_in() {
    is_of_use_to_the_mom_alone(SaltVersion::V3008);
}

#[test]
fn real_3007_mom_lists_placeholders_and_lets_nobody_in() {
    is_of_use_to_the_mom_alone(SaltVersion::V3007);
}

#[test]
fn real_3006_mom_lists_placeholders_and_lets_nobody_in() {
    is_of_use_to_the_mom_alone(SaltVersion::V3006);
}

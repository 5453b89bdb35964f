//! Our reader against records of the real Salt, and what it says of mistakes.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/salt_config")
}

/// Compares one case after the other and names every option that differs.
struct Comparison {
    case: String,
    expected: Value,
    differences: Vec<String>,
}

impl Comparison {
    fn option(&self, key: &str) -> &Value {
        self.expected.get(key).unwrap_or(&Value::Null)
    }

    fn differs(&mut self, key: &str, ours: &dyn std::fmt::Debug) {
        let Self { case, expected, .. } = self;
        let line = format!(
            "{case}: {key}: Salt has {}, we have {ours:?}",
            expected[key]
        );
        self.differences.push(line);
    }

    fn text(&mut self, key: &str, ours: &str) {
        if self.option(key).as_str() != Some(ours) {
            self.differs(key, &ours);
        }
    }

    fn path(&mut self, key: &str, ours: &Path) {
        self.text(key, ours.to_str().unwrap());
    }

    /// Where Salt has no text, or the empty text, there is none.
    fn optional(&mut self, key: &str, ours: Option<&str>) {
        if self.option(key).as_str().filter(|text| !text.is_empty()) != ours {
            self.differs(key, &ours);
        }
    }

    /// Salt keeps a number in quotes as text and uses it all the same.
    fn number(&mut self, key: &str, ours: f64) {
        let value = self.option(key);
        let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
        if number != Some(ours) {
            self.differs(key, &ours);
        }
    }

    fn seconds(&mut self, key: &str, ours: std::time::Duration) {
        self.number(key, ours.as_secs_f64());
    }

    fn bool(&mut self, key: &str, ours: bool) {
        let truth = match self.option(key) {
            Value::Null => false,
            Value::Bool(value) => *value,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            other => panic!("{key}: {other}"),
        };
        if truth != ours {
            self.differs(key, &ours);
        }
    }
}

fn compare_master(salt: &mut Comparison, ours: &MasterConfig) {
    if !salt.option("id").is_null() {
        salt.text("id", &ours.id);
    }
    salt.text("user", &ours.user);
    salt.text("interface", &ours.interface);
    salt.number("ret_port", ours.ret_port.into());
    salt.number("publish_port", ours.publish_port.into());
    salt.path("pki_dir", &ours.pki_dir);
    salt.path("cachedir", &ours.cachedir);
    salt.path("sock_dir", &ours.sock_dir);
    match ours.ipc_mode {
        IpcMode::Ipc => salt.text("ipc_mode", "ipc"),
        IpcMode::Tcp {
            pub_port,
            pull_port,
            publish_pull,
        } => {
            salt.text("ipc_mode", "tcp");
            salt.number("tcp_master_pub_port", pub_port.into());
            salt.number("tcp_master_pull_port", pull_port.into());
            if !salt.option("tcp_master_publish_pull").is_null() {
                salt.number("tcp_master_publish_pull", publish_pull.into());
            }
        }
    }
    salt.bool("order_masters", ours.order_masters);
    salt.bool("zmq_filtering", ours.zmq_filtering);
    salt.bool("sign_pub_messages", ours.sign_pub_messages);
    salt.seconds("timeout", ours.timeout);
    salt.number("keysize", ours.keysize.into());
    salt.number(
        "max_event_size",
        f64::from(u32::try_from(ours.max_event_size).unwrap()),
    );
    salt.text("hash_type", &ours.hash_type);
    salt.optional("cluster_id", ours.cluster_id.as_deref());
}

fn compare_syndic(salt: &mut Comparison, ours: &SyndicConfig) {
    salt.text("id", &ours.id);
    salt.text("user", &ours.user);
    salt.path("pki_dir", &ours.pki_dir);
    salt.path("sock_dir", &ours.sock_dir);
    compare_upstreams(salt, ours);
    let master_id = ours.master_id.as_ref().map_or(Value::Null, |id| match id {
        MasterId::Int(number) => (*number).into(),
        MasterId::Text(text) => text.clone().into(),
    });
    if *salt.option("master_id") != master_id {
        salt.differs("master_id", &master_id);
    }
    match ours.mode {
        SyndicMode::Sync => salt.optional("syndic_mode", None),
        SyndicMode::Cluster => salt.text("syndic_mode", "cluster"),
    }
    match ours.failover {
        SyndicFailover::Random => salt.text("syndic_failover", "random"),
        SyndicFailover::Ordered => salt.text("syndic_failover", "ordered"),
    }
    salt.optional("syndic_finger", ours.syndic_finger.as_deref());
    salt.optional("master_finger", ours.master_finger.as_deref());
    salt.text("hash_type", &ours.hash_type);
    salt.bool("sign_pub_messages", ours.sign_pub_messages);
    salt.bool("verify_master_pubkey_sign", ours.verify_master_pubkey_sign);
    salt.text("encryption_algorithm", &ours.encryption_algorithm);
    salt.text("signing_algorithm", &ours.signing_algorithm);
    salt.bool("zmq_filtering", ours.zmq_filtering);
    salt.bool("minion_sign_messages", ours.minion_sign_messages);
    salt.number("keysize", ours.keysize.into());
    salt.seconds("acceptance_wait_time", ours.acceptance_wait_time);
    salt.seconds("acceptance_wait_time_max", ours.acceptance_wait_time_max);
    salt.bool("rejected_retry", ours.rejected_retry);
    salt.seconds("auth_timeout", ours.auth_timeout);
    salt.number(
        "auth_tries",
        f64::from(u32::try_from(ours.auth_tries).unwrap()),
    );
    salt.seconds("request_channel_timeout", ours.request_channel_timeout);
    salt.seconds("timeout", ours.timeout);
    salt.seconds("syndic_event_forward_timeout", ours.event_forward_timeout);
    salt.number(
        "max_event_size",
        f64::from(u32::try_from(ours.max_event_size).unwrap()),
    );
    salt.bool(
        "enable_legacy_startup_events",
        ours.enable_legacy_startup_events,
    );
    if salt.option("ipv6").as_bool() != ours.ipv6 {
        salt.differs("ipv6", &ours.ipv6);
    }
}

/// Salt keeps `host:port` as it is written and splits it when it connects.
fn compare_upstreams(salt: &mut Comparison, ours: &SyndicConfig) {
    let masters: Vec<String> = match salt.option("master") {
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().unwrap().to_owned())
            .collect(),
        one => vec![one.as_str().unwrap().to_owned()],
    };
    let default = salt.option("master_port").as_u64().unwrap();
    let has_port = |master: &str| {
        master.starts_with('[') && master.contains("]:") || master.matches(':').count() == 1
    };
    let expected: Vec<String> = masters
        .into_iter()
        .map(|master| {
            if has_port(&master) {
                master
            } else {
                format!("{master}:{default}")
            }
        })
        .collect();
    let found: Vec<String> = ours.upstreams.iter().map(Upstream::to_string).collect();
    if expected != found {
        salt.differs("master", &found);
    }
    for upstream in &ours.upstreams {
        salt.number("publish_port", upstream.publish_port.into());
    }
}

fn check_against(recorded: &str) {
    let text = fs::read_to_string(data().join(recorded)).unwrap();
    let text = text.replace("CASES", data().join("cases").to_str().unwrap());
    let recorded: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(
        recorded.len(),
        fs::read_dir(data().join("cases")).unwrap().count()
    );
    let mut differences = Vec::new();
    for (case, options) in recorded {
        let ours = SyndicConfig::load(&data().join("cases").join(&case).join("master")).unwrap();
        let of = |role: &str| Comparison {
            case: format!("{case} ({role})"),
            expected: options[role].clone(),
            differences: Vec::new(),
        };
        let (mut master, mut syndic) = (of("master"), of("syndic"));
        compare_master(&mut master, &ours.local);
        compare_syndic(&mut syndic, &ours);
        differences.extend(master.differences);
        differences.extend(syndic.differences);
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn every_option_is_what_salt_3006_makes_of_it() {
    check_against("recorded-3006.json");
}

#[test]
fn every_option_is_what_salt_3008_makes_of_it() {
    check_against("recorded-3008.json");
}

struct Etc(tempfile::TempDir);

impl Etc {
    fn new(files: &[(&str, &str)]) -> Self {
        let etc = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let file = etc.file(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        etc
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn syndic(&self) -> Result<SyndicConfig, String> {
        let told = SyndicConfig::load(&self.file("master"));
        told.map_err(|err| {
            err.to_string()
                .replace(&format!("{}/", self.0.path().display()), "")
        })
    }
}

#[test]
fn all_mistakes_of_all_files_are_told_at_once() {
    let etc = Etc::new(&[
        (
            "master",
            "syndic_master: [a, 'b c']\nret_port: 70000\ntransport: tcp\n",
        ),
        (
            "master.d/ports.conf",
            "publish_port: many\npublish_port: 1\n",
        ),
        (
            "minion",
            "id: x\nsyndic_mode: both\nauth_timeout: 5s\nencryption_algorithm: none\n",
        ),
        ("minion.d/broken.conf", "a: [1\n"),
    ]);
    let told = etc.syndic().unwrap_err();
    for expected in [
        "master:1: syndic_master: not a host: \"b c\"",
        "master:2: ret_port: expected a whole number, found the number 70000",
        "master:3: transport: \"tcp\" is not a transport",
        "master.d/ports.conf:1: publish_port: expected a whole number, found \"many\"",
        "master.d/ports.conf:2:1: publish_port: given twice",
        "minion:2: syndic_mode: has the unknown value \"both\"; write one of sync, cluster",
        "minion:3: auth_timeout: expected seconds, found \"5s\"",
        "minion:4: encryption_algorithm: has the unknown value",
        "minion.d/broken.conf:",
    ] {
        assert!(told.contains(expected), "{expected} is not in\n{told}");
    }
    assert_eq!(told.lines().count(), 9, "{told}");
}

#[test]
fn a_master_without_a_master_above_is_told_what_to_add() {
    let etc = Etc::new(&[("master", "user: salt\n"), ("minion", "id: x\n")]);
    let told = etc.syndic().unwrap_err();
    assert!(
        told.contains("syndic_master: missing") && told.contains("name the top"),
        "{told}"
    );
    assert_eq!(told.lines().count(), 1);
    // The top master itself has none and needs none.
    MasterConfig::load(&etc.file("master")).unwrap();
}

#[test]
fn a_missing_master_file_is_a_mistake_and_a_missing_minion_file_is_not() {
    let etc = Etc::new(&[]);
    assert!(etc.syndic().unwrap_err().contains("No such file"));
    let etc = Etc::new(&[("master", "syndic_master: mom\n")]);
    assert_eq!(
        etc.syndic().unwrap().pki_dir,
        Path::new("/etc/salt/pki/minion")
    );
}

#[test]
fn files_that_include_each_other_end_in_a_mistake() {
    let etc = Etc::new(&[
        ("master", "include: a\n"),
        ("a", "include: b\n"),
        ("b", "include: a\n"),
    ]);
    assert!(etc.syndic().unwrap_err().contains("circle"));
}

#[test]
fn a_cached_id_below_the_root_is_used_and_a_stated_one_wins() {
    let etc = Etc::new(&[("etc/salt/minion_id", "site-c\n")]);
    let minion = format!("root_dir: {}\n", etc.0.path().display());
    fs::write(etc.file("master"), "syndic_master: mom\n").unwrap();
    fs::write(etc.file("minion"), &minion).unwrap();
    let read = etc.syndic().unwrap();
    assert_eq!(
        (read.id.as_str(), read.id_source),
        ("site-c", IdSource::Cached)
    );
    fs::write(etc.file("minion"), minion + "id: site-d\n").unwrap();
    assert_eq!(etc.syndic().unwrap().id, "site-d");
}

#[test]
fn a_fingerprint_in_the_masters_file_counts_unlike_with_salt() {
    let master = "syndic_master: mom\nsyndic_finger: 'aa:bb'\n";
    let etc = Etc::new(&[("master", master), ("minion", "id: x\n")]);
    assert_eq!(
        etc.syndic().unwrap().syndic_finger.as_deref(),
        Some("aa:bb")
    );
}

#[test]
fn options_of_an_sdb_are_told_as_out_of_reach() {
    let etc = Etc::new(&[
        ("master", "syndic_master: sdb://vault/mom\n"),
        ("minion", "id: x\n"),
    ]);
    assert!(etc.syndic().unwrap_err().contains("only Salt can read"));
}

#[test]
fn a_master_on_every_interface_is_reached_by_the_loopback() {
    let etc = Etc::new(&[
        ("four", ""),
        ("six", "interface: '::'\n"),
        ("own", "interface: 10.1.2.3\n"),
    ]);
    let endpoint = |name| {
        MasterConfig::load(&etc.file(name))
            .unwrap()
            .request_endpoint()
    };
    assert_eq!(endpoint("four"), "tcp://127.0.0.1:4506");
    assert_eq!(endpoint("six"), "tcp://[::1]:4506");
    assert_eq!(endpoint("own"), "tcp://10.1.2.3:4506");
}

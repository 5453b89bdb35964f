//! What the documents say of the daemon holds: README.md names every metric, and the commented example of `configs/` is a
//! configuration that the master-shim takes, with its commented keys too.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[test]
fn example_is_valid_as_it_stands() {
    check(&example());
}

#[test]
fn commented_keys_of_the_example_are_valid() {
    let all = with_commented_keys(&example()).replace("redis://", "rediss://");
    assert!(all.contains("\nanswer_as_site: auto\n"), "{all}");
    check(&all);
}

#[test]
fn list_of_relays_goes_with_a_list_of_masters() {
    let two = example().replace("mom: main", "mom: [main, second]");
    let (ok, told) = run(&two);
    assert!(!ok && told.contains("syndic_master"), "{told}");
    let masters = "syndic_master: [mom1.example.com, mom2.example.com]\n";
    let (ok, told) = run_with(&two, masters);
    assert!(ok, "{told}");
}

#[test]
fn mistake_in_the_example_is_told() {
    let wrong = example().replace("mom: main", "mon: main");
    let (ok, text) = run(&wrong);
    assert!(!ok && text.contains("mon"), "{text}");
}

#[test]
fn readme_names_every_metric() {
    let read = |path: PathBuf| fs::read_to_string(path).expect("the file is there");
    let source = read(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/telemetry/counters.rs"));
    let readme = read(root().join("README.md"));
    let metrics: Vec<&str> = source
        .split('"')
        .filter(|text| text.starts_with("saltway_"))
        .collect();
    assert!(metrics.len() > 5, "{metrics:?}");
    for metric in metrics {
        assert!(readme.contains(&format!("`{metric}`")), "{metric}");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn example() -> String {
    fs::read_to_string(root().join("configs/master-shim.yaml")).expect("the example is there")
}

/// A commented key has no blank behind the `#`, a remark has.
fn with_commented_keys(text: &str) -> String {
    let uncommented = text.lines().map(|line| {
        let key = line.trim_start();
        match key.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => {
                line.replacen('#', "", 1)
            }
            _ => line.to_owned(),
        }
    });
    uncommented.collect::<Vec<_>>().join("\n")
}

fn check(text: &str) {
    let (ok, told) = run(text);
    assert!(ok, "{told}\n{text}");
}

fn run(text: &str) -> (bool, String) {
    run_with(text, "syndic_master: mom.example.com\n")
}

/// `--check` on a copy whose files exist; whether it succeeded, and what it said.
fn run_with(text: &str, master: &str) -> (bool, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::write(path("master"), master).expect("written");
    fs::write(path("minion"), "id: site1\n").expect("written");
    fs::write(path("password"), "a password\n").expect("written");
    let authority = root().join("tests/data/authority.pem");
    let text = text
        .replace("/etc/salt/master", &path("master"))
        .replace("/etc/salt/minion", &path("minion"))
        .replace("/etc/salt/saltway.password", &path("password"))
        .replace("/etc/salt/saltway-ca.pem", &authority.display().to_string());
    fs::write(path("saltway.yaml"), text).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_saltway-master-shim"))
        .args(["--config", &path("saltway.yaml"), "--check"])
        .output()
        .expect("the master-shim runs");
    let told = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&told).into_owned(),
    )
}

//! The interface over HTTP: what is wrong is told, what is asked from elsewhere needs TLS and a token, and readers never
//! hold up the ledger.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use standin::{MomBus, StandinMom, jid};
use testkit::{Daemon, RedisServer, Workspace};

use crate::stage::Stage;

#[test]
fn real_questions_are_answered_or_refused_with_a_hint() {
    let stage = Stage::new("");
    stage.site("site1", &["a1", "a2", "a3"]);
    stage.publish(&jid(1), "glob", "*", &["site1"]);
    let check = |path: &str, expected: u16| {
        let (status, json) = stage.api(path);
        assert_eq!(status, expected, "{path}: {json}");
        if expected != 200 {
            assert!(
                json["error"].is_string() && json["hint"].is_string(),
                "{json}"
            );
        }
        json
    };
    let status = check("/api/v1/status", 200);
    assert_eq!(
        (&status["v"], &status["relay"]),
        (&1.into(), &"main".into())
    );
    assert_eq!(status["minions"], serde_json::json!({"known": 3, "up": 3}));
    let roster = check("/api/v1/roster?site=site1&limit=2", 200);
    let site = &roster["sites"][0];
    assert_eq!(
        (site["minions"].as_array().map(Vec::len), &site["truncated"]),
        (Some(2), &true.into())
    );
    assert_eq!(site["digest"].as_str().map(str::len), Some(16));
    let job = stage.await_job(&jid(1), |job| job["expected"] == 3);
    assert_eq!(job["truncated"], false);
    let few = check(
        &format!("/api/v1/jobs/{}?limit=1&verdict=waiting", jid(1)),
        200,
    );
    assert_eq!(
        (few["minions"].as_array().map(Vec::len), &few["truncated"]),
        (Some(1), &true.into())
    );
    let none = check(&format!("/api/v1/jobs/{}?verdict=returned", jid(1)), 200);
    assert_eq!(none["minions"].as_array().map(Vec::len), Some(0));
    for (path, expected) in [
        ("/api/v1/jobs/20991231000000000000", 404),
        ("/api/v1/jobs/20991231000000000000/missing", 404),
        ("/api/v1/jobs/%2e%2e", 400),
        ("/api/v1/jobs?limit=0", 400),
        ("/api/v1/jobs?limit=x", 400),
        ("/api/v1/jobs?state=done", 400),
        ("/api/v1/jobs?before=..", 400),
        ("/api/v1/roster?site=nosite", 404),
        ("/api/v1/nothing", 404),
        ("/nothing", 404),
    ] {
        check(path, expected);
    }
    let (status, page) = stage.bridge.get("/").expect("an answer");
    assert!(status == 200 && page.contains("<!doctype html>"), "{page}");
}

#[test]
fn real_without_rights_to_the_bus_the_bridge_works_and_says_what_is_missing() {
    let off = Stage::bare("ledger: {enabled: false}");
    let (status, body) = off.0.get("/api/v1/status").expect("an answer");
    assert_eq!(status, 503);
    assert!(body.contains("ledger.enabled is false"), "{body}");
    assert_eq!(off.0.get("/readyz").expect("an answer").0, 200);
}

#[test]
fn real_elsewhere_than_on_the_loopback_tls_and_the_token_are_needed() {
    let workspace = Workspace::new().expect("a workspace");
    let file = |name: &str| workspace.path().join(name);
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=saltway",
        ])
        .arg("-keyout")
        .arg(file("key.pem"))
        .arg("-out")
        .arg(file("cert.pem"))
        .output()
        .expect("openssl runs");
    assert!(made.status.success(), "{made:?}");
    fs::write(file("token"), "0123456789abcdef0123\n").expect("written");
    fs::set_permissions(file("token"), fs::Permissions::from_mode(0o600)).expect("set");
    let mom = StandinMom::start(&workspace, "mom").expect("a stand-in");
    let _bus = MomBus::listen(&mom).expect("a bus");
    let redis = RedisServer::builder("redis")
        .start(&workspace)
        .expect("a redis-server");
    let start = |name: &str, http: &str| {
        Daemon::bridge(name, mom.config_file())
            .redis(&redis.url())
            .extra(&format!("bridge: {name}\nhttp: {http}"))
            .start(&workspace)
            .expect("started")
    };
    // Any address of the host's: the one below is picked by the kernel and told in the log.
    let tls = format!(
        "{{listen: \"0.0.0.0:0\", tls_cert: {}, tls_key: {}, token_file: {}}}",
        file("cert.pem").display(),
        file("key.pem").display(),
        file("token").display()
    );
    let guarded = start("guarded", &tls);
    let port = await_port(&guarded);
    let ask = |path: &str, header: &str| {
        let output = Command::new("curl")
            .args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "-H", header])
            .arg(format!("https://127.0.0.1:{port}{path}"))
            .output()
            .expect("curl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let token = "Authorization: Bearer 0123456789abcdef0123";
    assert_eq!(
        ask("/api/v1/status", token),
        "200",
        "{}",
        guarded.log_tail(20)
    );
    assert_eq!(ask("/api/v1/status", "X: y"), "401");
    assert_eq!(
        ask(
            "/api/v1/status",
            "Authorization: Bearer 0123456789abcdef0124"
        ),
        "401"
    );
    assert_eq!(ask("/metrics", "X: y"), "401");
    assert_eq!(ask("/healthz", "X: y"), "200");
    let log = guarded.log().expect("a log");
    assert!(
        !log.contains("0123456789abcdef0123"),
        "the token is in no log"
    );
    let open = start("open", "{listen: \"0.0.0.0:0\"}");
    let port = await_port(&open);
    let page = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}"])
        .arg(format!("http://127.0.0.1:{port}/api/v1/status"))
        .output()
        .expect("curl runs");
    assert_eq!(page.stdout, b"404");
    assert!(open.log().expect("a log").contains("need http.tls_cert"));
}

/// The port of a daemon that listens at port 0.
fn await_port(daemon: &Daemon) -> u16 {
    testkit::await_that("the port", crate::stage::SOON, || {
        let log = daemon.log().unwrap_or_default();
        let at = log.split("listen=0.0.0.0:").nth(1);
        let port = at.and_then(|rest| {
            rest.split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        });
        port.ok_or(log)
    })
}

//! What the command prints and how it ends, against a bridge of answers from files.

use crate::common::{Answers, Bridge, data, run};
use serde_json::Value;

const OPEN: &str = "20261121174030110001";
const INCOMPLETE: &str = "20261121173800110002";
const COMPLETE: &str = "20261121172000110004";

/// Every question, with its exit code in the world of the files.
const QUESTIONS: &[(&[&str], i32)] = &[
    (&["status"], 1),
    (&["sites"], 0),
    (&["jobs"], 0),
    (&["job", INCOMPLETE], 1),
    (&["job", COMPLETE, "--all"], 0),
    (&["job", OPEN], 1),
    (&["missing", INCOMPLETE], 1),
    (&["missing", COMPLETE], 0),
    (&["roster"], 0),
    (&["watch", COMPLETE], 0),
    (&["watch", INCOMPLETE], 1),
    (&["check"], 1),
];

#[test]
fn exit_codes_tell_what_is_missing() {
    let bridge = Bridge::of_files();
    for (question, code) in QUESTIONS {
        let ran = bridge.run(question);
        assert_eq!(ran.code, *code, "{question:?}: {ran:?}");
        assert!(ran.err.is_empty(), "{question:?}: {}", ran.err);
    }
}

#[test]
fn everything_fits_80_columns_and_is_plain_without_a_terminal() {
    let bridge = Bridge::of_files();
    for (question, _) in QUESTIONS
        .iter()
        .filter(|(question, _)| question[0] != "watch")
    {
        let ran = bridge.run(question);
        for line in ran.out.lines() {
            assert!(line.chars().count() <= 80, "{question:?}: {line}");
            assert!(!line.contains('\x1b'), "{question:?}: {line}");
        }
    }
}

#[test]
fn a_job_of_any_size_fits_80_columns() {
    let mut job: Value = serde_json::from_str(&data("job")).expect("JSON");
    job["tgt"] = vec!["a-minion.example.com"; 500].into();
    job["tgt_type"] = "list".into();
    for key in [
        "expected", "accepted", "received", "returned", "failed", "missing",
    ] {
        job[key] = 1_000_000.into();
        for site in job["sites"].as_array_mut().expect("sites") {
            site[key] = 1_000_000.into();
        }
    }
    let path = format!("/api/v1/jobs/{INCOMPLETE}");
    let bridge = Bridge::new(Answers::from([(path, vec![(200, job.to_string())])]), None);
    for line in bridge.run(&["job", INCOMPLETE]).out.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn json_is_what_the_bridge_said() {
    let bridge = Bridge::of_files();
    for (question, file) in [
        (vec!["status"], "status"),
        (vec!["sites"], "sites"),
        (vec!["jobs"], "jobs"),
        (vec!["job", INCOMPLETE], "job"),
        (vec!["missing", INCOMPLETE], "missing"),
        (vec!["roster"], "roster"),
    ] {
        let mut args = vec!["--json"];
        args.extend(question);
        let said: Value = serde_json::from_str(&bridge.run(&args).out).expect("JSON");
        assert_eq!(
            said,
            serde_json::from_str::<Value>(&data(file)).expect("JSON"),
            "{args:?}"
        );
    }
}

#[test]
fn a_job_names_each_minion_that_has_not_returned() {
    let ran = Bridge::of_files().run(&["job", INCOMPLETE]);
    for told in [
        "sgp-app1",
        "sgp-app2",
        "sgp-app3",
        "ams-pc2",
        "unreachable",
        "not received",
        "returned 7",
        "missing 4",
    ] {
        assert!(ran.out.contains(told), "{told}: {}", ran.out);
    }
    assert!(!ran.out.contains("fra-web1"), "{}", ran.out);
    assert!(
        Bridge::of_files()
            .run(&["job", INCOMPLETE, "--all"])
            .out
            .contains("fra-web1")
    );
}

#[test]
fn a_minion_without_receipts_is_told_from_one_that_did_not_get_the_job() {
    let ran = Bridge::of_files().run(&["job", OPEN]);
    let line = |minion: &str| {
        let found = ran.out.lines().find(|line| line.starts_with(minion));
        found
            .unwrap_or_else(|| panic!("{minion}: {}", ran.out))
            .to_owned()
    };
    assert!(line("ams-pc2").ends_with("-  no receipts"), "{}", ran.out);
    assert!(line("nyc-db2").ends_with("14 ms  running"), "{}", ran.out);
    assert!(ran.out.contains("no receipts 2"), "{}", ran.out);
    let ran = Bridge::of_files().run(&["job", INCOMPLETE]);
    assert!(ran.out.contains("-  not received"), "{}", ran.out);
    assert!(!ran.out.contains("no receipts"), "{}", ran.out);
}

#[test]
fn a_bridge_that_knows_no_receipts_is_shown_as_before() {
    let mut job: Value = serde_json::from_str(&data("job")).expect("JSON");
    for minion in job["minions"].as_array_mut().expect("minions") {
        let fields = minion.as_object_mut().expect("a map");
        fields.remove("receipts");
        fields.remove("received_ms");
    }
    let path = format!("/api/v1/jobs/{INCOMPLETE}");
    let bridge = Bridge::new(Answers::from([(path, vec![(200, job.to_string())])]), None);
    let ran = bridge.run(&["job", INCOMPLETE]);
    assert!(
        ran.out
            .contains("MINION    SITE                      VERDICT"),
        "{}",
        ran.out
    );
}

#[test]
fn sites_tell_what_the_last_hop_lost_and_how_long_it_takes() {
    let ran = Bridge::of_files().run(&["sites"]);
    for told in ["3/48190", "7 ms, 31 ms", "24 ms, 4.3 s"] {
        assert!(ran.out.contains(told), "{told}: {}", ran.out);
    }
}

#[test]
fn options_reach_the_bridge_escaped() {
    let bridge = Bridge::of_files();
    bridge.run(&[
        "jobs", "--limit", "5", "--state", "open", "--before", COMPLETE,
    ]);
    bridge.run(&["roster", "--site", "a b&c"]);
    bridge.run(&["job", OPEN, "--verdict", "silent"]);
    let asked = bridge.asked.lock().expect("no panic").clone();
    for path in [
        format!("/api/v1/jobs?limit=5&before={COMPLETE}&state=open"),
        "/api/v1/roster?limit=2000000&site=a%20b%26c".to_owned(),
        format!("/api/v1/jobs/{OPEN}?limit=1000&verdict=silent"),
    ] {
        assert!(asked.contains(&path), "{path}: {asked:?}");
    }
}

#[test]
fn watch_follows_until_the_job_is_over() {
    let open: Value = serde_json::from_str(&data("job-open")).expect("JSON");
    let mut over = open.clone();
    over["state"] = "complete".into();
    over["missing"] = 0.into();
    over["returned"] = over["expected"].clone();
    let mut same = open.clone();
    same["seconds"] = 31.0.into();
    let list = [open, same, over].map(|job| (200, job.to_string()));
    let path = format!("/api/v1/jobs/{OPEN}");
    let ran = Bridge::new(Answers::from([(path.clone(), list.to_vec())]), None).run(&[
        "watch",
        OPEN,
        "--interval",
        "0.1",
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 2, "a line per change: {lines:?}");
    assert!(
        lines[0].contains("open 4/11 returned") && lines[0].contains("sgp1 0/3 down"),
        "{lines:?}"
    );
    assert!(lines[1].contains("complete 11/11"), "{lines:?}");
}

#[test]
fn watch_without_a_job_takes_the_newest_open_one() {
    let answers = Answers::from([
        ("/api/v1/jobs".to_owned(), vec![(200, data("jobs"))]),
        (
            format!("/api/v1/jobs/{OPEN}"),
            vec![(200, data("job-complete"))],
        ),
    ]);
    let bridge = Bridge::new(answers, None);
    assert_eq!(bridge.run(&["watch", "--interval", "0.1"]).code, 0);
    let asked = bridge.asked.lock().expect("no panic").clone();
    assert_eq!(
        asked,
        [
            "/api/v1/jobs?limit=1&state=open".to_owned(),
            format!("/api/v1/jobs/{OPEN}?limit=1")
        ]
    );
}

#[test]
fn a_bridge_that_is_away_is_named_with_what_to_do() {
    let ran = run(&[
        "--url",
        "http://127.0.0.1:9",
        "--config",
        "/nonexistent",
        "status",
    ]);
    assert_eq!(ran.code, 2);
    for told in [
        "http://127.0.0.1:9/",
        "saltway-bridge",
        "systemctl status",
        "--url",
    ] {
        assert!(ran.err.contains(told), "{told}: {}", ran.err);
    }
}

#[test]
fn a_missing_configuration_is_named_with_what_to_do() {
    let ran = run(&["--config", "/nonexistent/saltway.yaml", "status"]);
    assert_eq!(ran.code, 2);
    for told in ["/nonexistent/saltway.yaml", "--config", "--url"] {
        assert!(ran.err.contains(told), "{told}: {}", ran.err);
    }
}

#[test]
fn an_unknown_job_and_a_port_without_the_api_are_told_apart() {
    let bridge = Bridge::of_files();
    let ran = bridge.run(&["job", "20200101000000000000"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("no job 20200101000000000000") && ran.err.contains("saltway jobs"),
        "{}",
        ran.err
    );
    let shim = Bridge::new(
        Answers::from([("/api/v1/status".to_owned(), vec![(404, String::new())])]),
        None,
    );
    let ran = shim.run(&["status"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("no Saltway API") && ran.err.contains("master-shim"),
        "{}",
        ran.err
    );
}

#[test]
fn a_token_is_sent_and_asked_for_and_never_shown() {
    let answers = || Answers::from([("/api/v1/status".to_owned(), vec![(200, data("status"))])]);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("token");
    std::fs::write(&file, "s3cret-token\n").expect("written");
    let bridge = Bridge::new(answers(), Some("s3cret-token"));
    let file = file.to_str().expect("UTF-8");
    assert_eq!(bridge.run(&["--token-file", file, "status"]).code, 1);
    let ran = bridge.run(&["status"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("--token-file") && ran.err.contains("token"),
        "{}",
        ran.err
    );
    std::fs::write(file, "wr0ng\n").expect("written");
    let ran = bridge.run(&["--token-file", file, "status"]);
    assert_eq!(ran.code, 2);
    assert!(!ran.err.contains("wr0ng"), "{}", ran.err);
}

#[test]
fn check_tries_everything_and_names_what_is_amiss() {
    let ran = Bridge::of_files().run(&["check"]);
    for told in [
        "FAIL  bridge: mom",
        "publish port not connected",
        "ok    event bus",
        "FAIL  site sgp1",
        "no sign of life",
        "FAIL  losses of sgp1",
    ] {
        assert!(ran.out.contains(told), "{told}: {}", ran.out);
    }
}

#[test]
fn what_a_user_typed_as_target_cannot_steer_the_terminal() {
    let mut jobs: Value = serde_json::from_str(&data("jobs")).expect("JSON");
    jobs["jobs"][0]["tgt"] = "\u{1b}[2J\nevil".into();
    let answers = Answers::from([
        ("/api/v1/jobs".to_owned(), vec![(200, jobs.to_string())]),
        ("/api/v1/status".to_owned(), vec![(200, data("status"))]),
    ]);
    let ran = Bridge::new(answers, None).run(&["jobs"]);
    assert!(!ran.out.contains('\u{1b}'), "{}", ran.out);
}

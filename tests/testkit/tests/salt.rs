//! Real Salt under our hands: one master and one minion of each version, a whole tree with syndics, and clean endings.

use std::fs;
use std::process::Command;
use std::time::Duration;

use testkit::{Master, Minion, SaltVersion, Tree, Workspace, await_that};

fn answers_test_ping(version: SaltVersion) {
    let workspace = Workspace::new().expect("/tmp is writable");
    let mut master = Master::builder(version, "master")
        .start(&workspace)
        .expect("salt-master starts");
    let mut minion = Minion::builder(version, "minion")
        .start(&[&master])
        .expect("salt-minion starts");
    master.ready().expect("the master gets ready");
    minion.ready().expect("the minion gets ready");
    master
        .wait_for_minions(&["minion"])
        .expect("the minion answers");

    let output = master
        .salt(&["--out=json", "--static", "*", "test.version"])
        .expect("salt runs");
    let wanted = serde_json::json!({"minion": version.release()});
    assert_eq!(
        (output.code, output.json().expect("salt prints JSON")),
        (0, wanted),
        "{}",
        master.log_tail(20)
    );

    let mut events = master.record().expect("the recorder connects");
    let job = events
        .publish("*", "glob", "test.ping", serde_json::json!([]))
        .expect("a job is published");
    let jid = job.jid.expect("one minion matches");
    let returns = events
        .wait_for_returns(&jid, 1, Duration::from_secs(20))
        .expect("the return is seen");
    let first = returns.first().expect("one was waited for");
    assert_eq!(
        (&first.data["id"], &first.data["return"]),
        (&"minion".into(), &true.into())
    );
    assert!(first.at > job.began, "{} is after {}", first.at, job.began);
}

#[test]
fn real_salt_3006_answers_test_ping() {
    answers_test_ping(SaltVersion::V3006);
}

#[test]
fn real_salt_3007_answers_test_ping() {
    answers_test_ping(SaltVersion::V3007);
}

#[test]
fn real_salt_3008_answers_test_ping() {
    answers_test_ping(SaltVersion::V3008);
}

#[test]
fn real_tree_with_syndics_answers_through_them() {
    let tree = Tree::with_syndics(SaltVersion::V3006)
        .site("site1", SaltVersion::V3006, &["a1"])
        .proxied(true)
        .on_progress(|line| eprintln!("{line}"))
        .start()
        .expect("the tree starts");
    let mom = &tree.mom;
    await_that(
        "a1 to answer on the top master",
        Duration::from_secs(60),
        || {
            let output = mom
                .salt(&["--out=json", "--static", "a1", "test.ping"])
                .map_err(|error| format!("{error:#}"))?;
            if output.json().is_ok_and(|json| json["a1"] == true) {
                Ok(())
            } else {
                Err(output.stdout)
            }
        },
    );
    let (publish, request) = tree.sites[0]
        .mom_link
        .as_ref()
        .expect("the tree is proxied");
    assert!(
        publish.bytes_down() > 0 && request.bytes_up() > 0,
        "the syndic goes through its link"
    );
}

/// Whether any process carries this mark.
fn lives(mark: &str) -> bool {
    fs::read_dir("/proc")
        .expect("/proc can be listed")
        .flatten()
        .any(|entry| {
            fs::read(entry.path().join("environ"))
                .is_ok_and(|environment| String::from_utf8_lossy(&environment).contains(mark))
        })
}

#[test]
fn what_left_its_process_group_ends_with_its_workspace() {
    let workspace = Workspace::new().expect("/tmp is writable");
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "STRAY=$0 setsid sleep 600 & echo started",
        &workspace.path().display().to_string(),
    ]);
    testkit::run(&workspace, command, Duration::from_secs(10)).expect("sh runs");
    let mark = format!("STRAY={}", workspace.path().display());
    await_that("the stray process", Duration::from_secs(5), || {
        if lives(&mark) { Ok(()) } else { Err("absent") }
    });
    drop(workspace);
    await_that("its end", Duration::from_secs(5), || {
        if lives(&mark) { Err("alive") } else { Ok(()) }
    });
}

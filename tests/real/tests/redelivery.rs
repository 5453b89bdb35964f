//! A job again for those that did not get it, with real Salt: once, in order, soon after they are back; and never where it may have run.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use real_tests::{
    away::{AWAY, Stand},
    stream::{self, Job},
};
use serde_json::json;
use testkit::{Direction, SaltVersion, await_that, now};

const WITHIN: Duration = Duration::from_secs(60);

/// Back means: a new connection, or a process that has said that it started. On a quiet machine it is 5 s at most
/// (`benches/src/bin/back.rs`); here another tree runs beside.
const BACK_WITHIN: Duration = Duration::from_secs(20);

/// Minions without a shim are asked for start events.
fn start(version: SaltVersion, shim: bool, receipts: &str) -> Stand {
    let receipts = format!("receipts: {{start_event: {}, {receipts}}}", !shim);
    Stand::start(version, shim, &receipts).expect("everything starts")
}

fn assert_each_once_and_in_order(stand: &Stand, jobs: &[Job]) {
    let doubled = stream::doubled(&stand.file).expect("read");
    assert!(doubled.is_empty(), "{doubled:?}");
    let jids: Vec<String> = jobs.iter().map(|job| job.jid.clone()).collect();
    assert_eq!(stand.away.took(&jids).expect("its log"), jids, "in order");
}

/// The minions of which the ledger says that they would have told if they had got the job.
fn not_received(stand: &Stand, jid: &str) -> BTreeSet<String> {
    let job = stand.job(jid).expect("the ledger has the job");
    let minions = job["minions"].as_array().expect("minions").iter();
    let missed = minions.filter(|one| one["step"] == "accepted" && one["receipts"] == true);
    missed
        .map(|minion| minion["id"].as_str().expect("an id").to_owned())
        .collect()
}

fn sent_again(stand: &Stand) -> f64 {
    let shim = stand.tree.sites[0].shim.as_ref().expect("a shim");
    let count = shim.metric("saltway_redeliveries_total", &[("outcome", "sent")]);
    count.expect("metrics").unwrap_or_default()
}

/// What is published to it is lost, and it does not notice: a firewall forgot the connection. Later it is reset.
fn assert_silenced_minion_gets_what_it_missed(version: SaltVersion, shim: bool) {
    let mut stand = start(version, shim, "");
    let began = now();
    stand.away.publish.silence(Direction::Down);
    let jobs = stand.publish(2, 41).expect("published");
    stand
        .await_runs(2, 41, &["a1"], WITHIN)
        .expect("the jobs run");
    await_that("20 s of silence", WITHIN, || {
        let silent = began.elapsed();
        (silent > Duration::from_secs(20))
            .then_some(())
            .ok_or(silent.as_secs())
    });
    let runs = stream::runs(&stand.file).expect("read");
    let none = !runs.keys().any(|(number, id)| *number > 1 && id == AWAY);
    assert!(none, "it has heard nothing");
    stand.away.publish.cut();
    stand.away.publish.heal().expect("it listens again");
    stand
        .await_runs(2, 41, &[AWAY], BACK_WITHIN)
        .expect("the jobs run");
    assert_each_once_and_in_order(&stand, &jobs);
    assert!(sent_again(&stand) >= 40.0);
    // Salt's own record of the job is the first one, at both masters.
    let last = jobs.last().expect("jobs");
    let show = |run: testkit::Output| run.json().expect("JSON");
    for master in [&stand.tree.mom, &stand.tree.sites[0].master] {
        let run = master.salt_run(&["--out=json", "jobs.list_job", &last.jid]);
        let job = show(run.expect("salt-run runs"));
        assert_eq!(job["Target"], "*", "{job}");
    }
    await_that("the ledger to have both returns", WITHIN, || {
        let job = stand.job(&last.jid).expect("the ledger has it");
        (job["state"] == "complete").then_some(()).ok_or(job)
    });
}

#[test]
fn real_silenced_3006_minion_with_a_shim_gets_all_it_missed_once_and_in_order() {
    assert_silenced_minion_gets_what_it_missed(SaltVersion::V3006, true);
}

#[test]
fn real_silenced_3008_minion_gets_all_it_missed_once_and_in_order() {
    assert_silenced_minion_gets_what_it_missed(SaltVersion::V3008, false);
}

/// Its connection stands still, and then everything comes late: what was sent again meanwhile comes, too, and runs not.
#[test]
fn real_minion_that_hears_everything_late_runs_nothing_twice() {
    let mut stand = start(SaltVersion::V3006, true, "receipt_timeout: 1s");
    stand.away.publish.stall(Direction::Down);
    let jobs = stand.publish(2, 21).expect("published");
    stand
        .await_runs(2, 21, &["a1"], WITHIN)
        .expect("the jobs run");
    await_that("something to be sent again", WITHIN, || {
        let sent = sent_again(&stand);
        (sent >= 1.0).then_some(()).ok_or(sent)
    });
    stand.away.publish.heal().expect("it flows again");
    stand
        .await_runs(2, 21, &[AWAY], WITHIN)
        .expect("the jobs run");
    assert_each_once_and_in_order(&stand, &jobs);
}

fn assert_restarted_minion_gets_what_it_missed(version: SaltVersion, shim: bool) {
    let mut stand = start(version, shim, "");
    let mut jobs = stand.publish(2, 6).expect("published");
    stand
        .await_runs(2, 6, &["a1", AWAY], WITHIN)
        .expect("the jobs run");
    stand.away.minion.kill();
    jobs.extend(stand.publish(7, 16).expect("published"));
    stand
        .await_runs(7, 16, &["a1"], WITHIN)
        .expect("the jobs run");
    stand.recorder.clear();
    stand.away.minion.start().expect("it starts again");
    let started = format!("salt/minion/{AWAY}/start");
    let is_start = |event: &testkit::RecordedEvent| event.tag == started;
    stand
        .recorder
        .wait_for(1, WITHIN, is_start)
        .expect("it says so");
    stand
        .await_runs(7, 16, &[AWAY], BACK_WITHIN)
        .expect("the jobs run");
    assert_each_once_and_in_order(&stand, &jobs[5..]);
}

#[test]
fn real_restarted_3006_minion_with_a_shim_gets_all_it_missed_once_and_in_order() {
    assert_restarted_minion_gets_what_it_missed(SaltVersion::V3006, true);
}

#[test]
fn real_restarted_3008_minion_gets_all_it_missed_once_and_in_order() {
    assert_restarted_minion_gets_what_it_missed(SaltVersion::V3008, false);
}

#[test]
fn real_ledger_names_exactly_what_was_missed_where_nothing_is_sent_again() {
    let receipts = "redeliver: never, receipt_timeout: 1s";
    let mut stand = start(SaltVersion::V3006, true, receipts);
    stand.away.publish.silence(Direction::Down);
    let missed = stand.publish(2, 11).expect("published");
    stand
        .await_runs(2, 11, &["a1"], WITHIN)
        .expect("the jobs run");
    stand.away.publish.cut();
    stand.away.publish.heal().expect("it listens again");
    // It hears again: what it heard nothing of before, it never got.
    let mut heard = stand.publish(12, 12).expect("published");
    await_that("it to hear again", WITHIN, || {
        let runs = stream::runs(&stand.file).map_err(|err| format!("{err:#}"))?;
        if runs.keys().any(|(number, id)| *number > 11 && id == AWAY) {
            return Ok(());
        }
        let next = heard.last().expect("jobs").number + 1;
        heard.extend(stand.publish(next, next).expect("published"));
        Err(format!("{next}"))
    });
    for job in &missed {
        await_that("the ledger to name the missed", WITHIN, || {
            let named = not_received(&stand, &job.jid);
            let away = BTreeSet::from([AWAY.to_owned()]);
            (named == away)
                .then_some(())
                .ok_or_else(|| format!("{named:?}"))
        });
    }
    let last = heard.last().expect("jobs");
    stand
        .await_runs(last.number, last.number, &["a1", AWAY], WITHIN)
        .expect("the jobs run");
    await_that("both to have the last job", WITHIN, || {
        let named = not_received(&stand, &last.jid);
        named.is_empty().then_some(()).ok_or(format!("{named:?}"))
    });
    assert!(stream::doubled(&stand.file).expect("read").is_empty());
    assert!(sent_again(&stand) < 0.5);
}

/// The job ends its own minion, all of its processes, before it can return.
fn assert_deadly_job_runs_once(version: SaltVersion, shim: bool) {
    let mut stand = start(version, shim, "receipt_timeout: 1s");
    let deaths = stand.tree.workspace().path().join("deaths");
    let pid = stand.away.minion.process().expect("it runs").pid();
    let command = format!("echo died >> {}; kill -9 -- -{pid}", deaths.display());
    let job = stand
        .recorder
        .publish(AWAY, "glob", "cmd.run", json!([command]))
        .expect("published");
    let jid = job.jid.expect("the MoM publishes it");
    await_that("the job to run", WITHIN, || {
        lines(&deaths).eq(&1).then_some(()).ok_or("no")
    });
    stand.away.minion.kill();
    stand.away.minion.start().expect("it starts again");
    stand.away.minion.ready().expect("ready");
    // It hears again, and the time is over after which a silent minion is sent a job again.
    let jobs = stand.publish(2, 2).expect("published");
    stand
        .await_runs(2, 2, &["a1", AWAY], WITHIN)
        .expect("the jobs run");
    let until = now() + Duration::from_secs(5);
    await_that("5 s", WITHIN, || {
        (now() > until).then_some(()).ok_or("not yet")
    });
    assert_eq!(lines(&deaths), 1, "it ran once");
    let told = stand.job(&jid).expect("the ledger has it");
    let minion = &told["minions"][0];
    assert_eq!(minion["step"], "received", "{told}");
    assert_each_once_and_in_order(&stand, &jobs);
}

fn lines(file: &Path) -> usize {
    fs::read_to_string(file).unwrap_or_default().lines().count()
}

#[test]
fn real_job_that_kills_its_own_3006_minion_is_not_run_again() {
    assert_deadly_job_runs_once(SaltVersion::V3006, true);
}

#[test]
fn real_job_that_kills_its_own_3008_minion_is_not_run_again() {
    assert_deadly_job_runs_once(SaltVersion::V3008, false);
}

//! From salt-syndic to the master-shim and back, in mid-stream: stopping one service and starting the other.

use std::{collections::BTreeMap, time::Duration};

use real_tests::{
    answers::wait_for_answers,
    stream::{self, Job, JobStream},
};
use testkit::{EventRecorder, Relay, SaltVersion, Tree, now};

const MINIONS: &[&str] = &["a1", "a2"];
const PACE: Duration = Duration::from_millis(150);
const WITHIN: Duration = Duration::from_secs(60);

/// How often each job was published on the master whose bus `recorder` hears.
fn published(recorder: &mut EventRecorder) -> BTreeMap<String, usize> {
    let mut published = BTreeMap::new();
    for event in recorder.events().expect("the recorder runs") {
        let jid = event
            .tag
            .strip_prefix("salt/job/")
            .and_then(|rest| rest.strip_suffix("/new"));
        if let Some(jid) = jid {
            *published.entry(jid.to_owned()).or_default() += 1;
        }
    }
    published
}

/// The first job at or after `first` that has run; it proves that the relay in place publishes.
fn first_run(stream: &JobStream, file: &std::path::Path, first: u32) -> u32 {
    testkit::await_that("the first job through the relay", WITHIN, || {
        let runs = stream::runs(file).map_err(|err| format!("{err:#}"))?;
        let ran = (first..=stream.newest()).find(|number| {
            MINIONS
                .iter()
                .all(|minion| runs.contains_key(&(*number, (*minion).to_owned())))
        });
        ran.ok_or_else(|| format!("none of {first} to {}", stream.newest()))
    })
}

#[test]
fn real_switch_over_and_back_in_mid_stream_runs_every_job_once() {
    let mut tree = Tree::builder(SaltVersion::V3006, Relay::Syndic)
        .site("site1", SaltVersion::V3006, MINIONS)
        .start()
        .expect("the tree starts");
    tree.start_redis().expect("Redis starts");
    tree.start_bridge().expect("the bridge starts");
    tree.bridge
        .as_mut()
        .expect("started")
        .ready()
        .expect("the bridge gets ready");
    wait_for_answers(&tree.mom, MINIONS, WITHIN).expect("the syndic relays");
    let keys = |tree: &Tree| {
        tree.mom
            .salt_key(&["-l", "all", "--out=json"])
            .expect("salt-key runs")
            .stdout
    };
    let keys_before = keys(&tree);

    let file = tree.workspace().path().join("runs");
    let mut below = tree.sites[0]
        .master
        .record()
        .expect("the recorder connects");
    let above = tree.mom.record().expect("the recorder connects");
    let stream = JobStream::start(above, "*", &file, PACE);
    let under_syndic = stream.wait_for_more(12).expect("the stream gets on");
    stream
        .wait_for_runs(1, under_syndic, MINIONS, WITHIN)
        .expect("the syndic relays the stream");

    // Over.
    let began = now();
    tree.sites[0]
        .syndic
        .take()
        .expect("started")
        .terminate()
        .expect("the syndic ends");
    tree.start_shim(0).expect("the shim starts");
    tree.sites[0]
        .shim
        .as_mut()
        .expect("started")
        .ready()
        .expect("the shim gets ready");
    eprintln!("over: {:.1} s", began.elapsed().as_secs_f64());
    let shim_ready = stream.newest();
    let under_shim = stream.wait_for_more(20).expect("the stream gets on");
    stream
        .wait_for_runs(1, under_shim, MINIONS, WITHIN)
        .expect("nothing is lost on the way over");
    let of_shim = |jobs: Vec<Job>, first: u32, last: u32| -> Vec<Job> {
        jobs.into_iter()
            .filter(|job| (first..=last).contains(&job.number))
            .collect()
    };
    // Returns of jobs that a relay has published and that come after it was stopped stay below, so they are awaited before.
    let relayed = of_shim(stream.jobs(), shim_ready + 1, under_shim);
    stream::wait_for_recorded(&tree.mom, &relayed, MINIONS, WITHIN)
        .expect("the shim's returns are recorded");

    // Back.
    let began = now();
    tree.sites[0]
        .shim
        .as_mut()
        .expect("started")
        .terminate()
        .expect("the shim ends by itself");
    let stopped = stream.newest();
    tree.start_syndic(0).expect("the syndic starts");
    tree.sites[0]
        .syndic
        .as_mut()
        .expect("started")
        .ready()
        .expect("the syndic gets ready");
    let back = first_run(&stream, &file, stopped + 1);
    eprintln!(
        "back: {:.1} s, jobs {stopped} to {back} waited",
        began.elapsed().as_secs_f64()
    );
    let last = stream
        .wait_for_more(5000 / 150)
        .expect("the stream gets on");
    stream
        .wait_for_runs(back, last, MINIONS, WITHIN)
        .expect("the syndic relays again");

    // Over once more: what the syndic missed while nobody stood there runs now, what it ran does not.
    tree.sites[0]
        .syndic
        .take()
        .expect("started")
        .terminate()
        .expect("the syndic ends");
    tree.start_shim(0).expect("the shim starts");
    tree.sites[0]
        .shim
        .as_mut()
        .expect("started")
        .ready()
        .expect("the shim gets ready");
    let shim_ready_again = stream.newest();
    stream.wait_for_more(20).expect("the stream gets on");
    let (jobs, _above) = stream.finish().expect("every job was published");
    let last = jobs.last().expect("there are jobs").number;
    stream::wait_for_runs(&file, 1, last, MINIONS, WITHIN).expect("every job runs");
    assert_eq!(
        stream::doubled(&file).expect("readable"),
        BTreeMap::new(),
        "no job runs twice"
    );

    // The minions drop a jid that they have; so the lower master's own word counts as well.
    let published = published(&mut below);
    for job in &jobs {
        assert_eq!(
            published.get(&job.jid),
            Some(&1),
            "job {} on the lower master's bus",
            job.number
        );
    }
    let relayed = of_shim(jobs, shim_ready_again + 1, last);
    stream::wait_for_recorded(&tree.mom, &relayed, MINIONS, WITHIN)
        .expect("the shim's returns are recorded");
    let shim = tree.sites[0].shim.as_ref().expect("started");
    let skipped = shim
        .metric("saltway_publications_duplicate_total", &[("by", "jid")])
        .expect("/metrics");
    assert!(
        skipped.is_some_and(|skipped| skipped >= 30.0),
        "the job cache knows the syndic's jobs: {skipped:?}"
    );
    assert_eq!(keys(&tree), keys_before, "the MoM needs no new key");
}

//! The job records: what they remember, over restarts, and what they give up.

#![expect(clippy::unwrap_used, reason = "a failure in a test ends the test")]

use std::time::Duration;

use store::{Begin, Done, Jobs, JobsConfig, PartKey, PartState};

fn key(jid: u64, part: u8) -> PartKey {
    PartKey {
        jid: jid.to_string(),
        part: [part; 16],
    }
}

fn frame(of: u64) -> [u8; 16] {
    u128::from(of).to_le_bytes()
}

fn begin(jid: u64, part: u8, at_ms: u64) -> Begin {
    Begin {
        key: key(jid, part),
        frame: frame(jid * 10 + u64::from(part)),
        upstream: 2,
        entry: (1, jid),
        at_ms,
    }
}

fn done(jid: u64, part: u8, minions: &[&str]) -> Done {
    Done {
        key: key(jid, part),
        fun: "test.ping".to_owned(),
        minions: minions.iter().map(|&minion| minion.to_owned()).collect(),
        answers_for_site: jid % 2 == 1,
    }
}

fn returned(all: &[(u64, &str)]) -> Vec<(String, String)> {
    let own = |(jid, minion): &(u64, &str)| (jid.to_string(), (*minion).to_owned());
    all.iter().map(own).collect()
}

async fn remembered(jobs: &Jobs, key: PartKey, frame: [u8; 16]) -> Option<PartState> {
    jobs.remembered(vec![(key, frame)]).await.unwrap()[0]
}

const NO_FRAME: [u8; 16] = [0xff; 16];

#[tokio::test]
async fn parts_are_known_by_themselves_and_by_their_frame_over_restarts() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("jobs");
    let (mut jobs, _) = Jobs::open(&path, JobsConfig::default()).unwrap();
    jobs.begin(vec![begin(1, 1, 5), begin(1, 2, 5), begin(2, 1, 5)])
        .await
        .unwrap();
    jobs.done(vec![done(1, 1, &["web1"]), done(9, 9, &[])])
        .await
        .unwrap();
    // Begun again after a crash, by another frame.
    let again = Begin {
        frame: frame(99),
        ..begin(2, 1, 6)
    };
    jobs.begin(vec![again]).await.unwrap();
    // Done stays done.
    jobs.begin(vec![begin(1, 1, 7)]).await.unwrap();
    for _ in 0..2 {
        for (known, of, by) in [
            (Some(PartState::Done), key(1, 1), NO_FRAME),
            (Some(PartState::Done), key(7, 7), frame(11)),
            (Some(PartState::Begun), key(1, 2), NO_FRAME),
            (Some(PartState::Begun), key(2, 1), frame(99)),
            (None, key(1, 3), NO_FRAME),
            (None, key(9, 9), NO_FRAME),
        ] {
            assert_eq!(remembered(&jobs, of.clone(), by).await, known, "{of:?}");
        }
        let seen = jobs
            .seen_frames(vec![frame(11), frame(12), frame(99), NO_FRAME])
            .await;
        assert_eq!(seen.unwrap(), [true, false, false, false]);
        drop(jobs);
        jobs = Jobs::open(&path, JobsConfig::default()).unwrap().0;
    }
    jobs.done(vec![done(2, 1, &["web1"])]).await.unwrap();
    assert_eq!(jobs.seen_frames(vec![frame(99)]).await.unwrap(), [true]);
    assert_eq!(jobs.state().parts, 4);
}

#[tokio::test]
async fn open_jobs_name_who_has_not_returned() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("jobs");
    let (jobs, _) = Jobs::open(&path, JobsConfig::default()).unwrap();
    let parts = [(1, 1, 10), (1, 2, 11), (2, 1, 12), (3, 1, 13), (4, 1, 14)];
    jobs.begin(
        parts
            .map(|(jid, part, at_ms)| begin(jid, part, at_ms))
            .to_vec(),
    )
    .await
    .unwrap();
    let early = returned(&[(3, "db1"), (77, "web1")]);
    jobs.returned(early).await.unwrap();
    let published = vec![
        done(1, 1, &["web1", "web2"]),
        done(1, 2, &["db1"]),
        done(2, 1, &["web1"]),
        done(3, 1, &["db1", "db2"]),
    ];
    jobs.done(published).await.unwrap();
    jobs.returned(returned(&[(1, "web2"), (2, "web1"), (1, "web2")]))
        .await
        .unwrap();
    drop(jobs);
    let (jobs, _) = Jobs::open(&path, JobsConfig::default()).unwrap();
    let open = jobs.open_jobs(11).await.unwrap();
    let told: Vec<_> = open
        .iter()
        .map(|job| {
            (
                job.jid.as_str(),
                job.minions.len(),
                job.missing.join(","),
                job.at_ms,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("1", 1, "db1".to_owned(), 11),
            ("3", 2, "db2".to_owned(), 13)
        ]
    );
    assert!(open[1].answers_for_site && open[1].upstream == 2 && open[1].fun == "test.ping");
    assert_eq!(jobs.open_jobs(0).await.unwrap()[0].missing, ["web1"]);
}

#[tokio::test]
async fn the_oldest_done_parts_go_first() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("jobs");
    let config = JobsConfig {
        parts_max: 100,
        ..JobsConfig::default()
    };
    let (jobs, _) = Jobs::open(&path, config).unwrap();
    // The first one is never done.
    jobs.begin(vec![begin(0, 1, 1)]).await.unwrap();
    for jid in 1..=300 {
        jobs.begin(vec![begin(jid, 1, jid)]).await.unwrap();
        jobs.done(vec![done(jid, 1, &["web1"])]).await.unwrap();
    }
    assert_eq!(jobs.state().parts, 100);
    for _ in 0..2 {
        let (jobs, _) = {
            let (jobs, opened) = (jobs.clone(), ());
            (jobs, opened)
        };
        assert_eq!(
            remembered(&jobs, key(0, 1), NO_FRAME).await,
            Some(PartState::Begun)
        );
        assert_eq!(remembered(&jobs, key(201, 1), frame(2011)).await, None);
        assert_eq!(
            remembered(&jobs, key(202, 1), NO_FRAME).await,
            Some(PartState::Done)
        );
    }
    // When none is done the oldest goes nevertheless.
    jobs.begin((1_000..1_200).map(|jid| begin(jid, 1, jid)).collect())
        .await
        .unwrap();
    assert_eq!(jobs.state().parts, 100);
    assert_eq!(remembered(&jobs, key(0, 1), NO_FRAME).await, None);
    assert_eq!(
        remembered(&jobs, key(1_199, 1), NO_FRAME).await,
        Some(PartState::Begun)
    );
}

#[tokio::test]
async fn old_parts_go_a_few_at_a_time() {
    let tmp = tempfile::tempdir().unwrap();
    let config = JobsConfig {
        keep_for: Duration::from_secs(10),
        ..JobsConfig::default()
    };
    let (jobs, _) = Jobs::open(&tmp.path().join("jobs"), config).unwrap();
    let parts: Vec<Begin> = (0..1_000).map(|jid| begin(jid, 1, 1_000)).collect();
    jobs.begin(parts).await.unwrap();
    jobs.done((0..900).map(|jid| done(jid, 1, &["web1"])).collect())
        .await
        .unwrap();
    jobs.returned(
        (0..500)
            .map(|jid: u64| (jid.to_string(), "web1".to_owned()))
            .collect(),
    )
    .await
    .unwrap();
    let mut calls = 0;
    while jobs.state().parts > 30 {
        let before = jobs.state().parts;
        jobs.begin(vec![begin(5_000 + calls, 1, 20_000)])
            .await
            .unwrap();
        assert!(before - jobs.state().parts < 150, "a call removes a few");
        calls += 1;
        assert!(calls < 30, "but it does");
    }
    assert_eq!(remembered(&jobs, key(950, 1), NO_FRAME).await, None);
}

#[tokio::test]
async fn names_of_minions_and_returns_are_bounded_by_bytes() {
    let tmp = tempfile::tempdir().unwrap();
    let config = JobsConfig {
        bytes_max: 100_000,
        returned_bytes_max: 50_000,
        ..JobsConfig::default()
    };
    let (jobs, _) = Jobs::open(&tmp.path().join("jobs"), config).unwrap();
    let minions: Vec<String> = (0..100).map(|at| format!("minion{at:04}")).collect();
    let names: Vec<&str> = minions.iter().map(String::as_str).collect();
    for jid in 0..300 {
        jobs.begin(vec![begin(jid, 1, 1)]).await.unwrap();
        jobs.done(vec![done(jid, 1, &names)]).await.unwrap();
        let all = minions
            .iter()
            .map(|minion| (jid.to_string(), minion.clone()));
        jobs.returned(all.collect()).await.unwrap();
        assert!(jobs.state().bytes < 160_000);
    }
    assert!(jobs.state().parts > 50);
    let open = jobs.open_jobs(0).await.unwrap();
    assert!(
        open.iter().all(|job| job.jid != "299"),
        "the newest returns are known"
    );
}

//! The ledger: what it keeps together, over restarts, and what it gives up.

#![expect(clippy::unwrap_used, reason = "a failure in a test ends the test")]

use std::time::Duration;

use bytes::Bytes;
use store::{Ledger, LedgerBatch, LedgerConfig, LedgerJob, LedgerNames};

fn job(jid: u64, table: u32, body: &str) -> LedgerJob {
    LedgerJob {
        jid: format!("{jid:020}"),
        at_ms: jid,
        table,
        is_open: false,
        bytes: Bytes::copy_from_slice(body.as_bytes()),
    }
}

fn names(table: u32, first: u32, body: &str) -> LedgerNames {
    LedgerNames {
        table,
        first,
        bytes: Bytes::copy_from_slice(body.as_bytes()),
    }
}

fn jobs(jobs: Vec<LedgerJob>) -> LedgerBatch {
    LedgerBatch {
        jobs,
        ..LedgerBatch::default()
    }
}

fn jids(jobs: &[LedgerJob]) -> Vec<u64> {
    jobs.iter().map(|job| job.jid.parse().unwrap()).collect()
}

#[tokio::test]
async fn what_was_put_is_there_over_restarts() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("ledger.db");
    let (mut ledger, _) = Ledger::open(&path, LedgerConfig::default()).unwrap();
    assert_eq!(ledger.newest_table().await.unwrap(), None);
    let open = LedgerJob {
        is_open: true,
        ..job(3, 2, "three")
    };
    let batch = LedgerBatch {
        names: vec![names(1, 0, "old"), names(2, 2, "cd"), names(2, 0, "ab")],
        rosters: vec![("s1".into(), "r1".into()), ("s2".into(), "r2".into())],
        jobs: vec![job(2, 1, "two"), open.clone(), job(1, 1, "one")],
    };
    ledger.put(batch, 10).await.unwrap();
    let again = LedgerBatch {
        names: vec![names(2, 2, "cde")],
        rosters: vec![("s1".into(), "r1 new".into())],
        jobs: vec![job(2, 1, "two, longer")],
    };
    ledger.put(again, 11).await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            ledger.get(&job(2, 1, "").jid).await.unwrap(),
            Some(job(2, 1, "two, longer"))
        );
        assert_eq!(ledger.get("nobody").await.unwrap(), None);
        assert_eq!(
            ledger.open_jobs().await.unwrap(),
            std::slice::from_ref(&open)
        );
        let newest = ledger.newest(2, 1_000, None).await.unwrap();
        assert_eq!(jids(&newest), [3, 2]);
        let before = ledger.newest(9, 1_000, Some(&newest[1].jid)).await.unwrap();
        assert_eq!(jids(&before), [1]);
        assert_eq!(jids(&ledger.newest(9, 1, None).await.unwrap()), [3]);
        assert_eq!(ledger.newest_table().await.unwrap(), Some(2));
        assert_eq!(ledger.names(2).await.unwrap(), ["ab", "cde"]);
        assert_eq!(ledger.names(1).await.unwrap(), ["old"]);
        let rosters = ledger.rosters().await.unwrap();
        assert_eq!(
            rosters,
            [
                ("s1".into(), "r1 new".into()),
                ("s2".to_owned(), Bytes::from("r2"))
            ]
        );
        let state = ledger.state();
        assert_eq!((state.jobs, state.damaged), (3, 0));
        drop(ledger);
        ledger = Ledger::open(&path, LedgerConfig::default()).unwrap().0;
        assert_eq!(ledger.state(), state);
    }
    ledger.forget_roster("s1").await.unwrap();
    assert_eq!(ledger.rosters().await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_oldest_jobs_go_first_and_a_job_keeps_its_age() {
    let tmp = tempfile::tempdir().unwrap();
    let config = LedgerConfig {
        jobs_max: 50,
        ..LedgerConfig::default()
    };
    let (ledger, _) = Ledger::open(&tmp.path().join("ledger.db"), config).unwrap();
    for jid in 0..120 {
        let mut batch = vec![job(jid, 1, "x")];
        if jid == 45 {
            batch.push(job(0, 1, "changed"));
        }
        ledger.put(jobs(batch), 200).await.unwrap();
        assert!(ledger.state().jobs <= 50);
        let is_kept = ledger.get(&job(0, 1, "").jid).await.unwrap().is_some();
        assert_eq!(is_kept, jid < 50, "after job {jid}");
    }
    let kept = jids(&ledger.newest(100, 1 << 20, None).await.unwrap());
    assert_eq!(kept, (70..120).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn bytes_and_age_are_bounded() {
    let tmp = tempfile::tempdir().unwrap();
    let config = LedgerConfig {
        bytes_max: 100_000,
        keep_for: Duration::from_secs(100),
        ..LedgerConfig::default()
    };
    let (ledger, _) = Ledger::open(&tmp.path().join("ledger.db"), config).unwrap();
    let body = "x".repeat(5_000);
    for jid in 0..60 {
        ledger
            .put(jobs(vec![job(jid, 1, &body)]), jid)
            .await
            .unwrap();
        assert!(ledger.state().bytes <= 100_000);
    }
    assert_eq!(ledger.state().jobs, 19);
    // Long after; an empty batch only looks at ages.
    ledger.put(LedgerBatch::default(), 100_050).await.unwrap();
    assert_eq!(
        jids(&ledger.newest(100, 1 << 20, None).await.unwrap()),
        (50..60).rev().collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn names_are_kept_as_long_as_a_job_or_the_rosters_refer_to_them() {
    const HOURS: u64 = 2 * 60 * 60 * 1_000;
    let tmp = tempfile::tempdir().unwrap();
    let config = LedgerConfig {
        jobs_max: 3,
        ..LedgerConfig::default()
    };
    let (ledger, _) = Ledger::open(&tmp.path().join("ledger.db"), config).unwrap();
    let with_names = |table, jid| LedgerBatch {
        names: vec![names(table, 0, "a"), names(table, 9, "b")],
        ..jobs(vec![job(jid, table, "x")])
    };
    ledger.put(with_names(1, 1), 1).await.unwrap();
    ledger.put(with_names(2, 2), 2).await.unwrap();
    ledger.put(with_names(3, 3), 3).await.unwrap();
    ledger.put(LedgerBatch::default(), HOURS).await.unwrap();
    assert_eq!(ledger.names(1).await.unwrap().len(), 2);
    // Job 1 goes, and its names with it; table 3 has no job soon, but is the newest.
    ledger.put(jobs(vec![job(4, 2, "x")]), HOURS).await.unwrap();
    assert!(ledger.names(1).await.unwrap().is_empty());
    ledger
        .put(jobs((5..8).map(|jid| job(jid, 2, "x")).collect()), HOURS)
        .await
        .unwrap();
    assert_eq!(ledger.names(2).await.unwrap(), ["a", "b"]);
    assert_eq!(ledger.names(3).await.unwrap(), ["a", "b"]);
    assert_eq!(ledger.newest_table().await.unwrap(), Some(3));
    // Followed a moment ago: jobs of the table before may be on their way.
    ledger
        .put(
            LedgerBatch {
                names: vec![names(4, 0, "a")],
                ..LedgerBatch::default()
            },
            HOURS,
        )
        .await
        .unwrap();
    ledger.put(LedgerBatch::default(), HOURS + 1).await.unwrap();
    assert_eq!(ledger.names(3).await.unwrap(), ["a", "b"]);
    ledger.put(LedgerBatch::default(), 2 * HOURS).await.unwrap();
    assert!(ledger.names(3).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_damaged_record_is_left_out_and_the_rest_stays() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("ledger.db");
    let (ledger, _) = Ledger::open(&path, LedgerConfig::default()).unwrap();
    let marked = "damage here ".repeat(50);
    ledger
        .put(
            jobs(vec![
                job(1, 1, "one"),
                job(2, 1, &marked),
                job(3, 1, "three"),
            ]),
            1,
        )
        .await
        .unwrap();
    drop(ledger);
    let mut file = std::fs::read(&path).unwrap();
    let at = file
        .windows(11)
        .position(|window| window == b"damage here")
        .unwrap();
    file[at] = b'D';
    std::fs::write(&path, file).unwrap();
    let (ledger, opened) = Ledger::open(&path, LedgerConfig::default()).unwrap();
    let aside = opened.set_aside.unwrap();
    assert_eq!((aside.salvaged, aside.lost), (2, Some(1)));
    assert_eq!(jids(&ledger.newest(9, 1_000, None).await.unwrap()), [3, 1]);
}

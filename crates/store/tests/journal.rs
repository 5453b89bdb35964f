//! The journal: what it keeps, forgets and remembers over a restart.

use bytes::Bytes;
use store::{FrameIndex, Journal, JournalFrame};

fn frame(seq: u64) -> JournalFrame {
    JournalFrame {
        seq,
        received_at_ms: 1_000 + seq,
        clock: "one/1".into(),
        frame: Bytes::from(format!("frame {seq}")),
    }
}

fn given(seqs: std::ops::RangeInclusive<u64>) -> Vec<(u64, Bytes)> {
    seqs.map(|seq| (frame(seq).received_at_ms, frame(seq).frame))
        .collect()
}

#[tokio::test]
async fn frames_and_how_far_they_went_survive_a_restart() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal");
    let (journal, opened) = Journal::open(&path, "one/1").unwrap();
    assert_eq!((opened.frames.len(), opened.next_seq), (0, 1));
    journal.append(1, given(1..=3)).await.unwrap();
    journal.append(4, given(4..=6)).await.unwrap();
    journal.append(7, vec![]).await.unwrap();
    journal.appended(4, (1_700, 99)).await.unwrap();
    journal.forget(2).await.unwrap();
    drop(journal);

    let (journal, opened) = Journal::open(&path, "one/1").unwrap();
    let index = |seq| FrameIndex {
        seq,
        bytes: 7,
        received_at_ms: 1_000 + seq,
    };
    assert_eq!(opened.frames, (3..=6).map(index).collect::<Vec<_>>());
    assert_eq!((opened.appended_through, opened.next_seq), (4, 7));
    assert_eq!(opened.newest_entry, (1_700, 99));
    let state = journal.state();
    assert_eq!((state.entries, state.bytes), (4, 28));
    let all: Vec<JournalFrame> = (3..=6).map(frame).collect();
    assert_eq!(journal.read(0, 99, 999).await.unwrap(), all);
    assert_eq!(journal.read(4, 2, 999).await.unwrap(), all[1..3]);
    assert_eq!(journal.read(4, 9, 15).await.unwrap(), all[1..3]);
    assert_eq!(
        journal.read(4, 9, 1).await.unwrap(),
        all[1..2],
        "at least one"
    );
    assert_eq!(journal.read(7, 9, 99).await.unwrap(), []);
}

#[tokio::test]
async fn numbers_go_on_when_everything_is_forgotten() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal");
    let (journal, _) = Journal::open(&path, "one/1").unwrap();
    journal.append(1, given(1..=5_000)).await.unwrap();
    journal.appended(5_000, (1, 1)).await.unwrap();
    journal.forget(u64::MAX).await.unwrap();
    assert_eq!(journal.state(), Default::default());
    drop(journal);
    let (_, opened) = Journal::open(&path, "one/1").unwrap();
    assert_eq!((opened.frames.len(), opened.next_seq), (0, 5_001));
}

#[tokio::test]
async fn a_burst_leaves_no_growing_file() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal");
    let (journal, _) = Journal::open(&path, "one/1").unwrap();
    let burst: Vec<(u64, Bytes)> = (0..5_000)
        .map(|at| (at, Bytes::from(vec![7; 1_000])))
        .collect();
    for round in 0..10 {
        let first = round * 5_000 + 1;
        journal.append(first, burst.clone()).await.unwrap();
        journal.forget(u64::MAX).await.unwrap();
        let size = |name| std::fs::metadata(tmp.path().join(name)).unwrap().len();
        let sizes = (size("journal"), size("journal-wal"));
        assert!(
            sizes.0 < 8 << 20 && sizes.1 < 24 << 20,
            "round {round}: {sizes:?}"
        );
    }
}

#[tokio::test]
async fn only_one_process_has_it_open() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal");
    let (_held, _) = Journal::open(&path, "one/1").unwrap();
    let err = Journal::open(&path, "one/1").unwrap_err();
    assert!(err.to_string().contains("no other process"), "{err}");
}

#[tokio::test]
async fn frames_keep_the_clock_that_stamped_them() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal");
    for (at, clock) in ["a/1", "a/2", "a/3", "a/4"].into_iter().enumerate() {
        let (journal, opened) = Journal::open(&path, clock).unwrap();
        // The third life writes nothing.
        let frames = if at == 2 { 0 } else { 2 };
        journal
            .append(opened.next_seq, given(1..=frames))
            .await
            .unwrap();
    }
    let (journal, _) = Journal::open(&path, "a/5").unwrap();
    let clocks = async || {
        let frames = journal.read(0, 99, 9_999).await.unwrap();
        let clocks: Vec<String> = frames.iter().map(|frame| frame.clock.to_string()).collect();
        clocks.join(" ")
    };
    assert_eq!(clocks().await, "a/1 a/1 a/2 a/2 a/4 a/4");
    journal.forget(3).await.unwrap();
    journal.append(7, given(1..=1)).await.unwrap();
    assert_eq!(clocks().await, "a/2 a/4 a/4 a/5");
}

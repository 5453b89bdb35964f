//! The disk is full: the write fails and says why, nothing else; once there is room it goes on.

#![expect(clippy::unwrap_used, reason = "a failure in a test ends the test")]

use std::{fs, io::Write, path::Path, process::Command};

use bytes::Bytes;
use store::{Class, Journal, NewRecord, Spool, SpoolConfig, StoreError};

/// Set for the process that has a small disk of its own: where it is.
const CHILD: &str = "STORE_TEST_DISK";

/// Runs the test `name` of this file again, in a mount namespace of its own with a disk of 8 MiB.
fn with_small_disk(name: &str) {
    let tmp = tempfile::tempdir().unwrap();
    let disk = tmp.path().to_str().unwrap();
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg(r#"mount -t tmpfs -o size=8m none "$1" && exec "$2" --exact "$3" --nocapture"#)
        .args(["sh", disk])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(CHILD, disk)
        .status()
        .expect("unshare (util-linux) runs");
    assert!(status.success(), "unshare: {status}");
}

fn disk() -> Option<String> {
    std::env::var(CHILD).ok()
}

/// Fills the disk but for `left` bytes.
fn fill(disk: &Path, left: u64) {
    let mut file = fs::File::create(disk.join("filler")).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length - left).unwrap();
}

fn returns(from: usize, count: usize) -> Vec<NewRecord> {
    (from..from + count)
        .map(|at| NewRecord {
            class: Class::Return,
            body: Bytes::from(format!("{at:08}").repeat(200)),
        })
        .collect()
}

#[tokio::test]
async fn a_spool_on_a_full_disk_refuses_removes_and_goes_on() {
    let Some(disk) = disk() else {
        return with_small_disk("a_spool_on_a_full_disk_refuses_removes_and_goes_on");
    };
    let disk = Path::new(&disk);
    let path = disk.join("spool");
    let (spool, _) = Spool::open(&path, SpoolConfig::default()).unwrap();
    let mut ids = spool.append(0, returns(0, 500), 1).await.unwrap().ids;
    fill(disk, 0);
    let refused = loop {
        match spool.append(0, returns(ids.len(), 50), 1).await {
            Ok(appended) => ids.extend(appended.ids),
            Err(err) => break err,
        }
    };
    assert!(matches!(refused, StoreError::Full { .. }), "{refused:?}");
    assert!(refused.is_transient());
    assert_eq!(spool.state().entries, ids.len() as u64);
    // What is there can be read; to remove it may need room, too.
    let read = spool.read(0, 0, 400, usize::MAX).await.unwrap();
    assert_eq!(read.len(), 400);
    match spool.remove(ids[..400].to_vec()).await {
        Ok(()) => drop(ids.drain(..400)),
        Err(err) => assert!(matches!(err, StoreError::Full { .. }), "{err:?}"),
    }
    assert_eq!(spool.state().entries, ids.len() as u64);
    fs::remove_file(disk.join("filler")).unwrap();
    ids.extend(spool.append(0, returns(950, 400), 1).await.unwrap().ids);
    drop(spool);
    let (spool, opened) = Spool::open(&path, SpoolConfig::default()).unwrap();
    assert_eq!(opened.set_aside, None);
    let read = spool.read(0, 0, usize::MAX, usize::MAX).await.unwrap();
    assert!(read.iter().map(|record| record.id).eq(ids));
}

#[tokio::test]
async fn a_full_disk_fails_only_the_command_that_needs_room() {
    let Some(disk) = disk() else {
        return with_small_disk("a_full_disk_fails_only_the_command_that_needs_room");
    };
    let disk = Path::new(&disk);
    let (spool, _) = Spool::open(&disk.join("spool"), SpoolConfig::default()).unwrap();
    spool.append(0, returns(0, 100), 1).await.unwrap();
    fill(disk, 256 << 10);
    // In one group, most likely: a small one before, a large one, a small one behind.
    let (before, large, behind) = tokio::join!(
        spool.append(0, returns(100, 1), 1),
        spool.append(0, returns(101, 6_000), 1),
        spool.append(0, returns(7_000, 1), 1),
    );
    assert!(matches!(large, Err(StoreError::Full { .. })), "{large:?}");
    let small = [before, behind].into_iter().filter(Result::is_ok).count();
    assert_eq!(spool.state().entries, 100 + small as u64);
    assert_eq!(small, 2);
}

#[tokio::test]
async fn a_journal_that_cannot_be_made_says_that_the_disk_is_full() {
    let Some(disk) = disk() else {
        return with_small_disk("a_journal_that_cannot_be_made_says_that_the_disk_is_full");
    };
    let disk = Path::new(&disk);
    fill(disk, 0);
    let err = Journal::open(&disk.join("journal"), "one/1").unwrap_err();
    assert!(matches!(err, StoreError::Full { .. }), "{err:?}");
    fs::remove_file(disk.join("filler")).unwrap();
    Journal::open(&disk.join("journal"), "one/1").unwrap();
}

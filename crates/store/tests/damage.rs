//! Bytes of the file or of its log are damaged: the store opens, loses no more than what stood there, and says so.

#![expect(clippy::unwrap_used, reason = "a failure in a test ends the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use store::{Class, Journal, NewRecord, Opened, Spool, SpoolConfig};
use tokio::time::Instant;

/// More records than this are never on one page: each has a row of at least 100 bytes.
const PAGE_RECORDS_MAX: usize = 40;

/// A spool as it was, file and log, and what it held.
struct Image {
    file: Vec<u8>,
    log: Vec<u8>,
    held: BTreeMap<i64, Bytes>,
    removed: BTreeSet<i64>,
}

fn log_of(path: &Path) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push("-wal");
    path.into()
}

/// Fills a spool and takes its image; `is_closed`: after it was closed, else as a kill would leave it.
async fn image(random: &mut fastrand::Rng, is_closed: bool) -> Image {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("spool");
    let (spool, _) = Spool::open(&path, SpoolConfig::default()).unwrap();
    let (mut held, mut removed) = (BTreeMap::new(), BTreeSet::new());
    for _ in 0..random.usize(30..80) {
        let lane = random.u32(0..3);
        let records: Vec<NewRecord> = (0..random.usize(1..40))
            .map(|_| {
                let length = if random.u8(..) < 4 { 9_000 } else { 400 };
                let body: Vec<u8> = (0..random.usize(100..length))
                    .map(|_| random.u8(..))
                    .collect();
                NewRecord {
                    class: *random.choice(Class::ALL.iter()).unwrap(),
                    body: body.into(),
                }
            })
            .collect();
        let appended = spool.append(lane, records.clone(), 1).await.unwrap();
        held.extend(
            appended
                .ids
                .into_iter()
                .zip(records.into_iter().map(|record| record.body)),
        );
        if random.bool() {
            let gone: Vec<i64> = held.keys().copied().take(random.usize(0..30)).collect();
            spool.remove(gone.clone()).await.unwrap();
            held.retain(|id, _| !gone.contains(id));
            removed.extend(gone);
        }
    }
    if is_closed {
        drop(spool);
    }
    Image {
        file: fs::read(&path).unwrap(),
        log: fs::read(log_of(&path)).unwrap_or_default(),
        held,
        removed,
    }
}

/// Opens what is left of an image: what was found, and what there is.
async fn open(file: &[u8], log: &[u8]) -> (Opened, BTreeMap<i64, Bytes>) {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("spool");
    fs::write(&path, file).unwrap();
    if !log.is_empty() {
        fs::write(log_of(&path), log).unwrap();
    }
    let (spool, opened) = Spool::open(&path, SpoolConfig::default()).unwrap();
    if let Some(aside) = &opened.set_aside {
        assert_eq!(fs::read(&aside.path).unwrap(), file, "kept as it was");
        assert_eq!(fs::read(log_of(&aside.path)).unwrap_or_default(), log);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let mut records = BTreeMap::new();
    for lane in 0..3 {
        let read = spool.read(lane, 0, usize::MAX, usize::MAX).await.unwrap();
        records.extend(read.into_iter().map(|record| (record.id, record.body)));
    }
    assert_eq!(records.len() as u64, opened.records);
    // It goes on.
    let more = vec![NewRecord {
        class: Class::Return,
        body: Bytes::from_static(b"more"),
    }];
    let appended = spool.append(0, more, 2).await.unwrap();
    assert!(records.keys().all(|id| *id < appended.ids[0]));
    assert_eq!(spool.state().damaged, 0);
    (opened, records)
}

fn assert_costs_little(
    image: &Image,
    (opened, records): &(Opened, BTreeMap<i64, Bytes>),
    pages: usize,
    what: &str,
) {
    for (id, body) in records {
        match image.held.get(id) {
            Some(held) => assert_eq!(held, body, "{what}"),
            None => assert!(image.removed.contains(id), "{what}"),
        }
    }
    let lost = image
        .held
        .keys()
        .filter(|id| !records.contains_key(id))
        .count();
    assert!(
        lost <= pages * PAGE_RECORDS_MAX,
        "{what}: {lost} lost, {opened:?}"
    );
    let says_so = opened.set_aside.is_some() || opened.torn_end;
    assert!(lost == 0 || says_so, "{what}: {lost} lost in silence");
    if let Some(told) = opened.set_aside.as_ref().and_then(|aside| aside.lost) {
        assert_eq!(told, lost as u64, "{what}");
    }
}

fn flip(bytes: &mut [u8], random: &mut fastrand::Rng) -> usize {
    let at = random.usize(0..bytes.len());
    bytes[at] ^= 1 << random.u8(0..8);
    at
}

#[tokio::test]
async fn a_flipped_bit_costs_at_most_the_records_of_its_page() {
    let mut random = fastrand::Rng::with_seed(1);
    for round in 0..12 {
        let image = image(&mut random, round % 2 == 0).await;
        for _ in 0..25 {
            let mut file = image.file.clone();
            let at = flip(&mut file, &mut random);
            let found = open(&file, &image.log).await;
            assert_costs_little(&image, &found, 1, &format!("round {round}, byte {at}"));
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_of_the_log_costs_at_most_the_records_of_its_page() {
    let mut random = fastrand::Rng::with_seed(2);
    for round in 0..12 {
        let image = image(&mut random, false).await;
        for _ in 0..25 {
            let mut log = image.log.clone();
            let at = flip(&mut log, &mut random);
            let found = open(&image.file, &log).await;
            assert_costs_little(&image, &found, 1, &format!("round {round}, byte {at}"));
        }
    }
}

#[tokio::test]
async fn the_first_pages_and_the_log_s_head_are_no_exception() {
    let mut random = fastrand::Rng::with_seed(4);
    let closed = image(&mut random, true).await;
    for at in (0..200).chain(4096..4200) {
        let mut file = closed.file.clone();
        file[at] ^= 0x10;
        let found = open(&file, &closed.log).await;
        assert_costs_little(&closed, &found, 1, &format!("byte {at}"));
    }
    let killed = image(&mut random, false).await;
    for at in 0..80 {
        let mut log = killed.log.clone();
        log[at] ^= 0x10;
        let found = open(&killed.file, &log).await;
        assert_costs_little(&killed, &found, 1, &format!("byte {at} of the log"));
    }
}

#[tokio::test]
async fn a_torn_sector_costs_at_most_the_records_of_its_page() {
    let mut random = fastrand::Rng::with_seed(5);
    for round in 0..8 {
        let image = image(&mut random, round % 2 == 0).await;
        for of_log in [false, true] {
            for _ in 0..12 {
                let (mut file, mut log) = (image.file.clone(), image.log.clone());
                let torn = if of_log { &mut log } else { &mut file };
                if torn.is_empty() {
                    continue;
                }
                let sector = random.usize(0..torn.len() / 512) * 512;
                let fill = if random.bool() { 0 } else { random.u8(..) };
                torn[sector..sector + 512].fill(fill);
                let found = open(&file, &log).await;
                // A sector of the log may hold the end of one frame and the head of the next, without which the frame
                // behind it cannot be told from a bad one.
                let what = format!("round {round}, of the log: {of_log}, sector at {sector}");
                assert_costs_little(&image, &found, 3, &what);
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_ends_early_or_is_something_else_is_no_crash() {
    let mut random = fastrand::Rng::with_seed(6);
    for round in 0..8 {
        let image = image(&mut random, round % 2 == 0).await;
        for _ in 0..10 {
            let cut = random.usize(1..image.file.len());
            let (opened, records) = open(&image.file[..cut], &image.log).await;
            let is_whole = records == image.held;
            assert!(
                is_whole || opened.set_aside.is_some(),
                "round {round}: cut at {cut}"
            );
        }
        // Without a word where the log ends early: a power cut leaves it so.
        for _ in 0..10 {
            let cut = random.usize(0..=image.log.len());
            let (_, records) = open(&image.file, &image.log[..cut]).await;
            let known = |id| image.held.contains_key(id) || image.removed.contains(id);
            assert!(records.keys().all(known));
        }
    }
    for junk in [&b"not a database"[..], &[0; 4096], &[0xff; 10_000]] {
        let (opened, records) = open(junk, &[]).await;
        assert!(opened.set_aside.is_some() && records.is_empty());
    }
}

#[tokio::test]
async fn a_log_whose_file_is_gone_gives_its_records() {
    let mut random = fastrand::Rng::with_seed(7);
    let image = image(&mut random, false).await;
    let (opened, records) = open(&[], &image.log).await;
    assert!(opened.set_aside.is_some());
    assert_eq!(records, image.held);
}

#[tokio::test]
async fn a_salvage_that_was_killed_between_its_renames_is_completed() {
    let tmp = tempfile::tempdir().unwrap();
    let (path, new) = (tmp.path().join("spool"), tmp.path().join("spool.salvaged"));
    let record = |body: &'static [u8]| {
        let body = Bytes::from_static(body);
        vec![NewRecord {
            class: Class::Return,
            body,
        }]
    };
    let (spool, _) = Spool::open(&path, SpoolConfig::default()).unwrap();
    spool.append(0, record(b"r"), 1).await.unwrap();
    drop(spool);
    // The damaged file has been moved, its log has not.
    fs::rename(&path, &new).unwrap();
    fs::write(log_of(&path), "of the damaged file").unwrap();
    let (spool, opened) = Spool::open(&path, SpoolConfig::default()).unwrap();
    assert_eq!(
        opened,
        Opened {
            records: 1,
            ..Opened::default()
        }
    );
    drop(spool);
    // Killed before anything was moved: the half-written new file is of no use.
    fs::write(&new, "half").unwrap();
    let (_, opened) = Spool::open(&path, SpoolConfig::default()).unwrap();
    assert_eq!(opened.records, 1);
    assert!(!new.exists());
}

#[tokio::test]
async fn damage_that_shows_while_running_costs_its_record_only() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal");
    let (journal, _) = Journal::open(&path, "one/1").unwrap();
    let frames = |range: std::ops::Range<u64>| {
        let frame = |at: u64| (at, Bytes::from(format!("frame {at:04}").repeat(300)));
        range.map(frame).collect::<Vec<_>>()
    };
    // Enough to push the first ones out of the cache, and the log into the file.
    for at in 0..60 {
        journal
            .append(at * 50 + 1, frames(at * 50..at * 50 + 50))
            .await
            .unwrap();
    }
    // The log is written into the file behind the answers, when the thread has nothing else to do.
    let deadline = Instant::now() + Duration::from_secs(10);
    let at = loop {
        let bytes = fs::read(&path).unwrap();
        let mut windows = bytes.windows(10);
        if let Some(at) = windows.position(|bytes| bytes == b"frame 0007") {
            break at as u64;
        }
        let in_time = Instant::now() < deadline;
        assert!(in_time, "the log is not written into the file");
        journal.read(1, 1, 1).await.unwrap();
    };
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"X", at).unwrap();
    let read = journal.read(1, 20, usize::MAX).await.unwrap();
    let seqs: Vec<u64> = read.iter().map(|frame| frame.seq).collect();
    let expected: Vec<u64> = (1..=20).filter(|seq| *seq != 8).collect();
    assert_eq!(seqs, expected);
    assert_eq!(journal.state().damaged, 1);
    assert_eq!(journal.state().entries, 2_999);
}

//! A process is killed in the middle of writing: the spool opens, and has everything that it had answered for.

#![expect(clippy::unwrap_used, reason = "a failure in a test ends the test")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use bytes::Bytes;
use store::{Class, NewRecord, Spool, SpoolConfig};

/// Set for the process that writes: the spool's path.
const CHILD: &str = "STORE_TEST_SPOOL";

/// The body of the record with this serial: its length and its bytes follow from it.
fn body(serial: u64) -> Bytes {
    let length = usize::try_from(serial * 7919 % 6_000).unwrap();
    let mut body = serial.to_le_bytes().to_vec();
    body.resize(8 + length, serial.to_le_bytes()[0]);
    body.into()
}

/// Not a test of its own: what the other one starts and kills.
#[tokio::test]
async fn writer() {
    let Ok(path) = std::env::var(CHILD) else {
        return;
    };
    let (spool, _) = Spool::open(Path::new(&path), SpoolConfig::default()).unwrap();
    let mut serial = match spool
        .read(0, 0, usize::MAX, usize::MAX)
        .await
        .unwrap()
        .last()
    {
        Some(record) => u64::from_le_bytes(*record.body.first_chunk().unwrap()),
        None => 0,
    };
    let mut told = std::io::stdout();
    loop {
        let records: Vec<NewRecord> = (1..=serial % 30 + 1)
            .map(|ahead| NewRecord {
                class: Class::Return,
                body: body(serial + ahead),
            })
            .collect();
        serial += records.len() as u64;
        let appended = spool.append(0, records, 1).await.unwrap();
        writeln!(told, "appended {serial} {}", appended.ids.last().unwrap()).unwrap();
        if serial % 3 == 0 {
            let oldest = spool.read(0, 0, 40, usize::MAX).await.unwrap();
            let (gone, _) = oldest.split_at(oldest.len() / 2);
            if let Some(last) = gone.last() {
                writeln!(told, "removing {}", last.id).unwrap();
                spool
                    .remove(gone.iter().map(|record| record.id).collect())
                    .await
                    .unwrap();
                writeln!(told, "removed {}", last.id).unwrap();
            }
        }
    }
}

/// What the writer has told.
#[derive(Default)]
struct Told {
    serial: u64,
    removing: i64,
    removed: i64,
}

fn write_and_kill(path: &Path, lines: usize, told: &mut Told) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut left = lines;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["appended", serial, _] => told.serial = serial.parse().unwrap(),
            ["removing", id] => told.removing = id.parse().unwrap(),
            ["removed", id] => told.removed = id.parse().unwrap(),
            _ => continue,
        }
        left = left.saturating_sub(1);
        if left == 0 {
            // What it wrote before it died is read to the end.
            drop(child.kill());
        }
    }
    child.wait().unwrap();
}

#[tokio::test]
async fn whatever_was_answered_is_there_after_kill_9() {
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..4 {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("spool");
        let mut told = Told::default();
        for _ in 0..12 {
            write_and_kill(&path, random.usize(1..120), &mut told);
            let (spool, opened) = Spool::open(&path, SpoolConfig::default()).unwrap();
            assert_eq!(opened.set_aside, None);
            let records = spool.read(0, 0, usize::MAX, usize::MAX).await.unwrap();
            assert!(
                records.iter().all(|record| record.id > told.removed),
                "removed ones are gone"
            );
            let serials: BTreeMap<u64, &Bytes> = records
                .iter()
                .map(|record| {
                    let serial = u64::from_le_bytes(*record.body.first_chunk().unwrap());
                    (serial, &record.body)
                })
                .collect();
            assert_eq!(serials.len(), records.len(), "nothing is there twice");
            assert!(serials.iter().all(|(serial, held)| **held == body(*serial)));
            let (first, last) = (serials.first_key_value(), serials.last_key_value());
            let (first, last) = (*first.unwrap().0, *last.unwrap().0);
            assert_eq!(last - first + 1, serials.len() as u64, "no gap");
            assert!(last >= told.serial, "{last} of {} are there", told.serial);
            let may_be_gone = records.iter().all(|record| record.id > told.removing);
            assert!(may_be_gone || told.removing > told.removed);
        }
    }
}

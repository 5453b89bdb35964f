//! The spool against a model of it in memory; its bounds.

#![expect(clippy::unwrap_used, reason = "a failure in a test ends the test")]

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use store::{Class, NewRecord, Record, Shed, ShedReason, Spool, SpoolConfig};

const HOUR_MS: u64 = 3_600_000;

fn record(class: Class, body: &[u8]) -> NewRecord {
    NewRecord {
        class,
        body: Bytes::copy_from_slice(body),
    }
}

fn bodies(records: &[Record]) -> Vec<&[u8]> {
    records.iter().map(|record| record.body.as_ref()).collect()
}

fn shed(lane: u32, class: Class, reason: ShedReason, entries: u64) -> Shed {
    Shed {
        lane,
        class,
        reason,
        entries,
    }
}

/// The spool, held in memory.
#[derive(Default)]
struct Model {
    records: BTreeMap<i64, (u32, Class, u64, Bytes)>,
}

impl Model {
    fn read(&self, lane: u32, after: i64, entries: usize, bytes: usize) -> Vec<Record> {
        let mut left = bytes;
        let mut read = Vec::new();
        for (id, (of, class, at_ms, body)) in self.records.range(after + 1..) {
            if *of != lane {
                continue;
            }
            if read.len() == entries || (body.len() > left && !read.is_empty()) {
                break;
            }
            left = left.saturating_sub(body.len());
            read.push(Record {
                id: *id,
                class: *class,
                at_ms: *at_ms,
                body: body.clone(),
            });
        }
        read
    }

    /// Sheds down to the bounds, given one record at a time.
    fn shed(&mut self, config: &SpoolConfig) -> Vec<(i64, u32, Class, ShedReason)> {
        let mut shed = Vec::new();
        loop {
            let bytes: u64 = self
                .records
                .values()
                .map(|held| held.3.len() as u64 + 32)
                .sum();
            let reason = if bytes > config.bytes_max {
                ShedReason::Bytes
            } else if self.records.len() as u64 > config.entries_max {
                ShedReason::Entries
            } else {
                return shed;
            };
            let (id, held) = self
                .records
                .iter()
                .min_by_key(|(id, held)| (held.1, **id))
                .unwrap();
            let (id, lane, class) = (*id, held.0, held.1);
            self.records.remove(&id);
            shed.push((id, lane, class, reason));
        }
    }
}

#[tokio::test]
async fn it_behaves_as_its_model_whatever_is_done_to_it() {
    for seed in 0..12 {
        behaves_as_its_model(seed).await;
    }
}

async fn behaves_as_its_model(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("spool");
    let config = SpoolConfig {
        bytes_max: 200_000,
        entries_max: 300,
        age_max: Duration::from_secs(3600),
    };
    let mut spool = Some(Spool::open(&path, config).unwrap().0);
    let mut model = Model::default();
    for now_ms in 1..400 {
        let held = spool.as_ref().unwrap();
        let lane = random.u32(0..3);
        match random.u32(0..10) {
            0..=3 => {
                let records: Vec<NewRecord> = (0..random.usize(1..20))
                    .map(|_| {
                        let class = *random.choice(Class::ALL.iter()).unwrap();
                        let length = if random.u8(..) < 8 { 20_000 } else { 300 };
                        let body: Vec<u8> = (0..random.usize(0..length))
                            .map(|_| random.u8(..))
                            .collect();
                        record(class, &body)
                    })
                    .collect();
                let appended = held.append(lane, records.clone(), now_ms).await.unwrap();
                let mut told: BTreeMap<(u32, Class, ShedReason), u64> = BTreeMap::new();
                // A shed record has no id of its own any more: give it one between its neighbours'.
                let newest = model.records.keys().next_back().copied().unwrap_or(0);
                let first = appended.ids.iter().position(|id| *id > 0);
                assert!(
                    first.is_none_or(|first| appended.ids[first] > newest),
                    "seed {seed}"
                );
                let mut last = newest;
                let mut stand_ins = Vec::new();
                for (record, id) in records.iter().zip(&appended.ids) {
                    let id = if *id > 0 { *id } else { last + 1 };
                    last = id;
                    stand_ins.push(id);
                    model
                        .records
                        .insert(id, (lane, record.class, now_ms, record.body.clone()));
                    for (_, lane, class, reason) in model.shed(&config) {
                        *told.entry((lane, class, reason)).or_default() += 1;
                    }
                }
                for (id, stand_in) in appended.ids.iter().zip(&stand_ins) {
                    assert_eq!(*id > 0, model.records.contains_key(stand_in), "seed {seed}");
                }
                let counted = appended
                    .shed
                    .iter()
                    .map(|shed| ((shed.lane, shed.class, shed.reason), shed.entries));
                assert_eq!(counted.collect::<BTreeMap<_, _>>(), told, "seed {seed}");
            }
            4..=6 => {
                let after = *random.choice(model.records.keys()).unwrap_or(&0);
                let after = if random.bool() { 0 } else { after };
                let (entries, bytes) = (random.usize(1..50), random.usize(1..20_000));
                let read = held.read(lane, after, entries, bytes).await.unwrap();
                assert_eq!(read, model.read(lane, after, entries, bytes), "seed {seed}");
            }
            7..=8 => {
                let ids: Vec<i64> = model
                    .read(lane, 0, random.usize(1..60), usize::MAX)
                    .iter()
                    .map(|record| record.id)
                    .collect();
                held.remove(ids.clone()).await.unwrap();
                for id in ids {
                    model.records.remove(&id);
                }
            }
            _ => {
                drop(spool.take());
                let (again, opened) = Spool::open(&path, config).unwrap();
                assert_eq!(opened.records, model.records.len() as u64, "seed {seed}");
                assert_eq!(opened.set_aside, None);
                spool = Some(again);
            }
        }
        let state = spool.as_ref().unwrap().state();
        assert_eq!(state.entries, model.records.len() as u64, "seed {seed}");
        for (class, held) in Class::ALL.iter().zip(state.by_class) {
            let entries = model.records.values().filter(|record| record.1 == *class);
            assert_eq!(held.entries, entries.count() as u64, "seed {seed}");
        }
    }
}

#[tokio::test]
async fn a_full_spool_sheds_the_least_valuable_and_of_it_the_oldest() {
    let tmp = tempfile::tempdir().unwrap();
    let config = SpoolConfig {
        entries_max: 4,
        ..SpoolConfig::default()
    };
    let (spool, _) = Spool::open(&tmp.path().join("spool"), config).unwrap();
    let append =
        |lane, class, body: &'static [u8]| spool.append(lane, vec![record(class, body)], 1);
    append(0, Class::Return, b"r1").await.unwrap();
    append(1, Class::Event, b"e1").await.unwrap();
    append(1, Class::Ack, b"a1").await.unwrap();
    append(1, Class::Event, b"e2").await.unwrap();
    // Full from here on. The events go first, the oldest before the other.
    let event = shed(1, Class::Event, ShedReason::Entries, 1);
    assert_eq!(append(0, Class::Return, b"r2").await.unwrap().shed, [event]);
    assert_eq!(
        bodies(&spool.read(1, 0, 9, 99).await.unwrap()),
        [b"a1", b"e2"]
    );
    assert_eq!(append(2, Class::Return, b"r3").await.unwrap().shed, [event]);
    // A new event is worth less than everything that is there.
    let refused = append(1, Class::Event, b"e3").await.unwrap();
    assert_eq!((refused.ids, refused.shed), (vec![0], vec![event]));
    let ack = shed(1, Class::Ack, ShedReason::Entries, 1);
    assert_eq!(append(2, Class::Return, b"r4").await.unwrap().shed, [ack]);
    // The oldest return of all lanes.
    let ret = shed(0, Class::Return, ShedReason::Entries, 1);
    assert_eq!(append(2, Class::Return, b"r5").await.unwrap().shed, [ret]);
    assert_eq!(bodies(&spool.read(0, 0, 9, 99).await.unwrap()), [b"r2"]);
    assert_eq!(
        bodies(&spool.read(2, 0, 9, 99).await.unwrap()),
        [b"r3", b"r4", b"r5"]
    );
}

#[tokio::test]
async fn what_is_larger_than_the_spool_is_shed_alone() {
    let tmp = tempfile::tempdir().unwrap();
    let config = SpoolConfig {
        bytes_max: 1_000,
        ..SpoolConfig::default()
    };
    let (spool, _) = Spool::open(&tmp.path().join("spool"), config).unwrap();
    let records = vec![
        record(Class::Event, b"small"),
        record(Class::Return, &[0; 2_000]),
    ];
    let appended = spool.append(0, records, 1).await.unwrap();
    assert!(appended.ids[0] > 0 && appended.ids[1] == 0);
    assert_eq!(
        appended.shed,
        [shed(0, Class::Return, ShedReason::Bytes, 1)]
    );
    assert_eq!(spool.state().entries, 1);
}

#[tokio::test]
async fn what_is_too_old_goes_also_when_nothing_comes() {
    let tmp = tempfile::tempdir().unwrap();
    let config = SpoolConfig {
        age_max: Duration::from_secs(3600),
        ..SpoolConfig::default()
    };
    let (spool, _) = Spool::open(&tmp.path().join("spool"), config).unwrap();
    let old = vec![record(Class::Return, b"r"), record(Class::Event, b"e")];
    spool.append(0, old, 1_000).await.unwrap();
    spool
        .append(0, vec![record(Class::Return, b"young")], HOUR_MS)
        .await
        .unwrap();
    assert_eq!(
        spool.append(0, vec![], HOUR_MS + 1_000).await.unwrap().shed,
        []
    );
    let appended = spool.append(0, vec![], HOUR_MS + 2_001).await.unwrap();
    let aged = |class| shed(0, class, ShedReason::Age, 1);
    assert_eq!(appended.shed, [aged(Class::Event), aged(Class::Return)]);
    assert_eq!(bodies(&spool.read(0, 0, 9, 99).await.unwrap()), [b"young"]);
}

#[tokio::test]
async fn a_lane_that_has_no_room_in_an_id_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(&tmp.path().join("spool"), SpoolConfig::default()).unwrap();
    let last = (1 << 15) / 3 - 1;
    spool
        .append(last, vec![record(Class::Return, b"r")], 1)
        .await
        .unwrap();
    assert_eq!(spool.read(last, 0, 9, 99).await.unwrap().len(), 1);
    assert!(spool.append(last + 1, vec![], 1).await.is_err());
}

//! What is kept on disk comes back.

use std::collections::BTreeMap;

use super::*;
use crate::names::MinionIndex;

/// What a store holds.
#[derive(Debug, Default)]
pub(super) struct Disk {
    names: BTreeMap<(u32, u32), Vec<u8>>,
    rosters: BTreeMap<String, Vec<u8>>,
    pub(super) jobs: BTreeMap<String, SavedJob>,
}

impl Disk {
    fn put(&mut self, unsaved: Unsaved) {
        for names in unsaved.names {
            self.names.insert((names.table, names.first), names.bytes);
        }
        self.rosters.extend(unsaved.rosters);
        for job in unsaved.jobs {
            self.jobs.insert(job.jid.clone(), job);
        }
    }

    /// Answers the question whether a job is known.
    fn load(&self, ledger: &mut Ledger, jid: &str) {
        let bytes = self.jobs.get(jid).map(|job| job.bytes.as_slice());
        match ledger.loaded(jid, bytes) {
            Err(SavedError::Table { table }) => {
                self.show(ledger, table);
                ledger.loaded(jid, bytes).unwrap();
            }
            other => other.unwrap(),
        }
    }

    fn show(&self, ledger: &mut Ledger, table: u32) {
        let parts = self.names.range((table, 0)..=(table, u32::MAX));
        let names = Names::from_parts(table, parts.map(|(_, bytes)| bytes.as_slice()));
        ledger.show_table(names.unwrap());
    }

    pub(super) fn save(&mut self, ledger: &mut Ledger) {
        while let Some(unsaved) = ledger.take_unsaved(1_000) {
            self.put(unsaved);
        }
    }

    fn saved(&self) -> Saved {
        let open = self.jobs.values().filter(|job| job.is_open);
        Saved {
            table: self.names.keys().last().map_or(0, |(table, _)| *table),
            names: self
                .names
                .iter()
                .map(|((table, _), bytes)| (*table, bytes.clone()))
                .collect(),
            rosters: self.rosters.values().cloned().collect(),
            jobs: open.map(|job| job.bytes.clone()).collect(),
        }
    }

    /// The ledger ends and begins again; `load`: what it waited for of the disk comes before.
    pub(super) fn restart(&mut self, mut ledger: Ledger, load: bool) -> Ledger {
        if load {
            let jids: Vec<String> = ledger.jobs.keys().map(ToString::to_string).collect();
            jids.iter().for_each(|jid| self.load(&mut ledger, jid));
        }
        self.save(&mut ledger);
        let (mut back, errors) = Ledger::restore(ledger.config, &self.saved());
        assert_eq!(errors, []);
        let _ = back.tick(ledger.now_ms);
        back
    }
}

#[test]
fn a_restart_forgets_nothing_and_says_what_it_cannot_know() {
    let mut disk = Disk::default();
    let mut ledger = ledger();
    let _ = publish(&mut ledger, "glob", "*");
    disk.load(&mut ledger, "j");
    ack(&mut ledger, "s1", "a1 a2 a3");
    returned(&mut ledger, "a1 stranger");
    let mut ledger = disk.restart(ledger, false);
    assert_eq!(ledger.rosters().sites().collect::<Vec<_>>(), ["s1", "s2"]);
    assert_eq!(ledger.rosters().count("s1"), 3);
    let _ = (ledger.site_up("s1", T), ledger.site_up("s2", T));
    returned(&mut ledger, "a2");
    ack(&mut ledger, "s2", "b1");
    let _ = ledger.tick(DEADLINE);
    check(
        &ledger,
        &[
            "/stranger returned returned",
            "s1/a1 returned returned",
            "s1/a2 returned returned",
            "s1/a3 accepted silent",
            "s2/b1 accepted silent",
            "s2/b2 expected unknown",
            "s2/b3 expected unknown",
        ],
    );
    let summary = ledger.job("j").unwrap().summary();
    assert_eq!(
        (summary.fun.as_str(), summary.tgt.as_str(), summary.at_ms),
        ("test.ping", "*", T)
    );
    // Over, it is not among the open ones; its end is not told again.
    let before = told(&ledger);
    let mut ledger = disk.restart(ledger, false);
    assert!(ledger.job("j").is_none());
    let stored = ledger.read(&disk.jobs["j"].bytes).unwrap();
    let view = ledger.view(&stored).unwrap();
    assert_eq!(view.minions().count(), before.len());
    assert_eq!(view.minion("a3").unwrap().verdict, Verdict::Silent);
}

#[test]
fn a_late_return_of_a_job_on_disk_is_added_to_it() {
    let mut disk = Disk::default();
    let mut ledger = ledger();
    let _ = publish(&mut ledger, "glob", "a*");
    disk.load(&mut ledger, "j");
    ack(&mut ledger, "s1", "a1 a2 a3");
    returned(&mut ledger, "a1 a2");
    assert_eq!(ledger.tick(DEADLINE).len(), 1);
    let mut ledger = disk.restart(ledger, false);
    assert_eq!(ledger.returned(&ret("a3")), [load()]);
    // Until the disk has answered, it is not written over.
    disk.save(&mut ledger);
    assert!(ledger.take_unsaved(usize::MAX).is_none());
    disk.load(&mut ledger, "j");
    check(
        &ledger,
        &[
            "s1/a1 returned returned",
            "s1/a2 returned returned",
            "s1/a3 returned returned",
        ],
    );
    let _ = ledger.tick(DEADLINE + 1);
    assert_eq!(
        ended(&ledger.tick(DEADLINE + 1_001)),
        ["complete 3 3 [] []"]
    );
    disk.save(&mut ledger);
    let mut ledger = disk.restart(ledger, false);
    // The end has been told.
    assert_eq!(ledger.returned(&ret("a3")), [load()]);
    disk.load(&mut ledger, "j");
    assert_eq!(ledger.tick(DEADLINE + 9_000), []);
    assert_eq!(state(&ledger), State::Complete);
}

#[test]
fn jobs_keep_their_names_when_a_new_table_is_begun() {
    let mut disk = Disk::default();
    let config = LedgerConfig {
        rosters: RostersConfig {
            former_max: 2,
            ..RostersConfig::default()
        },
        ..LedgerConfig::default()
    };
    let mut ledger = Ledger::new(config);
    announce(&mut ledger, "s1", 1, &["a1", "a2", "a3", "a4"]);
    let _ = ledger.site_up("s1", 1);
    let _ = publish(&mut ledger, "glob", "*");
    disk.load(&mut ledger, "j");
    let old = ledger.rosters().names().table();
    announce(&mut ledger, "s1", 2, &["x1", "x2", "x3", "a4"]);
    assert_eq!(ledger.rosters().names().table(), old + 1);
    ack(&mut ledger, "s1", "a1 a2 new");
    returned(&mut ledger, "a4");
    let all = [
        "s1/a1 accepted waiting",
        "s1/a2 accepted waiting",
        "s1/a3 expected waiting",
        "s1/a4 returned returned",
        "s1/new accepted waiting",
    ];
    check(&ledger, &all);
    // The next job is of the new table, also over a restart.
    let _ = ledger.published(&job("k", "glob", "x*"));
    disk.load(&mut ledger, "k");
    let mut ledger = disk.restart(ledger, false);
    assert_eq!((told(&ledger).len(), ledger.state().jobs), (5, 2));
    assert_eq!(ledger.job("k").unwrap().missing().count(), 3);
    let _ = ledger.tick(DEADLINE);
    disk.save(&mut ledger);
    // Both have left the memory; the old table has, too.
    let mut ledger = disk.restart(ledger, false);
    let _ = ledger.tick(DEADLINE + 1);
    assert!(ledger.names(old).is_none());
    let bytes = &disk.jobs["j"].bytes;
    assert_eq!(
        ledger.read(bytes).unwrap_err(),
        SavedError::Table { table: old }
    );
    disk.show(&mut ledger, old);
    let stored = ledger.read(bytes).unwrap();
    assert_eq!(ledger.view(&stored).unwrap().minions().count(), 5);
    // A late return of the old job.
    assert_eq!(ledger.returned(&ret("a3")), [load()]);
    disk.load(&mut ledger, "j");
    assert_eq!(
        ledger.job("j").unwrap().minion("a3").unwrap().verdict,
        Verdict::Returned
    );
}

#[test]
fn what_could_not_be_written_is_written_again() {
    let mut ledger = ledger();
    let _ = publish(&mut ledger, "glob", "*");
    ledger.loaded("j", None).unwrap();
    let first = ledger.take_unsaved(usize::MAX).unwrap();
    assert!(ledger.take_unsaved(usize::MAX).is_none() && !ledger.has_unsaved());
    ledger.not_saved(&first);
    assert!(ledger.has_unsaved());
    assert_eq!(ledger.take_unsaved(usize::MAX), Some(first));
}

#[test]
fn bytes_that_are_none_are_refused() {
    let mut disk = Disk::default();
    let mut ledger = ledger();
    let _ = publish(&mut ledger, "glob", "*");
    disk.load(&mut ledger, "j");
    ack(&mut ledger, "s1", "a1 a2 a3");
    disk.save(&mut ledger);
    let bytes = disk.jobs["j"].bytes.clone();
    assert!(ledger.read(&bytes).is_ok());
    for length in 0..bytes.len() {
        assert!(ledger.read(&bytes[..length]).is_err(), "cut at {length}");
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            // Another job, or none: but no panic, and no minion without a name.
            if let Ok(stored) = ledger.read(&changed)
                && let Some(view) = ledger.view(&stored)
            {
                assert!(view.minions().all(|minion| !minion.id.is_empty()));
            }
        }
    }
    let _ = ledger.published(&job("k", "glob", "*"));
    assert_eq!(
        ledger.loaded("k", Some(b"nonsense")),
        Err(SavedError::Format)
    );
    assert!(ledger.rosters().names().name(MinionIndex(0)).is_some());
    let saved = Saved {
        names: vec![(1, b"x".to_vec())],
        rosters: vec![b"y".to_vec()],
        jobs: vec![b"z".to_vec(), bytes],
        table: 1,
    };
    let (ledger, errors) = Ledger::restore(LedgerConfig::default(), &saved);
    assert_eq!(errors.len(), 4);
    assert_eq!(ledger.state().jobs, 0);
}

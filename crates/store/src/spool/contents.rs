//! What the thread of the spool does with it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::Connection;

use super::{
    Appended, Class, ClassState, NewRecord, Record, Shed, ShedReason, SpoolConfig, SpoolState,
};
use crate::{
    StoreError,
    db::State,
    key::{Key, TRACKS},
    table::{self, Listed},
};

/// What a record counts for beside its body: its row and its share of a page.
const OVERHEAD_BYTES: u64 = 32;

/// Tracks of one lane: one for each [`Class`].
const CLASSES: u16 = 3;

/// Ages are looked at so often, by the time that the callers give.
const AGE_INTERVAL_MS: u64 = 1_000;

/// Records shed for their age in one call: the rest goes with the next ones.
const AGE_STEP: usize = 1_000;

/// A lane that the key has room for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lane(u16);

impl Lane {
    const MAX: u16 = TRACKS / CLASSES - 1;

    pub(super) fn new(lane: u32) -> Result<Self, StoreError> {
        match u16::try_from(lane) {
            Ok(lane) if lane <= Self::MAX => Ok(Self(lane)),
            _ => Err(StoreError::Lane {
                lane,
                max: Self::MAX.into(),
            }),
        }
    }

    fn track(self, class: Class) -> u16 {
        self.0 * CLASSES + class.index()
    }
}

fn class_of(track: u16) -> Class {
    Class::ALL[usize::from(track % CLASSES)]
}

/// How much there is of each track.
#[derive(Debug, Clone, Default)]
struct Tallies {
    by_track: BTreeMap<u16, ClassState>,
    entries: u64,
    bytes: u64,
    newest: u64,
    damaged: u64,
}

impl Tallies {
    fn add(&mut self, key: Key, cost: u64) {
        let tally = self.by_track.entry(key.track).or_default();
        tally.entries += 1;
        tally.bytes += cost;
        self.entries += 1;
        self.bytes += cost;
        self.newest = self.newest.max(key.number);
    }

    fn subtract(&mut self, key: Key, cost: u64) {
        let tally = self.by_track.entry(key.track).or_default();
        tally.entries = tally.entries.saturating_sub(1);
        tally.bytes = tally.bytes.saturating_sub(cost);
        if tally.entries == 0 {
            self.by_track.remove(&key.track);
        }
        self.entries = self.entries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(cost);
    }

    fn state(&self) -> SpoolState {
        let mut by_class = [ClassState::default(); 3];
        for (track, tally) in &self.by_track {
            let class = &mut by_class[usize::from(track % CLASSES)];
            class.entries += tally.entries;
            class.bytes += tally.bytes;
        }
        SpoolState {
            entries: self.entries,
            bytes: self.bytes,
            by_class,
            damaged: self.damaged,
        }
    }
}

/// What the thread knows of the file.
pub(super) struct Contents {
    config: SpoolConfig,
    /// With what the transaction at hand does.
    draft: Tallies,
    /// What the file holds.
    held: Tallies,
    aged_at_ms: u64,
    state: Arc<Mutex<SpoolState>>,
}

impl State for Contents {
    fn clear(&mut self) {
        self.draft = Tallies {
            // Numbers go on, so that an id never names two records.
            newest: self.held.newest,
            damaged: self.held.damaged,
            ..Tallies::default()
        };
    }

    fn record(&mut self, key: Key, _at_ms: u64, body: &[u8]) {
        self.draft.add(key, cost(body.len()));
    }

    fn committed(&mut self) {
        self.held.clone_from(&self.draft);
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = self.held.state();
    }

    fn rolled_back(&mut self) {
        self.draft.clone_from(&self.held);
    }
}

impl Contents {
    pub(super) fn new(config: SpoolConfig, state: Arc<Mutex<SpoolState>>) -> Self {
        Self {
            config,
            draft: Tallies::default(),
            held: Tallies::default(),
            aged_at_ms: 0,
            state,
        }
    }

    pub(super) fn append(
        &mut self,
        db: &Connection,
        lane: Lane,
        records: &[NewRecord],
        now_ms: u64,
    ) -> rusqlite::Result<Appended> {
        let mut appended = Appended::default();
        self.shed_old(db, now_ms, &mut appended)?;
        for record in records {
            let key = Key::new(lane.track(record.class), self.draft.newest + 1);
            let cost = cost(record.body.len());
            if cost > self.config.bytes_max {
                note(&mut appended.shed, key.track, ShedReason::Bytes);
                appended.ids.push(0);
                continue;
            }
            table::put(db, key, now_ms, &record.body)?;
            self.draft.add(key, cost);
            appended.ids.push(key.id());
            self.shed_surplus(db, &mut appended)?;
        }
        Ok(appended)
    }

    fn shed_surplus(&mut self, db: &Connection, appended: &mut Appended) -> rusqlite::Result<()> {
        loop {
            let reason = if self.draft.bytes > self.config.bytes_max {
                ShedReason::Bytes
            } else if self.draft.entries > self.config.entries_max {
                ShedReason::Entries
            } else {
                return Ok(());
            };
            let Some(victim) = self.least_valuable(db)? else {
                return Ok(());
            };
            self.shed(db, victim, reason, appended)?;
        }
    }

    /// The oldest record of the lowest class that there is.
    fn least_valuable(&self, db: &Connection) -> rusqlite::Result<Option<Key>> {
        let tracks = || self.draft.by_track.keys().copied();
        let Some(class) = tracks().map(class_of).min() else {
            return Ok(None);
        };
        let mut oldest: Option<Key> = None;
        for track in tracks().filter(|track| class_of(*track) == class) {
            let first = table::keys(db, track, 0, 1)?
                .first()
                .map(|listed| listed.key);
            // Keys are ordered by number, over all tracks.
            oldest = oldest.into_iter().chain(first).min();
        }
        Ok(oldest)
    }

    fn shed_old(
        &mut self,
        db: &Connection,
        now_ms: u64,
        appended: &mut Appended,
    ) -> rusqlite::Result<()> {
        if now_ms.abs_diff(self.aged_at_ms) < AGE_INTERVAL_MS {
            return Ok(());
        }
        let age_max_ms = u64::try_from(self.config.age_max.as_millis()).unwrap_or(u64::MAX);
        let is_old = |listed: &Listed| now_ms.saturating_sub(listed.at_ms) > age_max_ms;
        let mut left = AGE_STEP;
        let tracks: Vec<u16> = self.draft.by_track.keys().copied().collect();
        for track in tracks {
            let listed = table::keys(db, track, 0, left)?;
            for old in listed.iter().take_while(|listed| is_old(listed)) {
                self.shed(db, old.key, ShedReason::Age, appended)?;
                left -= 1;
            }
        }
        if left > 0 {
            self.aged_at_ms = now_ms;
        }
        Ok(())
    }

    fn shed(
        &mut self,
        db: &Connection,
        key: Key,
        reason: ShedReason,
        appended: &mut Appended,
    ) -> rusqlite::Result<()> {
        self.remove(db, key)?;
        note(&mut appended.shed, key.track, reason);
        let mut newest = appended.ids.iter_mut().rev();
        if let Some(id) = newest.find(|id| **id == key.id()) {
            *id = 0;
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, db: &Connection, key: Key) -> rusqlite::Result<()> {
        if let Some(bytes) = table::remove(db, key)? {
            self.draft.subtract(key, bytes + OVERHEAD_BYTES);
        }
        Ok(())
    }

    pub(super) fn read(
        &mut self,
        db: &Connection,
        lane: Lane,
        after: i64,
        entries_max: usize,
        bytes_max: usize,
    ) -> rusqlite::Result<Vec<Record>> {
        let after = Key::from_id(after).number;
        let mut listed = Vec::new();
        for track in Class::ALL.map(|class| lane.track(class)) {
            if self.draft.by_track.contains_key(&track) {
                listed.extend(table::keys(db, track, after, entries_max)?);
            }
        }
        listed.sort_unstable_by_key(|listed| listed.key);
        let (mut records, mut bytes) = (Vec::new(), 0_usize);
        for listed in listed.into_iter().take(entries_max) {
            bytes = bytes.saturating_add(usize::try_from(listed.bytes).unwrap_or(usize::MAX));
            if bytes > bytes_max && !records.is_empty() {
                break;
            }
            let Some(found) = table::get(db, listed.key)? else {
                continue;
            };
            if !found.holds {
                tracing::error!(
                    id = listed.key.id(),
                    "record of the spool lost: its checksum does not hold"
                );
                self.draft.damaged += 1;
                self.remove(db, listed.key)?;
                continue;
            }
            records.push(Record {
                id: listed.key.id(),
                class: class_of(listed.key.track),
                at_ms: found.at_ms,
                body: found.body.into(),
            });
        }
        Ok(records)
    }
}

fn cost(body_bytes: usize) -> u64 {
    body_bytes as u64 + OVERHEAD_BYTES
}

fn note(shed: &mut Vec<Shed>, track: u16, reason: ShedReason) {
    let (lane, class) = (u32::from(track / CLASSES), class_of(track));
    let same = |shed: &&mut Shed| (shed.lane, shed.class, shed.reason) == (lane, class, reason);
    match shed.iter_mut().find(same) {
        Some(shed) => shed.entries += 1,
        None => shed.push(Shed {
            lane,
            class,
            reason,
            entries: 1,
        }),
    }
}

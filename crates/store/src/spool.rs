//! The shim's spool: returns, acks and events that the MoM has not answered for yet.
//!
//! ```text
//! append ──► on disk ──read, in order──► a lane's requests ──reply of the MoM──► remove
//!              └─ over a bound ──► shed: events before acks before returns, the oldest first
//! ```
//! - Ids ascend over all lanes; a lane is read in the order in which it was appended.
//! - Bounded by bytes, entries and age. What is shed is told to whom it concerns: the call that made it necessary.
//! - A record that is larger than the whole bound is shed itself; nothing else goes for it.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rusqlite::Connection;

use crate::{
    Opened, StoreError,
    db::{self, Listed, State},
    key::{Key, TRACKS},
    worker::Handle,
};

/// What a record counts for beside its body: its row and its share of a page.
const OVERHEAD_BYTES: u64 = 32;

/// Tracks of one lane: one for each [`Class`].
const CLASSES: u16 = 3;

/// Ages are looked at so often, by the time that the callers give.
const AGE_INTERVAL_MS: u64 = 1_000;

/// Records shed for their age in one call: the rest goes with the next ones.
const AGE_STEP: usize = 1_000;

/// What a record is worth; the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// An event of the lower master's bus.
    Event,
    /// What the MoM is told of a job: the minions that it reaches.
    Ack,
    /// A minion's answer.
    Return,
}

impl Class {
    /// Every class, the least valuable first.
    pub const ALL: [Self; 3] = [Self::Event, Self::Ack, Self::Return];

    /// The word for logs and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Ack => "ack",
            Self::Return => "return",
        }
    }

    fn index(self) -> u16 {
        match self {
            Self::Event => 0,
            Self::Ack => 1,
            Self::Return => 2,
        }
    }
}

/// Bounds of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Most bytes, bodies and a little for each record.
    pub bytes_max: u64,
    /// Most records.
    pub entries_max: u64,
    /// The oldest record, by the times given to [`Spool::append`].
    pub age_max: Duration,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            bytes_max: 256 << 20,
            entries_max: 1_000_000,
            age_max: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// A record to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// What it is worth.
    pub class: Class,
    /// What is kept.
    pub body: Bytes,
}

/// A record as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Names it in [`Spool::remove`]; larger than that of every record appended before.
    pub id: i64,
    /// What it is worth.
    pub class: Class,
    /// When it was appended.
    pub at_ms: u64,
    /// What is kept.
    pub body: Bytes,
}

/// Why records were shed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ShedReason {
    /// Too many bytes.
    Bytes,
    /// Too many records.
    Entries,
    /// Too old.
    Age,
}

impl ShedReason {
    /// The word for logs and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Entries => "entries",
            Self::Age => "age",
        }
    }
}

/// Records that were shed, by what they have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shed {
    /// Their lane.
    pub lane: u32,
    /// Their class.
    pub class: Class,
    /// Why.
    pub reason: ShedReason,
    /// How many.
    pub entries: u64,
}

/// What became of the records given to [`Spool::append`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Appended {
    /// Their ids, ascending; 0 for one that was shed at once.
    pub ids: Vec<i64>,
    /// What had to go, of every lane.
    pub shed: Vec<Shed>,
}

/// How much there is of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClassState {
    /// Records.
    pub entries: u64,
    /// Bytes, as the bound counts them.
    pub bytes: u64,
}

/// How full a spool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpoolState {
    /// Records.
    pub entries: u64,
    /// Bytes, as the bound counts them.
    pub bytes: u64,
    /// The same by class, in the order of [`Class::ALL`].
    pub by_class: [ClassState; 3],
    /// Records found damaged while reading, and removed, since the spool was opened.
    pub damaged: u64,
}

/// The spool. Clones share it; see the module's head.
#[derive(Debug, Clone)]
pub struct Spool {
    handle: Handle<Contents>,
    state: Arc<Mutex<SpoolState>>,
}

impl Spool {
    /// Opens the spool at `path`; reads all of it once.
    ///
    /// # Errors
    /// When the file cannot be opened or made. A damaged one is no error: see [`Opened::set_aside`].
    pub fn open(path: &Path, config: SpoolConfig) -> Result<(Self, Opened), StoreError> {
        let state = Arc::new(Mutex::new(SpoolState::default()));
        let mut contents = Contents {
            config,
            draft: Tallies::default(),
            held: Tallies::default(),
            aged_at_ms: 0,
            state: Arc::clone(&state),
        };
        let (db, opened) = db::open(path, &mut contents)?;
        let handle = Handle::start("spool", db, contents)?;
        Ok((Self { handle, state }, opened))
    }

    /// Appends `records` to `lane`, in their order; on disk when this returns. No records: only ages are looked at.
    ///
    /// # Errors
    /// When nothing of it was written.
    pub async fn append(
        &self,
        lane: u32,
        records: Vec<NewRecord>,
        now_ms: u64,
    ) -> Result<Appended, StoreError> {
        let lane = Lane::new(lane)?;
        let bytes = records.iter().map(|record| record.body.len()).sum();
        let append = move |contents: &mut Contents, db: &Connection| {
            contents.append(db, lane, &records, now_ms)
        };
        self.handle.call(bytes, append).await
    }

    /// The records of `lane` behind the id `after` (0: from the beginning), at most so many and so many bytes, but at
    /// least one if there is one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn read(
        &self,
        lane: u32,
        after: i64,
        entries_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let lane = Lane::new(lane)?;
        let read = move |contents: &mut Contents, db: &Connection| {
            contents.read(db, lane, after, entries_max, bytes_max)
        };
        self.handle.call(0, read).await
    }

    /// Removes the records of these ids; those that are gone already are passed over.
    ///
    /// # Errors
    /// When none of them was removed.
    pub async fn remove(&self, ids: Vec<i64>) -> Result<(), StoreError> {
        let remove = move |contents: &mut Contents, db: &Connection| {
            ids.iter()
                .filter(|id| **id > 0)
                .try_for_each(|id| contents.remove(db, Key::from_id(*id)))
        };
        self.handle.call(0, remove).await
    }

    /// How full the spool is; cheap.
    #[must_use]
    pub fn state(&self) -> SpoolState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lane that the key has room for.
#[derive(Debug, Clone, Copy)]
struct Lane(u16);

impl Lane {
    const MAX: u16 = TRACKS / CLASSES - 1;

    fn new(lane: u32) -> Result<Self, StoreError> {
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
struct Contents {
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
    fn append(
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
            db::put(db, key, now_ms, &record.body)?;
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
            let first = db::keys(db, track, 0, 1)?.first().map(|listed| listed.key);
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
            let listed = db::keys(db, track, 0, left)?;
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

    fn remove(&mut self, db: &Connection, key: Key) -> rusqlite::Result<()> {
        if let Some(bytes) = db::remove(db, key)? {
            self.draft.subtract(key, bytes + OVERHEAD_BYTES);
        }
        Ok(())
    }

    fn read(
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
                listed.extend(db::keys(db, track, after, entries_max)?);
            }
        }
        listed.sort_unstable_by_key(|listed| listed.key);
        let (mut records, mut bytes) = (Vec::new(), 0_usize);
        for listed in listed.into_iter().take(entries_max) {
            bytes = bytes.saturating_add(usize::try_from(listed.bytes).unwrap_or(usize::MAX));
            if bytes > bytes_max && !records.is_empty() {
                break;
            }
            let Some(found) = db::get(db, listed.key)? else {
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

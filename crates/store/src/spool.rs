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
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rusqlite::Connection;

use crate::{Opened, StoreError, db, key::Key, worker::Handle};

mod contents;

use self::contents::{Contents, Lane};

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
        let mut contents = Contents::new(config, Arc::clone(&state));
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

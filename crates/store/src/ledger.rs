//! The bridge's ledger: how far each job got, the sites' rosters, and the names that both refer to.
//!
//! ```text
//! put (names, rosters and jobs of one moment) ──one transaction──► on disk ──► get, newest, open_jobs, rosters, names
//!        └─ over a bound ──► the oldest jobs go, then tables of names that no job refers to
//! ```
//! What a job's or roster's bytes mean is `relay_core::ledger`'s matter; here they are only kept.
//!
//! - A job is there with the names that it refers to, or not at all: they are written together.
//! - A job that is put again takes the place of what was kept of it, and keeps its age.
//! - Bounded by jobs, bytes and age; the oldest go first. Each call removes a few more than it adds, never many at once.
//! - Jobs are looked up in memory by their jids, which sort by time.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rusqlite::Connection;

use crate::{Opened, StoreError, db, worker::Handle};

mod contents;
mod index;

use self::contents::Contents;

/// Bounds of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerConfig {
    /// Most jobs.
    pub jobs_max: usize,
    /// Most bytes of jobs.
    pub bytes_max: u64,
    /// How long a job is kept after it was published, by the times given to [`Ledger::put`].
    pub keep_for: Duration,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            jobs_max: 100_000,
            bytes_max: 512 << 20,
            keep_for: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}

/// What is written together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LedgerBatch {
    /// Names, each part behind those of its table that are there.
    pub names: Vec<LedgerNames>,
    /// Rosters by their site; each replaces the one before.
    pub rosters: Vec<(String, Bytes)>,
    /// Jobs; each replaces what was kept of its jid.
    pub jobs: Vec<LedgerJob>,
}

/// A part of a table of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerNames {
    /// The table.
    pub table: u32,
    /// The number of its first name. A part with the same first name is replaced.
    pub first: u32,
    /// What is kept.
    pub bytes: Bytes,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerJob {
    /// Its id.
    pub jid: String,
    /// When it was published.
    pub at_ms: u64,
    /// The table of names that it refers to.
    pub table: u32,
    /// It is not over: see [`Ledger::open_jobs`].
    pub is_open: bool,
    /// What is kept.
    pub bytes: Bytes,
}

/// How full a ledger is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LedgerState {
    /// Jobs.
    pub jobs: u64,
    /// Bytes of jobs, as the bound counts them.
    pub bytes: u64,
    /// Bytes of names and rosters.
    pub names_bytes: u64,
    /// Records found damaged while reading, since the ledger was opened.
    pub damaged: u64,
}

/// The ledger. Clones share it; see the module's head.
#[derive(Debug, Clone)]
pub struct Ledger {
    handle: Handle<Contents>,
    state: Arc<Mutex<LedgerState>>,
}

impl Ledger {
    /// Opens the ledger at `path`; reads all of it once.
    ///
    /// # Errors
    /// When the file cannot be opened or made. A damaged one is no error: see [`Opened::set_aside`].
    pub fn open(path: &Path, config: LedgerConfig) -> Result<(Self, Opened), StoreError> {
        let state = Arc::new(Mutex::new(LedgerState::default()));
        let mut contents = Contents::new(config, Arc::clone(&state));
        let (db, opened) = db::open(path, &mut contents)?;
        let handle = Handle::start("ledger", db, contents)?;
        Ok((Self { handle, state }, opened))
    }

    /// Writes a batch; on disk when this returns. An empty one: only ages are looked at.
    ///
    /// # Errors
    /// When nothing of it was written.
    pub async fn put(&self, batch: LedgerBatch, now_ms: u64) -> Result<(), StoreError> {
        let names = batch.names.iter().map(|part| part.bytes.len());
        let rosters = batch.rosters.iter().map(|(_, bytes)| bytes.len());
        let jobs = batch.jobs.iter().map(|job| job.bytes.len());
        let bytes = names.chain(rosters).chain(jobs).sum();
        let put = move |contents: &mut Contents, db: &Connection| contents.put(db, &batch, now_ms);
        self.handle.call(bytes, put).await
    }

    /// The job with this id. A jid that is not known costs no look at the disk.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn get(&self, jid: &str) -> Result<Option<LedgerJob>, StoreError> {
        let jid = jid.to_owned();
        let get = move |contents: &mut Contents, db: &Connection| contents.get(db, &jid);
        self.handle.call(0, get).await
    }

    /// The jobs with the greatest jids below `before`, the greatest first, at most so many and so many bytes, but at
    /// least one if there is one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn newest(
        &self,
        jobs_max: usize,
        bytes_max: usize,
        before: Option<&str>,
    ) -> Result<Vec<LedgerJob>, StoreError> {
        let before = before.map(str::to_owned);
        let read = move |contents: &mut Contents, db: &Connection| {
            contents.newest(db, jobs_max, bytes_max, before.as_deref())
        };
        self.handle.call(0, read).await
    }

    /// The jobs that are not over, by their jids.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn open_jobs(&self) -> Result<Vec<LedgerJob>, StoreError> {
        let read = |contents: &mut Contents, db: &Connection| contents.open_jobs(db);
        self.handle.call(0, read).await
    }

    /// The rosters, each with its site.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn rosters(&self) -> Result<Vec<(String, Bytes)>, StoreError> {
        let read = |contents: &mut Contents, db: &Connection| contents.rosters(db);
        self.handle.call(0, read).await
    }

    /// Removes the roster of a site that is no more.
    ///
    /// # Errors
    /// When that failed.
    pub async fn forget_roster(&self, site: &str) -> Result<(), StoreError> {
        let site = site.to_owned();
        let forget =
            move |contents: &mut Contents, db: &Connection| contents.forget_roster(db, &site);
        self.handle.call(0, forget).await
    }

    /// The newest table of names, if there is one: rosters refer to it.
    ///
    /// # Errors
    /// When the store has ended.
    pub async fn newest_table(&self) -> Result<Option<u32>, StoreError> {
        let look = |contents: &mut Contents, _: &Connection| Ok(contents.newest_table());
        self.handle.call(0, look).await
    }

    /// The parts of a table of names, in their order.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn names(&self, table: u32) -> Result<Vec<Bytes>, StoreError> {
        let read = move |contents: &mut Contents, db: &Connection| contents.names(db, table);
        self.handle.call(0, read).await
    }

    /// How full the ledger is; cheap.
    #[must_use]
    pub fn state(&self) -> LedgerState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

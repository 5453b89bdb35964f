//! A site's memory of its jobs: what was published, on whom, and who has returned.
//!
//! ```text
//! begin (before the publish request) ──► Begun ──done (its reply)──► Done ──returned──► nobody missing
//! ```
//! A part of a job is its jid and its target: the parts of a batch share a jid. A frame is known by its digest, so that
//! it need not be opened to see that it was there before.
//!
//! - Records are only added and removed, in the order of their age: a part's begin and its done record have the same
//!   number; what returned is a log of its own.
//! - Parts and frames are looked up in memory, by a hash with a key of its own for each process.
//! - Bounded by age, parts and bytes. The oldest done parts go first; one that was only begun is kept as long as it can.
//!   Each call removes a few more than it adds, never many at once.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::Connection;

use crate::{Opened, StoreError, db, worker::Handle};

mod contents;
mod index;
mod record;

use self::contents::Contents;

/// Names one part of a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PartKey {
    /// The job.
    pub jid: String,
    /// The digest of its target.
    pub part: [u8; 16],
}

/// A part that is about to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// The part.
    pub key: PartKey,
    /// The digest of the frame that brought it.
    pub frame: [u8; 16],
    /// The MoM that it came from, by its number in the configuration.
    pub upstream: u32,
    /// The frame's entry id: epoch and number.
    pub entry: (u64, u64),
    /// When it came.
    pub at_ms: u64,
}

/// A part that was published, or that the lower master refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The part.
    pub key: PartKey,
    /// The function.
    pub fun: String,
    /// The minions that the lower master targeted.
    pub minions: Vec<String>,
    /// The MoM waits for the site's own answer.
    pub answers_for_site: bool,
}

/// How far a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartState {
    /// It may have been published.
    Begun,
    /// It was published.
    Done,
}

/// A part that some minions have not returned for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenJob {
    /// The job. Parts of one job are listed each for itself.
    pub jid: String,
    /// The MoM that it came from.
    pub upstream: u32,
    /// The function.
    pub fun: String,
    /// The MoM waits for the site's own answer.
    pub answers_for_site: bool,
    /// The minions that the lower master targeted.
    pub minions: Vec<String>,
    /// Those of them that have not returned.
    pub missing: Vec<String>,
    /// When the job came.
    pub at_ms: u64,
}

/// Bounds of the job records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobsConfig {
    /// How long a record is kept.
    pub keep_for: Duration,
    /// Most parts.
    pub parts_max: usize,
    /// Most bytes of parts; a part holds the names of its minions.
    pub bytes_max: u64,
    /// Most bytes of the log of returns.
    pub returned_bytes_max: u64,
}

impl Default for JobsConfig {
    fn default() -> Self {
        Self {
            keep_for: Duration::from_secs(24 * 60 * 60),
            parts_max: 200_000,
            bytes_max: 256 << 20,
            returned_bytes_max: 64 << 20,
        }
    }
}

/// How full the job records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JobsState {
    /// Parts.
    pub parts: u64,
    /// Bytes of parts and of the log of returns.
    pub bytes: u64,
}

/// The job records. Clones share them; see the module's head.
#[derive(Debug, Clone)]
pub struct Jobs {
    handle: Handle<Contents>,
    state: Arc<Mutex<JobsState>>,
}

impl Jobs {
    /// Opens the records at `path`; reads all of them once.
    ///
    /// # Errors
    /// When the file cannot be opened or made. A damaged one is no error: see [`Opened::set_aside`].
    pub fn open(path: &Path, config: JobsConfig) -> Result<(Self, Opened), StoreError> {
        let state = Arc::new(Mutex::new(JobsState::default()));
        let mut contents = Contents::new(config, Arc::clone(&state));
        let (db, opened) = db::open(path, &mut contents)?;
        let handle = Handle::start("jobs", db, contents)?;
        Ok((Self { handle, state }, opened))
    }

    /// What is remembered of each part, or of the frame that brought it.
    ///
    /// # Errors
    /// When the store has ended.
    pub async fn remembered(
        &self,
        keys: Vec<(PartKey, [u8; 16])>,
    ) -> Result<Vec<Option<PartState>>, StoreError> {
        let look = move |contents: &mut Contents, _: &Connection| {
            let states = keys.iter().map(|(key, frame)| {
                let (part, frame) = (contents.part(key), contents.frame(frame));
                // A part that is done says more than a frame that was begun.
                part.max(frame)
            });
            Ok(states.collect())
        };
        self.handle.call(0, look).await
    }

    /// Whether each frame brought a part that is done.
    ///
    /// # Errors
    /// When the store has ended.
    pub async fn seen_frames(&self, frames: Vec<[u8; 16]>) -> Result<Vec<bool>, StoreError> {
        let look = move |contents: &mut Contents, _: &Connection| {
            let is_done = |frame| contents.frame(frame) == Some(PartState::Done);
            Ok(frames.iter().map(is_done).collect())
        };
        self.handle.call(0, look).await
    }

    /// Notes parts that are about to be published. A part that is done already stays so.
    ///
    /// # Errors
    /// When nothing of it was written.
    pub async fn begin(&self, parts: Vec<Begin>) -> Result<(), StoreError> {
        let begin = move |contents: &mut Contents, db: &Connection| {
            parts.iter().try_for_each(|part| contents.begin(db, part))?;
            let newest = parts.iter().map(|part| part.at_ms).max();
            newest.map_or(Ok(()), |now_ms| contents.prune(db, now_ms, parts.len()))
        };
        self.handle.call(0, begin).await
    }

    /// Notes parts that were published. Parts that were never begun, or are forgotten, are passed over.
    ///
    /// # Errors
    /// When nothing of it was written.
    pub async fn done(&self, parts: Vec<Done>) -> Result<(), StoreError> {
        let bytes = parts.iter().map(|part| 16 * part.minions.len()).sum();
        let done = move |contents: &mut Contents, db: &Connection| {
            parts.iter().try_for_each(|part| contents.done(db, part))
        };
        self.handle.call(bytes, done).await
    }

    /// Notes that returns, each of a jid and a minion, are in the spool.
    ///
    /// # Errors
    /// When nothing of it was written.
    pub async fn returned(&self, returns: Vec<(String, String)>) -> Result<(), StoreError> {
        let bytes = 32 * returns.len();
        let returned =
            move |contents: &mut Contents, db: &Connection| contents.returned(db, &returns);
        self.handle.call(bytes, returned).await
    }

    /// Done parts that came at `since_ms` or later and that some minions have not returned for, the oldest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn open_jobs(&self, since_ms: u64) -> Result<Vec<OpenJob>, StoreError> {
        let list = move |contents: &mut Contents, db: &Connection| contents.open(db, since_ms);
        self.handle.call(0, list).await
    }

    /// How full the records are; cheap.
    #[must_use]
    pub fn state(&self) -> JobsState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

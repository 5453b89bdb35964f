//! What the daemons keep on disk: the shim's spool and job records, the bridge's journal and ledger.
//!
//! ```text
//! Spool, Jobs, Journal, Ledger ──command──► worker thread ──one transaction for all that wait──► SQLite (WAL)
//!        ▲                                       │
//!        └────────── answer after the commit ────┘
//! ```
//! Each store is one file with one thread of its own; handles are cheap to clone. All keep the same plain table of
//! records, each with a checksum, so that opening and salvaging are the same for all.
//!
//! - An answered write survives the end of the process, also by kill -9. After a power cut the newest writes may be
//!   gone, but the file opens: it is synced when the write-ahead log goes into it, not with each write.
//! - A damaged file is set aside under another name and what can be read of it goes into a new one; [`Opened`] tells.
//! - A full disk fails the write that needs room, as [`StoreError::Full`], and nothing else; later writes try again.
//! - Dropping the last handle writes what is under way, and waits for it.

mod codec;
mod crc;
mod db;
mod error;
mod jobs;
mod journal;
mod key;
mod ledger;
mod pages;
mod salvage;
mod spool;
mod table;
mod wal;
mod worker;

use std::path::PathBuf;

pub use error::StoreError;
pub use jobs::{Begin, Done, Jobs, JobsConfig, JobsState, OpenJob, PartKey, PartState};
pub use journal::{FrameIndex, Journal, JournalFrame, JournalOpened, JournalState};
pub use ledger::{Ledger, LedgerBatch, LedgerConfig, LedgerJob, LedgerNames, LedgerState};
pub use spool::{
    Appended, Class, ClassState, NewRecord, Record, Shed, ShedReason, Spool, SpoolConfig,
    SpoolState,
};

/// What was found when a store was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Opened {
    /// Records in the store now.
    pub records: u64,
    /// The file was damaged, and set aside.
    pub set_aside: Option<SetAside>,
    /// The log ended in a half-written write: one that was under way, and not answered, when the process was killed;
    /// or damage to the very last write.
    pub torn_end: bool,
}

/// A damaged file, and what became of its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Where the damaged file is now.
    pub path: PathBuf,
    /// Records that could be read and are in the new file.
    pub salvaged: u64,
    /// Records that could not; unknown where whole pages could not be read.
    pub lost: Option<u64>,
    /// What was wrong.
    pub reason: String,
}

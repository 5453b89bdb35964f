//! The ledger's file: reads and writes, one after the other, off the ledger's task.
//!
//! ```text
//! ledger task ──wants──► KeepTask ──► store::Ledger (its own thread) ──► ledger.db
//!       ▲                    │
//!       └────── kept ────────┘
//! ```
//! - Everything is answered in the order in which it was wanted.
//! - A write that fails is told with what it was to write: the ledger takes it back and tries again a second later.
//! - It ends when the ledger has ended, after the last write.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use daemon_kit::steady_millis;
use relay_core::{
    ledger::{Saved, SavedError, Unsaved},
    names::Names,
};
use store::{Ledger as Store, LedgerBatch, LedgerJob, LedgerNames, LedgerState, StoreError};
use tokio::sync::mpsc;

use super::{answer::Row, task::LedgerTask};

/// Wants on their way. What finds it full waits in the ledger's own list, which its jobs bound.
pub(super) const WANTS_MAX: usize = 64;

/// What was kept and not taken yet. When full the keeper waits.
pub(super) const KEPT_MAX: usize = 64;

/// Bytes of jobs in one write, but for a single larger one.
const WRITE_BYTES_MAX: usize = 8 << 20;

/// Bytes of one page of rows.
const PAGE_BYTES_MAX: usize = 8 << 20;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Want {
    Write(Box<Unsaved>),
    Load {
        jid: String,
        again: bool,
    },
    Row {
        jid: String,
    },
    Page {
        before: Option<String>,
        limit: usize,
    },
    Names {
        table: u32,
        to_answer: bool,
    },
}

/// What was done.
#[derive(Debug)]
pub(super) enum Kept {
    Written(Result<(), Box<(StoreError, Unsaved)>>),
    Loaded {
        jid: String,
        bytes: Option<Bytes>,
        again: bool,
    },
    Rows {
        rows: Vec<Row>,
        is_last: bool,
    },
    Names {
        table: u32,
        parts: Vec<Bytes>,
        to_answer: bool,
    },
    Failed(StoreError),
}

/// The ledger task's end.
#[derive(Debug)]
pub(super) struct Keeping {
    wants: mpsc::Sender<Want>,
    outbox: VecDeque<Want>,
    store: Store,
    is_writing: bool,
}

impl Keeping {
    pub(super) fn new(wants: mpsc::Sender<Want>, store: Store) -> Self {
        Self {
            wants,
            outbox: VecDeque::new(),
            store,
            is_writing: false,
        }
    }

    /// How full the file is; cheap.
    pub(super) fn state(&self) -> LedgerState {
        self.store.state()
    }

    pub(super) fn load(&mut self, jid: String) {
        self.outbox.push_back(Want::Load { jid, again: false });
    }

    pub(super) fn row(&mut self, jid: String) {
        self.outbox.push_back(Want::Row { jid });
    }

    pub(super) fn page(&mut self, before: Option<String>, limit: usize) {
        self.outbox.push_back(Want::Page { before, limit });
    }

    /// Names to answer a question with.
    pub(super) fn names(&mut self, table: u32) {
        self.outbox.push_back(Want::Names {
            table,
            to_answer: true,
        });
    }

    /// Hands over what there is room for.
    pub(super) fn flush(&mut self) {
        while !self.outbox.is_empty() {
            let Ok(room) = self.wants.try_reserve() else {
                return;
            };
            if let Some(want) = self.outbox.pop_front() {
                room.send(want);
            }
        }
    }
}

impl LedgerTask {
    /// Has what changed written, unless a write is under way.
    pub(super) fn keep(&mut self) {
        if self.keeping.is_writing {
            return;
        }
        if let Some(unsaved) = self.ledger.take_unsaved(WRITE_BYTES_MAX) {
            self.keeping.is_writing = true;
            let want = Want::Write(Box::new(unsaved));
            self.keeping.outbox.push_back(want);
        }
    }

    pub(super) fn kept(&mut self, kept: Kept) {
        match kept {
            Kept::Written(written) => {
                self.keeping.is_writing = false;
                if let Err(failed) = written {
                    let (err, unsaved) = *failed;
                    self.ledger.not_saved(&unsaved);
                    self.telemetry.ledger_failed(&err);
                }
            }
            Kept::Loaded { jid, bytes, again } => self.loaded(jid, bytes.as_deref(), again),
            Kept::Rows { rows, is_last } => self.rows(rows, is_last),
            Kept::Names {
                table,
                parts,
                to_answer,
            } => {
                match Names::from_parts(table, parts.iter().map(AsRef::as_ref)) {
                    Ok(names) => self.ledger.show_table(names),
                    Err(err) => self.telemetry.stored_unreadable("", &err),
                }
                if to_answer {
                    self.names_shown();
                }
            }
            Kept::Failed(err) => {
                self.telemetry.ledger_failed(&err);
                self.rows(Vec::new(), true);
            }
        }
    }

    fn loaded(&mut self, jid: String, bytes: Option<&[u8]>, again: bool) {
        match self.ledger.loaded(&jid, bytes) {
            Ok(()) => {}
            Err(SavedError::Table { table }) if !again => {
                self.keeping.outbox.push_back(Want::Names {
                    table,
                    to_answer: false,
                });
                self.keeping
                    .outbox
                    .push_back(Want::Load { jid, again: true });
            }
            Err(err) => {
                self.telemetry.stored_unreadable(&jid, &err);
                // The job goes on with what was heard of it.
                drop(self.ledger.loaded(&jid, None));
            }
        }
    }

    /// Hands over everything that is not on disk yet. The keeper writes it and ends.
    pub(super) async fn end(mut self) {
        while let Some(unsaved) = self.ledger.take_unsaved(WRITE_BYTES_MAX) {
            let want = Want::Write(Box::new(unsaved));
            if self.keeping.wants.send(want).await.is_err() {
                return;
            }
        }
    }
}

/// The task.
#[derive(Debug)]
pub(super) struct KeepTask {
    pub(super) wants: mpsc::Receiver<Want>,
    pub(super) kept: mpsc::Sender<Kept>,
    pub(super) store: Store,
}

impl KeepTask {
    /// Does what is wanted until nobody wants anything any more.
    pub(super) async fn run(mut self) {
        while let Some(want) = self.wants.recv().await {
            let kept = self.carry_out(want).await;
            // The ledger has ended: what is left are its last writes.
            drop(self.kept.send(kept).await);
        }
    }

    async fn carry_out(&self, want: Want) -> Kept {
        match want {
            Want::Write(unsaved) => {
                let batch = batch(&unsaved);
                let written = self.store.put(batch, steady_millis()).await;
                Kept::Written(written.map_err(|err| Box::new((err, *unsaved))))
            }
            Want::Load { jid, again } => {
                // What cannot be read is as good as not there: the job goes on with what was heard.
                let job = self.store.get(&jid).await.unwrap_or_default();
                let bytes = job.map(|job| job.bytes);
                Kept::Loaded { jid, bytes, again }
            }
            Want::Row { jid } => match self.store.get(&jid).await {
                Ok(job) => Kept::Rows {
                    rows: job.into_iter().map(row).collect(),
                    is_last: true,
                },
                Err(err) => Kept::Failed(err),
            },
            Want::Page { before, limit } => {
                let newest = self.store.newest(limit, PAGE_BYTES_MAX, before.as_deref());
                match newest.await {
                    Ok(jobs) => Kept::Rows {
                        // A page may be cut short by its bytes.
                        is_last: jobs.is_empty(),
                        rows: jobs.into_iter().map(row).collect(),
                    },
                    Err(err) => Kept::Failed(err),
                }
            }
            Want::Names { table, to_answer } => Kept::Names {
                table,
                parts: self.store.names(table).await.unwrap_or_default(),
                to_answer,
            },
        }
    }
}

fn row(job: LedgerJob) -> Row {
    (job.jid, job.bytes)
}

fn batch(unsaved: &Unsaved) -> LedgerBatch {
    let names = unsaved.names.iter().map(|names| LedgerNames {
        table: names.table,
        first: names.first,
        bytes: Bytes::copy_from_slice(&names.bytes),
    });
    let rosters = unsaved.rosters.iter();
    let rosters = rosters.map(|(site, bytes)| (site.clone(), Bytes::copy_from_slice(bytes)));
    let jobs = unsaved.jobs.iter().map(|job| LedgerJob {
        jid: job.jid.clone(),
        at_ms: job.at_ms,
        table: job.table,
        is_open: job.is_open,
        bytes: Bytes::copy_from_slice(&job.bytes),
    });
    LedgerBatch {
        names: names.collect(),
        rosters: rosters.collect(),
        jobs: jobs.collect(),
    }
}

/// What the file holds that the ledger begins with.
///
/// # Errors
/// When the file cannot be read.
pub(super) async fn saved(store: &Store) -> Result<Saved, StoreError> {
    let jobs = store.open_jobs().await?;
    let newest = store.newest_table().await?;
    let mut tables: BTreeSet<u32> = jobs.iter().map(|job| job.table).collect();
    tables.extend(newest);
    let mut names = Vec::new();
    for table in tables {
        let parts = store.names(table).await?;
        names.extend(parts.into_iter().map(|part| (table, part.to_vec())));
    }
    let rosters = store.rosters().await?.into_iter();
    Ok(Saved {
        table: newest.unwrap_or(0),
        names,
        rosters: rosters.map(|(_, bytes)| bytes.to_vec()).collect(),
        jobs: jobs.into_iter().map(|job| job.bytes.to_vec()).collect(),
    })
}

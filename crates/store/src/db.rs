//! One file: opened, looked through, and written to by one thread.
//!
//! Every store has the same table, `records (id, at_ms, crc, body)`; what a body and the parts of an id mean is the
//! store's matter. The file is locked as long as it is open.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};

use rusqlite::{Connection, config::DbConfig};

use crate::{
    Opened,
    error::{self, Cause, Kind, StoreError},
    key::Key,
    salvage,
    table::Stored,
    wal::{self, Verdict},
};

/// The size of a page; also that of the file system's blocks, mostly.
pub(crate) const PAGE_BYTES: usize = 4096;

/// Marks our files: "Salt" in ASCII.
const APPLICATION_ID: i32 = 0x5361_6c74;

/// The version of the table.
const VERSION: i32 = 1;

/// Pages in the log from which on it is written into the file when nothing else is to do: 4 MiB.
const CHECKPOINT_PAGES: i32 = 1_000;

/// Pages from which on it is written into the file at once: 16 MiB.
const CHECKPOINT_PAGES_MAX: i32 = 4_000;

/// A file that holds no record gives its room back from this size on, when it is opened.
const EMPTY_BYTES_MAX: u64 = 16 << 20;

/// Everything around the record holds: told last.
const BAD_RECORD: &str = "a record's checksum does not hold";

/// What a store keeps in memory of its file.
pub(crate) trait State: Send + 'static {
    /// Forgets everything: the records are about to be told.
    fn clear(&mut self);
    /// A record of the file, while it is opened; in the order of track and number.
    fn record(&mut self, key: Key, at_ms: u64, body: &[u8]);
    /// What was done since the last call holds.
    fn committed(&mut self);
    /// What was done since the last call was in vain.
    fn rolled_back(&mut self);
}

/// The file, open.
#[derive(Debug)]
pub(crate) struct Db {
    path: PathBuf,
    connection: Connection,
    /// Pages in the log, as SQLite told at the last commit.
    log_pages: Arc<AtomicI32>,
}

enum Trouble {
    Damaged(String),
    Failed(StoreError),
}

/// Opens `path`, makes it if it is missing, sets it aside if it is damaged; tells `state` what it holds.
pub(crate) fn open<S: State>(path: &Path, state: &mut S) -> Result<(Db, Opened), StoreError> {
    let failed = |err: io::Error| {
        if error::is_full(&err) {
            return StoreError::Full { path: path.into() };
        }
        StoreError::Open {
            path: path.into(),
            source: Cause::from(&err),
        }
    };
    salvage::finish(path).map_err(failed)?;
    let log = wal::inspect(&with_suffix(path, "-wal")).map_err(failed)?;
    let is_gone = fs::metadata(path).map_or(0, |metadata| metadata.len()) == 0;
    let opened = match log.verdict {
        Verdict::Damaged => Err(Trouble::Damaged("the write-ahead log is damaged".into())),
        // SQLite would remove the log.
        _ if is_gone && !log.pages.is_empty() => Err(Trouble::Damaged(
            "the file is gone, its log is there".into(),
        )),
        Verdict::Whole | Verdict::TornEnd => {
            create(path).map_err(failed)?;
            Db::open(path, state)
        }
    };
    let (set_aside, opened) = match opened {
        Err(Trouble::Damaged(reason)) => {
            let is_tree_whole = reason == BAD_RECORD;
            let set_aside = salvage::set_aside(path, reason, is_tree_whole)?;
            (Some(set_aside), Db::open(path, state))
        }
        opened => (None, opened),
    };
    let (db, records) = opened.map_err(|trouble| match trouble {
        Trouble::Failed(err) => err,
        Trouble::Damaged(reason) => failed(io::Error::other(reason)),
    })?;
    let opened = Opened {
        records,
        torn_end: set_aside.is_none() && log.verdict == Verdict::TornEnd,
        set_aside,
    };
    tell(path, &opened);
    Ok((db, opened))
}

/// Logs what an operator should know of an opened file.
fn tell(path: &Path, opened: &Opened) {
    let path = path.display();
    if opened.torn_end {
        tracing::warn!(%path, "the newest write was cut off; nobody was told that it was done, unless the file was damaged");
    }
    if let Some(aside) = &opened.set_aside {
        let (at, lost) = (aside.path.display(), aside.lost);
        tracing::error!(%path, set_aside = %at, salvaged = aside.salvaged, ?lost, reason = aside.reason, "file was damaged and set aside; what could be read of it is in a new one");
    }
}

/// Makes an empty file that only its owner can read; leaves one that is there.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

/// Makes the table, if it is missing.
pub(crate) fn make_table(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "PRAGMA application_id = {APPLICATION_ID};
         PRAGMA user_version = {VERSION};
         CREATE TABLE IF NOT EXISTS records
         (id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL)"
    ))
}

/// `path` with `suffix` behind its last part.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

impl Db {
    fn open<S: State>(path: &Path, state: &mut S) -> Result<(Self, u64), Trouble> {
        let mut db = Self::connect(path).map_err(|err| trouble(path, &err))?;
        let looked = db.look_through(state);
        if let Ok(0) = looked
            && fs::metadata(path).is_ok_and(|metadata| metadata.len() > EMPTY_BYTES_MAX)
        {
            // Nothing in it: a new file is the cheapest way to give the room back.
            drop(db);
            fs::remove_file(path)
                .and_then(|()| create(path))
                .map_err(|err| {
                    let source = Cause::from(&err);
                    let path = path.into();
                    Trouble::Failed(StoreError::Open { path, source })
                })?;
            return Self::connect(path)
                .map(|db| (db, 0))
                .map_err(|err| trouble(path, &err));
        }
        match looked {
            Ok(records) => Ok((db, records)),
            Err(trouble) => {
                db.leave_as_it_is();
                Err(trouble)
            }
        }
    }

    fn connect(path: &Path) -> rusqlite::Result<Self> {
        let mut connection = Connection::open(path)?;
        // Little cache, since what is written is rarely read again; no shared memory, since nobody else opens the file.
        connection.execute_batch(&format!(
            "PRAGMA locking_mode = EXCLUSIVE;
             PRAGMA page_size = {PAGE_BYTES};
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = NORMAL;
             PRAGMA cache_size = -1024;
             PRAGMA mmap_size = 0;
             PRAGMA temp_store = MEMORY;
             PRAGMA cell_size_check = ON;
             PRAGMA trusted_schema = OFF;"
        ))?;
        let version: i32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version == 0 {
            make_table(&connection)?;
        }
        let log_pages = Arc::new(AtomicI32::new(0));
        let told = Arc::clone(&log_pages);
        connection.wal_hook(Some(move |_: &mut _, pages| {
            told.store(pages, Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Self {
            path: path.into(),
            connection,
            log_pages,
        })
    }

    /// Checks the file and each record; tells `state` about them and returns how many they are.
    fn look_through<S: State>(&mut self, state: &mut S) -> Result<u64, Trouble> {
        let failed = |err: rusqlite::Error| trouble(&self.path, &err);
        let query = |sql| {
            let value = self.connection.query_row(sql, [], |row| row.get(0));
            value.map_err(failed)
        };
        let version: i32 = query("PRAGMA user_version")?;
        if version != VERSION {
            return Err(Trouble::Damaged(format!(
                "the file's version is {version}, we know {VERSION}"
            )));
        }
        // Its head says that only a newer SQLite may write to it; we could make it, so that it is not the system's doing.
        if self.connection.is_readonly("main").map_err(failed)? {
            return Err(Trouble::Damaged("SQLite would only read it".into()));
        }
        let check: String = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(failed)?;
        if check != "ok" {
            return Err(Trouble::Damaged(check));
        }
        state.clear();
        let mut records = 0;
        let mut select = self
            .connection
            .prepare("SELECT id, at_ms, crc, body FROM records ORDER BY id")
            .map_err(failed)?;
        let mut rows = select.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let record = Stored::of(row).map_err(failed)?;
            let Some(record) = record else {
                return Err(Trouble::Damaged(BAD_RECORD.into()));
            };
            state.record(record.key, record.at_ms, record.body);
            records += 1;
        }
        state.committed();
        Ok(records)
    }

    /// Closing the file shall not change it any more: it is damaged.
    pub(crate) fn leave_as_it_is(self) {
        let set = self
            .connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        if let Err(err) = set {
            tracing::debug!(error = %err, "closing without the option");
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Writes the log into the file, if it has grown; `is_idle`: nothing else is to do.
    pub(crate) fn checkpoint_if_due(&self, is_idle: bool) {
        let pages = self.log_pages.load(Ordering::Relaxed);
        if pages >= CHECKPOINT_PAGES_MAX || (is_idle && pages >= CHECKPOINT_PAGES) {
            self.checkpoint();
        }
    }

    /// Writes the log into the file, so that the next write begins it anew. On a full disk that is what makes removals
    /// possible: the log's file keeps its size.
    pub(crate) fn checkpoint(&self) {
        // A failure shows at the next write, if it lasts.
        let done = self
            .connection
            .query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
        match done {
            Ok(()) => self.log_pages.store(0, Ordering::Relaxed),
            Err(err) => tracing::debug!(error = %err, "checkpoint failed"),
        }
    }
}

fn trouble(path: &Path, err: &rusqlite::Error) -> Trouble {
    match error::kind(err) {
        Kind::Damaged => Trouble::Damaged(Cause::from(err).to_string()),
        Kind::Full => Trouble::Failed(StoreError::Full { path: path.into() }),
        Kind::Other => Trouble::Failed(StoreError::Open {
            path: path.into(),
            source: Cause::from(err),
        }),
    }
}

//! Sets a damaged file aside and carries what can be read of it into a new one.
//!
//! ```text
//! name, name-wal ──readable records──► name.salvaged
//! name ──► name.damaged-<ms>;  name-wal ──► name.damaged-<ms>-wal;  name.salvaged ──► name
//! ```
//! - The new file is complete and synced before the damaged one is moved; a kill in between is made good by
//!   [`finish`].
//! - A record whose checksum holds is taken, whatever became of the tree around it. Where the tree is broken, records
//!   that were removed may come back with the rest, if the list of free pages is damaged too.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rusqlite::Connection;

use crate::{
    SetAside, crc,
    db::{self, with_suffix},
    error::{self, Cause, Kind, StoreError},
    pages::{Cell, Pages},
    wal,
};

/// Completes a salvage that was interrupted between its renames; removes what an earlier interruption left behind.
pub(crate) fn finish(path: &Path) -> io::Result<()> {
    let new = with_suffix(path, ".salvaged");
    if !new.exists() {
        return Ok(());
    }
    if path.exists() {
        return fs::remove_file(new);
    }
    let log = with_suffix(path, "-wal");
    if log.exists() {
        fs::rename(&log, aside(path, "-wal"))?;
    }
    fs::rename(new, path)
}

/// Sets the file at `path` aside because of `reason`. `is_tree_whole`: nothing but records is damaged.
pub(crate) fn set_aside(
    path: &Path,
    reason: String,
    is_tree_whole: bool,
) -> Result<SetAside, StoreError> {
    let failed = |source: &io::Error| {
        if error::is_full(source) {
            return StoreError::Full { path: path.into() };
        }
        StoreError::Open {
            path: path.into(),
            source: Cause::from(source),
        }
    };
    let new = with_suffix(path, ".salvaged");
    let (salvaged, lost) = carry_over(path, &new, is_tree_whole).map_err(|err| match err {
        Failure::Io(err) => failed(&err),
        Failure::Sqlite(err) if error::kind(&err) == Kind::Full => {
            StoreError::Full { path: path.into() }
        }
        Failure::Sqlite(err) => StoreError::Open {
            path: path.into(),
            source: Cause::from(&err),
        },
    })?;
    let aside_at = aside(path, "");
    let log = with_suffix(path, "-wal");
    let move_all = || {
        if path.exists() {
            fs::rename(path, &aside_at)?;
        }
        if log.exists() {
            fs::rename(&log, with_suffix(&aside_at, "-wal"))?;
        }
        fs::rename(&new, path)
    };
    move_all().map_err(|err| failed(&err))?;
    Ok(SetAside {
        path: aside_at,
        salvaged,
        lost,
        reason,
    })
}

fn aside(path: &Path, suffix: &str) -> PathBuf {
    let now = daemon_kit::unix_millis();
    with_suffix(path, &format!(".damaged-{now}{suffix}"))
}

enum Failure {
    Io(io::Error),
    Sqlite(rusqlite::Error),
}

impl From<io::Error> for Failure {
    fn from(err: io::Error) -> Self {
        Self::Io(err)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(err: rusqlite::Error) -> Self {
        Self::Sqlite(err)
    }
}

/// Writes the readable records of `from` to the new file `to`; how many they are, and how many are lost.
///
/// Where the tree may be broken every page is looked at, and how much is lost nobody can tell: a branch may be missing
/// without a trace.
fn carry_over(from: &Path, to: &Path, is_tree_whole: bool) -> Result<(u64, Option<u64>), Failure> {
    let log_path = with_suffix(from, "-wal");
    let log = wal::inspect(&log_path)?;
    let pages = Pages::open(from, &log_path, log.pages)?;
    let (leaves, is_intact) = pages.leaves();
    let is_intact = is_intact && is_tree_whole;
    db::create(to)?;
    let connection = Connection::open(to)?;
    // No journal: a half-written new file is thrown away.
    let pragmas = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;";
    connection.execute_batch(pragmas)?;
    db::make_table(&connection)?;
    connection.execute_batch("BEGIN")?;
    let mut writer = Writer {
        connection: &connection,
        pages: &pages,
        salvaged: 0,
        lost: 0,
    };
    if is_intact {
        leaves.into_iter().try_for_each(|leaf| writer.leaf(leaf))?;
    } else {
        pages
            .stray_leaves()
            .try_for_each(|leaf| writer.leaf(leaf))?;
    }
    let counts = (writer.salvaged, is_intact.then_some(writer.lost));
    connection.execute_batch("COMMIT")?;
    drop(connection);
    fs::File::open(to)?.sync_all()?;
    Ok(counts)
}

struct Writer<'a> {
    connection: &'a Connection,
    pages: &'a Pages,
    salvaged: u64,
    lost: u64,
}

impl Writer<'_> {
    fn leaf(&mut self, number: u32) -> rusqlite::Result<()> {
        let Some(page) = self.pages.read(number) else {
            return Ok(());
        };
        for cell in self.pages.records(&page) {
            match cell.filter(holds) {
                Some(cell) => self.record(&cell)?,
                None => self.lost += 1,
            }
        }
        Ok(())
    }

    fn record(&mut self, cell: &Cell) -> rusqlite::Result<()> {
        // A record may stand on two pages, where one of them is from before a split.
        let mut insert = self.connection.prepare_cached(
            "INSERT OR IGNORE INTO records (id, at_ms, crc, body) VALUES (?1, ?2, ?3, ?4)",
        )?;
        let inserted = insert.execute((cell.row, cell.at_ms, cell.crc, &cell.body))?;
        self.salvaged += inserted as u64;
        Ok(())
    }
}

fn holds(cell: &Cell) -> bool {
    i64::from(crc::of_record(cell.row, cell.at_ms, &cell.body)) == cell.crc
}

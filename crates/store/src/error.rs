//! Why a store did not do something, and whether it may do it later.

use std::{io, path::PathBuf};

use rusqlite::{ErrorCode, ffi};

/// Why a store did not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The file could not be opened, and setting it aside did not help.
    #[error("failed to open {path}; see that its directory belongs to the daemon's user, and that no other process has it open", path = .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite or the system said.
        #[source]
        source: Cause,
    },
    /// The disk is full. The write left no trace; what was written before stays.
    #[error("no room on the disk for {path}; make room, the daemon goes on by itself", path = .path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Reading or writing failed otherwise.
    #[error("failed to read or write {path}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What SQLite or the system said.
        #[source]
        source: Cause,
    },
    /// A lane's number is too large for the spool.
    #[error("the spool has no lane {lane}: 0 to {max} are possible")]
    Lane {
        /// The lane.
        lane: u32,
        /// The largest possible one.
        max: u32,
    },
    /// The store's thread has ended.
    #[error("{path} is closed", path = .path.display())]
    Closed {
        /// The file.
        path: PathBuf,
    },
}

impl StoreError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Io { .. })
    }
}

/// What lies under a [`StoreError`]: one failure may be told to several callers.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Cause(String);

impl From<&rusqlite::Error> for Cause {
    fn from(err: &rusqlite::Error) -> Self {
        Self(daemon_kit::chain(err).to_string())
    }
}

impl From<&io::Error> for Cause {
    fn from(err: &io::Error) -> Self {
        Self(err.to_string())
    }
}

/// What kind of failure SQLite reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Full,
    Damaged,
    Other,
}

pub(crate) fn kind(err: &rusqlite::Error) -> Kind {
    match err {
        rusqlite::Error::SqliteFailure(ffi::Error { code, .. }, _) => match code {
            ErrorCode::DiskFull => Kind::Full,
            // Unknown: our statements are right, so that it is the file which says that there is no such table.
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown => {
                Kind::Damaged
            }
            _ => Kind::Other,
        },
        // A value of another type than we wrote.
        rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..) => Kind::Damaged,
        _ => Kind::Other,
    }
}

/// What the system says when the disk is full: the space is used up, or the user's share of it.
pub(crate) fn is_full(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

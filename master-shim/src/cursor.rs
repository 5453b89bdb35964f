//! The cursor on disk: the last publication that this site is done with.
//!
//! Written after each publication, before the next is begun: one write of one record in place, which a kill at any
//! instruction leaves either old or new. (Writing a new file and renaming it makes ext4 flush the file each time.)
//! It is flushed to the disk itself at shutdown only: after a power cut the cursor may be a little old, and the
//! publications in between are found in the lower master's job cache.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use relay_core::entry::EntryId;

/// Why the cursor could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CursorError {
    /// The file can be neither read nor made.
    #[error("failed to open the cursor {path}")]
    Read {
        /// The cursor's file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The file does not hold `<epoch>-<number>`.
    #[error(
        "the cursor {path} holds {text:?}, not <epoch>-<number>; remove it to begin with the publications that have \
         not expired"
    )]
    Malformed {
        /// The cursor's file.
        path: PathBuf,
        /// Its content, shortened.
        text: String,
    },
    /// The file cannot be written.
    #[error("failed to write the cursor {path}")]
    Write {
        /// The cursor's file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

/// Bytes of the record: two numbers of at most 20 digits, padded with blanks. It lies in one sector, so that a power cut
/// does not tear it.
const RECORD_BYTES: usize = 48;

/// The cursor of one relay, in `<state_dir>/cursor-<mom>`.
#[derive(Debug)]
pub(crate) struct Cursor {
    path: PathBuf,
    file: File,
    entry_id: Option<EntryId>,
}

impl Cursor {
    /// Reads the cursor; there is none at the very first start.
    ///
    /// # Errors
    /// When the file can be neither read nor made, or is no cursor.
    pub(crate) fn open(state_dir: &Path, mom: &str) -> Result<Self, CursorError> {
        let path = state_dir.join(format!("cursor-{mom}"));
        let read = || {
            let mut options = OpenOptions::new();
            let mut file = options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)?;
            let mut bytes = Vec::new();
            file.by_ref()
                .take(4 * RECORD_BYTES as u64)
                .read_to_end(&mut bytes)?;
            Ok((file, bytes))
        };
        let (file, bytes) = match read() {
            Ok(read) => read,
            Err(source) => return Err(CursorError::Read { path, source }),
        };
        let text = String::from_utf8_lossy(&bytes);
        let entry_id = match text.trim() {
            "" => None,
            text => Some(text.parse().map_err(|_| CursorError::Malformed {
                path: path.clone(),
                text: text.chars().take(40).collect(),
            })?),
        };
        Ok(Self {
            path,
            file,
            entry_id,
        })
    }

    /// The last entry that this site is done with.
    pub(crate) fn entry_id(&self) -> Option<EntryId> {
        self.entry_id
    }

    /// Notes that this site is done with `entry_id`.
    ///
    /// # Errors
    /// When the file cannot be written; the cursor in memory has moved all the same.
    pub(crate) fn advance(&mut self, entry_id: EntryId) -> Result<(), CursorError> {
        debug_assert!(self.entry_id < Some(entry_id), "a cursor never moves back");
        self.entry_id = Some(entry_id);
        let record = format!(
            "{:<width$}\n",
            entry_id.to_string(),
            width = RECORD_BYTES - 1
        );
        self.file
            .write_all_at(record.as_bytes(), 0)
            .map_err(|source| self.write_error(source))
    }

    /// Flushes the cursor to the disk.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub(crate) fn sync(&self) -> Result<(), CursorError> {
        self.file
            .sync_all()
            .map_err(|source| self.write_error(source))
    }

    fn write_error(&self, source: io::Error) -> CursorError {
        CursorError::Write {
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_survives_the_process() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut cursor = Cursor::open(directory.path(), "main").expect("opened");
        assert_eq!(cursor.entry_id(), None);
        let entry_id = EntryId {
            epoch: 7,
            number: 3,
        };
        cursor.advance(entry_id).expect("written");
        cursor.sync().expect("flushed");
        let again = Cursor::open(directory.path(), "main").expect("opened");
        assert_eq!(again.entry_id(), Some(entry_id));
        let smaller = EntryId {
            epoch: 8,
            number: 1,
        };
        let mut cursor = again;
        cursor.advance(smaller).expect("written");
        let again = Cursor::open(directory.path(), "main").expect("opened");
        assert_eq!(
            again.entry_id(),
            Some(smaller),
            "nothing is left of a longer record"
        );
        let other = Cursor::open(directory.path(), "second").expect("opened");
        assert_eq!(other.entry_id(), None, "each relay has its own");
    }

    #[test]
    fn malformed_cursor_is_refused_by_name() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("cursor-main"), "nonsense").expect("written");
        let err = Cursor::open(directory.path(), "main").expect_err("refused");
        let text = err.to_string();
        assert!(
            text.contains("cursor-main") && text.contains("nonsense"),
            "{text}"
        );
    }
}

//! The cursor on disk: the last publication that this site is done with.
//!
//! Written after each publication, before the next is begun, by writing a new file and renaming it: the cursor
//! survives a kill at any instruction. It is flushed to the disk itself at shutdown only: after a power cut the cursor
//! may be a little old, and the publications in between are found in the lower master's job cache.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use relay_core::entry::EntryId;

/// Why the cursor could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CursorError {
    /// The file is there and cannot be read.
    #[error("failed to read the cursor {path}")]
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

/// The cursor of one relay, in `<state_dir>/cursor-<mom>`.
#[derive(Debug)]
pub(crate) struct Cursor {
    path: PathBuf,
    temporary: PathBuf,
    entry_id: Option<EntryId>,
}

impl Cursor {
    /// Reads the cursor; there is none at the very first start.
    ///
    /// # Errors
    /// When a file is there and cannot be read, or is no cursor.
    pub(crate) fn open(state_dir: &Path, mom: &str) -> Result<Self, CursorError> {
        let path = state_dir.join(format!("cursor-{mom}"));
        let temporary = path.with_extension("new");
        let entry_id = match fs::read(&path) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                Some(text.trim().parse().map_err(|_| CursorError::Malformed {
                    path: path.clone(),
                    text: text.chars().take(40).collect(),
                })?)
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(CursorError::Read { path, source }),
        };
        Ok(Self {
            path,
            temporary,
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
        self.write(entry_id)
    }

    fn write(&self, entry_id: EntryId) -> Result<(), CursorError> {
        fs::write(&self.temporary, format!("{entry_id}\n"))
            .and_then(|()| fs::rename(&self.temporary, &self.path))
            .map_err(|source| CursorError::Write {
                path: self.path.clone(),
                source,
            })
    }

    /// Flushes the cursor to the disk.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub(crate) fn sync(&self) -> Result<(), CursorError> {
        if self.entry_id.is_none() {
            return Ok(());
        }
        fs::File::open(&self.path)
            .and_then(|file| file.sync_all())
            .map_err(|source| CursorError::Write {
                path: self.path.clone(),
                source,
            })
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
        let other = Cursor::open(directory.path(), "second").expect("opened");
        assert_eq!(other.entry_id(), None, "each relay has its own");
    }

    #[test]
    fn malformed_cursor_is_refused_by_name() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("cursor-main"), "nonsense").expect("written");
        let err = Cursor::open(directory.path(), "main").expect_err("refused");
        let text = err.to_string();
        assert!(
            text.contains("cursor-main") && text.contains("nonsense"),
            "{text}"
        );
    }
}

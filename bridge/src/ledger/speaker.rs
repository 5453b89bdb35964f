//! Which of the bridges of a MoM speaks: fires events on its bus and writes the audit.
//!
//! Every bridge keeps the ledger; the one that holds the lock of `<cachedir>/saltway-<mom>.speaker` speaks. The system
//! frees the lock when the process dies, however it dies, and the next bridge that looks takes it.
//!
//! ```text
//!             lock free                    file gone or replaced
//!  Listening ───────────► Speaking ──────────────────────────────► Listening
//! ```
//! - Two never speak at a time: the lock is one of the file that stands at the path, not of one that somebody removed.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// What a look has changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Everything is as it was.
    None,
    /// This bridge speaks from now on.
    Began,
    /// The file is gone or another one: this bridge is silent until it has the lock of the new one.
    Lost,
    /// The file cannot be opened or locked; told once until it can.
    Failed(String),
}

/// The lock, held or not; see the module's head.
#[derive(Debug)]
pub(super) struct Speaker {
    path: PathBuf,
    held: Option<File>,
    failed: bool,
}

impl Speaker {
    /// For the MoM whose cache is `cachedir`, by its relay's name. Nothing is locked before the first look.
    pub(super) fn new(cachedir: &Path, mom: &str) -> Self {
        Self {
            path: cachedir.join(format!("saltway-{mom}.speaker")),
            held: None,
            failed: false,
        }
    }

    /// Whether this bridge speaks.
    pub(super) fn speaks(&self) -> bool {
        self.held.is_some()
    }

    /// Tries for the lock, or sees to it that it is still worth something. Takes microseconds.
    pub(super) fn look(&mut self) -> Change {
        if let Some(held) = &self.held {
            if stands_at(held, &self.path) {
                return Change::None;
            }
            self.held = None;
            return Change::Lost;
        }
        match lock(&self.path) {
            Ok(Some(file)) => {
                self.held = Some(file);
                self.failed = false;
                Change::Began
            }
            Ok(None) => {
                self.failed = false;
                Change::None
            }
            Err(_) if self.failed => Change::None,
            Err(err) => {
                self.failed = true;
                Change::Failed(format!("{}: {err}", self.path.display()))
            }
        }
    }
}

/// The file with its lock; `None` while another process has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    match file.try_lock() {
        // Between opening and locking the file may have been replaced.
        Ok(()) => Ok(stands_at(&file, path).then_some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(err)) => Err(err),
    }
}

fn stands_at(file: &File, path: &Path) -> bool {
    let (Ok(held), Ok(there)) = (file.metadata(), std::fs::metadata(path)) else {
        return false;
    };
    (held.dev(), held.ino()) == (there.dev(), there.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_speaks_and_the_next_takes_over_when_it_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut first = Speaker::new(dir.path(), "main");
        let mut second = Speaker::new(dir.path(), "main");
        assert_eq!(first.look(), Change::Began);
        assert_eq!((second.look(), second.speaks()), (Change::None, false));
        assert_eq!((first.look(), first.speaks()), (Change::None, true));
        // Another MoM's bridge on the same host.
        assert_eq!(Speaker::new(dir.path(), "other").look(), Change::Began);
        drop(first);
        assert_eq!(second.look(), Change::Began);
    }

    #[test]
    fn a_removed_file_makes_nobody_speak_twice() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut first = Speaker::new(dir.path(), "main");
        let mut second = Speaker::new(dir.path(), "main");
        assert_eq!(first.look(), Change::Began);
        std::fs::remove_file(dir.path().join("saltway-main.speaker")).expect("removed");
        assert_eq!(second.look(), Change::Began);
        assert_eq!((first.look(), first.speaks()), (Change::Lost, false));
        assert_eq!(first.look(), Change::None);
    }

    #[test]
    fn what_is_in_the_way_is_told_once() {
        let mut speaker = Speaker::new(Path::new("/nonexistent"), "main");
        assert!(matches!(speaker.look(), Change::Failed(why) if why.contains("/nonexistent")));
        assert_eq!(speaker.look(), Change::None);
    }
}

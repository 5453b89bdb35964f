//! The directory of the keys that a lower master has accepted: a file for each minion, named by its id.
//!
//! `CkMinions._pki_minions` of 3006 and 3007, `localfs_key` of 3008: plain files whose names do not begin with a dot.

use std::{
    collections::BTreeSet,
    fs::{self, DirEntry},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use salt_wire::ids::MinionId;

/// File systems tell the time of a change in steps: a change soon after another one may bear the same time. The coarsest step in
/// use is that of FAT, 2 s.
const STEP: Duration = Duration::from_secs(2);

/// What tells whether a directory has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
    modified: (i64, i64),
    /// Whether a later change is certain to bear another time.
    settled: bool,
}

/// One look at the directory.
#[derive(Debug)]
pub(super) struct Look {
    /// Who is there.
    pub(super) ids: BTreeSet<Arc<str>>,
    /// Files whose names are no minion ids.
    pub(super) strange: usize,
    /// The directory right before.
    pub(super) stamp: Stamp,
}

/// The directory.
#[derive(Debug)]
pub(super) struct KeyDirectory {
    path: PathBuf,
}

impl KeyDirectory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads who is there. Blocks: some 30 ms with 50,000 minions.
    pub(super) fn look(&self) -> io::Result<Look> {
        let stamp = self.stamp()?;
        let mut look = Look {
            ids: BTreeSet::new(),
            strange: 0,
            stamp,
        };
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") || !is_file(&entry) {
                continue;
            }
            match name.to_str().filter(|name| MinionId::parse(name).is_ok()) {
                Some(id) => {
                    look.ids.insert(id.into());
                }
                None => look.strange += 1,
            }
        }
        Ok(look)
    }

    /// Whether the directory is for certain as it was when it was looked at. Blocks, for one system call.
    pub(super) fn is_as_at(&self, then: &Stamp) -> bool {
        let now = self.stamp().map(|now| Stamp {
            settled: true,
            ..now
        });
        now.is_ok_and(|now| now == *then)
    }

    fn stamp(&self) -> io::Result<Stamp> {
        let metadata = fs::metadata(&self.path)?;
        let newest = metadata.modified()?;
        let settled = SystemTime::now()
            .duration_since(newest)
            .is_ok_and(|since| since > STEP);
        Ok(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            settled,
        })
    }
}

/// A key may be a link to a file, too.
fn is_file(entry: &DirEntry) -> bool {
    match entry.file_type() {
        Ok(kind) if kind.is_symlink() => {
            fs::metadata(entry.path()).is_ok_and(|file| file.is_file())
        }
        Ok(kind) => kind.is_file(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(names: &[&str]) -> (tempfile::TempDir, KeyDirectory) {
        let directory = tempfile::tempdir().expect("a directory");
        for name in names {
            fs::write(directory.path().join(name), "a key").expect("written");
        }
        let keys = KeyDirectory::new(directory.path().to_owned());
        (directory, keys)
    }

    /// As if the last change had been long ago.
    fn age(directory: &Path) {
        let long_ago = SystemTime::now() - Duration::from_secs(60);
        let file = fs::File::open(directory).expect("opened");
        file.set_modified(long_ago).expect("set");
    }

    #[test]
    fn keys_are_plain_files_and_nothing_else() {
        let (directory, keys) = directory(&["a1", "größe", ".key_cache", "B\\x", "a b"]);
        fs::create_dir(directory.path().join("sub")).expect("made");
        std::os::unix::fs::symlink(directory.path().join("a1"), directory.path().join("a2"))
            .expect("linked");
        std::os::unix::fs::symlink("nowhere", directory.path().join("a3")).expect("linked");
        let look = keys.look().expect("read");
        let ids: Vec<&str> = look.ids.iter().map(AsRef::as_ref).collect();
        assert_eq!(ids, ["a b", "a1", "a2", "größe"]);
        assert_eq!(look.strange, 1);
    }

    #[test]
    fn any_change_since_the_look_shows() {
        let (directory, keys) = directory(&["a1"]);
        age(directory.path());
        let before = keys.look().expect("read").stamp;
        assert!(keys.is_as_at(&before));
        fs::write(directory.path().join("a2"), "a key").expect("written");
        assert!(!keys.is_as_at(&before), "a key was accepted");
        age(directory.path());
        let before = keys.look().expect("read").stamp;
        fs::remove_file(directory.path().join("a2")).expect("removed");
        assert!(!keys.is_as_at(&before), "a key was deleted");
    }

    #[test]
    fn a_look_soon_after_a_change_is_not_trusted() {
        let (_directory, keys) = directory(&["a1"]);
        let look = keys.look().expect("read");
        assert!(!keys.is_as_at(&look.stamp));
    }

    #[test]
    fn a_directory_that_is_gone_is_not_as_it_was() {
        let (directory, keys) = directory(&["a1"]);
        age(directory.path());
        let look = keys.look().expect("read");
        drop(directory);
        assert!(!keys.is_as_at(&look.stamp));
        assert!(keys.look().is_err());
    }
}

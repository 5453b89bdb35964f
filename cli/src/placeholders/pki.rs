//! The MoM's directory of keys: who has one, and in which state.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Largest file that is taken for a key: one of 16,384 bits has 3 KiB.
const KEY_BYTES_MAX: u64 = 64 * 1024;

/// Directories beside `minions` in which an id may be, and what that means.
const OTHERS: [(&str, &str); 4] = [
    ("minions_pre", "its key waits for acceptance"),
    ("minions_rejected", "its key is rejected"),
    ("minions_denied", "a key of it is denied"),
    ("minions_autosign", "it is to be signed by itself"),
];

/// What an id has.
#[derive(Debug)]
pub(super) enum Holder {
    /// An accepted key with this content.
    Accepted(Vec<u8>),
    /// Something else, in words.
    Other(&'static str),
}

impl Holder {
    /// Why nothing is done about it.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Accepted(_) => "it has an accepted key of its own",
            Self::Other(words) => words,
        }
    }
}

/// `pki_dir` of the MoM.
#[derive(Debug)]
pub(super) struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Takes `dir`, which the MoM has made.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        let pki = Self {
            dir: dir.to_owned(),
        };
        fs::read_dir(pki.minions()).with_context(|| {
            format!(
                "failed to read {}; run this on the MoM's host, as root or as Salt's user",
                pki.minions().display()
            )
        })?;
        Ok(pki)
    }

    /// Where accepted keys are.
    pub(super) fn minions(&self) -> PathBuf {
        self.dir.join("minions")
    }

    /// Every accepted key, by its id.
    pub(super) fn accepted(&self) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(self.minions())? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(id) = name.to_str().filter(|name| !name.starts_with('.')) else {
                continue;
            };
            if let Some(content) = read(&entry.path()) {
                found.insert(id.to_owned(), content);
            }
        }
        Ok(found)
    }

    /// What `id` has; nothing if it is free.
    pub(super) fn holder(&self, id: &str) -> Option<Holder> {
        if !is_valid_id(id) {
            return None;
        }
        let accepted = self.minions().join(id);
        if fs::symlink_metadata(&accepted).is_ok() {
            let content = read(&accepted);
            return Some(content.map_or(Holder::Other("its key cannot be read"), Holder::Accepted));
        }
        OTHERS
            .iter()
            .find(|(dir, _)| fs::symlink_metadata(self.dir.join(dir).join(id)).is_ok())
            .map(|(_, words)| Holder::Other(words))
    }

    /// Gives `id` the key `pem`. Fails when it has any by now: nothing is overwritten.
    pub(super) fn add(&self, id: &str, pem: &[u8]) -> anyhow::Result<()> {
        let (dir, path) = (self.minions(), self.minions().join(id));
        let told = || format!("failed to write {}", path.display());
        // Salt passes over names that begin with a dot.
        let draft = dir.join(format!(".saltway-{}", std::process::id()));
        let owner = fs::metadata(&dir).with_context(told)?;
        let made = write(&draft, pem, &owner).and_then(|()| fs::hard_link(&draft, &path));
        let gone = fs::remove_file(&draft);
        made.and(gone).with_context(told)
    }

    /// Takes the key of `id` away.
    pub(super) fn remove(&self, id: &str) -> anyhow::Result<()> {
        let path = self.minions().join(id);
        fs::remove_file(&path).with_context(|| format!("failed to remove {}", path.display()))
    }
}

/// Whether Salt takes `id`, and it names a file right in its directory.
pub(super) fn is_valid_id(id: &str) -> bool {
    let plain = id
        .bytes()
        .all(|byte| !byte.is_ascii_control() && !b"/\\".contains(&byte));
    let one_name = Path::new(id).file_name() == Some(OsStr::new(id));
    (1..=253).contains(&id.len()) && plain && one_name && !id.starts_with('.')
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let meta = fs::symlink_metadata(path).ok()?;
    if !meta.is_file() || meta.len() > KEY_BYTES_MAX {
        return None;
    }
    fs::read(path).ok()
}

/// Writes a new file as Salt would have it: readable, and its own.
fn write(path: &Path, content: &[u8], owner: &fs::Metadata) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)?;
    file.write_all(content)?;
    if file.metadata()?.uid() != owner.uid() {
        chown(path, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pki() -> (tempfile::TempDir, Pki) {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["minions", "minions_pre"] {
            fs::create_dir(dir.path().join(name)).expect(name);
        }
        let pki = Pki::open(dir.path()).expect("opened");
        (dir, pki)
    }

    #[test]
    fn an_id_cannot_leave_its_directory() {
        for id in ["", ".", "..", "../x", "a/b", ".hidden", "a\nb", "a\\b"] {
            assert!(!is_valid_id(id), "{id:?}");
        }
        for id in ["a1", "web-1.example.com", "Ünder"] {
            assert!(is_valid_id(id), "{id:?}");
        }
    }

    #[test]
    fn a_key_that_is_there_is_never_overwritten() {
        let (_dir, pki) = pki();
        fs::write(pki.minions().join("a1"), "theirs").expect("written");
        pki.add("a1", b"ours").expect_err("there already");
        assert_eq!(
            fs::read(pki.minions().join("a1")).expect("there"),
            b"theirs"
        );
        assert_eq!(pki.accepted().expect("listed").len(), 1);
    }

    #[test]
    fn a_pending_id_is_held() {
        let (dir, pki) = pki();
        fs::write(dir.path().join("minions_pre/a1"), "theirs").expect("written");
        assert!(matches!(pki.holder("a1"), Some(Holder::Other(_))));
        assert!(pki.holder("a2").is_none());
    }
}

//! The directory where a daemon keeps what must survive a restart.
//!
//! - Nobody else can read what stands there: it is made 0700, and its files say their own mode.
//! - One daemon of a role uses it at a time: [`StateDir::lock`].
//! - A file is replaced whole or not at all: [`atomic_write`].

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// It is missing and could not be made.
    #[error("failed to create {path}; create it, owned by the daemon's user, or set another `state_dir`", path = .path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something else stands there.
    #[error("{path} is not a directory; set another `state_dir`", path = .path.display())]
    NotADirectory {
        /// What was named.
        path: PathBuf,
    },
    /// Anybody may write there, so that nothing read from it could be trusted.
    #[error("{path} is writable by everybody; run `chmod 0700 {path}` or set another `state_dir`", path = .path.display())]
    WorldWritable {
        /// The directory.
        path: PathBuf,
    },
    /// A file could not be written there.
    #[error("failed to write in {path}; give it to the daemon's user or set another `state_dir`", path = .path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process of the same role holds it.
    #[error("{path} is in use by another {role}; stop that one or set another `state_dir`", path = .path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The role that wanted it.
        role: String,
    },
    /// The lock file could not be opened or locked.
    #[error("failed to lock {path}", path = .path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A directory that exists and was written to.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
}

/// Holds a role's lock until it is dropped; the system releases it when the process dies.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateDir {
    /// Makes the directory if it is missing (0700, parents too) and tries a write in it.
    ///
    /// # Errors
    /// See [`StateDirError`]; each names the path and what to do.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let owned = || path.to_owned();
        match fs::metadata(path) {
            Ok(meta) if !meta.is_dir() => {
                return Err(StateDirError::NotADirectory { path: owned() });
            }
            Ok(meta) if meta.mode() & 0o002 != 0 => {
                return Err(StateDirError::WorldWritable { path: owned() });
            }
            Ok(_) => {}
            Err(_) => DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|source| StateDirError::Create {
                    path: owned(),
                    source,
                })?,
        }
        let probe = path.join(format!(".probe.{}", std::process::id()));
        atomic_write(&probe, b"", 0o600, Durability::Cached)
            .and_then(|()| fs::remove_file(&probe))
            .map_err(|source| StateDirError::NotWritable {
                path: owned(),
                source,
            })?;
        Ok(Self { path: owned() })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the file `name` in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Takes the directory for `role`; different roles (a bridge and a shim) may share it.
    ///
    /// # Errors
    /// [`StateDirError::InUse`] while another process holds it.
    pub fn lock(&self, role: &str) -> Result<StateLock, StateDirError> {
        let path = self.file(&format!("{role}.lock"));
        let failed = |source| StateDirError::Lock {
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(StateLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StateDirError::InUse {
                path: self.path.clone(),
                role: role.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

/// What a write must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The end of the process, also by kill -9; not the loss of power.
    Cached,
    /// The loss of power: the file and its directory are synced.
    Synced,
}

/// Replaces `path` by a file with `bytes` and `mode`: whoever reads sees the old one or the new.
///
/// Blocks; call it from a blocking thread when `durability` is [`Durability::Synced`].
///
/// # Errors
/// What the system said; the old file then still stands.
pub fn atomic_write(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    durability: Durability,
) -> io::Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let mut tmp_name = std::ffi::OsString::from(".");
    tmp_name.push(name);
    tmp_name.push(".tmp");
    let tmp = path.with_file_name(tmp_name);
    let written = write_new(&tmp, bytes, mode, durability).and_then(|()| fs::rename(&tmp, path));
    if let Err(err) = written {
        // The write's error is the one to tell; a left-over is replaced by the next write.
        drop(fs::remove_file(&tmp));
        return Err(err);
    }
    match (durability, path.parent()) {
        (Durability::Synced, Some(parent)) => {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            File::open(parent)?.sync_all()
        }
        _ => Ok(()),
    }
}

fn write_new(tmp: &Path, bytes: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    // A left-over may carry another mode, which opening it again would keep.
    match fs::remove_file(tmp) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(tmp)?;
    file.write_all(bytes)?;
    if durability == Durability::Synced {
        file.sync_all()
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_missing_directory_is_made_for_its_user_only() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&tmp.path().join("a/b")).unwrap();
        assert_eq!(mode(dir.path()), 0o700);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "the probe is removed"
        );
    }

    #[test]
    fn a_file_in_its_place_is_told_with_its_path() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("file");
        fs::write(&path, "").unwrap();
        let told = StateDir::open(&path).unwrap_err().to_string();
        assert!(
            told.contains(path.to_str().unwrap()) && told.contains("state_dir"),
            "{told}"
        );
        // A directory below a file cannot be made, whoever asks for it.
        let below = StateDir::open(&path.join("below")).unwrap_err();
        assert!(matches!(below, StateDirError::Create { .. }), "{below:?}");
    }

    #[test]
    fn a_directory_that_everybody_may_write_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        fs::set_permissions(tmp.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let err = StateDir::open(tmp.path()).unwrap_err();
        assert!(
            matches!(err, StateDirError::WorldWritable { .. }),
            "{err:?}"
        );
    }

    #[test]
    fn a_role_has_the_directory_alone_until_it_lets_go() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = StateDir::open(tmp.path()).unwrap();
        let held = dir.lock("bridge").unwrap();
        assert!(matches!(
            dir.lock("bridge"),
            Err(StateDirError::InUse { .. })
        ));
        let _other_role = dir.lock("master-shim").unwrap();
        drop(held);
        dir.lock("bridge").unwrap();
    }

    #[test]
    fn a_write_replaces_the_whole_file_and_its_mode() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("cursor");
        fs::write(&path, "a long old text").unwrap();
        fs::write(tmp.path().join(".cursor.tmp"), "left over").unwrap();
        atomic_write(&path, b"new", 0o600, Durability::Synced).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("dir");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "").unwrap();
        atomic_write(&path, b"new", 0o600, Durability::Cached).unwrap_err();
        assert!(path.join("inside").exists());
        assert_eq!(
            fs::read_dir(tmp.path()).unwrap().count(),
            1,
            "no temporary file stays"
        );
    }
}

//! The key files of a sign-in: read bounded, written so that no crash leaves half of one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use salt_wire::keys::{KeyError, PEM_LEN_MAX, PrivateKey, PublicKey};
use salt_wire::request::Nonce;
use tracing::info;

/// Why a key file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file is there, but cannot be read.
    #[error("failed to read the key file {path}: is it readable for the user we run as?")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A file that the configuration names is not there.
    #[error("the key file {path} does not exist")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error(
        "failed to write the key file {path}: is its directory writable for the user we run as?"
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// What the file holds is no usable key.
    #[error("{path} holds no usable key")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// A new key cannot be made.
    #[error("failed to make a key of {bits} bits for {path}")]
    Generate {
        /// Where it was to be stored.
        path: PathBuf,
        /// `keysize`.
        bits: u32,
        /// Why.
        #[source]
        source: KeyError,
    },
}

/// Reads `minion.pem`; when it is missing makes a pair as Salt does: 0400 for the private half and
/// 0644 for the public one, in a directory of mode 0700.
pub(super) fn load_or_create(pki_dir: &Path, bits: u32) -> Result<PrivateKey, KeyFileError> {
    let path = pki_dir.join("minion.pem");
    let key = match read(&path)? {
        Some(pem) => parse_private(&path, &pem)?,
        None => create(pki_dir, &path, bits)?,
    };
    let public = pki_dir.join("minion.pub");
    if !public.exists() {
        let half = key
            .public_key()
            .map_err(|source| KeyFileError::Key { path, source })?;
        store(&public, half.to_pem().as_bytes(), 0o644, Existing::Keep)?;
    }
    Ok(key)
}

fn create(pki_dir: &Path, path: &Path, bits: u32) -> Result<PrivateKey, KeyFileError> {
    let write = |source| KeyFileError::Write {
        path: path.to_owned(),
        source,
    };
    let generate = |source| KeyFileError::Generate {
        path: path.to_owned(),
        bits,
        source,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(pki_dir)
        .map_err(write)?;
    let key = PrivateKey::generate(bits).map_err(generate)?;
    let pem = key.to_pem().map_err(generate)?;
    store(path, pem.as_bytes(), 0o400, Existing::Keep)?;
    info!(file = %path.display(), bits, "no key found, a new one was made");
    // A salt-minion that started at the same moment may have been first; then its key counts.
    match read(path)? {
        Some(pem) => parse_private(path, &pem),
        None => Ok(key),
    }
}

fn parse_private(path: &Path, pem: &[u8]) -> Result<PrivateKey, KeyFileError> {
    PrivateKey::from_pem(pem).map_err(|source| KeyFileError::Key {
        path: path.to_owned(),
        source,
    })
}

/// Reads a public key; nothing when there is no such file.
pub(super) fn read_public(path: &Path) -> Result<Option<PublicKey>, KeyFileError> {
    let Some(pem) = read(path)? else {
        return Ok(None);
    };
    let key = PublicKey::from_pem(&pem).map_err(|source| KeyFileError::Key {
        path: path.to_owned(),
        source,
    })?;
    Ok(Some(key))
}

/// Reads a public key that must be there.
pub(super) fn require_public(path: &Path) -> Result<PublicKey, KeyFileError> {
    read_public(path)?.ok_or_else(|| KeyFileError::Missing {
        path: path.to_owned(),
    })
}

/// Stores the master's key in place of what was there.
pub(super) fn store_public(path: &Path, key: &PublicKey) -> Result<(), KeyFileError> {
    store(path, key.to_pem().as_bytes(), 0o644, Existing::Replace)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, KeyFileError> {
    let failed = |source| KeyFileError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    // One byte more than any key has, so that a longer file is seen to be none.
    file.take(PEM_LEN_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(Some(bytes))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Keep,
    Replace,
}

/// Writes a file whole: to a neighbour first, which then takes the name.
fn store(path: &Path, content: &[u8], mode: u32, existing: Existing) -> Result<(), KeyFileError> {
    let failed = |source| KeyFileError::Write {
        path: path.to_owned(),
        source,
    };
    let nonce = Nonce::random().map_err(|error| failed(io::Error::other(error)))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", nonce.as_str()));
    let neighbour = path.with_file_name(name);
    let written = write_new(&neighbour, content, mode).and_then(|()| match existing {
        Existing::Replace => fs::rename(&neighbour, path),
        Existing::Keep => match fs::hard_link(&neighbour, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        },
    });
    if neighbour.exists() {
        fs::remove_file(&neighbour).map_err(failed)?;
    }
    written.map_err(failed)?;
    // The name itself must survive a crash, too.
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed)
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

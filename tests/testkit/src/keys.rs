//! RSA key pairs for masters and minions, made once per machine and used again by every run.
//!
//! Eleven new keys for one tree would cost seconds. They guard nothing but loopback servers of a test.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use openssl::rsa::Rsa;

use crate::address::shared_dir;
use crate::workspace::Workspace;

/// Salt's default `keysize`.
const BITS: u32 = 2048;

/// A key pair as Salt stores it.
#[derive(Clone)]
pub struct KeyPair {
    /// PKCS#1 PEM.
    private: Vec<u8>,
    /// SubjectPublicKeyInfo PEM.
    public: Vec<u8>,
}

impl KeyPair {
    /// A pair that nobody else in this workspace has.
    ///
    /// # Errors
    /// When the shared directory cannot be used or a key cannot be made.
    pub fn take(workspace: &Workspace) -> Result<Self> {
        let dir = shared_dir()?.join("keys");
        fs::create_dir_all(&dir)?;
        // Only the process that holds the lock writes, so nobody reads half a key.
        let lock = File::create(dir.join("lock"))?;
        lock.lock().context("failed to lock the key directory")?;
        let stem = dir.join(workspace.next_key().to_string());
        let (private, public) = (stem.with_extension("pem"), stem.with_extension("pub"));
        if !private.exists() || !public.exists() {
            let pair = Rsa::generate(BITS).context("failed to make an RSA key")?;
            write(&public, 0o644, &pair.public_key_to_pem()?)?;
            write(&private, 0o400, &pair.private_key_to_pem()?)?;
        }
        Ok(Self {
            private: fs::read(private)?,
            public: fs::read(public)?,
        })
    }

    /// Writes `<name>.pem` and `<name>.pub` into a pki directory.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn place(&self, pki_dir: &Path, name: &str) -> Result<()> {
        write(&pki_dir.join(format!("{name}.pem")), 0o400, &self.private)?;
        write(&pki_dir.join(format!("{name}.pub")), 0o644, &self.public)
    }

    /// Writes the public key alone to `path`, as a master keeps those that it accepted.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn place_public(&self, path: &Path) -> Result<()> {
        write(path, 0o644, &self.public)
    }
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyPair")
    }
}

fn write(path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    // A key file is read-only for its owner too; an older one makes way.
    fs::remove_file(path).or_else(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            Ok(())
        } else {
            Err(error)
        }
    })?;
    let open = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    open.and_then(|mut file| file.write_all(content))
        .with_context(|| format!("failed to write {}", path.display()))
}

//! Who this shim is to the lease, across restarts: `<state_dir>/lease-<mom>`, `<32 hex digits> alone|company`.
//!
//! A shim that is restarted gets its own lease back at once, by its name. One that has never met another shim of its site
//! need not wait for another's belief when Redis has forgotten the lease. (A second shim that is started for the first time
//! in just those seconds does not wait either: the job cache and the minions' own queues of jids guard then.)

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use daemon_kit::state_dir::{Durability, atomic_write};

/// Bytes of a name.
const NAME_BYTES: usize = 16;

/// The content of the file.
pub(crate) struct Holder {
    path: PathBuf,
    name: String,
    /// Another shim of this site has been met, before or in this process.
    in_company: bool,
    /// The file says that another was met.
    written: bool,
}

impl Holder {
    /// Reads the file, or makes one with a new name.
    ///
    /// # Errors
    /// When the file can be neither read nor made.
    pub(crate) fn open(state_dir: &Path, mom: &str) -> io::Result<Self> {
        let path = state_dir.join(format!("lease-{mom}"));
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(err) if err.kind() == io::ErrorKind::NotFound => String::new(),
            Err(err) => return Err(err),
        };
        if let Some((name, company)) = text.trim().split_once(' ')
            && name.len() == 2 * NAME_BYTES
            && name.bytes().all(|byte| byte.is_ascii_hexdigit())
        {
            let in_company = company != "alone";
            return Ok(Self {
                path,
                name: name.to_owned(),
                in_company,
                written: in_company,
            });
        }
        let mut bytes = [0; NAME_BYTES];
        openssl::rand::rand_bytes(&mut bytes).map_err(io::Error::other)?;
        let holder = Self {
            path,
            name: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            in_company: false,
            written: false,
        };
        holder.write("alone")?;
        Ok(holder)
    }

    /// The name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether another shim of this site may be active.
    pub(crate) fn in_company(&self) -> bool {
        self.in_company
    }

    /// Another shim of this site was met.
    ///
    /// # Errors
    /// When the file cannot be written; it is tried again the next time.
    pub(crate) fn note_company(&mut self) -> io::Result<()> {
        if !self.written {
            self.write("company")?;
            self.written = true;
        }
        Ok(())
    }

    fn write(&self, company: &str) -> io::Result<()> {
        let text = format!("{} {company}\n", self.name);
        atomic_write(&self.path, text.as_bytes(), 0o600, Durability::Cached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_stays_and_company_is_remembered() {
        let directory = tempfile::tempdir().expect("a directory");
        let open = || Holder::open(directory.path(), "main").expect("opened");
        let first = open();
        assert!(!first.in_company());
        let mut second = open();
        assert_eq!(second.name(), first.name());
        assert!(!second.in_company());
        second.note_company().expect("written");
        assert!(open().in_company());
        assert_eq!(open().name(), first.name());
        let other = Holder::open(directory.path(), "second").expect("opened");
        assert_ne!(other.name(), first.name());
    }
}

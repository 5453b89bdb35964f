//! The MoM's AES keys on disk: a publication under an earlier key is opened although the shim was restarted since.
//!
//! `<state_dir>/aes-keys-<mom>`, mode 0600, one line a key: `<unix ms at which it was last the current one> <key>`. A key is
//! dropped when no publication under it can be due any more.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use daemon_kit::{
    state_dir::{Durability, atomic_write},
    unix_millis,
};
use salt_link::session::AesKeyStore;
use salt_wire::crypticle::AesKey;

use crate::telemetry::Telemetry;

/// How long a key is kept after the MoM has changed it. Longer than any `job_ttl` that makes sense: a key is 100 bytes.
const KEEP: Duration = Duration::from_secs(24 * 60 * 60);

/// The keys of one MoM.
pub(crate) struct AesKeyFile {
    path: PathBuf,
    /// When each key was last the current one; newest first.
    keys: Mutex<Vec<(u64, AesKey)>>,
    telemetry: Telemetry,
}

impl AesKeyFile {
    /// Reads the file, if there is one. What is no key is dropped: it opens nothing anyway.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub(crate) fn open(state_dir: &Path, mom: &str, telemetry: Telemetry) -> io::Result<Self> {
        let path = state_dir.join(format!("aes-keys-{mom}"));
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(err) if err.kind() == io::ErrorKind::NotFound => String::new(),
            Err(err) => return Err(err),
        };
        let keys = Mutex::new(text.lines().filter_map(parse).collect());
        Ok(Self {
            path,
            keys,
            telemetry,
        })
    }

    /// Brings the times up to date and returns the file's new text.
    fn update(&self, current: &AesKey, now_ms: u64) -> String {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        // The one that was current until now counts from now.
        if let Some((last_current_ms, _)) = keys.first_mut() {
            *last_current_ms = now_ms;
        }
        keys.retain(|(_, key)| key.to_text() != current.to_text());
        keys.insert(0, (now_ms, current.clone()));
        let keep_ms = u64::try_from(KEEP.as_millis()).unwrap_or(u64::MAX);
        keys.retain(|(last_current_ms, _)| now_ms.saturating_sub(*last_current_ms) <= keep_ms);
        let lines = keys.iter().map(|(last_current_ms, key)| {
            format!("{last_current_ms} {}\n", key.to_text().as_str())
        });
        lines.collect()
    }
}

fn parse(line: &str) -> Option<(u64, AesKey)> {
    let (last_current_ms, key) = line.split_once(' ')?;
    Some((last_current_ms.parse().ok()?, AesKey::parse(key).ok()?))
}

impl AesKeyStore for AesKeyFile {
    fn load(&self) -> Vec<AesKey> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter().map(|(_, key)| key.clone()).collect()
    }

    fn save(&self, current: &AesKey) {
        let text = zeroize::Zeroizing::new(self.update(current, unix_millis()));
        if let Err(err) = atomic_write(&self.path, text.as_bytes(), 0o600, Durability::Cached) {
            self.telemetry.aes_keys_not_written(&self.path, &err);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use daemon_kit::metrics::Metrics;

    use super::*;

    fn open(directory: &Path) -> AesKeyFile {
        let telemetry = Telemetry::new(&Metrics::new("test", "0"), "site1");
        AesKeyFile::open(directory, "main", telemetry).expect("opened")
    }

    #[test]
    fn keys_survive_the_process_for_their_owner_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let keys = [(); 2].map(|()| AesKey::generate().expect("random bytes"));
        let file = open(directory.path());
        file.save(&keys[0]);
        file.save(&keys[1]);
        let mode = fs::metadata(&file.path)
            .expect("the file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let texts = |keys: &[AesKey]| {
            let texts = keys.iter().map(|key| key.to_text().as_str().to_owned());
            texts.collect::<Vec<_>>()
        };
        let expected = [keys[1].clone(), keys[0].clone()];
        assert_eq!(texts(&open(directory.path()).load()), texts(&expected));
    }

    #[test]
    fn key_is_dropped_when_nothing_under_it_can_be_due() {
        let directory = tempfile::tempdir().expect("a directory");
        let keys = [(); 3].map(|()| AesKey::generate().expect("random bytes"));
        let file = open(directory.path());
        let day_ms = 24 * 60 * 60 * 1000;
        file.update(&keys[0], 0);
        file.update(&keys[1], 3 * day_ms);
        assert_eq!(file.load().len(), 2, "the first was current until now");
        file.update(&keys[2], 4 * day_ms + 1);
        assert_eq!(file.load().len(), 2, "the first is a day old");
    }

    #[test]
    fn broken_lines_cost_themselves_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let key = AesKey::generate().expect("random bytes");
        let text = format!("nonsense\n17 {}\n18\n", key.to_text().as_str());
        fs::write(directory.path().join("aes-keys-main"), text).expect("written");
        assert_eq!(open(directory.path()).load().len(), 1);
    }
}

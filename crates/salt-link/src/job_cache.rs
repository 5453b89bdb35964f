//! Salt's default job cache, `local_cache` (`salt/returners/local_cache.py`), read as files.
//!
//! The directory of a job is `<cachedir>/jobs/<first 2>/<rest>` of the hex `hash_type` digest of the jid; it holds the file
//! `jid` from the moment of publishing, `.load.p`, `.minions.p`, and `<minion>/return.p` (msgpack, new spec) once a minion
//! has returned; on a master of masters also `.minions.<syndic>.p` for each syndic that named its minions.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use openssl::hash::{MessageDigest, hash};
use salt_wire::{
    ids::{Jid, MinionId},
    msgpack::{self, Limits, Value},
};

/// How long a return may take to reach the cache after its event: the master fires first and writes then.
const WRITE_DELAY_MAX: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Why a return could not be read from the job cache.
#[derive(Debug, thiserror::Error)]
pub enum JobCacheError {
    /// The cache does not have it, or only cut off, too.
    #[error("the job cache does not have it whole")]
    NotFound,
    /// No such file in time, or not readable.
    #[error("failed to read {path}")]
    Read {
        /// The file of the return.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The file holds something else than a msgpack map.
    #[error("failed to decode {path}")]
    Decode {
        /// The file of the return.
        path: PathBuf,
        /// What the decoder found.
        #[source]
        source: msgpack::DecodeError,
    },
}

/// The files of `local_cache`.
#[derive(Clone)]
pub struct LocalCache {
    jobs: PathBuf,
    digest: MessageDigest,
}

impl LocalCache {
    /// The cache below `cachedir`; `None` for a `hash_type` that OpenSSL does not know.
    #[must_use]
    pub fn new(cachedir: &Path, hash_type: &str) -> Option<Self> {
        let digest = MessageDigest::from_name(hash_type)?;
        let jobs = cachedir.join("jobs");
        Some(Self { jobs, digest })
    }

    /// Whether the latest publication of `jid` by this master had this target.
    ///
    /// The jid alone does not tell: `salt -b` of 3008 publishes all parts of a batch under one jid, each with a list of
    /// minions of its own. The cache keeps the load of the latest part, which is the one that a crash can repeat; of an
    /// earlier part the minions themselves remember the jid.
    pub async fn was_published(&self, jid: &Jid, tgt: &Value) -> Option<bool> {
        let directory = self.directory(jid)?;
        // One look at the file system, in microseconds: not worth another thread.
        if !directory.join("jid").try_exists().ok()? {
            return Some(false);
        }
        let Ok(bytes) = tokio::fs::read(directory.join(".load.p")).await else {
            return Some(true);
        };
        let load = msgpack::decode(&Bytes::from(bytes), Limits::CONTENT);
        Some(load.is_ok_and(|load| load.get("tgt") == Some(tgt)))
    }

    /// The minions that this master targeted with `jid`, as far as the cache can be read.
    pub async fn minions(&self, jid: &Jid) -> Vec<MinionId> {
        let Some(directory) = self.directory(jid) else {
            return Vec::new();
        };
        let bytes = tokio::fs::read(directory.join(".minions.p")).await;
        let minions = bytes
            .ok()
            .and_then(|bytes| msgpack::decode(&Bytes::from(bytes), Limits::CONTENT).ok());
        let minions = minions.as_ref().and_then(Value::as_array);
        let ids = minions.unwrap_or_default().iter();
        ids.filter_map(|id| MinionId::parse(id.as_str()?).ok())
            .collect()
    }

    /// What `minion` returned for `jid`: a map of `return`, `retcode` and `success`, and the bytes it has on disk.
    ///
    /// Waits for the file, since the master fires the event of a return before it writes the return.
    ///
    /// # Errors
    /// When the returner is another one, or the file does not come, or is no msgpack.
    pub async fn read_return(
        &self,
        jid: &Jid,
        minion: &MinionId,
    ) -> Result<(Value, usize), JobCacheError> {
        let directory = self.directory(jid).ok_or(JobCacheError::NotFound)?;
        let path = directory.join(minion.as_str()).join("return.p");
        let deadline = tokio::time::Instant::now() + WRITE_DELAY_MAX;
        let bytes = loop {
            match tokio::fs::read(&path).await {
                Ok(bytes) => break bytes,
                Err(err)
                    if err.kind() == io::ErrorKind::NotFound
                        && tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
                Err(source) => return Err(JobCacheError::Read { path, source }),
            }
        };
        let length = bytes.len();
        let value = msgpack::decode(&Bytes::from(bytes), Limits::CONTENT)
            .map_err(|source| JobCacheError::Decode { path, source })?;
        Ok((value, length))
    }

    /// The same without waiting, of a return that may not be there.
    pub async fn find_return(&self, jid: &Jid, minion: &MinionId) -> Option<(Value, usize)> {
        let path = self.directory(jid)?.join(minion.as_str()).join("return.p");
        let bytes = tokio::fs::read(path).await.ok()?;
        let length = bytes.len();
        let value = msgpack::decode(&Bytes::from(bytes), Limits::CONTENT).ok()?;
        Some((value, length))
    }

    /// The jids of what was published since then, the newest `jobs_max` of them, oldest first. Blocks: it looks at each job.
    #[must_use]
    pub fn jobs_since(&self, since: SystemTime, jobs_max: usize) -> Vec<Jid> {
        let mut found = Vec::new();
        for first in entries(&self.jobs) {
            for directory in entries(&first) {
                let marker = directory.join("jid");
                let published = fs::metadata(&marker).and_then(|found| found.modified());
                if let Ok(at) = published
                    && at >= since
                    && let Ok(jid) = fs::read_to_string(&marker)
                    && let Ok(jid) = Jid::parse(jid.trim())
                {
                    found.push((at, jid));
                }
            }
        }
        found.sort_unstable_by_key(|(at, _)| *at);
        let superfluous = found.len().saturating_sub(jobs_max);
        found.drain(..superfluous);
        found.into_iter().map(|(_, jid)| jid).collect()
    }

    /// What the cache holds of a job; `None` when it does not know it. Blocks. `each` gets every return's bytes (a msgpack
    /// map) and when they were written, one after the other.
    pub fn read_job(
        &self,
        jid: &Jid,
        mut each: impl FnMut(MinionId, Bytes, Option<SystemTime>),
    ) -> Option<CachedJob> {
        let directory = self.directory(jid)?;
        let marker = fs::metadata(directory.join("jid")).ok()?;
        let mut job = CachedJob {
            load: read_value(&directory.join(".load.p")),
            published_at: marker.modified().ok(),
            minions: read_ids(&directory.join(".minions.p")),
            by_site: Vec::new(),
        };
        for path in entries(&directory) {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            let site = name
                .strip_prefix(".minions.")
                .and_then(|rest| rest.strip_suffix(".p"));
            if let Some(site) = site.and_then(|site| MinionId::parse(site).ok()) {
                job.by_site.push((site, read_ids(&path)));
            } else if let Ok(minion) = MinionId::parse(name)
                && let file = path.join("return.p")
                && let Ok(bytes) = fs::read(&file)
            {
                let written = fs::metadata(&file).and_then(|found| found.modified());
                each(minion, bytes.into(), written.ok());
            }
        }
        Some(job)
    }

    fn directory(&self, jid: &Jid) -> Option<PathBuf> {
        let digest = hash(self.digest, jid.as_str().as_bytes()).ok()?;
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let (first, rest) = hex.split_at_checked(2)?;
        Some(self.jobs.join(first).join(rest))
    }
}

/// A job as the cache has it, without its returns.
#[derive(Debug, Clone, PartialEq)]
pub struct CachedJob {
    /// The load with which it was published; `None` when it cannot be read.
    pub load: Option<Value>,
    /// When.
    pub published_at: Option<SystemTime>,
    /// The ids that this master itself targeted.
    pub minions: Vec<MinionId>,
    /// The ids that each syndic's lower master targeted.
    pub by_site: Vec<(MinionId, Vec<MinionId>)>,
}

/// What a directory holds; nothing when it cannot be read.
fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let listed = fs::read_dir(directory).ok();
    let entries = listed.into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path()))
}

fn read_value(path: &Path) -> Option<Value> {
    let bytes = fs::read(path).ok()?;
    msgpack::decode(&Bytes::from(bytes), Limits::CONTENT).ok()
}

fn read_ids(path: &Path) -> Vec<MinionId> {
    let list = read_value(path);
    let ids = list.as_ref().and_then(Value::as_array).unwrap_or_default();
    ids.iter()
        .filter_map(|id| MinionId::parse(id.as_str()?).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const JID: &str = "20261120200000000001";

    fn jid() -> Jid {
        JID.parse().expect("a jid")
    }

    /// `hashlib.sha256(b"20261120200000000001").hexdigest()`
    fn job_directory(cachedir: &Path) -> PathBuf {
        let hex = "e2475db12634bf6fec87a2955cdfedd43dc5e0320af99d58559ab8bf0c1fcd1b";
        let (first, rest) = hex.split_at(2);
        cachedir.join("jobs").join(first).join(rest)
    }

    #[tokio::test]
    async fn job_is_known_from_the_moment_of_publishing() {
        let cachedir = tempfile::tempdir().expect("a directory");
        let cache = LocalCache::new(cachedir.path(), "sha256").expect("a digest");
        let tgt = Value::from("*");
        assert_eq!(cache.was_published(&jid(), &tgt).await, Some(false));
        let directory = job_directory(cachedir.path());
        std::fs::create_dir_all(&directory).expect("created");
        std::fs::write(directory.join("jid"), JID).expect("written");
        assert_eq!(cache.was_published(&jid(), &tgt).await, Some(true));
    }

    #[tokio::test]
    async fn next_part_of_a_batch_is_not_taken_for_the_one_before() {
        let cachedir = tempfile::tempdir().expect("a directory");
        let cache = LocalCache::new(cachedir.path(), "sha256").expect("a digest");
        let directory = job_directory(cachedir.path());
        std::fs::create_dir_all(&directory).expect("created");
        std::fs::write(directory.join("jid"), JID).expect("written");
        // {"tgt": ["a1", "b1"]}
        let load = b"\x81\xa3tgt\x92\xa2a1\xa2b1";
        std::fs::write(directory.join(".load.p"), load).expect("written");
        let first = Value::array(["a1", "b1"]);
        assert_eq!(cache.was_published(&jid(), &first).await, Some(true));
        let second = Value::array(["a2"]);
        assert_eq!(cache.was_published(&jid(), &second).await, Some(false));
    }

    #[tokio::test]
    async fn return_that_is_written_after_its_event_is_awaited() {
        let cachedir = tempfile::tempdir().expect("a directory");
        let cache = LocalCache::new(cachedir.path(), "sha256").expect("a digest");
        let minion: MinionId = "a1".parse().expect("a minion id");
        let directory = job_directory(cachedir.path()).join("a1");
        let jid = jid();
        let (read, ()) = tokio::join!(cache.read_return(&jid, &minion), async {
            tokio::task::yield_now().await;
            std::fs::create_dir_all(&directory).expect("created");
            std::fs::write(directory.join("part"), b"\x81\xa6return\x2a").expect("written");
            std::fs::rename(directory.join("part"), directory.join("return.p")).expect("renamed");
        });
        let (read, _) = read.expect("the return");
        assert_eq!(read.get("return").and_then(Value::as_i64), Some(42));
    }

    #[test]
    fn a_job_is_read_with_its_sites_and_returns() {
        let cachedir = tempfile::tempdir().expect("a directory");
        let cache = LocalCache::new(cachedir.path(), "sha256").expect("a digest");
        let directory = job_directory(cachedir.path());
        let began = SystemTime::now() - Duration::from_secs(1);
        assert!(cache.read_job(&jid(), |_, _, _| ()).is_none());
        assert!(cache.jobs_since(began, 10).is_empty());
        std::fs::create_dir_all(directory.join("a1")).expect("created");
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(directory.join(name), bytes).expect("written");
        };
        write("jid", JID.as_bytes());
        write(".load.p", b"\x81\xa3tgt\xa1*");
        write(".minions.p", b"\x92\xa5site1\x01");
        write(".minions.site1.p", b"\x92\xa2a1\xa2a2");
        write("a1/return.p", b"\x81\xa6return\x2a");
        write("out.p", b"nonsense");
        let mut returned = Vec::new();
        let job = cache.read_job(&jid(), |minion, bytes, _| returned.push((minion, bytes)));
        let job = job.expect("known");
        let ids = |ids: &[MinionId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            job.load.as_ref().and_then(|load| load.get_str("tgt")),
            Some("*")
        );
        assert_eq!(ids(&job.minions), ["site1"]);
        let [(site, minions)] = &job.by_site[..] else {
            panic!("{job:?}");
        };
        assert_eq!((site.as_str(), ids(minions).len()), ("site1", 2));
        assert_eq!(returned.len(), 1, "{returned:?}");
        assert_eq!(cache.jobs_since(began, 10), [jid()]);
        assert!(cache.jobs_since(began, 0).is_empty());
        let later = SystemTime::now() + Duration::from_secs(60);
        assert!(cache.jobs_since(later, 10).is_empty());
    }
}

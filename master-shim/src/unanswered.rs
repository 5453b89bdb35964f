//! Which returns are in the spool: the job records tick a return off only when the MoM has answered, and what is in the
//! spool need not be fetched from the lower master's job cache.
//!
//! In memory: 8 bytes of a digest for each. The spool is bounded, and so is this.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use salt_wire::ids::{Jid, MinionId};
use store::{Record, Spool};

use crate::{disk::Disk, lane::Item, site::routing::Return};

/// Records read at once at the start.
const PAGE_ENTRIES: usize = 500;
const PAGE_BYTES: usize = 1 << 20;

/// The returns in the spool; cheap to clone.
#[derive(Clone)]
pub(crate) struct Unanswered {
    digests: Arc<Mutex<HashSet<u64>>>,
    /// The lanes of returns.
    lanes: Arc<[u32]>,
}

impl Unanswered {
    /// Nothing is known to be in these lanes yet.
    pub(crate) fn new(lanes: impl IntoIterator<Item = u32>) -> Self {
        Self {
            digests: Arc::default(),
            lanes: lanes.into_iter().collect(),
        }
    }

    /// Learns what an earlier process has left there.
    pub(crate) async fn load(&self, spool: &Spool, disk: &Disk) {
        for lane in self.lanes.iter() {
            let mut after = 0;
            loop {
                let page = spool.read(*lane, after, PAGE_ENTRIES, PAGE_BYTES).await;
                let records = disk.read("read the spool", page).unwrap_or_default();
                let Some(last) = records.last().map(|record: &Record| record.id) else {
                    break;
                };
                after = last;
                let returns = records
                    .iter()
                    .filter_map(|record| Return::decode(&record.body));
                for ret in returns {
                    self.insert(&ret);
                }
            }
        }
    }

    /// The return is in the spool.
    pub(crate) fn insert(&self, ret: &Return) {
        self.lock().insert(digest(&ret.event.jid, &ret.event.id));
    }

    /// The MoM has answered.
    pub(crate) fn remove(&self, jid: &str, minion: &str) {
        self.lock().remove(&digest_of(jid, minion));
    }

    /// Whether the return is in the spool.
    pub(crate) fn has(&self, jid: &Jid, minion: &MinionId) -> bool {
        self.lock().contains(&digest(jid, minion))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<u64>> {
        // No code that can panic runs under this lock.
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest(jid: &Jid, minion: &MinionId) -> u64 {
    digest_of(jid.as_str(), minion.as_str())
}

fn digest_of(jid: &str, minion: &str) -> u64 {
    let digest = openssl::sha::sha256(format!("{jid}/{minion}").as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

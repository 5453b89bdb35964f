//! Asks the lower master's own job cache: was this jid published here already, and what did a minion really return?
//!
//! Used where the event bus does not suffice: Salt replaces values of events above `max_event_size` by the text
//! `VALUE_TRIMMED`, while the job cache holds them whole; what came while nobody listened to the bus is only there;
//! and a jid that the cache knows was already published by this master, be it through an earlier run of the shim or
//! through salt-syndic.
//!
//! ```text
//!               ┌─ local_cache: its files, in microseconds
//! JobCache ─────┤
//!               └─ any other returner: the master's runner jobs.list_job, a second each
//! ```

use std::sync::Arc;

use salt_link::{job_cache::LocalCache, local_master::LocalMaster, salt_config::MasterConfig};
use salt_wire::{
    ids::{Jid, MinionId},
    msgpack::{self, Value},
};

pub(crate) use salt_link::job_cache::JobCacheError;

use self::runner::RunnerCache;

mod runner;

/// What Salt writes in place of a value that made an event larger than `max_event_size`.
pub(crate) const TRIMMED: &[u8] = b"VALUE_TRIMMED";

/// The job cache of one master; cheap to clone.
#[derive(Clone)]
pub(crate) struct JobCache(Kind);

#[derive(Clone)]
enum Kind {
    Local(LocalCache),
    Runner(RunnerCache),
}

/// What a look-up has brought; see [`JobCache::look_up`].
pub(crate) struct LookedUp(Option<Value>);

impl JobCache {
    /// The cache of the master that `config` is of; `master` runs what the files do not tell.
    pub(crate) fn new(config: &MasterConfig, master: Arc<LocalMaster>) -> Self {
        let local = (config.master_job_cache == "local_cache")
            .then(|| LocalCache::new(&config.cachedir, &config.hash_type))
            .flatten();
        Self(match local {
            Some(local) => Kind::Local(local),
            None => Kind::Runner(RunnerCache::new(master)),
        })
    }

    /// Whether a question costs next to nothing, so that it can be asked for each of many jobs.
    pub(crate) fn is_quick(&self) -> bool {
        matches!(self.0, Kind::Local(_))
    }

    /// Hears an event of the master's bus: it may be the result of a runner function that this cache has started.
    pub(crate) fn hears(&self, tag: &str, data: &[u8]) {
        if let Kind::Runner(runner) = &self.0 {
            runner.hears(tag, data);
        }
    }

    /// Whether the latest publication of `jid` by this master had this target; `None` when the cache does not answer.
    pub(crate) async fn was_published(&self, jid: &Jid, tgt: &Value) -> Option<bool> {
        match &self.0 {
            Kind::Local(local) => local.was_published(jid, tgt).await,
            Kind::Runner(runner) => runner.was_published(jid, tgt).await,
        }
    }

    /// The minions that this master targeted with `jid`, as far as the cache tells.
    pub(crate) async fn minions(&self, jid: &Jid) -> Vec<MinionId> {
        match &self.0 {
            Kind::Local(local) => local.minions(jid).await,
            Kind::Runner(runner) => runner.minions(jid).await,
        }
    }

    /// What `minion` returned for `jid`: a map of `return`, `retcode` and `success`, and the bytes it has on disk.
    ///
    /// Waits for it, since the master fires the event of a return before it writes the return.
    ///
    /// # Errors
    /// When it does not come, or is no msgpack, or is cut off in the answer, too.
    pub(crate) async fn read_return(
        &self,
        jid: &Jid,
        minion: &MinionId,
    ) -> Result<(Value, usize), JobCacheError> {
        match &self.0 {
            Kind::Local(local) => local.read_return(jid, minion).await,
            Kind::Runner(_) => {
                let looked_up = self.look_up(jid).await;
                let found = self.find_return(jid, minion, &looked_up).await;
                found
                    .filter(|(whole, _)| !crate::site::routing::holds_trimmed(whole))
                    .ok_or(JobCacheError::NotFound)
            }
        }
    }

    /// Prepares [`find_return`](Self::find_return) for all minions of a job.
    pub(crate) async fn look_up(&self, jid: &Jid) -> LookedUp {
        LookedUp(match &self.0 {
            Kind::Local(_) => None,
            Kind::Runner(runner) => runner.list_job(jid).await,
        })
    }

    /// The same as [`read_return`](Self::read_return) without waiting, of a return that may not be there.
    pub(crate) async fn find_return(
        &self,
        jid: &Jid,
        minion: &MinionId,
        looked_up: &LookedUp,
    ) -> Option<(Value, usize)> {
        match &self.0 {
            Kind::Local(local) => local.find_return(jid, minion).await,
            Kind::Runner(_) => {
                let result = looked_up.0.as_ref()?.get("Result")?;
                let ret = result.get(minion.as_str())?.clone();
                let bytes = msgpack::encode(&ret, msgpack::Dialect::New).len();
                Some((ret, bytes))
            }
        }
    }
}

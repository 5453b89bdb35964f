//! Any job cache, asked through the master: the runner function `jobs.list_job`, whose result comes by the event bus.
//!
//! One question at a time: each is a Python process of the master's, for about a second.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use salt_link::local_master::LocalMaster;
use salt_wire::{
    ids::{Jid, MinionId},
    msgpack::{self, Limits, Value},
};
use tokio::{sync::Notify, time::timeout};
use tracing::warn;

/// How long a question may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long the master may take to start the runner.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// Results kept while a question is open: others run runners, too, and a result may overtake the reply that names it.
const RESULTS_MAX: usize = 16;

/// Asks; cheap to clone.
#[derive(Clone)]
pub(super) struct RunnerCache {
    master: Arc<LocalMaster>,
    /// Held while a question is open.
    turn: Arc<tokio::sync::Mutex<()>>,
    results: Arc<Results>,
}

#[derive(Default)]
struct Results {
    open: std::sync::atomic::AtomicBool,
    /// The jid and the event's data.
    kept: Mutex<VecDeque<(String, Value)>>,
    came: Notify,
}

impl RunnerCache {
    pub(super) fn new(master: Arc<LocalMaster>) -> Self {
        Self {
            master,
            turn: Arc::default(),
            results: Arc::default(),
        }
    }

    /// Keeps the result of a runner while a question is open.
    pub(super) fn hears(&self, tag: &str, data: &[u8]) {
        let jid = tag
            .strip_prefix("salt/run/")
            .and_then(|rest| rest.strip_suffix("/ret"));
        let Some(jid) = jid else { return };
        if !self.results.open.load(std::sync::atomic::Ordering::SeqCst) {
            return;
        }
        let Ok(data) = msgpack::decode(&Bytes::copy_from_slice(data), Limits::CONTENT) else {
            return;
        };
        let mut kept = self.results.lock();
        if kept.len() >= RESULTS_MAX {
            kept.pop_front();
        }
        kept.push_back((jid.to_owned(), data));
        drop(kept);
        self.results.came.notify_one();
    }

    /// Salt's own rule, as for the files: see [`salt_link::job_cache::LocalCache::was_published`].
    pub(super) async fn was_published(&self, jid: &Jid, tgt: &Value) -> Option<bool> {
        let job = self.list_job(jid).await?;
        if job.get("Error").is_some() {
            return Some(false);
        }
        Some(job.get("Target") == Some(tgt))
    }

    pub(super) async fn minions(&self, jid: &Jid) -> Vec<MinionId> {
        let job = self.list_job(jid).await;
        let minions = job.as_ref().and_then(|job| job.get("Minions")?.as_array());
        let ids = minions.unwrap_or_default().iter();
        ids.filter_map(|id| MinionId::parse(id.as_str()?).ok())
            .collect()
    }

    /// What `salt-run jobs.list_job` prints; `None` when the master does not answer.
    pub(super) async fn list_job(&self, jid: &Jid) -> Option<Value> {
        use std::sync::atomic::Ordering::SeqCst;
        let _turn = self.turn.lock().await;
        self.results.open.store(true, SeqCst);
        let asked = timeout(TIMEOUT, self.ask(jid)).await;
        self.results.open.store(false, SeqCst);
        self.results.lock().clear();
        match asked {
            Ok(Some(data)) => data.get("return").cloned(),
            Ok(None) => None,
            Err(_elapsed) => {
                warn!(%jid, after = ?TIMEOUT, "the lower master did not answer jobs.list_job");
                None
            }
        }
    }

    async fn ask(&self, jid: &Jid) -> Option<Value> {
        let kwarg = Value::map([("jid", jid.into())]);
        let query = match self.master.run("jobs.list_job", kwarg, START_TIMEOUT).await {
            Ok(query) => query,
            Err(err) => {
                warn!(%jid, error = %daemon_kit::chain(&err), "the lower master's job cache cannot be asked");
                return None;
            }
        };
        loop {
            let came = self.results.came.notified();
            let found = {
                let mut kept = self.results.lock();
                let place = kept.iter().position(|(jid, _)| jid == query.as_str());
                place.and_then(|place| kept.remove(place))
            };
            if let Some((_, data)) = found {
                return Some(data);
            }
            came.await;
        }
    }
}

impl Results {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(String, Value)>> {
        // No code that can panic runs under this lock.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

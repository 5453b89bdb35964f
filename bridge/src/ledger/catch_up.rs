//! What passed while this bridge did not hear the bus, read from the MoM's job cache.
//!
//! ```text
//! ledger task ──order──► CatchUpTask ──files, one job after the other──► found ──► ledger task
//! ```
//! - Twice per order: a master fires the event of a return before it writes the return, and what came just before the bus
//!   was heard again may not be on the disk yet.
//! - Only Salt's own cache (`local_cache`) can be read; with any other returner the gap stays, and verdicts say so.
//! - A job at a time is in memory; a new order replaces the one under way.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use daemon_kit::CancellationToken;
use salt_link::job_cache::{CachedJob, LocalCache};
use salt_wire::ids::{Jid, MinionId};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::decode;

/// Jobs read from the cache for one gap: the newest.
const JOBS_MAX: usize = 10_000;

/// What was found and not taken yet. When full the reading waits.
pub(super) const FOUND_MAX: usize = 2;

/// When the cache is read, after the bus was heard again.
const PASSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(7)];

/// What is to be read.
#[derive(Debug)]
pub(super) struct Order {
    /// Jobs that were open when the bus went away.
    pub(super) open: Vec<Jid>,
    /// When the gap began.
    pub(super) since_ms: u64,
}

/// What the cache has of a job.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) jid: Jid,
    pub(super) job: CachedJob,
    pub(super) returns: Vec<Return>,
}

/// A return, without its value.
#[derive(Debug)]
pub(super) struct Return {
    pub(super) minion: MinionId,
    pub(super) fun: String,
    pub(super) is_failed: bool,
    /// When it was written, in unix milliseconds; 0 where that is not known.
    pub(super) at_ms: u64,
}

/// What the task tells.
#[derive(Debug)]
pub(super) enum Told {
    /// A job.
    Found(Box<Found>),
    /// A pass has ended.
    Passed(Passed),
}

/// What a pass came to.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// The jobs that the cache has.
    pub(crate) caught_up: Vec<Jid>,
    /// Their returns.
    pub(crate) returns: usize,
    /// How long it took.
    pub(crate) took: Duration,
    /// Nothing of the gap is missing any more.
    pub(crate) is_last: bool,
}

/// The task.
pub(super) struct CatchUpTask {
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) told: mpsc::Sender<Told>,
    pub(super) cache: LocalCache,
}

impl CatchUpTask {
    /// Reads what is ordered, until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut next = None;
        loop {
            let order = match next.take() {
                Some(order) => order,
                None => tokio::select! {
                    () = shutdown.cancelled() => return,
                    order = self.orders.recv() => match order {
                        Some(order) => order,
                        None => return shutdown.cancelled().await,
                    },
                },
            };
            let (cache, told) = (self.cache.clone(), self.told.clone());
            tokio::select! {
                () = shutdown.cancelled() => return,
                replaced = self.orders.recv() => next = replaced,
                () = carry_out(cache, told, order) => {}
            }
        }
    }
}

async fn carry_out(cache: LocalCache, told: mpsc::Sender<Told>, order: Order) {
    let began = Instant::now();
    for (pass, after) in PASSES.into_iter().enumerate() {
        sleep_until(began + after).await;
        let started = Instant::now();
        let mut passed = Passed {
            is_last: pass + 1 == PASSES.len(),
            ..Passed::default()
        };
        for jid in jids(&cache, &order).await {
            let cache = cache.clone();
            let Ok(Some(found)) = tokio::task::spawn_blocking(move || read(&cache, jid)).await
            else {
                continue;
            };
            passed.returns += found.returns.len();
            passed.caught_up.push(found.jid.clone());
            if told.send(Told::Found(Box::new(found))).await.is_err() {
                return;
            }
        }
        passed.took = started.elapsed();
        if told.send(Told::Passed(passed)).await.is_err() {
            return;
        }
    }
}

/// The jobs that were open, and those that came in between.
async fn jids(cache: &LocalCache, order: &Order) -> Vec<Jid> {
    let since = UNIX_EPOCH + Duration::from_millis(order.since_ms);
    let (cache, mut jids) = (cache.clone(), order.open.clone());
    let listed = tokio::task::spawn_blocking(move || cache.jobs_since(since, JOBS_MAX)).await;
    jids.extend(listed.unwrap_or_default());
    jids.sort_unstable();
    jids.dedup();
    jids
}

fn read(cache: &LocalCache, jid: Jid) -> Option<Found> {
    let mut returns = Vec::new();
    let job = cache.read_job(&jid, |minion, bytes, written| {
        if let Some(looked) = decode::look(&bytes) {
            returns.push(Return {
                minion,
                fun: looked.fun.to_owned(),
                is_failed: looked.is_failed,
                at_ms: millis(written).unwrap_or(0),
            });
        }
    })?;
    Some(Found { jid, job, returns })
}

/// Unix milliseconds of a file's time.
pub(super) fn millis(time: Option<SystemTime>) -> Option<u64> {
    let since = time?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

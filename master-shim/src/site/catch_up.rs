//! Fetches the returns that came while nobody listened to the lower master's event bus: from its job cache.
//!
//! Begun at each connection to the bus. The master fires a return before it writes it to the cache, so that the one fired
//! just before the connection may be written a little later: there are several passes.
//!
//! A return that comes by both ways goes up once: what was seen since the connection is remembered until the last pass is
//! over.

use std::{collections::HashSet, time::Duration};

use salt_wire::{
    commands::ReturnEvent,
    ids::{Jid, MinionId},
    msgpack::Value,
};
use store::{Jobs, OpenJob};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::routing::Return;
use crate::{disk::Disk, job_cache::JobCache, unanswered::Unanswered};

/// When to look, after the connection.
const PASSES: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_secs(2),
    Duration::from_secs(10),
];

/// How much later than the job cache the bus may bring a return.
const LATE_MAX: Duration = Duration::from_secs(10);

/// How far back: as long as the spool keeps returns.
const OPEN_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns on their way to the site task; when full the fetch waits.
const FOUND: usize = 64;

/// Returns remembered until the passes are over; of further ones a second copy may go up, which the MoM files over the
/// first.
const SEEN_MAX: usize = 100_000;

/// A return from the job cache.
pub(super) struct Found {
    pub(super) ret: Box<Return>,
    /// Index of the MoM that asked for it.
    pub(super) upstream: usize,
}

/// The fetch under way, if there is one.
#[derive(Default)]
pub(super) struct CatchUp {
    found: Option<mpsc::Receiver<Found>>,
    seen: HashSet<(Jid, MinionId)>,
}

impl CatchUp {
    /// Begins anew; the future does the fetching.
    pub(super) fn begin(&mut self, fetch: Fetch) -> impl Future<Output = ()> + Send + use<> {
        let (sender, found) = mpsc::channel(FOUND);
        self.found = Some(found);
        fetch.run(sender)
    }

    /// The next return; pending while there is none.
    pub(super) async fn found(&mut self) -> Found {
        if let Some(found) = &mut self.found {
            if let Some(found) = found.recv().await {
                return found;
            }
            self.found = None;
            self.seen = HashSet::new();
        }
        std::future::pending().await
    }

    /// Whether this return is new, by either way.
    pub(super) fn is_new(&mut self, ret: &Return) -> bool {
        if self.found.is_none() || self.seen.len() >= SEEN_MAX {
            return true;
        }
        self.seen
            .insert((ret.event.jid.clone(), ret.event.id.clone()))
    }
}

/// Where to look.
pub(super) struct Fetch {
    pub(super) jobs: Jobs,
    pub(super) disk: Disk,
    pub(super) job_cache: JobCache,
    pub(super) unanswered: Unanswered,
}

impl Fetch {
    async fn run(self, sender: mpsc::Sender<Found>) {
        let (began, began_ms) = (Instant::now(), daemon_kit::unix_millis());
        for pass in PASSES {
            sleep_until(began + pass).await;
            // Whatever came later the bus tells of.
            let open = open_jobs(&self.jobs, &self.disk).await.into_iter();
            for job in open.filter(|job| job.at_ms <= began_ms) {
                if self.fetch(&job, &sender).await.is_none() {
                    return;
                }
            }
        }
        // The bus may bring late what was fetched: the task remembers as long as the channel stands.
        sleep_until(Instant::now() + LATE_MAX).await;
    }

    /// Sends what the job cache has; `None` when the site task is gone.
    async fn fetch(&self, job: &OpenJob, sender: &mpsc::Sender<Found>) -> Option<()> {
        let Ok(jid) = Jid::parse(&job.jid) else {
            return Some(());
        };
        let looked_up = self.job_cache.look_up(&jid).await;
        for minion in &job.missing {
            let Ok(minion) = MinionId::parse(minion) else {
                continue;
            };
            if self.unanswered.has(&jid, &minion) {
                continue;
            }
            let found = self.job_cache.find_return(&jid, &minion, &looked_up);
            let Some((fields, bytes)) = found.await else {
                continue;
            };
            let event = ReturnEvent {
                jid: jid.clone(),
                id: minion,
                fun: job.fun.as_str().into(),
                master_id: None,
                fields: whole(fields),
            };
            let ret = Box::new(Return {
                event,
                load: None,
                bytes,
                heard_ms: daemon_kit::unix_millis(),
            });
            let upstream = usize::try_from(job.upstream).unwrap_or(0);
            sender.send(Found { ret, upstream }).await.ok()?;
        }
        Some(())
    }
}

/// Jobs of which minions have not returned.
pub(super) async fn open_jobs(jobs: &Jobs, disk: &Disk) -> Vec<OpenJob> {
    let open_for_ms = u64::try_from(OPEN_FOR.as_millis()).unwrap_or(u64::MAX);
    let since_ms = daemon_kit::unix_millis().saturating_sub(open_for_ms);
    let open = jobs.open_jobs(since_ms).await;
    disk.read("read job records", open).unwrap_or_default()
}

/// Salt's job cache leaves out what a return of its time did not have.
fn whole(fields: Value) -> Value {
    let mut fields = match fields {
        Value::Map(_) => fields,
        other => Value::map([("return", other)]),
    };
    if fields.get("retcode").is_none() {
        fields.set("retcode", 0i64);
    }
    if fields.get("success").is_none() {
        let ok = fields.get("retcode").and_then(Value::as_i64) == Some(0);
        fields.set("success", Value::Bool(ok));
    }
    fields
}

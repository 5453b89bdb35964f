//! The ledger: for each job and each expected minion how far it got, kept from the MoM's own event bus.
//!
//! ```text
//! MoM's bus ──► EventReader ──queue──► LedgerTask ──► FireTask ──► MoM's bus: whom a job expects, who is down, how it ended
//! Redis ──────► site-watch ──────────►    │  │  └──► audit.jsonl
//! job cache ──► CatchUpTask ─────────►    │  └─────► KeepTask ──► ledger.db
//! HTTP ───────► questions ───────────►    ▼
//!                                      answers
//! ```
//! What follows from what is decided in [`relay_core::ledger`]; the parts here decode, look, fire, write and answer.
//!
//! - Every bridge keeps it; the one that holds the speaker's lock fires events and writes the audit ([`speaker`]).
//! - Publications and requests never wait for it; without rights to the bus the bridge works without a ledger.

mod act;
mod answer;
mod api;
mod arguments;
mod audit;
mod catch_up;
mod decode;
mod fire;
mod keep;
mod liveness;
mod skim;
mod speaker;
mod statuses;
mod task;
mod tell;
mod view;
mod watch;

use std::{
    io,
    os::unix::net::UnixStream,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use daemon_kit::{Tasks, http::axum::Router, state_dir::StateDir, unix_millis};
use redis_link::{LeaseWatch, Redis};
use relay_core::ledger::{Ledger, LedgerConfig as CoreConfig};
use salt_link::{
    event_bus::{EventReader, EventReaderConfig, EventWriter, EventWriterConfig},
    job_cache::LocalCache,
    salt_config::{IpcMode, MasterConfig},
};
use store::{Ledger as Store, LedgerConfig as StoreConfig};
use tokio::sync::{mpsc, watch as latest};

pub(crate) use arguments::Arguments;
pub(crate) use audit::AuditBounds;
pub(crate) use catch_up::Passed;

use self::{
    api::{Ask, Desk},
    audit::Audit,
    catch_up::CatchUpTask,
    keep::{KeepTask, Keeping},
    speaker::Speaker,
    task::{LedgerTask, Parts},
    watch::Watch,
};
use crate::{
    Config,
    config::Enabled,
    telemetry::{LedgerTelemetry, Telemetry},
};

/// The file in the state directory.
const FILE: &str = "ledger.db";

/// Looks at the leases that wait for the ledger.
const LOOKS_MAX: usize = 4;

/// A bridge that was away for longer reads no more than this of the job cache: Salt itself keeps a day of it.
const GAP_MAX: Duration = Duration::from_secs(86_400);

/// What was written last may have been a while before the end.
const WRITTEN_MARGIN: Duration = Duration::from_secs(60);

/// Whether a ledger is kept, and the ends that its pages and its task hold.
pub(crate) struct Plan {
    desk: Desk,
    questions: Option<mpsc::Receiver<Ask>>,
}

impl Plan {
    /// Looks whether the MoM's bus can be had.
    ///
    /// # Errors
    /// When the configuration wants a ledger and this user may not have the bus.
    pub(crate) fn new(config: &Config, telemetry: &Telemetry) -> anyhow::Result<Self> {
        let off = |reason: String| Self {
            desk: Desk::closed(reason),
            questions: None,
        };
        let obstacle = match config.ledger.enabled {
            Enabled::No => return Ok(off("ledger.enabled is false".to_owned())),
            Enabled::Auto | Enabled::Yes => obstacle(&config.mom),
        };
        match (obstacle, config.ledger.enabled) {
            (None, _) => {
                let (sender, questions) = mpsc::channel(api::QUEUED_MAX);
                Ok(Self {
                    desk: Desk::open(sender),
                    questions: Some(questions),
                })
            }
            (Some(reason), Enabled::Yes) => anyhow::bail!("ledger.enabled is true, but {reason}"),
            (Some(reason), Enabled::Auto | Enabled::No) => {
                telemetry.ledger().ledger_off(&reason);
                Ok(off(reason))
            }
        }
    }

    /// The pages of the bridge.
    pub(crate) fn pages(&self) -> Router {
        api::router(self.desk.clone())
    }

    /// Starts every task of the ledger, if there is to be one.
    ///
    /// # Errors
    /// When its file cannot be opened or made.
    pub(crate) async fn start(
        self,
        config: &Config,
        state_dir: &StateDir,
        redis: &Redis,
        tasks: &mut Tasks,
        telemetry: &Telemetry,
    ) -> anyhow::Result<()> {
        let Some(questions) = self.questions else {
            return Ok(());
        };
        let since_ms = last_written_ms(state_dir, config.job_ttl);
        let (store, ledger) = open(config, state_dir, &telemetry.ledger()).await?;
        let (reader, bus) = EventReader::new(
            EventReaderConfig::new(&config.mom.sock_dir),
            decode::is_wanted,
        );
        tasks.spawn("event-bus", reader.run());
        let writer = EventWriter::new(EventWriterConfig::new(&config.mom.sock_dir));
        let (firing, fire_task) = fire::new(writer, &telemetry.ledger());
        tasks.spawn("fire", fire_task.run(tasks.shutdown().clone()));
        let (sites, sites_receiver) = latest::channel(Arc::default());
        let (seen, looks) = mpsc::channel(LOOKS_MAX);
        let watch = Watch {
            leases: LeaseWatch::new(redis, &config.keys),
            sites: sites_receiver,
            seen,
            telemetry: telemetry.clone(),
        };
        tasks.spawn("site-watch", watch::run(watch, tasks.shutdown().clone()));
        let (orders, told) = start_catch_up(&config.mom, tasks);
        let (wants, wants_receiver) = mpsc::channel(keep::WANTS_MAX);
        let (kept_sender, kept) = mpsc::channel(keep::KEPT_MAX);
        let keep_task = KeepTask {
            wants: wants_receiver,
            kept: kept_sender,
            store: store.clone(),
        };
        tasks.spawn("keep", keep_task.run());
        let parts = Parts {
            ledger,
            speaker: Speaker::new(&config.mom.cachedir, &config.relay),
            audit: start_audit(config, state_dir, tasks, &telemetry.ledger())?,
            firing,
            keeping: Keeping::new(wants, store),
            orders,
            sites,
            bus,
            looks,
            questions,
            told,
            kept,
            relay: config.relay.clone(),
            bridge: config.bridge.to_string(),
            ttl_ms: millis(config.job_ttl),
            since_ms,
            telemetry: telemetry.ledger(),
        };
        let task = LedgerTask::run(parts, tasks.shutdown().clone());
        tasks.spawn("ledger", task);
        Ok(())
    }
}

/// Why this process cannot have the MoM's bus. A MoM that does not run yet is none.
fn obstacle(mom: &MasterConfig) -> Option<String> {
    if mom.ipc_mode != IpcMode::Ipc {
        return Some("the MoM's ipc_mode is tcp; set ipc_mode: ipc there".to_owned());
    }
    for name in ["master_event_pub.ipc", "master_event_pull.ipc"] {
        let path = mom.sock_dir.join(name);
        let Err(err) = UnixStream::connect(&path) else {
            continue;
        };
        if err.kind() == io::ErrorKind::PermissionDenied {
            return Some(format!(
                "{} cannot be opened ({err}): run the bridge as the MoM's user, {}",
                path.display(),
                mom.user
            ));
        }
    }
    None
}

async fn open(
    config: &Config,
    state_dir: &StateDir,
    telemetry: &LedgerTelemetry,
) -> anyhow::Result<(Store, Ledger)> {
    let bounds = StoreConfig {
        jobs_max: usize::try_from(config.ledger.jobs_max).unwrap_or(usize::MAX),
        bytes_max: config.ledger.bytes_max,
        keep_for: config.ledger.keep_for,
    };
    let (store, opened) = Store::open(&state_dir.file(FILE), bounds).context("the ledger")?;
    let core = CoreConfig {
        ttl_ms: millis(config.job_ttl),
        ..CoreConfig::default()
    };
    if let Some(aside) = opened.set_aside {
        telemetry.ledger_set_aside(&aside);
    }
    let saved = keep::saved(&store).await.context("the ledger")?;
    let (ledger, errors) = Ledger::restore(core, &saved);
    for err in errors {
        telemetry.stored_unreadable("", &err);
    }
    let (open, sites) = (ledger.state().open, ledger.rosters().sites().count());
    telemetry.ledger_restored(store.state().jobs, open, sites);
    Ok((store, ledger))
}

/// The job cache can be read where it is Salt's own.
fn start_catch_up(
    mom: &MasterConfig,
    tasks: &mut Tasks,
) -> (
    Option<mpsc::Sender<catch_up::Order>>,
    mpsc::Receiver<catch_up::Told>,
) {
    let (told, receiver) = mpsc::channel(catch_up::FOUND_MAX);
    let cache = (mom.master_job_cache == "local_cache")
        .then(|| LocalCache::new(&mom.cachedir, &mom.hash_type))
        .flatten();
    let Some(cache) = cache else {
        return (None, receiver);
    };
    // One under way, one that waits.
    let (sender, orders) = mpsc::channel(1);
    let task = CatchUpTask {
        orders,
        told,
        cache,
    };
    tasks.spawn("catch-up", task.run(tasks.shutdown().clone()));
    (Some(sender), receiver)
}

fn start_audit(
    config: &Config,
    state_dir: &StateDir,
    tasks: &mut Tasks,
    telemetry: &LedgerTelemetry,
) -> anyhow::Result<Option<(Audit, Arguments)>> {
    let Some(wanted) = config.audit else {
        return Ok(None);
    };
    let (audit, thread) = Audit::new(state_dir.path(), wanted.bounds, telemetry);
    // It ends when the ledger has let go of its end.
    tasks.spawn_thread("audit", move |_| thread.run())?;
    Ok(Some((audit, wanted.arguments)))
}

/// When the ledger's file was written last, or when the oldest job began that may still be open.
fn last_written_ms(state_dir: &StateDir, job_ttl: Duration) -> u64 {
    let written = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified());
    let log = state_dir.file(&format!("{FILE}-wal"));
    let times = [state_dir.file(FILE), log];
    let newest = times.iter().filter_map(|path| written(path).ok()).max();
    let now_ms = unix_millis();
    let earliest = now_ms.saturating_sub(millis(GAP_MAX));
    let since = |time: SystemTime| {
        let time = catch_up::millis(Some(time)).unwrap_or(now_ms);
        time.saturating_sub(millis(WRITTEN_MARGIN))
    };
    newest
        .map_or(now_ms.saturating_sub(millis(job_ttl)), since)
        .max(earliest)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

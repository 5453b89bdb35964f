//! The daemon beside a lower master, in place of salt-syndic: the MoM's jobs down, returns and events up.
//!
//! ```text
//!                    ┌──────────────────────── master-shim ────────────────────────┐
//! Redis ─publications┼─► Subscription ─► link ─► delivery ──publish────────────────┼─► lower master 4506
//!                    │                             │ acks ▼        ▼ messages      │
//! Redis ◄──requests──┼── Tunnel ◄── session ◄── lanes ◄──────── site ◄─────────────┼── lower master's event bus
//! Redis ───replies───┼─► Tunnel                                                    │
//!                    └─────────────────────────────────────────────────────────────┘
//! ```
//! It has the id, the keys and the configuration of the syndic that it replaces. For each MoM in `syndic_master` there is
//! one subscription, link, delivery, session and tunnel; the site task and the event bus are shared. [`run`] has every
//! task built and every channel wired, by `shim`.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use daemon_kit::{
    Context, Tasks,
    http::{self, HttpServer},
    state_dir::StateDir,
};
use redis_link::{Redis, Role};
use tokio::sync::mpsc;

pub use config::Config;

mod aes_keys;
mod announcements;
mod config;
mod cursor;
mod delivery;
mod disk;
mod job_cache;
mod lag;
mod lane;
mod link;
mod lower_master;
mod probe;
mod receipts;
mod roster;
mod session;
mod shim;
mod site;
mod skew;
mod spooled;
mod telemetry;
mod tenure;
mod unanswered;
mod upstream;

use self::{shim::Shim, telemetry::Telemetry};

/// How long a drain may take: the MoM's slowest ordinary reply and a little.
const GRACE: Duration = Duration::from_secs(10);

/// Messages to the site task; when full the delivery waits.
const MESSAGES: usize = 256;

/// Builds every task and wires every channel; returns when the daemon has ended.
///
/// # Errors
/// When something that only a person can mend is in the way at the start, or a task cannot go on.
pub async fn run(config: Config, context: Context) -> anyhow::Result<()> {
    let Context {
        shutdown,
        metrics,
        readiness,
        ..
    } = context;
    shim::check_lanes(&config.relays)?;
    let state_dir = StateDir::open(&config.state_dir)?;
    let _lock = state_dir.lock("master-shim")?;
    // Fails until every other condition is known: before that nothing would speak against being ready.
    let started = readiness.condition("started");
    let http = HttpServer::bind(
        config.listen,
        metrics.clone(),
        readiness.clone(),
        shutdown.clone(),
        http::axum::Router::new(),
    )
    .await?;
    let telemetry = Telemetry::new(&metrics, config.site.as_str());
    let mut tasks = Tasks::new(shutdown);
    tasks.spawn("http", http.serve(tasks.shutdown().clone()));

    let redis = open_redis(&config, &telemetry).await?;
    let mut shim = Shim::new(&config, redis, telemetry, readiness)?;
    let (messages, from_deliveries) = mpsc::channel(MESSAGES);
    let mut upstreams = Vec::new();
    let mut figures = Vec::new();
    for index in 0..config.relays.len() {
        let (lanes, of_upstream) = shim.start_upstream(index, messages.clone(), &mut tasks)?;
        upstreams.push(lanes);
        figures.push(of_upstream);
    }
    shim.start_site(from_deliveries, upstreams, figures, &mut tasks);
    drop(messages);

    started.holds();
    tasks.join(GRACE).await?;
    Ok(())
}

async fn open_redis(config: &Config, telemetry: &Telemetry) -> anyhow::Result<Redis> {
    let reconnects = telemetry.clone();
    let hook = Arc::new(move |purpose| reconnects.redis_reconnected(purpose));
    let redis = Redis::new(&config.redis, hook).map_err(|mistakes| {
        let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", mistakes.join("; "))
    })?;
    if let Some(relay) = config.relays.first() {
        match redis.check(&relay.keys, Role::Site).await {
            Ok(info) => telemetry.redis_found(&info),
            Err(err) if err.is_transient() => telemetry.redis_unreachable(&err),
            Err(err) => return Err(err).context("Redis cannot serve as the relay's engine"),
        }
    }
    Ok(redis)
}

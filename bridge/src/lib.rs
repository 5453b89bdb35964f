//! The daemon beside the top master (MoM): publications into Redis, requests and replies between the sites and the MoM.
//!
//! ```text
//!            ┌────────────────────────── bridge ──────────────────────────┐
//! MoM 4505 ──┼─► SUB thread ──► intake ──► publications ──► Appender ─────┼─► Redis: stream + pub/sub
//!            │                    └► journal ─┘                           │
//!            │                  beats ─────────► Appender ────────────────┼─► Redis: heart-beats
//! MoM 4506 ◄─┼── request pool ◄── requests ◄──── RequestsConsumer ◄───────┼── Redis: requests
//!            │        └─────────────────────────► Replier ────────────────┼─► Redis: replies
//! MoM's bus ◄┼─► ledger ◄──────── LeaseWatch ◄────────────────────────────┼── Redis: the sites' leases
//!            └────────────────────────────────────────────────────────────┘
//! ```
//! It holds no Salt key and opens neither publications nor requests. [`run`] builds every task and wires every channel.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use daemon_kit::{CancellationToken, Context, Tasks, http::HttpServer, state_dir::StateDir};
use redis_link::{
    Appender, AppenderConfig, ManagedRedis, Purpose, Redis, RedisConfig, RequestsConfig,
    RequestsConsumer, Role,
};
use salt_link::{
    queue::{QueueBounds, Receiver},
    requester::{RequestPool, RequestPoolConfig},
    socket::Endpoint,
    subscriber::{Subscriber, SubscriberConfig, SubscriberEvent, SubscriberHandle},
};
use store::Journal;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::DropGuard;

pub use config::Config;

mod beats;
mod config;
mod intake;
mod ledger;
mod publications;
mod requests;
mod telemetry;

use self::{
    config::RedisServer,
    intake::IntakeTask,
    publications::{PublicationsParts, PublicationsTask},
    requests::RequestsTask,
    telemetry::Telemetry,
};

/// How long a drain may take: the MoM's slowest ordinary reply and a little.
const GRACE: Duration = Duration::from_secs(10);

/// Publications that wait for the journal; the bytes are bounded beside. When full the SUB thread stops reading.
const PUBLICATIONS_QUEUED: QueueBounds = QueueBounds {
    entries: 20_000,
    bytes: 8 << 20,
};

/// Batches on their way from the journal to Redis, of 4 MiB each. When full the intake waits.
const NUMBERED_BATCHES: usize = 2;

/// A frame is known as appended for so long after the journal has forgotten it: what another bridge's journal may be behind.
const SEEN_LONGER: Duration = Duration::from_secs(5 * 60);

/// Requests on their way from the consumer to the task. When full the consumer waits.
const REQUEST_EVENTS: usize = 64;

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
    let state_dir = StateDir::open(&config.state_dir)?;
    let _lock = state_dir.lock("bridge")?;
    // Fails until every other condition is known: before that nothing would speak against being ready.
    let started = readiness.condition("started");
    let telemetry = Telemetry::new(&metrics);
    let ledger = ledger::Plan::new(&config, &telemetry)?;
    let http = HttpServer::bind_guarded(
        &config.http,
        metrics.clone(),
        readiness.clone(),
        shutdown.clone(),
        ledger.pages(),
    )
    .await?;
    if !config.http.serves_pages() {
        telemetry.ledger().pages_off();
    }
    let mut tasks = Tasks::new(shutdown);
    tasks.spawn("http", http.serve(tasks.shutdown().clone()));

    let redis_stop = CancellationToken::new();
    let redis = start_redis(&config, &mut tasks, &telemetry, redis_stop.clone()).await?;
    // Our own Redis is stopped when the last task that needs it has ended.
    let needs_redis = Arc::new(redis_stop.drop_guard());
    ledger
        .start(&config, &state_dir, &redis, &mut tasks, &telemetry)
        .await?;
    let publish_port = subscribe(&config)?;
    let request_port = request_pool(&config)?;

    let journal_age = Duration::from_millis(config.journal.age_max_ms);
    let clock = format!("{}/{}", config.bridge, daemon_kit::steady_millis());
    let appender = AppenderConfig {
        publications_max: config.publications_max,
        seen_for: journal_age + SEEN_LONGER,
        clock: clock.clone(),
        ..AppenderConfig::default()
    };
    let appender = Arc::new(Appender::new(
        &redis,
        config.keys.clone(),
        config.bridge.clone(),
        appender,
    ));
    let journal = state_dir.file("journal");
    let (journal, opened) = Journal::open(&journal, &clock).context("the journal")?;
    if let Some(set_aside) = &opened.opened.set_aside {
        telemetry.journal_set_aside(set_aside);
    }
    let (numbered, numbered_receiver) = mpsc::channel(NUMBERED_BATCHES);
    let (_subscriber, publications) = publish_port;
    let intake = IntakeTask::new(
        publications,
        (journal.clone(), opened.next_seq),
        numbered,
        (readiness.condition("mom"), readiness.condition("journal")),
        telemetry.clone(),
    );
    tasks.spawn("intake", intake.run(tasks.shutdown().clone()));
    let stale = Arc::new(Notify::new());
    let publications = PublicationsTask::new(PublicationsParts {
        intake: numbered_receiver,
        appender: Arc::clone(&appender),
        journal,
        opened,
        clock,
        bounds: config.journal,
        stale: Arc::clone(&stale),
        telemetry: telemetry.clone(),
    });
    let publications = publications.run(tasks.shutdown().clone());
    tasks.spawn(
        "publications",
        holding(Arc::clone(&needs_redis), publications),
    );
    tasks.spawn(
        "beats",
        beats::run(
            appender,
            readiness.condition("redis"),
            telemetry.clone(),
            stale,
            tasks.shutdown().clone(),
        ),
    );

    let (consumer, replier) = RequestsConsumer::new(
        &redis,
        &config.keys,
        config.bridge.clone(),
        RequestsConfig::default(),
    );
    let (sender, requests) = mpsc::channel(REQUEST_EVENTS);
    tasks.spawn("requests-consumer", consumer.run(sender));
    let requests = RequestsTask::new(
        requests,
        request_port,
        replier,
        readiness.condition("requests"),
        telemetry,
    );
    let requests = requests.run(tasks.shutdown().clone());
    tasks.spawn("requests", holding(needs_redis, requests));

    started.holds();
    tasks.join(GRACE).await?;
    Ok(())
}

/// Runs `task` and lets go of `guard` when it has ended.
async fn holding(guard: Arc<DropGuard>, task: impl Future<Output = ()>) {
    task.await;
    drop(guard);
}

/// Connects to the operator's Redis, or starts one and looks after it.
///
/// A Redis that is away is waited for; one that will not do is an error.
async fn start_redis(
    config: &Config,
    tasks: &mut Tasks,
    telemetry: &Telemetry,
    stop: CancellationToken,
) -> anyhow::Result<Redis> {
    let redis_config = match &config.redis {
        RedisServer::External(redis_config) => redis_config.clone(),
        RedisServer::Managed(managed) => {
            let server = ManagedRedis::start(managed.clone()).await?;
            let redis_config = server.redis_config().clone();
            let telemetry = telemetry.clone();
            tasks.spawn(
                "redis-server",
                server.run(stop.cancelled_owned(), move |reason| {
                    telemetry.redis_restarted(reason)
                }),
            );
            redis_config
        }
    };
    let reconnects = telemetry.clone();
    let redis = open_redis(&redis_config, move |purpose| {
        reconnects.redis_reconnected(purpose)
    })?;
    match redis.check(&config.keys, Role::Bridge).await {
        Ok(info) => telemetry.redis_found(&info),
        Err(err) if err.is_transient() => telemetry.redis_down(&err),
        Err(err) => return Err(err).context("Redis cannot serve as the relay's engine"),
    }
    Ok(redis)
}

fn open_redis(
    config: &RedisConfig,
    on_reconnect: impl Fn(Purpose) + Send + Sync + 'static,
) -> anyhow::Result<Redis> {
    Redis::new(config, Arc::new(on_reconnect)).map_err(|mistakes| {
        let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", mistakes.join("; "))
    })
}

fn subscribe(config: &Config) -> anyhow::Result<(SubscriberHandle, Receiver<SubscriberEvent>)> {
    let endpoint = Endpoint::tcp(config.mom.connect_host(), config.mom.publish_port)?;
    let mut subscriber = SubscriberConfig::new(endpoint);
    subscriber.queue = PUBLICATIONS_QUEUED;
    Ok(Subscriber::spawn(subscriber)?)
}

fn request_pool(config: &Config) -> anyhow::Result<RequestPool> {
    let endpoint = Endpoint::tcp(config.mom.connect_host(), config.mom.ret_port)?;
    let mut pool = RequestPoolConfig::new(endpoint);
    pool.sockets = config.mom_requests;
    Ok(RequestPool::spawn(pool)?)
}

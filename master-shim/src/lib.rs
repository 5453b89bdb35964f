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
//! one subscription, link, delivery, session and tunnel; the site task and the event bus are shared. [`run`] builds every
//! task and wires every channel.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use daemon_kit::{
    Context, Tasks,
    http::{self, HttpServer, Readiness},
    state_dir::StateDir,
};
use redis_link::{
    Redis, RequestsConfig, Role, StreamReader, Subscription, SubscriptionConfig, Tunnel,
    TunnelConfig,
};
use salt_link::{
    event_bus::{EventReader, EventReaderConfig},
    local_master::{LocalMaster, LocalMasterConfig},
    requester::{RequestPool, RequestPoolConfig, Requester},
    salt_config::SyndicConfig,
    session::{Session, SessionConfig},
    sign_in::{SignIn, SignInConfig},
    socket::Endpoint,
};
use tokio::sync::mpsc;

pub use config::Config;

mod aes_keys;
mod config;
mod cursor;
mod delivery;
mod job_cache;
mod lane;
mod link;
mod probe;
mod serials;
mod session;
mod site;
mod skew;
mod telemetry;
mod upstream;

use self::{
    aes_keys::AesKeyFile,
    config::Relay,
    cursor::Cursor,
    delivery::{DeliveryParts, DeliveryTask},
    job_cache::JobCache,
    lane::{Item, LaneConfig, LaneTask, Sender},
    link::{Begin, Due, LinkParts, LinkTask},
    probe::{MinionWatch, Prober},
    session::TunnelRequester,
    site::{Message, SiteParts, SiteTask, routing::Router},
    skew::Skew,
    telemetry::{LaneName, Telemetry},
    upstream::{LANE_CHANNEL, LaneObserver, Lanes, Uplink},
};

/// How long a drain may take: the MoM's slowest ordinary reply and a little.
const GRACE: Duration = Duration::from_secs(10);

/// Link events on their way to the link task; when full, publications are dropped and read from the stream.
const LINK_EVENTS: usize = 1024;

/// What the channel of replies tells besides replies; when full the rest is not counted.
const REPLY_EVENTS: usize = 1024;

/// Publications that wait for the delivery; when full the link task waits.
const DUE: usize = 256;

/// Messages to the site task; when full the delivery waits.
const MESSAGES: usize = 256;

/// How long the lower master may take for a publish: on a large site it matches targets for seconds.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(15);

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
    for index in 0..config.relays.len() {
        let lanes = shim.start_upstream(index, messages.clone(), &mut tasks)?;
        upstreams.push(lanes);
    }
    shim.start_site(from_deliveries, upstreams, &mut tasks);
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

/// What all upstreams share while the daemon is built.
struct Shim<'a> {
    config: &'a Config,
    redis: Redis,
    telemetry: Telemetry,
    readiness: Readiness,
    local: Arc<LocalMaster>,
    job_cache: JobCache,
    minion: Arc<MinionWatch>,
}

impl<'a> Shim<'a> {
    fn new(
        config: &'a Config,
        redis: Redis,
        telemetry: Telemetry,
        readiness: Readiness,
    ) -> anyhow::Result<Self> {
        let master = &config.syndic.local;
        let endpoint = Endpoint::tcp(master.connect_host(), master.ret_port)?;
        let mut pool = RequestPoolConfig::new(endpoint);
        pool.sockets = config.relays.len() + 1;
        let pool: Arc<dyn Requester> = Arc::new(RequestPool::spawn(pool)?);
        let local = LocalMasterConfig {
            cachedir: master.cachedir.clone(),
            user: master.user.clone(),
            timeout: PUBLISH_TIMEOUT,
        };
        Ok(Self {
            config,
            redis,
            telemetry,
            readiness,
            local: Arc::new(LocalMaster::new(local, pool)),
            job_cache: JobCache::new(
                &master.cachedir,
                &master.master_job_cache,
                &master.hash_type,
            ),
            minion: Arc::new(MinionWatch::new(
                &config.syndic.sock_dir,
                &config.id,
                &config.syndic.hash_type,
            )),
        })
    }

    /// Starts everything that belongs to one MoM.
    fn start_upstream(
        &mut self,
        index: usize,
        messages: mpsc::Sender<Message>,
        tasks: &mut Tasks,
    ) -> anyhow::Result<Lanes> {
        let relay = self
            .config
            .relays
            .get(index)
            .context("an upstream has a relay")?;
        let upstream = self
            .config
            .syndic
            .upstreams
            .get(index)
            .context("a relay has an upstream")?;
        let session = self.start_session(relay, tasks)?;
        let returns = self.start_lane(relay, LaneName::Returns, upstream::RETURNS, &session, tasks);
        let events = self.start_lane(relay, LaneName::Events, upstream::EVENTS, &session, tasks);
        let lanes = Lanes::new(upstream.host.clone(), Arc::clone(&session), returns, events);

        let cursor = Cursor::open(&self.config.state_dir, &relay.mom)?;
        let skew = Arc::new(Skew::default());
        let (due, from_link) = mpsc::channel(DUE);
        self.start_link(relay, &cursor, due, Arc::clone(&skew), tasks);
        let delivery = DeliveryParts {
            upstream: index,
            id: self.config.id.clone(),
            master_id: self.config.syndic.master_id.clone(),
            signature_required: self.config.syndic.sign_pub_messages,
            answer_as_site: self.config.answer_as_site,
            job_ttl: self.config.job_ttl,
            due: from_link,
            site: messages,
            lanes: lanes.clone(),
            session,
            local: Arc::clone(&self.local),
            job_cache: self.job_cache.clone(),
            minion: Arc::clone(&self.minion),
            skew,
            telemetry: self.telemetry.clone(),
        };
        let delivery = DeliveryTask::new(delivery, cursor);
        tasks.spawn(
            format!("delivery-{}", relay.mom),
            delivery.run(tasks.shutdown().clone()),
        );
        Ok(lanes)
    }

    fn start_link(
        &self,
        relay: &Relay,
        cursor: &Cursor,
        due: mpsc::Sender<Due>,
        skew: Arc<Skew>,
        tasks: &mut Tasks,
    ) {
        let (sender, events) = mpsc::channel(LINK_EVENTS);
        let subscription =
            Subscription::new(&self.redis, &relay.keys, SubscriptionConfig::default());
        tasks.spawn(
            format!("subscription-{}", relay.mom),
            subscription.run(sender),
        );
        let parts = LinkParts {
            events,
            reader: Arc::new(StreamReader::new(&self.redis, relay.keys.clone())),
            due,
            skew,
            job_ttl: self.config.job_ttl,
            redis: self.readiness.condition(format!("bridge {}", relay.mom)),
            telemetry: self.telemetry.clone(),
        };
        let begin = if self.job_cache.is_readable() {
            Begin::WithUnexpired
        } else {
            Begin::FromNowOn
        };
        let link = LinkTask::new(parts, cursor.entry_id(), begin);
        tasks.spawn(
            format!("link-{}", relay.mom),
            link.run(tasks.shutdown().clone()),
        );
    }

    fn start_session(&self, relay: &Relay, tasks: &mut Tasks) -> anyhow::Result<Arc<Session>> {
        let (tunnel, replies) = Tunnel::new(
            &self.redis,
            &relay.keys,
            &self.config.site,
            RequestsConfig::default(),
            TunnelConfig::default(),
        );
        let (events, heard) = mpsc::channel(REPLY_EVENTS);
        tasks.spawn(
            format!("reply-events-{}", relay.mom),
            session::watch_replies(heard, self.telemetry.clone()),
        );
        tasks.spawn(format!("replies-{}", relay.mom), replies.run(events));
        let requester = Arc::new(TunnelRequester(Arc::new(tunnel)));
        let sign_in = SignIn::new(sign_in_config(self.config)?, requester)?;
        let keys = AesKeyFile::open(&self.config.state_dir, &relay.mom, self.telemetry.clone())
            .context("failed to read the AES keys in state_dir")?;
        let session = Session::new(sign_in, SessionConfig::default())?.with_store(Arc::new(keys));
        let session = Arc::new(session);
        let run = session::run(
            Arc::clone(&session),
            self.config.syndic.enable_legacy_startup_events,
            self.readiness
                .condition(format!("signed in at {}", relay.mom)),
            self.telemetry.clone(),
            tasks.shutdown().clone(),
        );
        tasks.spawn(format!("session-{}", relay.mom), run);
        Ok(session)
    }

    fn start_lane<T: Item>(
        &self,
        relay: &Relay,
        name: LaneName,
        bounds: LaneConfig,
        session: &Arc<Session>,
        tasks: &mut Tasks,
    ) -> mpsc::Sender<T>
    where
        Uplink: Sender<T>,
    {
        let (sender, items) = mpsc::channel(LANE_CHANNEL);
        let uplink = Uplink {
            id: self.config.id.clone(),
            session: Arc::clone(session),
            telemetry: self.telemetry.clone(),
        };
        let observer = LaneObserver {
            lane: name,
            telemetry: self.telemetry.clone(),
        };
        let lane = LaneTask::new(bounds, items, uplink, observer);
        tasks.spawn(
            format!("{}-{}", name.as_str(), relay.mom),
            lane.run(tasks.shutdown().clone()),
        );
        sender
    }

    fn start_site(
        self,
        messages: mpsc::Receiver<Message>,
        upstreams: Vec<Lanes>,
        tasks: &mut Tasks,
    ) {
        let master = &self.config.syndic.local;
        let bus = EventReaderConfig::new(&master.sock_dir);
        let (reader, events) = EventReader::new(bus, |_tag: &str| true);
        tasks.spawn("event-bus", reader.run());
        let site = SiteTask::new(SiteParts {
            id: self.config.id.clone(),
            failover: self.config.syndic.failover,
            messages,
            events,
            upstreams,
            router: Router::new(
                self.config.syndic.mode,
                self.config.syndic.master_id.clone(),
            ),
            job_cache: self.job_cache,
            prober: Arc::new(Prober::new(self.local, master.user.clone())),
            event_bus: self.readiness.condition("event bus"),
            telemetry: self.telemetry,
        });
        tasks.spawn("site", site.run(tasks.shutdown().clone()));
    }
}

fn sign_in_config(config: &Config) -> anyhow::Result<SignInConfig> {
    let syndic: &SyndicConfig = &config.syndic;
    let mut sign_in = SignInConfig::new(config.id.clone(), syndic.pki_dir.clone());
    sign_in.keysize = syndic.keysize;
    sign_in.master_key_file = syndic.upstream_key();
    sign_in.enc_algo = syndic.encryption_algorithm.parse()?;
    sign_in.sig_algo = syndic.signing_algorithm.parse()?;
    sign_in.finger = syndic
        .syndic_finger
        .clone()
        .or_else(|| syndic.master_finger.clone());
    sign_in.hash_type.clone_from(&syndic.hash_type);
    sign_in.signing_key_file = syndic.signing_key();
    sign_in.always_verify_signature = syndic.always_verify_signature;
    sign_in.auth_timeout = syndic.auth_timeout;
    sign_in.acceptance_wait = syndic.acceptance_wait_time;
    sign_in.acceptance_wait_max = syndic.acceptance_wait_time_max;
    Ok(sign_in)
}

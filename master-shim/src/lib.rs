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
    CancellationToken, Context, Tasks,
    http::{self, HttpServer, Readiness},
    state_dir::StateDir,
};
use redis_link::{
    Redis, RequestsConfig, Role, SiteLease, StreamReader, Subscription, SubscriptionConfig, Tunnel,
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
use store::{Jobs, JobsConfig, Spool};
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
mod roster;
mod session;
mod site;
mod skew;
mod spooled;
mod telemetry;
mod tenure;
mod unanswered;
mod upstream;

use self::{
    aes_keys::AesKeyFile,
    announcements::{AnnouncementsParts, AnnouncementsTask, Figures, News},
    config::Relay,
    cursor::Cursor,
    delivery::{DeliveryParts, DeliveryTask, Publisher, records::Records},
    disk::Disk,
    job_cache::JobCache,
    lag::Lag,
    lane::{Item, LaneConfig, LaneDisk, LaneTask, Sender},
    link::{Begin, Due, LinkParts, LinkTask},
    lower_master::{LowerMaster, MinionsTask},
    probe::{MinionWatch, Prober},
    roster::{Roster, RosterTask},
    session::TunnelRequester,
    site::{Message, SiteParts, SiteTask, company::Company, routing::Router},
    skew::Skew,
    telemetry::{LaneName, Telemetry},
    tenure::{Holder, Tenure, TenureTask},
    unanswered::Unanswered,
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

/// How long the lower master may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Numbers for relays in the spool, which has room for 10,922 lanes.
const RELAYS_MAX: u32 = 5_000;

/// How often the spool's size is told to the metrics.
const GAUGES_INTERVAL: Duration = Duration::from_secs(1);

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
    check_lanes(&config.relays)?;
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

/// What all upstreams share while the daemon is built.
struct Shim<'a> {
    config: &'a Config,
    redis: Redis,
    telemetry: Telemetry,
    readiness: Readiness,
    local: Arc<LocalMaster>,
    master: LowerMaster,
    job_cache: JobCache,
    minion: Arc<MinionWatch>,
    spool: Spool,
    jobs: Jobs,
    unanswered: Unanswered,
    disk: Disk,
    roster: Roster,
    /// Names this process in what it tells of itself.
    run: String,
}

/// What the tasks of one MoM share.
struct Side<'a> {
    relay: &'a Relay,
    tenure: Tenure,
    skew: Arc<Skew>,
    lag: Arc<Lag>,
    news: News,
    telemetry: Telemetry,
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
        // A publish for each MoM, a find_job and a ping.
        pool.sockets = config.relays.len() + 2;
        let pool: Arc<dyn Requester> = Arc::new(RequestPool::spawn(pool)?);
        let local = LocalMasterConfig {
            cachedir: master.cachedir.clone(),
            user: master.user.clone(),
            timeout: PING_TIMEOUT,
        };
        let file = |name: &str| config.state_dir.join(name);
        let (spool, opened) = Spool::open(&file("spool.db"), config.spool)
            .context("failed to open the spool in state_dir")?;
        telemetry.store_opened("spool", &opened);
        let (jobs, opened) = Jobs::open(&file("jobs.db"), JobsConfig::default())
            .context("failed to open the job records in state_dir")?;
        telemetry.store_opened("jobs", &opened);
        let lanes = config.relays.iter();
        let lanes = lanes.map(|relay| lane_number(&relay.mom, LaneName::Returns));
        let disk = Disk::new(readiness.condition("state_dir"), telemetry.clone());
        let local = Arc::new(LocalMaster::new(local, pool));
        let roster = Roster::new(config.id.clone(), master, telemetry.clone());
        Ok(Self {
            config,
            redis,
            telemetry,
            readiness,
            local: Arc::clone(&local),
            master: LowerMaster::new(),
            spool,
            jobs,
            unanswered: Unanswered::new(lanes),
            disk,
            roster,
            run: announcements::run_name(),
            job_cache: JobCache::new(master, local),
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
    ) -> anyhow::Result<(Lanes, Arc<Figures>)> {
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
        let finished = CancellationToken::new();
        let side = Side {
            relay,
            tenure: self.start_tenure(relay, finished.clone(), tasks)?,
            skew: Arc::default(),
            lag: Arc::default(),
            news: News::default(),
            telemetry: self.telemetry.of_upstream(),
        };
        let (due, from_link) = mpsc::channel(DUE);
        self.start_link(&side, &cursor, due, tasks);
        let figures = self.start_announcements(&side, &cursor, session, tasks);
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
            publisher: Publisher {
                local: Arc::clone(&self.local),
                master: self.master.clone(),
                job_cache: self.job_cache.clone(),
                telemetry: side.telemetry.clone(),
            },
            tenure: side.tenure,
            minion: Arc::clone(&self.minion),
            roster: self.roster.clone(),
            skew: side.skew,
            telemetry: side.telemetry,
        };
        let records = Records::new(self.jobs.clone(), self.disk.clone(), &self.config.id);
        let delivery = DeliveryTask::new(delivery, cursor, records);
        let delivery = delivery.run(tasks.shutdown().clone());
        // The lease is given back when nothing more is published.
        let guard = finished.drop_guard();
        tasks.spawn(format!("delivery-{}", relay.mom), async move {
            delivery.await;
            drop(guard);
        });
        Ok((lanes, figures))
    }

    fn start_announcements(
        &self,
        side: &Side<'_>,
        cursor: &Cursor,
        session: Arc<Session>,
        tasks: &mut Tasks,
    ) -> Arc<Figures> {
        let figures = Arc::new(Figures {
            lag: Arc::clone(&side.lag),
            cursor: cursor.entry_id(),
            tenure: side.tenure.clone(),
            spool: self.spool.clone(),
        });
        let parts = AnnouncementsParts {
            site: self.config.id.clone(),
            run: self.run.clone(),
            roster: self.roster.clone(),
            figures: Arc::clone(&figures),
            news: side.news.clone(),
            session,
            telemetry: side.telemetry.clone(),
        };
        let task = AnnouncementsTask::new(parts).run(tasks.shutdown().clone());
        tasks.spawn(format!("announcements-{}", side.relay.mom), task);
        figures
    }

    fn start_tenure(
        &self,
        relay: &Relay,
        finished: CancellationToken,
        tasks: &mut Tasks,
    ) -> anyhow::Result<Tenure> {
        let holder = Holder::open(&self.config.state_dir, &relay.mom)
            .context("failed to read the lease's file in state_dir")?;
        let tenure = Tenure::new(holder.in_company());
        let name = holder.name().to_owned();
        let lease = SiteLease::new(&self.redis, &relay.keys, &self.config.site, name);
        let task = TenureTask::new(tenure.clone(), lease, holder, self.telemetry.clone());
        tasks.spawn(format!("lease-{}", relay.mom), task.run(finished));
        Ok(tenure)
    }

    fn start_link(
        &self,
        side: &Side<'_>,
        cursor: &Cursor,
        due: mpsc::Sender<Due>,
        tasks: &mut Tasks,
    ) {
        let relay = side.relay;
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
            tenure: side.tenure.clone(),
            cursor: cursor.entry_id(),
            begin: if self.job_cache.is_quick() {
                Begin::WithUnexpired
            } else {
                Begin::FromNowOn
            },
            lag: Arc::clone(&side.lag),
            news: side.news.clone(),
            skew: Arc::clone(&side.skew),
            job_ttl: self.config.job_ttl,
            redis: self.readiness.condition(format!("bridge {}", relay.mom)),
            telemetry: side.telemetry.clone(),
        };
        tasks.spawn(
            format!("link-{}", relay.mom),
            LinkTask::new(parts).run(tasks.shutdown().clone()),
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
            jobs: self.jobs.clone(),
            unanswered: self.unanswered.clone(),
            disk: self.disk.clone(),
            telemetry: self.telemetry.clone(),
        };
        let on_disk = LaneDisk {
            spool: self.spool.clone(),
            lane: lane_number(&relay.mom, name),
            disk: self.disk.clone(),
        };
        let observer = LaneObserver {
            lane: name,
            telemetry: self.telemetry.clone(),
        };
        let lane = LaneTask::new(bounds, items, on_disk, uplink, observer);
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
        figures: Vec<Arc<Figures>>,
        tasks: &mut Tasks,
    ) {
        let master = &self.config.syndic.local;
        let bus = EventReaderConfig::new(&master.sock_dir);
        let (reader, events) = EventReader::new(bus, |_tag: &str| true);
        tasks.spawn("event-bus", reader.run());
        let minions = MinionsTask::new(self.master.clone(), master, self.telemetry.clone());
        tasks.spawn("minions", minions.run(tasks.shutdown().clone()));
        let pings = lower_master::keep_asking(
            Arc::clone(&self.local),
            self.telemetry.clone(),
            tasks.shutdown().clone(),
        );
        tasks.spawn("lower-master-pings", pings);
        let roster = RosterTask::new(self.roster.clone());
        tasks.spawn("roster", roster.run(tasks.shutdown().clone()));
        let tenures = figures.iter().map(|of_upstream| of_upstream.tenure.clone());
        let tenures = tenures.collect();
        tasks.spawn(
            "gauges",
            tell_sizes(
                self.spool.clone(),
                self.roster.clone(),
                figures,
                self.telemetry.clone(),
                tasks.shutdown().clone(),
            ),
        );
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
            jobs: self.jobs,
            spool: self.spool,
            unanswered: self.unanswered,
            disk: self.disk,
            master: self.master,
            roster: self.roster,
            company: Company::new(tenures),
            prober: Arc::new(Prober::new(self.local, master.user.clone())),
            event_bus: self.readiness.condition("event bus"),
            telemetry: self.telemetry,
        });
        tasks.spawn("site", site.run(tasks.shutdown().clone()));
    }
}

/// A lane's number in the spool: of the relay's name, so that it stays when `syndic_master` is put into another order.
fn lane_number(mom: &str, name: LaneName) -> u32 {
    let digest = openssl::sha::sha256(mom.as_bytes());
    let relay = u32::from(u16::from_be_bytes([digest[0], digest[1]])) % RELAYS_MAX;
    match name {
        LaneName::Returns => 2 * relay,
        LaneName::Events => 2 * relay + 1,
    }
}

/// Two relays must not share lanes: one MoM would get the other's returns.
fn check_lanes(relays: &[Relay]) -> anyhow::Result<()> {
    for (place, relay) in relays.iter().enumerate() {
        let lane = lane_number(&relay.mom, LaneName::Returns);
        let same = |other: &&Relay| lane_number(&other.mom, LaneName::Returns) == lane;
        if let Some(other) = relays.iter().take(place).find(same) {
            anyhow::bail!(
                "the relays {} and {} would share a place in the spool: give one of them another name, at its bridge too",
                other.mom,
                relay.mom
            );
        }
    }
    Ok(())
}

async fn tell_sizes(
    spool: Spool,
    roster: Roster,
    figures: Vec<Arc<Figures>>,
    telemetry: Telemetry,
    shutdown: CancellationToken,
) {
    let mut ticks = tokio::time::interval(GAUGES_INTERVAL);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        telemetry.spool_state(&spool.state());
        telemetry.census(roster.census());
        // Of several MoMs, the one that this site is furthest behind of.
        let lags = figures.iter().map(|of_upstream| of_upstream.lag());
        telemetry.lag(
            lags.max_by_key(|lag| (lag.behind, lag.entries))
                .unwrap_or_default(),
        );
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

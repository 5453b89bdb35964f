//! Builds what all upstreams share, and the tasks of the site: event bus, minions, roster, gauges, site task.
//!
//! The tasks of one MoM are built in [`upstream`].

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use daemon_kit::{CancellationToken, Tasks, http::Readiness};
use redis_link::Redis;
use salt_link::{
    DirectPublisher,
    event_bus::{EventReader, EventReaderConfig},
    local_master::{LocalMaster, LocalMasterConfig},
    requester::{RequestPool, RequestPoolConfig, Requester},
    socket::Endpoint,
};
use store::{Jobs, JobsConfig, Spool};
use tokio::sync::mpsc;

pub(crate) use self::lane_numbers::check_lanes;
use self::lane_numbers::lane_number;
use crate::{
    announcements::{self, Figures},
    config::Config,
    disk::Disk,
    job_cache::JobCache,
    lower_master::{self, LowerMaster, MinionsTask},
    probe::{MinionWatch, Prober},
    receipts::{LastHopFigures, Receipts},
    roster::{Roster, RosterTask},
    site::{Message, SiteParts, SiteTask, company::Company, routing::Router},
    telemetry::{LaneName, Telemetry},
    unanswered::Unanswered,
    upstream::Lanes,
};

mod lane_numbers;
mod upstream;

/// How long the lower master may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the spool's size is told to the metrics.
const GAUGES_INTERVAL: Duration = Duration::from_secs(1);

/// What all upstreams share while the daemon is built.
pub(crate) struct Shim<'a> {
    config: &'a Config,
    redis: Redis,
    telemetry: Telemetry,
    readiness: Readiness,
    local: Arc<LocalMaster>,
    direct: Arc<DirectPublisher>,
    last_hop: LastHopFigures,
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

impl<'a> Shim<'a> {
    pub(crate) fn new(
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
            direct: Arc::new(DirectPublisher::of_master(master)),
            last_hop: LastHopFigures::default(),
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

    pub(crate) fn start_site(
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
        let receipts = Receipts::new(
            &self.config.receipts,
            &self.config.id,
            upstreams.len(),
            self.direct,
            self.last_hop,
            self.telemetry.clone(),
        );
        let site = SiteTask::new(SiteParts {
            receipts,
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

//! What one site knows of its jobs: it decides what goes up, to which MoM, and answers for the site's own id.
//!
//! One task per shim, the only reader of the lower master's event bus. It owns the [`Router`] and the [`SiteJobs`];
//! the delivery tasks tell it what they publish, the lanes take what it sends.
//!
//! ```text
//! delivery tasks ──Message──►┌──────────┐──Return──► returns lane of the MoM that asked
//! event bus ─────BusEvent───►│ SiteTask │──event───► events lane of every MoM
//! lower master ◄─find_job────└──────────┘
//! ```
//! - The lower master's bus tells of a job before the publish is answered: a delivery task announces a jid before it
//!   publishes, and messages are taken before events, so that a job from above is never mistaken for a local one.
//! - Lanes take everything to the disk, so that a MoM that is away never stops the reading of the bus.
//! - What came while nobody listened is fetched from the lower master's job cache ([`catch_up`]).
//! - A shim that is not the active one of its site sends the returns of the jobs that it published itself, and no more.

use std::sync::Arc;

use daemon_kit::{CancellationToken, chain, http::Condition, unix_millis};
use relay_core::jobs::{Action, SiteJobs, SiteJobsConfig};
use salt_link::{event_bus::BusEvent, queue::Receiver};
use salt_wire::{
    bus::{Event, EventTag},
    ids::{Jid, MinionId},
    msgpack::Value,
};
use store::{Jobs, Spool};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Duration, Instant, sleep_until},
};
use tracing::{debug, warn};

use self::{
    catch_up::{CatchUp, Fetch, Found as FoundReturn},
    company::Company,
    origins::Origin,
    probes::{Found, Probes},
    routing::{Return, Route, Router, SkipReason},
};
use crate::{
    config::SyndicFailover,
    disk::Disk,
    job_cache::JobCache,
    lower_master::LowerMaster,
    probe::Prober,
    roster::Roster,
    telemetry::Telemetry,
    unanswered::Unanswered,
    upstream::{ForwardedEvent, Lanes},
};

mod catch_up;
pub(crate) mod company;
mod origins;
mod probes;
pub(crate) mod routing;
mod summary;

/// Returns being read from the job cache at once; further ones go up as the bus showed them.
const FETCHES_MAX: usize = 64;

/// What the delivery tasks tell.
#[derive(Debug)]
pub(crate) enum Message {
    /// A publication is about to be published on the lower master.
    Publishing {
        /// The job.
        jid: Jid,
        /// Index of the MoM that it came from.
        upstream: usize,
    },
    /// The lower master has published it and named the minions.
    Published {
        /// The job.
        jid: Jid,
        /// Its function.
        fun: String,
        /// The minions that the lower master targeted.
        minions: Vec<String>,
        /// Whether the MoM expects the site's own id to answer.
        answers_for_site: bool,
    },
    /// A job was found published already: its returns may have passed unheard.
    Recovered,
    /// The MoM asks by `saltutil.find_job` whether the site itself runs a job.
    Asked {
        /// The job that is asked about.
        about: Jid,
        /// The jid of the find_job.
        query: Jid,
    },
}

/// What the task is made of.
pub(crate) struct SiteParts {
    /// The site's own id.
    pub(crate) id: MinionId,
    /// Who gets returns of jobs that no MoM asked for.
    pub(crate) failover: SyndicFailover,
    /// Where deliveries report.
    pub(crate) messages: mpsc::Receiver<Message>,
    /// The lower master's event bus.
    pub(crate) events: Receiver<BusEvent>,
    /// The ways up, in the order of `syndic_master`.
    pub(crate) upstreams: Vec<Lanes>,
    /// Decides about events.
    pub(crate) router: Router,
    /// The lower master's job cache.
    pub(crate) job_cache: JobCache,
    /// What this site has published, and what is missing of it.
    pub(crate) jobs: Jobs,
    /// What waits for a MoM's reply.
    pub(crate) spool: Spool,
    /// Hears of failures there.
    pub(crate) disk: Disk,
    /// What is in the spool.
    pub(crate) unanswered: Unanswered,
    /// Told how the lower master is.
    pub(crate) master: LowerMaster,
    /// Told what is heard of minions.
    pub(crate) roster: Roster,
    /// Whether this shim is the active one of its site.
    pub(crate) company: Company,
    /// Publishes the shim's own find_jobs.
    pub(crate) prober: Arc<Prober>,
    /// Whether the event bus is connected.
    pub(crate) event_bus: Condition,
    /// Counts and logs.
    pub(crate) telemetry: Telemetry,
}

/// The task; see the module's head.
pub(crate) struct SiteTask {
    parts: SiteParts,
    jobs: SiteJobs,
    probes: Probes,
    fetches: JoinSet<(Box<Return>, Option<usize>)>,
    /// Publishes of find_jobs under way; each ends with its jid if it failed.
    publishes: JoinSet<Option<Jid>>,
    catch_up: CatchUp,
    /// The fetch that fills `catch_up`.
    fetching: JoinSet<()>,
    connected_before: bool,
}

enum Input {
    Message(Message),
    Event(BusEvent),
    Fetched(Box<Return>, Option<usize>),
    ProbePublished(Option<Jid>),
    Found(FoundReturn),
    Tick,
    Stop,
}

impl SiteTask {
    /// A task that knows no job yet.
    pub(crate) fn new(parts: SiteParts) -> Self {
        Self {
            parts,
            jobs: SiteJobs::new(SiteJobsConfig::default()),
            probes: Probes::default(),
            fetches: JoinSet::new(),
            publishes: JoinSet::new(),
            catch_up: CatchUp::default(),
            fetching: JoinSet::new(),
            connected_before: false,
        }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        self.restore().await;
        loop {
            match self.select(&shutdown).await {
                Input::Message(message) => self.message(message).await,
                Input::Event(event) => self.bus_event(event).await,
                Input::Fetched(ret, upstream) => self.send_return(*ret, upstream).await,
                Input::Found(found) => {
                    if self.catch_up.is_new(&found.ret) {
                        self.parts.telemetry.return_fetched(&found.ret);
                        self.send_return(*found.ret, Some(found.upstream)).await;
                    }
                }
                Input::ProbePublished(failed) => {
                    if let Some(found) = failed.and_then(|jid| self.probes.failed(&jid)) {
                        self.probed(found).await;
                    }
                }
                Input::Tick => self.tick().await,
                Input::Stop => return,
            }
        }
    }

    async fn select(&mut self, shutdown: &CancellationToken) -> Input {
        let tick = self.next_tick();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Input::Stop,
            message = self.parts.messages.recv() => message.map_or(Input::Stop, Input::Message),
            () = sleep_until(tick) => Input::Tick,
            Some(fetched) = self.fetches.join_next() => {
                let (ret, upstream) = fetched.expect("reading a file does not panic");
                Input::Fetched(ret, upstream)
            }
            Some(failed) = self.publishes.join_next() => {
                Input::ProbePublished(failed.expect("publishing a find_job does not panic"))
            }
            Some(_) = self.fetching.join_next() => Input::Tick,
            event = self.parts.events.recv() => event.map_or(Input::Stop, Input::Event),
            found = self.catch_up.found() => Input::Found(found),
        }
    }

    fn next_tick(&self) -> Instant {
        let now = Instant::now();
        let jobs = self
            .jobs
            .next_tick_ms()
            .map(|due_ms| now + Duration::from_millis(due_ms.saturating_sub(unix_millis())));
        let due = [
            jobs,
            self.probes.next_deadline(),
            self.parts.company.next_tick(),
        ]
        .into_iter()
        .flatten()
        .min();
        due.unwrap_or(now + Duration::from_secs(3600))
    }

    /// Takes up the jobs that an earlier process has published.
    async fn restore(&mut self) {
        self.parts
            .unanswered
            .load(&self.parts.spool, &self.parts.disk)
            .await;
        for job in catch_up::open_jobs(&self.parts.jobs, &self.parts.disk).await {
            let Ok(jid) = Jid::parse(&job.jid) else {
                continue;
            };
            let origin = Origin::Upstream {
                index: usize::try_from(job.upstream).unwrap_or(0),
                bare_jid_seen: true,
            };
            self.parts.router.origins.note(&jid, origin);
            let id = self.parts.id.as_str();
            let minions: Vec<String> = job.minions.into_iter().filter(|name| name != id).collect();
            let returned = minions.iter().filter(|name| !job.missing.contains(name));
            let returned: Vec<String> = returned.cloned().collect();
            let answers = job.answers_for_site && job.missing.iter().any(|name| name == id);
            let actions = self.jobs.published(&job.jid, &job.fun, minions, answers);
            self.act(actions).await;
            for minion in returned {
                let actions = self.jobs.returned(&job.jid, &minion, true);
                self.act(actions).await;
            }
        }
    }

    async fn tick(&mut self) {
        for ret in self.parts.company.taken_over() {
            self.parts.telemetry.return_seen(&ret);
            self.send_return(ret, None).await;
        }
        for found in self.probes.expired(Instant::now()) {
            self.probed(found).await;
        }
        let actions = self.jobs.tick(unix_millis());
        self.act(actions).await;
    }

    async fn message(&mut self, message: Message) {
        match message {
            Message::Publishing { jid, upstream } => {
                let origin = Origin::Upstream {
                    index: upstream,
                    bare_jid_seen: false,
                };
                self.parts.router.origins.note(&jid, origin);
            }
            Message::Published {
                jid,
                fun,
                minions,
                answers_for_site,
            } => {
                let actions = self
                    .jobs
                    .published(jid.as_str(), &fun, minions, answers_for_site);
                self.act(actions).await;
            }
            Message::Recovered => self.fetch_missing(),
            Message::Asked { about, query } => {
                let actions = self.jobs.asked(about.as_str(), query.as_str());
                self.act(actions).await;
            }
        }
    }

    async fn bus_event(&mut self, event: BusEvent) {
        match event {
            BusEvent::Connected => {
                self.parts.event_bus.holds();
                let first = !std::mem::replace(&mut self.connected_before, true);
                self.parts.master.bus_connected(first);
                self.parts.roster.look_again();
                self.fetch_missing();
                self.parts.telemetry.event_bus_connected();
            }
            BusEvent::Disconnected { reason } => {
                self.parts.event_bus.fails(&reason);
                self.parts.master.bus_disconnected();
                self.parts.telemetry.event_bus_disconnected(&reason);
            }
            BusEvent::Malformed { reason } => self.parts.telemetry.event_malformed(reason),
            BusEvent::Event(event) => self.event(event).await,
        }
    }

    /// Begins to fetch what came unheard; a fetch under way begins anew.
    fn fetch_missing(&mut self) {
        self.fetching.abort_all();
        let parts = &self.parts;
        let fetch = self.catch_up.begin(Fetch {
            jobs: parts.jobs.clone(),
            disk: parts.disk.clone(),
            job_cache: parts.job_cache.clone(),
            unanswered: parts.unanswered.clone(),
        });
        self.fetching.spawn(fetch);
    }

    async fn event(&mut self, event: Event) {
        self.parts.telemetry.lower_master_lives();
        self.parts.roster.hears(&event);
        self.parts.job_cache.hears(&event.tag, &event.data);
        if let EventTag::MinionStart { minion } = event.parsed_tag() {
            self.parts.master.minion_started(minion);
        }
        match self.parts.router.route(&event) {
            Route::Return {
                mut ret,
                upstream,
                trimmed,
            } => {
                ret.heard_ms = unix_millis();
                if !self.catch_up.is_new(&ret) {
                    return;
                }
                if upstream.is_none() && self.parts.company.is_standby() {
                    return self.parts.company.keep(ret);
                }
                self.parts.telemetry.return_seen(&ret);
                if trimmed && self.fetches.len() < FETCHES_MAX {
                    self.fetch(ret, upstream);
                } else {
                    self.send_return(*ret, upstream).await;
                }
            }
            Route::Event { .. } if self.parts.company.is_standby() => {
                self.parts
                    .telemetry
                    .event_skipped(&event.tag, SkipReason::Standby);
            }
            Route::Event { data } => self.forward_event(event.tag, data, event.data.len()).await,
            Route::Probe {
                probe,
                minion,
                running,
            } => {
                if let Some(found) = self.probes.answered(&probe, &minion, running) {
                    self.probed(found).await;
                }
            }
            Route::Skip(reason) => self.parts.telemetry.event_skipped(&event.tag, reason),
        }
    }

    /// Reads what the minion really returned: on the bus large values are cut off.
    fn fetch(&mut self, mut ret: Box<Return>, upstream: Option<usize>) {
        let job_cache = self.parts.job_cache.clone();
        let telemetry = self.parts.telemetry.clone();
        self.fetches.spawn(async move {
            match job_cache.read_return(&ret.event.jid, &ret.event.id).await {
                Ok((whole, bytes)) => {
                    ret.bytes += bytes;
                    if let Value::Map(entries) = whole {
                        for (key, value) in entries {
                            if let Some(key) = key.as_str() {
                                ret.event.fields.set(key, value);
                            }
                        }
                    }
                }
                Err(err) => telemetry.return_trimmed(&ret.event.jid, &ret.event.id, &err),
            }
            (ret, upstream)
        });
    }

    async fn send_return(&mut self, ret: Return, upstream: Option<usize>) {
        let ok = ret
            .event
            .fields
            .get("retcode")
            .and_then(Value::as_i64)
            .unwrap_or(0)
            == 0;
        let (jid, minion) = (ret.event.jid.clone(), ret.event.id.clone());
        self.queue_return(ret, upstream).await;
        // The summary is queued behind the return that completes the job.
        let actions = self.jobs.returned(jid.as_str(), minion.as_str(), ok);
        self.act(actions).await;
    }

    async fn queue_return(&mut self, ret: Return, upstream: Option<usize>) {
        let index =
            upstream.unwrap_or_else(|| self.upstream_for_local(ret.event.master_id.as_deref()));
        if let Some(lanes) = self.parts.upstreams.get(index) {
            lanes.queue_return(ret).await;
        }
    }

    /// The MoM that the job's `master_id` names by its address, as in salt-syndic, else one that is signed in.
    fn upstream_for_local(&self, master_id: Option<&str>) -> usize {
        let upstreams = &self.parts.upstreams;
        let named =
            master_id.and_then(|name| upstreams.iter().position(|lanes| lanes.is_called(name)));
        let signed_in: Vec<usize> = (0..upstreams.len())
            .filter(|index| upstreams.get(*index).is_some_and(Lanes::is_signed_in))
            .collect();
        let any = match self.parts.failover {
            SyndicFailover::Ordered => signed_in.first(),
            SyndicFailover::Random => {
                let seconds = usize::try_from(unix_millis() / 1000).unwrap_or(0);
                signed_in.get(seconds % signed_in.len().max(1))
            }
        };
        named.or(any.copied()).unwrap_or(0)
    }

    async fn forward_event(&self, tag: String, data: Value, bytes: usize) {
        self.parts.telemetry.event_forwarded(&tag);
        for lanes in &self.parts.upstreams {
            let event = ForwardedEvent {
                tag: tag.clone(),
                data: data.clone(),
                bytes,
                is_ack: false,
            };
            lanes.queue_event(event).await;
        }
    }

    async fn probed(&mut self, found: Found) {
        let running = found.running.iter().map(String::as_str);
        let actions = self
            .jobs
            .probed(found.about.as_str(), running, unix_millis());
        self.act(actions).await;
    }

    async fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Answer(answer) => {
                    debug!(jid = %answer.jid, expected = answer.expected, returned = answer.returned,
                        missing = answer.missing_count, "job over at this site");
                    if let Ok(jid) = Jid::parse(&answer.jid) {
                        self.answer(summary::summary(&self.parts.id, jid, &answer))
                            .await;
                    }
                }
                Action::Probe { jid, minions } => self.probe(&jid, minions),
                Action::StillRunning {
                    jid,
                    query,
                    running,
                } => {
                    self.answer_query(&query, &jid, running).await;
                }
                Action::NotRunning { jid, query } => self.answer_query(&query, &jid, 0).await,
                Action::Shed { jid } => self.parts.telemetry.job_shed(&jid),
            }
        }
    }

    async fn answer_query(&mut self, query: &str, about: &str, running: usize) {
        if let Ok(query) = Jid::parse(query) {
            let ret = summary::find_job_answer(&self.parts.id, query, about, running);
            self.answer(ret).await;
        }
    }

    async fn answer(&mut self, ret: Return) {
        let upstream = match self.parts.router.origins.get(&ret.event.jid) {
            Some(Origin::Upstream { index, .. }) => Some(*index),
            Some(Origin::Local { .. } | Origin::Probe) | None => None,
        };
        self.queue_return(ret, upstream).await;
    }

    /// Asks `minions` whether they run `about`, under a jid of the shim's own that stays at this site.
    fn probe(&mut self, about: &str, minions: Vec<String>) {
        let Ok(about) = Jid::parse(about) else { return };
        let jid = self.parts.prober.next_jid();
        self.parts.router.origins.note(&jid, Origin::Probe);
        self.probes
            .start(jid.clone(), about.clone(), &minions, Instant::now());
        let prober = Arc::clone(&self.parts.prober);
        self.publishes.spawn(async move {
            match prober.find_job(&jid, &about, &minions).await {
                Ok(()) => None,
                Err(err) => {
                    warn!(error = %chain(&err), %about, "failed to ask the minions about a job");
                    Some(jid)
                }
            }
        });
    }
}

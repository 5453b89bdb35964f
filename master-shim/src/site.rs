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

use daemon_kit::{CancellationToken, http::Condition, steady_millis, unix_millis};
use relay_core::jobs::{SiteJobs, SiteJobsConfig};
use salt_link::{event_bus::BusEvent, queue::Receiver};
use salt_wire::ids::{Jid, MinionId};
use store::{Jobs, Spool};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Duration, Instant, sleep_until},
};

use self::{
    catch_up::{CatchUp, Found as FoundReturn},
    company::Company,
    origins::Origin,
    probes::Probes,
    routing::{Return, Router},
};
use crate::{
    config::SyndicFailover,
    disk::Disk,
    job_cache::JobCache,
    lower_master::LowerMaster,
    probe::Prober,
    receipts::{Follow, Handed, Receipts},
    roster::Roster,
    telemetry::Telemetry,
    unanswered::Unanswered,
    upstream::Lanes,
};

mod actions;
mod catch_up;
pub(crate) mod company;
mod events;
mod origins;
mod probes;
mod receiving;
pub(crate) mod routing;
mod sending;
mod summary;

/// What the delivery tasks tell.
#[derive(Debug)]
pub(crate) enum Message {
    /// A publication is about to be published on the lower master.
    Publishing {
        /// The job.
        jid: Jid,
        /// Index of the MoM that it came from.
        upstream: usize,
        /// Whether the MoM did not ask for the minions' start events, and this shim did.
        hides_start: bool,
        /// What may be done about minions that do not get it.
        follow: Box<Follow>,
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
    /// An operator wants minions of this site to have a job again that was published here before.
    ByHand {
        /// The job, as the operator published it.
        follow: Box<Follow>,
        /// The minions that it was published to, of those that the operator named.
        minions: Vec<String>,
    },
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
    /// Which minions got their jobs.
    pub(crate) receipts: Receipts,
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
    /// Tells of new connections to the publish port.
    connections: watch::Receiver<u64>,
}

enum Input {
    Message(Message),
    Event(BusEvent),
    Fetched(Box<Return>, Option<usize>),
    ProbePublished(Option<Jid>),
    Found(FoundReturn),
    Handed(Handed),
    Connected,
    Tick,
    Stop,
}

impl SiteTask {
    /// A task that knows no job yet.
    pub(crate) fn new(parts: SiteParts) -> Self {
        Self {
            connections: parts.master.connections(),
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
                        let event = &found.ret.event;
                        let now_ms = steady_millis();
                        self.parts.receipts.returned(&event.id, &event.jid, now_ms);
                        self.send_return(*found.ret, Some(found.upstream)).await;
                    }
                }
                Input::ProbePublished(failed) => {
                    if let Some(found) = failed.and_then(|jid| self.probes.failed(&jid)) {
                        self.probed(found).await;
                    }
                }
                Input::Handed(handed) => self.handed(&handed),
                Input::Connected => self.parts.receipts.connection_opened(steady_millis()),
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
            handed = self.parts.receipts.handed() => Input::Handed(handed),
            Ok(()) = self.connections.changed() => Input::Connected,
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
            self.parts.receipts.next_tick(steady_millis()),
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
                hides_start: false,
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
        self.tick_receipts().await;
    }

    async fn message(&mut self, message: Message) {
        match message {
            Message::Publishing {
                jid,
                upstream,
                hides_start,
                follow,
            } => {
                let origin = Origin::Upstream {
                    index: upstream,
                    bare_jid_seen: false,
                    hides_start,
                };
                self.parts.router.origins.note(&jid, origin);
                self.parts.receipts.announced(&jid, *follow);
            }
            Message::Published {
                jid,
                fun,
                minions,
                answers_for_site,
            } => {
                self.receive_answer(&jid, &minions);
                let actions = self
                    .jobs
                    .published(jid.as_str(), &fun, minions, answers_for_site);
                self.act(actions).await;
            }
            Message::ByHand { follow, minions } => self.by_hand(*follow, &minions).await,
            Message::Recovered => self.fetch_missing(),
            Message::Asked { about, query } => {
                let actions = self.jobs.asked(about.as_str(), query.as_str());
                self.act(actions).await;
            }
        }
    }
}

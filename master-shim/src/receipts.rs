//! Which minions got their jobs, and the jobs again for those that did not.
//!
//! Owned by the site task, which tells it what the deliveries publish and what is heard on the lower master's bus. The decisions are
//! [`Redelivery`]'s; here are the loads, the sending, and the receipts on their way up.
//!
//! ```text
//! deliveries ──Follow──► Loads ──┐
//! event bus ──new, receipts, returns──► Redelivery ──Again──► DirectPublisher ──► publisher of the lower master
//!                  └──receipts──► Collected (one for each MoM) ──► events lane
//! ```
//! - What goes again goes past the lower master's request port: its job cache keeps the job as it was.
//! - One publication after the other, in the order of the decisions; each only in a tenure of the lease, and before the job expires.
//! - A shim that becomes the active one knows nothing of earlier jobs: it sends none of them again by itself.

use std::{collections::VecDeque, sync::Arc};

use relay_core::redelivery::{Policy, Receipt, Redelivery, Report, Sent, Source};
use salt_link::{DirectPublishError, DirectPublisher};
use salt_wire::{
    ids::{Jid, MinionId},
    publication::PublicationLoad,
    saltway::{Happened, MinionEvent, MinionWord},
};
use tokio::{
    task::JoinSet,
    time::{Duration, Instant},
};

pub(crate) use self::{
    collected::Collected,
    figures::LastHopFigures,
    loads::{Follow, for_minions},
};
use self::{figures::Tally, loads::Loads};
use crate::{config::ReceiptsConfig, telemetry::Telemetry};

mod collected;
mod figures;
mod loads;

/// Until when a job that came from no MoM is followed: for the figures.
const LOCAL_FOR_MS: u64 = 60_000;

/// How soon it is tried again to send, when the master is away or the lease is not held.
const RETRY: Duration = Duration::from_millis(250);

/// Publications that wait to be handed over. The decisions pace them, so that there is more only when the publisher hangs:
/// then the newest is dropped and counted.
const DUE_MAX: usize = 1_000;

/// Most minions in a publication by hand.
const BY_HAND_MAX: usize = 1_000;

/// A job that is about to go to these minions.
#[derive(Debug)]
struct Due {
    jid: String,
    minions: Vec<String>,
    by_hand: bool,
}

/// What became of one publication.
#[derive(Debug)]
pub(crate) struct Handed {
    due: Due,
    result: Result<(), DirectPublishError>,
}

/// See the module's head.
pub(crate) struct Receipts {
    decisions: Redelivery,
    loads: Loads,
    due: VecDeque<Due>,
    sending: JoinSet<Handed>,
    publisher: Arc<DirectPublisher>,
    /// For each MoM.
    up: Vec<Collected>,
    tally: Tally,
    /// The master was away, or the lease not held, at the last tick.
    retry_at: Option<Instant>,
    telemetry: Telemetry,
}

impl Receipts {
    /// Nothing was published yet; `upstreams` MoMs.
    pub(crate) fn new(
        config: &ReceiptsConfig,
        site: &MinionId,
        upstreams: usize,
        publisher: Arc<DirectPublisher>,
        last_hop: LastHopFigures,
        telemetry: Telemetry,
    ) -> Self {
        Self {
            decisions: Redelivery::new(config.redelivery()),
            loads: Loads::default(),
            due: VecDeque::new(),
            sending: JoinSet::new(),
            publisher,
            up: (0..upstreams)
                .map(|_| Collected::new(site.clone()))
                .collect(),
            tally: Tally::new(last_hop),
            retry_at: None,
            telemetry,
        }
    }

    /// A delivery is about to publish this job.
    pub(crate) fn announced(&mut self, jid: &Jid, follow: Follow) {
        for dropped in self.loads.insert(jid.as_str(), follow) {
            self.decisions.load_dropped(&dropped);
            self.telemetry.load_dropped(&dropped);
        }
    }

    /// The lower master publishes a job to these minions, by its bus, or by its answer if the bus did not tell.
    pub(crate) fn published<'a>(
        &mut self,
        jid: &str,
        minions: impl Iterator<Item = &'a str>,
        now_ms: u64,
    ) {
        let sent = match self.loads.published(jid) {
            Some(follow) => Sent {
                jid,
                policy: follow.policy,
                asked_start_event: follow.asked_start_event,
                now_ms,
                expires_ms: follow.expires_ms,
            },
            None => Sent {
                jid,
                policy: Policy::Never,
                asked_start_event: false,
                now_ms,
                expires_ms: now_ms + LOCAL_FOR_MS,
            },
        };
        self.decisions.published(sent, minions);
        self.tally.published();
    }

    /// The lower master has answered that it published the job to these minions; the bus has told before, or has not.
    pub(crate) fn answered<'a>(
        &mut self,
        jid: &str,
        minions: impl ExactSizeIterator<Item = &'a str>,
        now_ms: u64,
    ) {
        let is_for_nobody = minions.len() == 0;
        if self.loads.awaits_publication(jid) && !is_for_nobody {
            self.published(jid, minions, now_ms);
        }
        if is_for_nobody || !self.loads.is_sendable(jid) {
            self.loads.remove(jid);
        }
    }

    /// A minion's start event of a job; `upstream` is the MoM that the job came from.
    pub(crate) fn start_event(
        &mut self,
        minion: &MinionId,
        jid: &Jid,
        upstream: Option<usize>,
        now_ms: u64,
    ) {
        self.gives(minion, Source::StartEvent);
        let receipt = self
            .decisions
            .received(minion.as_str(), jid.as_str(), now_ms);
        self.collect(minion, jid, receipt, upstream, Source::StartEvent);
    }

    /// A minion-shim has said something; `upstream_of` knows which MoM a job came from.
    pub(crate) fn minion_event(
        &mut self,
        event: &MinionEvent,
        upstream_of: impl Fn(&Jid) -> Option<usize>,
        now_ms: u64,
    ) {
        let minion = &event.id;
        self.gives(minion, Source::Shim);
        match &event.what {
            MinionWord::Receipt(receipt) => {
                for (jid, _held) in &receipt.jobs {
                    let heard = self
                        .decisions
                        .received(minion.as_str(), jid.as_str(), now_ms);
                    self.collect(minion, jid, heard, upstream_of(jid), Source::Shim);
                }
            }
            MinionWord::State(state) => {
                self.telemetry.minion_state(minion, state);
                let report = match state.what {
                    Happened::Hello => Report::Hello,
                    Happened::Started => Report::Started,
                    Happened::Reconnected => Report::Reconnected,
                    Happened::Undelivered => Report::Other,
                };
                let taken = state.taken.iter().map(Jid::as_str);
                let news = self.decisions.reported(
                    minion.as_str(),
                    report,
                    taken,
                    state.covers_ms,
                    now_ms,
                );
                for (jid, heard) in news {
                    if let Ok(jid) = Jid::parse(jid) {
                        self.collect(minion, &jid, heard, upstream_of(&jid), Source::Shim);
                    }
                }
            }
        }
    }

    /// A minion has returned.
    pub(crate) fn returned(&mut self, minion: &MinionId, jid: &Jid, now_ms: u64) {
        self.decisions
            .returned(minion.as_str(), jid.as_str(), now_ms);
    }

    /// A minion has started anew.
    pub(crate) fn started(&mut self, minion: &str, now_ms: u64) {
        self.decisions.started(minion, now_ms);
    }

    /// A minion has said something else.
    pub(crate) fn sign_of_life(&mut self, minion: &str, now_ms: u64) {
        self.decisions.sign_of_life(minion, now_ms);
    }

    /// Nobody has listened to the lower master's bus for a while.
    pub(crate) fn unheard(&mut self, now_ms: u64) {
        self.decisions.unheard(now_ms);
    }

    /// Somebody has connected to the publish port.
    pub(crate) fn connection_opened(&mut self, now_ms: u64) {
        self.decisions.connection_opened(now_ms);
    }

    /// An operator wants these minions to have the job again.
    pub(crate) fn by_hand(&mut self, follow: Follow, minions: &[String], now_ms: u64) {
        let jid = follow.load.jid().clone();
        let expires_ms = follow.expires_ms;
        self.announced(&jid, follow);
        let names: Vec<&str> = minions.iter().map(String::as_str).collect();
        let allowed = self
            .decisions
            .by_hand(jid.as_str(), &names, now_ms, expires_ms);
        self.telemetry
            .asked_by_hand(&jid, names.len(), allowed.len());
        for part in allowed.chunks(BY_HAND_MAX) {
            self.due.push_back(Due {
                jid: jid.to_string(),
                minions: part.iter().map(|name| (*name).to_owned()).collect(),
                by_hand: true,
            });
        }
    }

    /// Decides what goes again, and hands it over. `may_send`: the master is up and this shim may publish for the MoM with that index.
    pub(crate) fn tick(&mut self, now_ms: u64, may_send: impl Fn(usize) -> bool) {
        let can_send = (0..self.up.len()).any(&may_send);
        self.retry_at = (!can_send).then(|| Instant::now() + RETRY);
        if can_send {
            for again in self.decisions.tick(now_ms) {
                if self.due.len() >= DUE_MAX {
                    self.telemetry.redelivery_dropped(again.minions.len());
                    continue;
                }
                self.due.push_back(Due {
                    jid: again.jid,
                    minions: again.minions,
                    by_hand: false,
                });
            }
            self.hand_over(now_ms, may_send);
        }
        for jid in self.decisions.forgotten() {
            if !self.due.iter().any(|due| due.jid == jid) {
                self.loads.remove(&jid);
            }
        }
        self.loads.expire(now_ms);
        self.tally.tell(&self.decisions, &self.telemetry);
    }

    /// Waits until a publication is with the publisher, or is not; for ever when none is under way. Cancel-safe.
    pub(crate) async fn handed(&mut self) -> Handed {
        match self.sending.join_next().await {
            Some(handed) => {
                handed.expect("handing a publication over neither panics nor is aborted")
            }
            None => std::future::pending().await,
        }
    }

    /// Counts what [`handed`](Self::handed) has brought, and goes on.
    pub(crate) fn after(&mut self, handed: &Handed, now_ms: u64, may_send: impl Fn(usize) -> bool) {
        let Handed { due, result } = handed;
        self.telemetry
            .redelivered(&due.jid, &due.minions, due.by_hand, result);
        self.hand_over(now_ms, may_send);
    }

    fn hand_over(&mut self, now_ms: u64, may_send: impl Fn(usize) -> bool) {
        while self.sending.is_empty()
            && let Some(due) = self.due.pop_front()
        {
            let follow = self.loads.get(&due.jid);
            let Some(load) = follow
                .filter(|follow| now_ms < follow.expires_ms && may_send(follow.upstream))
                .and_then(|follow| for_minions(&follow.load, &due.minions))
            else {
                self.telemetry.redelivery_dropped(due.minions.len());
                continue;
            };
            self.send(due, load);
        }
    }

    fn send(&mut self, due: Due, load: PublicationLoad) {
        let publisher = Arc::clone(&self.publisher);
        self.sending.spawn(async move {
            let result = publisher.publish(&load).await;
            Handed { due, result }
        });
    }

    /// When [`tick`](Self::tick) or [`take_up`](Self::take_up) has something to do.
    pub(crate) fn next_tick(&self, now_ms: u64) -> Option<Instant> {
        let now = Instant::now();
        let decisions = self.decisions.next_due_ms();
        let decisions =
            decisions.map(|due| now + Duration::from_millis(due.saturating_sub(now_ms)));
        let decisions = decisions.map(|due| self.retry_at.map_or(due, |retry| due.max(retry)));
        let waiting =
            (!self.due.is_empty() && self.sending.is_empty()).then(|| self.retry_at.unwrap_or(now));
        let up = self.up.iter().filter_map(Collected::due_at).min();
        [decisions, waiting, up, self.tally.next()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether somebody is silent who may be sent a job again.
    pub(crate) fn is_waiting(&self) -> bool {
        self.loads.are_sendable() && self.up.iter().any(Collected::knows_givers)
    }

    /// What is to go up now, by the index of the MoM.
    pub(crate) fn take_up(&mut self) -> Vec<(usize, salt_wire::saltway::Receipts)> {
        let now = Instant::now();
        let mut events = Vec::new();
        for (index, collected) in self.up.iter_mut().enumerate() {
            let due = collected.take(now).into_iter();
            events.extend(due.map(|receipts| (index, receipts)));
        }
        events
    }

    fn gives(&mut self, minion: &MinionId, source: Source) {
        if self.decisions.gives_receipts(minion.as_str(), source) {
            for collected in &mut self.up {
                collected.gives(minion);
            }
        }
    }

    fn collect(
        &mut self,
        minion: &MinionId,
        jid: &Jid,
        receipt: Receipt,
        upstream: Option<usize>,
        source: Source,
    ) {
        let after_ms = match receipt {
            Receipt::First { after_ms } => Some(after_ms),
            Receipt::Unknown => None,
            Receipt::Again => return,
        };
        self.telemetry.receipt(jid, minion, source, after_ms);
        let collected = upstream.and_then(|index| self.up.get_mut(index));
        if let Some(collected) = collected {
            let after_ms = after_ms.map(|after_ms| u32::try_from(after_ms).unwrap_or(u32::MAX));
            collected.add(jid, minion, after_ms);
        }
    }
}

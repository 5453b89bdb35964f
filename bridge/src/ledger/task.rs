//! The task that owns the ledger.
//!
//! ```text
//! MoM's bus ──────────► LedgerTask ──events──► FireTask ──► MoM's bus        (the speaker only)
//! leases in Redis ────►    │  ▲    ──lines───► audit                         (the speaker only)
//! job cache ──────────►    │  └──── rows ───── KeepTask ◄──► ledger.db
//! questions (HTTP) ───►    └──────changes────►
//! ```
//! - One owner of all state; it waits, then acts, and never awaits while it acts: I/O is done by thin tasks that report back.
//! - The bus is read first and never waits for a reader of the ledger, for the disk or for Redis.
//! - After each [`TURN`] events it lets the process's other tasks run: publications never wait for the ledger.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use daemon_kit::{CancellationToken, steady_millis};
use redis_link::SiteName;
use relay_core::{
    ledger::{Action, Deliveries, Ledger, Said},
    names::Up,
    roster::{Announced, Announcement, Digest, Kind},
};
use salt_link::{event_bus::BusEvent, queue::Receiver};
use salt_wire::{
    bus::Event,
    ids::Jid,
    saltway::{JobNotice, NotPublished, Presence, Receipts, Roster, RosterKind, Status},
};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use super::{
    answer::Answers,
    api::Ask,
    arguments::Arguments,
    audit::Audit,
    catch_up::{self, Found, Told},
    decode::{self, Heard, News, Refused},
    fire::Firing,
    keep::{Keeping, Kept},
    liveness::Liveness,
    speaker::{Change, Speaker},
    statuses::Statuses,
    watch::Look,
};
use crate::telemetry::LedgerTelemetry;

/// Events folded before other tasks get their turn: some milliseconds at most.
const TURN: usize = 256;

/// The pace of everything that comes with time. The ledger asks for a quarter of a second or less.
const TICK: Duration = Duration::from_millis(100);

/// So many ticks are a second: the pace of the disk, the figures and the speaker's lock (twice in it).
const TICKS_A_SECOND: u64 = 10;

/// What was on its way when the bus went away is looked for, too.
const GAP_MARGIN_MS: u64 = 5_000;

/// What the task is built of.
pub(super) struct Parts {
    pub(super) ledger: Ledger,
    pub(super) speaker: Speaker,
    pub(super) audit: Option<(Audit, Arguments)>,
    pub(super) firing: Firing,
    pub(super) keeping: Keeping,
    pub(super) orders: Option<mpsc::Sender<catch_up::Order>>,
    pub(super) sites: watch::Sender<Arc<[SiteName]>>,
    pub(super) bus: Receiver<BusEvent>,
    pub(super) looks: mpsc::Receiver<Look>,
    pub(super) questions: mpsc::Receiver<Ask>,
    pub(super) told: mpsc::Receiver<Told>,
    pub(super) kept: mpsc::Receiver<Kept>,
    pub(super) relay: String,
    pub(super) bridge: String,
    pub(super) ttl_ms: u64,
    /// From when on the job cache may know more than the ledger.
    pub(super) since_ms: u64,
    pub(super) telemetry: LedgerTelemetry,
}

/// The task; see the module's head.
pub(super) struct LedgerTask {
    pub(super) ledger: Ledger,
    pub(super) liveness: Liveness,
    pub(super) statuses: Statuses,
    pub(super) speaker: Speaker,
    pub(super) audit: Option<(Audit, Arguments)>,
    pub(super) firing: Firing,
    pub(super) keeping: Keeping,
    pub(super) answers: Answers,
    pub(super) relay: String,
    pub(super) bridge: String,
    pub(super) bus: Bus,
    /// What keeps Redis from answering.
    pub(super) redis: Result<(), String>,
    pub(super) telemetry: LedgerTelemetry,
    orders: Option<mpsc::Sender<catch_up::Order>>,
    sites: watch::Sender<Arc<[SiteName]>>,
    ttl_ms: u64,
    counted: BTreeMap<String, Deliveries>,
    ticks: u64,
    gap_since_ms: Option<u64>,
}

/// Whether the MoM's bus is heard, and what came from it since the last look at the figures.
#[derive(Debug, Default)]
pub(super) struct Bus {
    pub(super) is_up: bool,
    pub(super) since_ms: u64,
    folded: u64,
    skipped: u64,
}

struct Inputs {
    bus: Receiver<BusEvent>,
    looks: mpsc::Receiver<Look>,
    questions: mpsc::Receiver<Ask>,
    told: mpsc::Receiver<Told>,
    kept: mpsc::Receiver<Kept>,
}

/// What the task woke up for.
enum Input {
    Bus(BusEvent),
    Look(Look),
    Question(Ask),
    Told(Told),
    Kept(Kept),
    Answer,
    Tick,
}

impl LedgerTask {
    /// Runs until `shutdown`, then hands what is not on disk yet to the keeper.
    pub(super) async fn run(parts: Parts, shutdown: CancellationToken) {
        let (mut task, mut inputs) = Self::new(parts);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut events = 0_usize;
        loop {
            let input = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                _ = ticks.tick() => Input::Tick,
                Some(kept) = inputs.kept.recv() => Input::Kept(kept),
                Some(look) = inputs.looks.recv() => Input::Look(look),
                Some(ask) = inputs.questions.recv() => Input::Question(ask),
                // One row of a long answer between events, not all of them.
                () = std::future::ready(()), if task.answers.is_due() && events.is_multiple_of(TURN) => Input::Answer,
                event = inputs.bus.recv() => match event {
                    Some(event) => Input::Bus(event),
                    None => break shutdown.cancelled().await,
                },
                Some(told) = inputs.told.recv() => Input::Told(told),
                () = std::future::ready(()), if task.answers.is_due() => Input::Answer,
            };
            if matches!(input, Input::Bus(_)) {
                events += 1;
                if events.is_multiple_of(TURN) {
                    tokio::task::yield_now().await;
                }
            }
            task.apply(input);
        }
        // The keeper need not wait for anybody to hear what it did.
        drop(inputs);
        task.end().await;
    }

    fn new(parts: Parts) -> (Self, Inputs) {
        let inputs = Inputs {
            bus: parts.bus,
            looks: parts.looks,
            questions: parts.questions,
            told: parts.told,
            kept: parts.kept,
        };
        let mut task = Self {
            ledger: parts.ledger,
            liveness: Liveness::default(),
            statuses: Statuses::default(),
            speaker: parts.speaker,
            audit: parts.audit,
            firing: parts.firing,
            keeping: parts.keeping,
            answers: Answers::default(),
            relay: parts.relay,
            bridge: parts.bridge,
            bus: Bus {
                since_ms: steady_millis(),
                ..Bus::default()
            },
            redis: Ok(()),
            telemetry: parts.telemetry,
            orders: parts.orders,
            sites: parts.sites,
            ttl_ms: parts.ttl_ms,
            counted: BTreeMap::new(),
            ticks: 0,
            gap_since_ms: Some(parts.since_ms),
        };
        let sites: Vec<String> = task.ledger.rosters().sites().map(str::to_owned).collect();
        for site in sites {
            task.know(&site, steady_millis());
        }
        (task, inputs)
    }

    fn apply(&mut self, input: Input) {
        let now_ms = steady_millis();
        match input {
            Input::Bus(BusEvent::Event(event)) => self.hear(&event, now_ms),
            Input::Bus(BusEvent::Connected) => self.bus_up(now_ms),
            Input::Bus(BusEvent::Disconnected { reason }) => self.bus_down(&reason, now_ms),
            Input::Bus(BusEvent::Malformed { reason }) => {
                self.telemetry.event_malformed("", reason);
            }
            Input::Look(look) => self.look(look, now_ms),
            Input::Question(ask) => self.question(ask, now_ms),
            Input::Answer => self.answer_on(),
            Input::Told(told) => self.catch_up(told, now_ms),
            Input::Kept(kept) => self.kept(kept),
            Input::Tick => self.tick(now_ms),
        }
        self.keeping.flush();
    }

    fn bus_up(&mut self, now_ms: u64) {
        self.bus.is_up = true;
        self.bus.since_ms = now_ms;
        self.liveness.bus(true, now_ms);
        self.telemetry.bus_up();
        self.firing.connect();
        self.order_catch_up();
    }

    /// Has what passed unheard read from the job cache.
    fn order_catch_up(&mut self) {
        let (Some(since_ms), Some(orders)) = (self.gap_since_ms, &self.orders) else {
            return;
        };
        let open = self.ledger.jobs(None).filter(is_open);
        let open = open.filter_map(|job| Jid::parse(job.jid()).ok()).collect();
        let order = catch_up::Order {
            open,
            since_ms: since_ms.saturating_sub(GAP_MARGIN_MS),
        };
        // While the queue is full the gap stays, and is read with the next order.
        if orders.try_send(order).is_ok() {
            self.gap_since_ms = None;
        }
    }

    fn bus_down(&mut self, reason: &str, now_ms: u64) {
        self.bus.is_up = false;
        self.bus.since_ms = now_ms;
        self.liveness.bus(false, now_ms);
        self.ledger.missed();
        self.gap_since_ms.get_or_insert(now_ms);
        self.telemetry.bus_down(reason);
    }

    fn hear(&mut self, event: &Event, now_ms: u64) {
        let heard = Heard {
            at_ms: now_ms,
            ttl_ms: self.ttl_ms,
        };
        match decode::decode(event, heard) {
            Ok(news) => {
                self.bus.folded += 1;
                self.fold(news, now_ms);
            }
            Err(Refused::NoNews) => self.bus.skipped += 1,
            Err(Refused::Malformed(reason)) => self.telemetry.event_malformed(&event.tag, reason),
            Err(Refused::Saltway(err)) => self.telemetry.event_refused(&event.tag, &err),
        }
    }

    fn fold(&mut self, news: News<'_>, now_ms: u64) {
        let actions = match news {
            News::Returned(returned) => self.ledger.returned(&returned),
            News::Received { jid, minion } => self.ledger.received(jid, [minion], now_ms),
            News::Accepted {
                jid,
                site,
                minions,
                missing,
            } => {
                let (minions, missing) = (minions.iter(), missing.iter());
                let minions = minions.map(|id| id.as_str());
                let missing = missing.map(|id| id.as_str());
                self.ledger.accepted(jid, site, minions, missing, now_ms)
            }
            News::Published { published, arg } => {
                let actions = self.ledger.published(&published);
                self.audit_job(&published, &arg, &actions, now_ms);
                actions
            }
            News::Roster(roster) => return self.roster(&roster, now_ms),
            News::Status(status) => return self.status(*status, now_ms),
            News::Notice(notice) => self.notice(&notice, now_ms),
            News::Receipts(receipts) => self.receipts(&receipts, now_ms),
            News::SentAgain { jid, minions, user } => {
                self.audit_again(jid, &minions, &user, now_ms);
                self.ledger.sent_again(jid, now_ms)
            }
        };
        self.act(actions, now_ms);
    }

    fn receipts(&mut self, receipts: &Receipts, now_ms: u64) -> Vec<Action> {
        let site = receipts.site.as_str();
        self.ledger.gives_receipts(site, receipts.gives.iter());
        let jobs = receipts.jobs.iter();
        let fold = jobs.flat_map(|job| {
            self.ledger
                .receipts(job.jid.as_str(), site, job.minions.iter(), now_ms)
        });
        fold.collect()
    }

    fn notice(&mut self, notice: &JobNotice, now_ms: u64) -> Vec<relay_core::ledger::Action> {
        let said = match notice.what {
            NotPublished::Expired => Said::Expired,
            NotPublished::Refused => Said::Refused,
            NotPublished::Unusable => Said::Unusable,
            NotPublished::Duplicate => Said::Duplicate,
            NotPublished::NoMatch => Said::NoMatch,
        };
        let (jid, site) = (notice.jid.as_str(), notice.site.as_str());
        self.ledger
            .site_said(jid, site, said, &notice.reason, now_ms)
    }

    fn roster(&mut self, roster: &Roster, now_ms: u64) {
        let site = roster.site.as_str();
        let (announced, actions) = self.ledger.announce(site, &announcement(roster));
        match announced {
            Announced::Changed {
                added,
                removed,
                is_first,
            } => {
                let minions = self.ledger.rosters().count(site);
                self.telemetry.roster_changed(site, added, removed, minions);
                if is_first {
                    self.know(site, now_ms);
                }
            }
            Announced::Unchanged => self.telemetry.roster("unchanged"),
            Announced::Waiting => self.telemetry.roster("waiting"),
            Announced::Stale { reason } => self.telemetry.roster_stale(site, reason.as_str()),
        }
        self.act(actions, now_ms);
    }

    /// A site that is known from now on: its lease is looked at.
    fn know(&mut self, site: &str, now_ms: u64) {
        self.liveness.know(site, now_ms);
        self.telemetry.site_known(site);
        let names = self.liveness.sites().map(|(name, _)| SiteName::new(name));
        // What cannot be part of a key has no lease, and no shim of that name could run.
        let names: Vec<SiteName> = names.filter_map(Result::ok).collect();
        self.sites.send_replace(names.into());
    }

    fn status(&mut self, status: Status, now_ms: u64) {
        let site = status.site.to_string();
        // Sites are known by their rosters, which are bounded; the next status comes in seconds.
        if !self.ledger.rosters().is_site(&site) {
            self.bus.skipped += 1;
            return;
        }
        self.liveness.status(&site, now_ms);
        self.telemetry
            .status(&site, status.lag_entries, status.lag_seconds);
        if let Some(last_hop) = &status.last_hop {
            self.telemetry.last_hop(&site, last_hop);
        }
        let more = self.statuses.take(status, now_ms);
        for (hop, lost) in more.lost {
            self.telemetry.site_lost(&site, hop.as_str(), lost);
        }
        self.telemetry.missed(&site, more.missed);
        self.judge_sites(now_ms);
    }

    fn look(&mut self, look: Look, now_ms: u64) {
        match look {
            Ok(held) => {
                self.redis = Ok(());
                let held = held.iter().map(SiteName::as_str);
                self.liveness.leases(held, now_ms);
            }
            Err(reason) => self.redis = Err(reason),
        }
        self.judge_sites(now_ms);
    }

    fn judge_sites(&mut self, now_ms: u64) {
        for change in self.liveness.tick(now_ms) {
            let actions = if change.up {
                self.ledger.site_up(&change.site, change.at_ms)
            } else {
                let (site, reason) = (&change.site, &change.reason);
                self.ledger.site_down(site, change.at_ms, reason)
            };
            self.act(actions, now_ms);
        }
    }

    fn catch_up(&mut self, told: Told, now_ms: u64) {
        match told {
            Told::Found(found) => self.found(&found, now_ms),
            Told::Passed(passed) => {
                for jid in passed.caught_up.iter().filter(|_| passed.is_last) {
                    self.ledger.caught_up(jid.as_str());
                }
                self.telemetry.caught_up(&passed);
            }
        }
    }

    /// What the job cache has of a job is told as if it had been heard, but nobody waits for it any more.
    fn found(&mut self, found: &Found, now_ms: u64) {
        let Found { jid, job, returns } = found;
        let jid = jid.as_str();
        let at_ms = catch_up::millis(job.published_at).unwrap_or(now_ms);
        let mut actions = self.found_published(found, at_ms, now_ms);
        for (site, minions) in &job.by_site {
            let minions = minions.iter().map(|id| id.as_str());
            actions.extend(self.ledger.accepted(jid, site.as_str(), minions, [], at_ms));
        }
        for ret in returns {
            let returned = relay_core::ledger::Returned {
                jid,
                minion: ret.minion.as_str(),
                fun: &ret.fun,
                is_failed: ret.is_failed,
                is_empty: false,
                at_ms: at_ms.max(ret.at_ms),
            };
            actions.extend(self.ledger.returned(&returned));
        }
        self.act(actions, now_ms);
    }

    /// The publication itself, as far as its load can be read.
    fn found_published(&mut self, found: &Found, at_ms: u64, now_ms: u64) -> Vec<Action> {
        let heard = Heard {
            at_ms,
            ttl_ms: self.ttl_ms,
        };
        let jid = found.jid.as_str();
        let Some(load) = &found.job.load else {
            return Vec::new();
        };
        let Ok(News::Published { mut published, arg }) = decode::published(jid, load, heard) else {
            self.telemetry.event_malformed(jid, "job_cache");
            return Vec::new();
        };
        published.is_past = true;
        let minions = found.job.minions.iter();
        published.mom_minions = minions.map(ToString::to_string).collect();
        let is_new = self.ledger.job(jid).is_none();
        let actions = self.ledger.published(&published);
        // Of two passes the first one finds it.
        if is_new {
            self.audit_job(&published, &arg, &actions, now_ms);
        }
        actions
    }

    fn tick(&mut self, now_ms: u64) {
        self.ticks += 1;
        self.judge_sites(now_ms);
        let actions = self.ledger.tick(now_ms);
        self.act(actions, now_ms);
        if self.ticks.is_multiple_of(TICKS_A_SECOND / 2) || self.ticks == 1 {
            self.look_for_lock();
        }
        if self.ticks.is_multiple_of(TICKS_A_SECOND) {
            self.keep();
            self.report();
            if self.bus.is_up {
                self.order_catch_up();
            }
        }
    }

    fn look_for_lock(&mut self) {
        match self.speaker.look() {
            Change::None => {}
            Change::Began => self.telemetry.speaks(true),
            Change::Lost => self.telemetry.speaks(false),
            Change::Failed(reason) => self.telemetry.speaker_failed(&reason),
        }
    }

    fn report(&mut self) {
        if self.bus.folded + self.bus.skipped > 0 {
            self.telemetry.bus_heard();
        }
        self.telemetry
            .bus_events("folded", std::mem::take(&mut self.bus.folded));
        self.telemetry
            .bus_events("skipped", std::mem::take(&mut self.bus.skipped));
        for (site, now) in self.ledger.deliveries() {
            let before = self.counted.get(site).copied().unwrap_or_default();
            let steps = [
                ("expected", before.expected, now.expected),
                ("accepted", before.accepted, now.accepted),
                ("received", before.received, now.received),
                ("returned", before.returned, now.returned),
            ];
            for (step, before, now) in steps.into_iter().filter(|(_, before, now)| now > before) {
                self.telemetry.delivered(site, step, now - before);
            }
            if before != now {
                self.counted.insert(site.to_owned(), now);
            }
        }
        let state = self.keeping.state();
        self.telemetry
            .ledger(self.ledger.state().open, state.jobs, state.bytes);
    }
}

pub(super) fn is_open(job: &relay_core::ledger::JobView<'_>) -> bool {
    job.state() == relay_core::ledger::State::Open
}

/// A shim's roster as the ledger takes it.
fn announcement(roster: &Roster) -> Announcement {
    let up = |presence| match presence {
        Presence::Up => Up::Yes,
        Presence::Down => Up::No,
        Presence::Unknown => Up::Unknown,
    };
    let digest = |digest: &dyn std::fmt::Display| {
        // Both are 16 hex digits.
        Digest::parse(&digest.to_string()).unwrap_or_else(|| Digest::of_sorted([]))
    };
    let ids = roster.members.iter();
    Announcement {
        run: roster.run.clone(),
        number: roster.number,
        parts: roster.parts,
        part: roster.part,
        kind: match &roster.kind {
            RosterKind::Full => Kind::Full,
            RosterKind::Change { base } => Kind::Change { base: digest(base) },
        },
        digest: digest(&roster.digest),
        ids: ids
            .map(|(id, presence)| (id.to_owned(), up(presence)))
            .collect(),
        removed: roster.removed.iter().map(str::to_owned).collect(),
        is_complete: roster.complete,
    }
}

//! Tells one MoM of this site: the roster, whole or as changes, and each few seconds how the site stands.
//!
//! One task per upstream. Its events go past the spool: what is old is of no use to anybody, so there is one request at a time, and each
//! says what is true when it is sent.
//!
//! ```text
//! link task ──News (bridges heard)──►┌───────────────────┐
//! Roster ─────────changes───────────►│ AnnouncementsTask │──_minion_event──► Session ──► Tunnel ──► bridge ──► MoM
//! Lag, spool, tally ─────────────────►└───────────────────┘
//! ```
//! - Nothing is sent while no bridge is heard, while another shim of this site is the active one, or before the directory of keys was read.
//! - Whoever may not know the roster gets the whole of it: a bridge heard for the first time, all after an interruption or a new sign-in,
//!   everybody each ten minutes. Otherwise changes go up, relative to what the MoM has answered for.
//! - A status that is answered has been through the whole path: it is the heart-beat of all hops at once.

use std::{sync::Arc, time::Duration};

use daemon_kit::{CancellationToken, backoff::Backoff};
use relay_core::entry::EntryId;
use salt_link::session::Session;
use salt_wire::{
    commands::{MinionEvent, MinionEvents},
    ids::MinionId,
    saltway::{EntryNumber, RosterKind, SiteEvent, SpoolFigures, Status},
};
use store::Spool;
use tokio::time::{Instant, sleep, sleep_until};

use self::agenda::Agenda;
pub(crate) use self::news::News;
use crate::{
    lag::{Lag, LagFigures},
    receipts::LastHopFigures,
    roster::{Roster, Version},
    telemetry::Telemetry,
    tenure::Tenure,
};

mod agenda;
mod news;
mod parts;

/// How often the site tells how it stands. The bridge takes it for lost after some of these.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// Pauses after a request that was not answered.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long the MoM may take for one request; the tunnel repeats it in between.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// How often it is looked whether sending makes sense again.
const IDLE_INTERVAL: Duration = Duration::from_millis(500);

/// What one MoM is told besides the roster.
pub(crate) struct Figures {
    /// How far the site is behind the stream.
    pub(crate) lag: Arc<Lag>,
    /// Where the cursor stood at the start.
    pub(crate) cursor: Option<EntryId>,
    /// What the site is done with since.
    pub(crate) tenure: Tenure,
    /// What waits for replies.
    pub(crate) spool: Spool,
    /// How the way to the minions fares.
    pub(crate) last_hop: LastHopFigures,
}

impl Figures {
    /// The last entry that the site is done with.
    fn done(&self) -> Option<EntryId> {
        self.cursor.max(self.tenure.position())
    }

    /// How far the site is behind.
    pub(crate) fn lag(&self) -> LagFigures {
        self.lag.figures(self.done())
    }
}

/// What the task is made of.
pub(crate) struct AnnouncementsParts {
    /// The site's own id.
    pub(crate) site: MinionId,
    /// Names this process.
    pub(crate) run: String,
    /// Who is there.
    pub(crate) roster: Roster,
    /// How the site stands.
    pub(crate) figures: Arc<Figures>,
    /// Which bridges are heard.
    pub(crate) news: News,
    /// With the MoM.
    pub(crate) session: Arc<Session>,
    /// Counts and logs.
    pub(crate) telemetry: Telemetry,
}

/// The task; see the module's head.
pub(crate) struct AnnouncementsTask {
    parts: AnnouncementsParts,
    agenda: Agenda,
    status_at: Instant,
    /// The sign-in under which the MoM was last told everything.
    generation: u64,
}

impl AnnouncementsTask {
    /// A task that has told nothing yet.
    pub(crate) fn new(parts: AnnouncementsParts) -> Self {
        let agenda = Agenda::new(parts.site.clone(), parts.run.clone(), Instant::now());
        Self {
            parts,
            agenda,
            status_at: Instant::now(),
            generation: 0,
        }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.announce() => {}
        }
    }

    async fn announce(&mut self) {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let mut heard = self.parts.news.heard();
        let mut versions = self.parts.roster.versions();
        loop {
            let is_elsewhere = self.parts.figures.tenure.is_elsewhere();
            if is_elsewhere {
                self.agenda.forget();
            }
            let version = *versions.borrow_and_update();
            // The directory of keys is read in a moment.
            if is_elsewhere || version.members == 0 || !heard.borrow_and_update().up {
                sleep(IDLE_INTERVAL).await;
                continue;
            }
            self.look_at_session().await;
            let now = Instant::now();
            self.agenda.heard(*heard.borrow_and_update(), now);
            let events = self.due(now, version);
            if events.is_empty() {
                let next = self.status_at.min(self.agenda.next(version));
                tokio::select! {
                    () = sleep_until(next) => {}
                    _ = heard.changed() => {}
                    _ = versions.changed() => {}
                }
                continue;
            }
            if self.send(&events).await {
                backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
            } else {
                sleep(backoff.next_delay()).await;
            }
        }
    }

    /// A new sign-in means that the MoM, or what it knew, was away.
    async fn look_at_session(&mut self) {
        let generation = self.parts.session.signed_in().await.generation;
        if std::mem::replace(&mut self.generation, generation) != generation {
            self.agenda.tell_all(Instant::now());
        }
    }

    /// What is to be told now. The status is behind the roster that it names.
    fn due(&mut self, now: Instant, version: Version) -> Vec<SiteEvent> {
        let roster = &self.parts.roster;
        let part = self.agenda.part(now, version, || roster.snapshot());
        let mut events: Vec<SiteEvent> = part.into_iter().map(SiteEvent::Roster).collect();
        if self.status_at <= now {
            events.push(SiteEvent::Status(self.status()));
        }
        events
    }

    /// Whether the MoM has answered.
    async fn send(&mut self, events: &[SiteEvent]) -> bool {
        let parts = &self.parts;
        let list = events.iter().map(|event| MinionEvent {
            tag: event.tag(),
            data: event.data(),
        });
        let load = MinionEvents::of_syndic(&parts.site, list.collect());
        let load = load.into_load(parts.session.identity());
        let sent_at = Instant::now();
        let answer = parts.session.authenticated_request(load, REQUEST_TIMEOUT);
        if let Err(err) = answer.await {
            parts.telemetry.announcement_failed(&err);
            return false;
        }
        parts.telemetry.mom_lives();
        parts.telemetry.request_answered(sent_at.elapsed());
        for event in events {
            let kind = match event {
                SiteEvent::Roster(roster) => {
                    self.agenda.answered();
                    match roster.kind {
                        RosterKind::Full => "full",
                        RosterKind::Change { .. } => "change",
                    }
                }
                SiteEvent::Status(_) | SiteEvent::Job(_) | SiteEvent::Receipts(_) => {
                    self.status_at = sent_at + STATUS_INTERVAL;
                    "status"
                }
            };
            parts.telemetry.announced(kind);
        }
        true
    }

    fn status(&self) -> Status {
        let AnnouncementsParts {
            site,
            run,
            roster,
            figures,
            telemetry,
            ..
        } = &self.parts;
        let snapshot = roster.snapshot();
        let census = roster.census();
        let done = figures.done();
        let lag = figures.lag();
        let spool = figures.spool.state();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        Status {
            site: site.clone(),
            run: run.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            minions: count(census.minions()),
            up: count(census.up),
            // A roster that is not complete may be an empty one.
            roster: (snapshot.complete || !snapshot.minions.is_empty()).then_some(snapshot.digest),
            entry: done.map(|entry| EntryNumber {
                epoch: entry.epoch,
                number: entry.number,
            }),
            lag_entries: lag.entries,
            lag_seconds: lag.behind.as_secs_f64(),
            spool: SpoolFigures {
                entries: spool.entries,
                bytes: spool.bytes,
            },
            lost: telemetry.tally().lost_by_hop(),
            expired: telemetry.tally().expired_count(),
            active: figures.tenure.current().is_some(),
            last_hop: Some(figures.last_hop.now()),
        }
    }
}

/// Names a process: what another one has counted says nothing about this one.
pub(crate) fn run_name() -> String {
    format!("{}-{}", daemon_kit::unix_millis(), std::process::id())
}

#[cfg(test)]
mod tests;

//! Hears one MoM's publications through Redis and hands them on in their order, each once.
//!
//! One task per upstream. It owns the [`Sequencer`]; pub/sub is the fast path, the stream fills every gap.
//!
//! ```text
//! Redis pub/sub ──LinkEvent──►┌──────────┐
//! Redis stream ◄──read_after──│ LinkTask │──Due──► DeliveryTask
//!              ───page───────►└──────────┘
//! ```
//! - Entry ids handed on strictly increase; what the stream no longer holds is counted as lost.
//! - A slow delivery slows this task; pub/sub messages are then dropped and read from the stream later.

use std::{sync::Arc, time::Duration};

use daemon_kit::{CancellationToken, http::Condition};
use redis_link::{LinkEvent, PageRead, RedisError, StreamReader};
use relay_core::{
    entry::{EntryId, Publication},
    sequence::{Action, Event, Sequencer, SequencerConfig},
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    announcements::News,
    lag::Lag,
    skew::Skew,
    telemetry::{LostAt, Telemetry},
    tenure::{Granted, Tenure},
};

/// Publications of one page of the stream.
const PAGE_ENTRIES: usize = 500;

/// What a site without a cursor does with the publications that are already in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// It takes those that have not expired: whatever salt-syndic published of them, the job cache knows.
    WithUnexpired,
    /// It begins with the next one, since nobody can tell what has been published here already.
    FromNowOn,
}

/// One step of the delivery.
#[derive(Debug)]
pub(crate) struct Due {
    /// The tenure that it belongs to.
    pub(crate) fence: u64,
    /// What is due.
    pub(crate) what: What,
}

/// What is due.
#[derive(Debug)]
pub(crate) enum What {
    /// To be published on the lower master.
    Publication(Publication),
    /// Nothing to do but to move the cursor.
    PassOver(EntryId),
}

impl Due {
    /// The entry that the site is done with afterwards.
    pub(crate) fn entry_id(&self) -> EntryId {
        match &self.what {
            What::Publication(publication) => publication.entry_id,
            What::PassOver(entry_id) => *entry_id,
        }
    }
}

/// What the task is made of.
pub(crate) struct LinkParts {
    /// From the subscription.
    pub(crate) events: mpsc::Receiver<LinkEvent>,
    /// Reads the stream.
    pub(crate) reader: Arc<StreamReader>,
    /// To the delivery; bounded.
    pub(crate) due: mpsc::Sender<Due>,
    /// Whether this shim is the active one of its site.
    pub(crate) tenure: Tenure,
    /// How far the delivery has got.
    pub(crate) cursor: Option<EntryId>,
    /// Where a site without a cursor begins.
    pub(crate) begin: Begin,
    /// How far the site is behind.
    pub(crate) lag: Arc<Lag>,
    /// Told which bridges live, and whether they are heard.
    pub(crate) news: News,
    /// The clocks' difference, for the delivery.
    pub(crate) skew: Arc<Skew>,
    /// A publication older than this is not run.
    pub(crate) job_ttl: Duration,
    /// Whether the bridge is heard.
    pub(crate) redis: Condition,
    /// Counts and logs.
    pub(crate) telemetry: Telemetry,
}

/// The task; see the module's head.
pub(crate) struct LinkTask {
    parts: LinkParts,
    /// While this shim is the active one of its site.
    active: Option<Active>,
    reads: JoinSet<(EntryId, Result<PageRead, RedisError>)>,
    /// The subscription stands, but no heart-beat has told the bridge's time yet: without it a publication's age cannot
    /// be judged, so nothing is taken before.
    awaits_beat: bool,
}

/// One tenure.
struct Active {
    fence: u64,
    sequencer: Sequencer,
    /// The first start of a site: what is old already is not its loss.
    catching_up_at_first: bool,
}

enum Input {
    Link(LinkEvent),
    Read(EntryId, Result<PageRead, RedisError>),
    Tenure(Option<Granted>),
    Stop,
}

impl LinkTask {
    pub(crate) fn new(parts: LinkParts) -> Self {
        Self {
            parts,
            active: None,
            reads: JoinSet::new(),
            awaits_beat: true,
        }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut granted = self.parts.tenure.granted();
        loop {
            let input = tokio::select! {
                biased;
                () = shutdown.cancelled() => Input::Stop,
                changed = granted.changed() => match changed {
                    Ok(()) => Input::Tenure(*granted.borrow_and_update()),
                    Err(_) => Input::Stop,
                },
                Some(read) = self.reads.join_next() => {
                    let (after, page) = read.expect("reading a page does not panic");
                    Input::Read(after, page)
                }
                event = self.parts.events.recv() => event.map_or(Input::Stop, Input::Link),
            };
            let heard = matches!(
                &input,
                Input::Link(LinkEvent::Beat { .. } | LinkEvent::Publication(_))
            );
            let events = match input {
                Input::Link(event) => self.link_event(event),
                Input::Read(after, page) => vec![self.page_event(after, page)],
                Input::Tenure(granted) => self.tenure(granted),
                Input::Stop => return,
            };
            if !self.apply(events).await {
                return;
            }
            self.note_lag(heard);
        }
    }

    fn note_lag(&mut self, heard: bool) {
        let Some(active) = &mut self.active else {
            return;
        };
        let (newest, position) = (active.sequencer.newest(), active.sequencer.position());
        if heard {
            self.parts.lag.heard(newest, position);
        }
        if active.sequencer.lag_entries() == 0 && position != Some(EntryId::ZERO) {
            active.catching_up_at_first = false;
        }
    }

    /// False when the delivery is gone.
    async fn apply(&mut self, events: Vec<Event>) -> bool {
        for event in events {
            let Some(active) = &mut self.active else {
                return true;
            };
            for action in active.sequencer.apply(event) {
                if !self.act(action).await {
                    return false;
                }
            }
        }
        true
    }

    /// A new tenure begins behind what this shim or another one of the site has got to.
    fn tenure(&mut self, granted: Option<Granted>) -> Vec<Event> {
        let Some(granted) = granted else {
            self.active = None;
            return Vec::new();
        };
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.fence == granted.fence)
        {
            return Vec::new();
        }
        // What was handed on in an earlier tenure and is not done was dropped with that tenure.
        let done = self.parts.tenure.position();
        let cursor = self.parts.cursor.max(done).max(granted.position);
        let first = cursor.is_none() && self.parts.begin == Begin::WithUnexpired;
        let position = if first { Some(EntryId::ZERO) } else { cursor };
        self.parts.lag.begin(position);
        self.active = Some(Active {
            fence: granted.fence,
            sequencer: Sequencer::new(position, SequencerConfig::default()),
            catching_up_at_first: first,
        });
        if self.awaits_beat {
            return Vec::new();
        }
        vec![Event::Connected]
    }

    fn link_event(&mut self, event: LinkEvent) -> Vec<Event> {
        let telemetry = &self.parts.telemetry;
        match event {
            LinkEvent::Up if self.awaits_beat => Vec::new(),
            LinkEvent::Up => vec![Event::Connected],
            LinkEvent::Publication(_) if self.awaits_beat => Vec::new(),
            LinkEvent::Publication(publication) => vec![Event::Published(publication)],
            LinkEvent::Beat {
                bridge,
                newest,
                sent_at_ms,
                clock,
            } => {
                self.parts.news.beat(&bridge, clock.as_deref());
                self.parts.skew.note(clock.as_deref(), sent_at_ms);
                telemetry.beat(sent_at_ms);
                if self.parts.redis.holds() {
                    telemetry.link_up();
                    self.parts.tenure.link_is_back();
                }
                let first = std::mem::take(&mut self.awaits_beat);
                let connected = first.then_some(Event::Connected);
                connected
                    .into_iter()
                    .chain([Event::Beat { newest }])
                    .collect()
            }
            LinkEvent::Down { reason, .. } => {
                self.parts.news.down();
                if self.parts.redis.fails(&reason) {
                    telemetry.link_down(&reason);
                }
                Vec::new()
            }
            LinkEvent::Malformed { reason } => {
                telemetry.link_malformed("pubsub", &reason);
                Vec::new()
            }
        }
    }

    fn page_event(&self, after: EntryId, page: Result<PageRead, RedisError>) -> Event {
        match page {
            Ok(read) => {
                for (entry_id, reason) in &read.malformed {
                    let reason = format!("entry {entry_id}: {reason}");
                    self.parts.telemetry.link_malformed("stream", &reason);
                }
                self.parts.telemetry.recovered(read.page.entries.len());
                Event::Page(read.page)
            }
            Err(err) => {
                self.parts.telemetry.read_failed(&err);
                Event::ReadFailed { after }
            }
        }
    }

    async fn act(&mut self, action: Action) -> bool {
        let telemetry = &self.parts.telemetry;
        let Some(active) = &self.active else {
            return true;
        };
        let what = match action {
            Action::Deliver(publication) if self.is_old_news(active, &publication) => {
                What::PassOver(publication.entry_id)
            }
            Action::Deliver(publication) => What::Publication(publication),
            Action::Lost { from, to } => {
                if !active.catching_up_at_first {
                    let publications = to.number - from.number + 1;
                    telemetry.lost(
                        LostAt::Redis,
                        publications,
                        &format!("entries {from} to {to}"),
                    );
                }
                What::PassOver(to)
            }
            Action::Ended { from, to } => {
                telemetry.epoch_ended(from, to);
                What::PassOver(to)
            }
            Action::ReadFrom { after } => {
                let reader = Arc::clone(&self.parts.reader);
                self.reads
                    .spawn(async move { (after, reader.read_after(after, PAGE_ENTRIES).await) });
                return true;
            }
            Action::Duplicate(_) => {
                telemetry.duplicate_entry();
                return true;
            }
            Action::NewEpoch { from, epoch } => {
                if from != EntryId::ZERO {
                    telemetry.new_epoch(from, epoch);
                }
                return true;
            }
            Action::Behind { position, newest } => {
                telemetry.replica_behind(position, newest);
                return true;
            }
        };
        let due = Due {
            fence: active.fence,
            what,
        };
        self.parts.due.send(due).await.is_ok()
    }

    /// Whether it was old already when this site was first started.
    fn is_old_news(&self, active: &Active, publication: &Publication) -> bool {
        active.catching_up_at_first
            && self
                .parts
                .skew
                .age(publication)
                .is_some_and(|age| age > self.parts.job_ttl)
    }
}

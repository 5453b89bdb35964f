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

use daemon_kit::{CancellationToken, http::Condition, unix_millis};
use redis_link::{LinkEvent, PageRead, RedisError, StreamReader};
use relay_core::{
    entry::{EntryId, Publication},
    sequence::{Action, Event, Sequencer, SequencerConfig},
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    skew::Skew,
    telemetry::{LostAt, Telemetry, age_since},
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
pub(crate) enum Due {
    /// To be published on the lower master.
    Publication(Publication),
    /// Nothing to do but to move the cursor.
    PassOver(EntryId),
}

/// What the task is made of.
pub(crate) struct LinkParts {
    /// From the subscription.
    pub(crate) events: mpsc::Receiver<LinkEvent>,
    /// Reads the stream.
    pub(crate) reader: Arc<StreamReader>,
    /// To the delivery; bounded.
    pub(crate) due: mpsc::Sender<Due>,
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
    sequencer: Sequencer,
    reads: JoinSet<(EntryId, Result<PageRead, RedisError>)>,
    /// The first start of a site: what is old already is not its loss.
    catching_up_at_first: bool,
    /// The subscription stands, but no heart-beat has told the bridge's time yet: without it a publication's age cannot
    /// be judged, so nothing is taken before.
    awaits_beat: bool,
}

enum Input {
    Link(LinkEvent),
    Read(EntryId, Result<PageRead, RedisError>),
    Stop,
}

impl LinkTask {
    /// A task that goes on behind `cursor`.
    pub(crate) fn new(parts: LinkParts, cursor: Option<EntryId>, begin: Begin) -> Self {
        let first = cursor.is_none() && begin == Begin::WithUnexpired;
        let position = if first { Some(EntryId::ZERO) } else { cursor };
        Self {
            parts,
            sequencer: Sequencer::new(position, SequencerConfig::default()),
            reads: JoinSet::new(),
            catching_up_at_first: first,
            awaits_beat: true,
        }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let input = tokio::select! {
                biased;
                () = shutdown.cancelled() => Input::Stop,
                Some(read) = self.reads.join_next() => {
                    let (after, page) = read.expect("reading a page does not panic");
                    Input::Read(after, page)
                }
                event = self.parts.events.recv() => event.map_or(Input::Stop, Input::Link),
            };
            let events = match input {
                Input::Link(event) => self.link_event(event),
                Input::Read(after, page) => vec![self.page_event(after, page)],
                Input::Stop => return,
            };
            for action in events
                .into_iter()
                .flat_map(|event| self.sequencer.apply(event))
                .collect::<Vec<_>>()
            {
                if !self.act(action).await {
                    return;
                }
            }
            let lag = self.sequencer.lag_entries();
            self.parts.telemetry.lag(lag);
            if lag == 0 && self.sequencer.position() != Some(EntryId::ZERO) {
                self.catching_up_at_first = false;
            }
        }
    }

    fn link_event(&mut self, event: LinkEvent) -> Vec<Event> {
        let telemetry = &self.parts.telemetry;
        match event {
            LinkEvent::Up if self.awaits_beat => Vec::new(),
            LinkEvent::Up => vec![Event::Connected],
            LinkEvent::Publication(_) if self.awaits_beat => Vec::new(),
            LinkEvent::Publication(publication) => vec![Event::Published(publication)],
            LinkEvent::Beat {
                newest, sent_at_ms, ..
            } => {
                self.parts.skew.note(sent_at_ms, unix_millis());
                telemetry.beat(sent_at_ms);
                if self.parts.redis.holds() {
                    telemetry.link_up();
                }
                let first = std::mem::take(&mut self.awaits_beat);
                let connected = first.then_some(Event::Connected);
                connected
                    .into_iter()
                    .chain([Event::Beat { newest }])
                    .collect()
            }
            LinkEvent::Down { reason } => {
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

    /// False when the delivery is gone.
    async fn act(&mut self, action: Action) -> bool {
        let telemetry = &self.parts.telemetry;
        let due = match action {
            Action::Deliver(publication) if self.is_old_news(&publication) => {
                Due::PassOver(publication.entry_id)
            }
            Action::Deliver(publication) => Due::Publication(publication),
            Action::Lost { from, to } => {
                if !self.catching_up_at_first {
                    let publications = to.number - from.number + 1;
                    telemetry.lost(
                        LostAt::Redis,
                        publications,
                        &format!("entries {from} to {to}"),
                    );
                }
                Due::PassOver(to)
            }
            // The bridges append again what they still hold of it.
            Action::Ended { to, .. } => Due::PassOver(to),
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
        self.parts.due.send(due).await.is_ok()
    }

    /// Whether it was old already when this site was first started.
    fn is_old_news(&self, publication: &Publication) -> bool {
        self.catching_up_at_first
            && age_since(publication.received_at_ms, self.parts.skew.millis()) > self.parts.job_ttl
    }
}

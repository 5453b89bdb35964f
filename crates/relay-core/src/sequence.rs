//! Turns what Redis says about the publications stream into one ordered delivery.
//!
//! Driven by the task that owns a site's cursor; it holds no connection and no clock.
//!
//! ```text
//! pub/sub ──Published, Beat, Connected──►┌───────────┐──Deliver, Lost───► decrypt and publish
//!                                        │ Sequencer │
//! stream reader ──Page, ReadFailed──────►└───────────┘──ReadFrom────────► stream reader
//! ```
//! - Delivered ids strictly increase; each id is delivered at most once.
//! - Between two deliveries no known number is passed over without a [`Action::Lost`] or
//!   [`Action::Ended`] that names it.
//! - Pub/sub may lose, repeat and reorder; only a page read from the stream is evidence that an
//!   entry is gone, and only a page takes the delivery into a new epoch.
//! - At most one read is outstanding. A read that fails or brings nothing new is repeated at the
//!   next event, not at once: heart-beats pace it.
//! - Publications that arrive early wait in a buffer bounded by entries and bytes. When it is full
//!   the arrival is dropped: the stream holds it, and the read that the gap asked for brings it.

use std::collections::BTreeMap;

use crate::entry::{EntryId, Publication};

/// How many epochs' newest numbers are remembered. A new epoch is a stream begun anew, which
/// happens by hand or by disaster; sixteen of them between two pages are not to be expected.
const EPOCHS_KEPT: usize = 16;

/// The bounds of the buffer of early arrivals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequencerConfig {
    /// Most publications that wait for an earlier one.
    pub early_entries_max: usize,
    /// Most bytes of frames that wait for an earlier publication.
    pub early_bytes_max: usize,
}

impl Default for SequencerConfig {
    /// A second of a busy master's publications: 1,024 entries, 8 MiB.
    fn default() -> Self {
        Self {
            early_entries_max: 1024,
            early_bytes_max: 8 << 20,
        }
    }
}

/// What happened on the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The subscription stands (again): anything may have been missed before.
    Connected,
    /// A publication came by pub/sub.
    Published(Publication),
    /// A heart-beat named the newest entry of the stream (`0-0`: none yet).
    Beat {
        /// The newest entry id.
        newest: EntryId,
    },
    /// A read of the stream ended.
    Page(Page),
    /// A read of the stream failed; its result is unknown.
    ReadFailed {
        /// The `after` of the [`Action::ReadFrom`] that asked for it.
        after: EntryId,
    },
}

/// What a read of the stream showed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The read began behind this id.
    pub after: EntryId,
    /// Everything up to this id was looked at: what lies in `(after, through]` and is not among
    /// `entries` is not in the stream. At the stream's end this is at least `newest`.
    pub through: EntryId,
    /// The entries found, in ascending order.
    pub entries: Vec<Publication>,
    /// The newest id that the server knew when it read, `0-0` when none.
    pub newest: EntryId,
}

/// What the owner has to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Hand this publication on; it is the next one.
    Deliver(Publication),
    /// Read the stream behind this id and come back with `Page` or `ReadFailed`.
    ReadFrom {
        /// The last id that is not wanted any more.
        after: EntryId,
    },
    /// The stream no longer holds these entries, both ends included: they were trimmed. Nothing in
    /// this range will be delivered.
    Lost {
        /// The first id that cannot be had.
        from: EntryId,
        /// The last id that cannot be had, of the same epoch.
        to: EntryId,
    },
    /// The epoch of these entries, both ends included, has ended: nothing in this range will be
    /// delivered, but the bridges append again under new ids what they still hold of it.
    Ended {
        /// The first id of the rest.
        from: EntryId,
        /// The last id of the rest, of the same epoch.
        to: EntryId,
    },
    /// This id was delivered, given up or buffered before; the arrival is dropped.
    Duplicate(EntryId),
    /// The delivery goes on in a newer epoch: somebody began the stream anew.
    NewEpoch {
        /// Where the delivery stood.
        from: EntryId,
        /// The epoch that it enters.
        epoch: u64,
    },
    /// The server that was read knows less than was delivered: a replica that lags, or a failover
    /// that forgot writes. Nothing is delivered twice on that account.
    Behind {
        /// Where the delivery stood when the read was asked for.
        position: EntryId,
        /// The newest id that the server knows.
        newest: EntryId,
    },
}

/// Puts publications into order; see the module's head.
#[derive(Debug)]
pub struct Sequencer {
    config: SequencerConfig,
    /// Everything up to here is delivered or given up. `None` until the first sign of the stream.
    position: Option<EntryId>,
    /// By epoch the newest number known to exist, for epochs from the position's own on.
    newest: BTreeMap<u64, u64>,
    /// By epoch that the delivery has left the last number that is accounted for.
    closed: BTreeMap<u64, u64>,
    early: BTreeMap<EntryId, Publication>,
    early_bytes: usize,
    outstanding: Option<EntryId>,
    /// A (re)connect wants a read although no gap is known.
    resync: bool,
}

impl Sequencer {
    /// A sequencer that goes on behind `cursor`, or, without one, from now on: behind the newest
    /// entry that the first heart-beat names, or at the first publication if that comes earlier.
    #[must_use]
    pub const fn new(cursor: Option<EntryId>, config: SequencerConfig) -> Self {
        Self {
            config,
            position: cursor,
            newest: BTreeMap::new(),
            closed: BTreeMap::new(),
            early: BTreeMap::new(),
            early_bytes: 0,
            outstanding: None,
            resync: false,
        }
    }

    /// The last id that is delivered or given up: what the cursor on disk may say once the
    /// deliveries up to it are safe. `None` before a first start has seen the stream.
    #[must_use]
    pub const fn position(&self) -> Option<EntryId> {
        self.position
    }

    /// The newest id known to exist.
    #[must_use]
    pub fn newest(&self) -> Option<EntryId> {
        let known = self
            .newest
            .last_key_value()
            .map(|(epoch, number)| EntryId::new(*epoch, *number));
        known.max(self.position)
    }

    /// How many known entries of the newest epoch are not delivered yet.
    #[must_use]
    pub fn lag_entries(&self) -> u64 {
        match (self.position, self.newest()) {
            (Some(position), Some(newest)) if position.epoch == newest.epoch => {
                newest.number - position.number
            }
            (Some(_), Some(newest)) => newest.number,
            _ => 0,
        }
    }

    /// Publications waiting for an earlier one, and their bytes.
    #[must_use]
    pub fn early(&self) -> (usize, usize) {
        (self.early.len(), self.early_bytes)
    }

    /// Takes one event and says what to do about it.
    #[must_use]
    pub fn apply(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Connected => self.resync = true,
            Event::Published(publication) => self.published(publication, &mut actions),
            Event::Beat { newest } => {
                self.ended_with_its_epoch(newest, &mut actions);
                self.note(newest);
                self.position.get_or_insert(newest);
            }
            Event::Page(page) => {
                if self.outstanding == Some(page.after) {
                    self.outstanding = None;
                }
                let before = self.position;
                self.page(page, &mut actions);
                // A page that brought nothing is not followed by the same read at once.
                if self.position == before {
                    return actions;
                }
            }
            Event::ReadFailed { after } => {
                if self.outstanding == Some(after) {
                    self.outstanding = None;
                    self.resync = true;
                }
                return actions;
            }
        }
        self.read_if_behind(&mut actions);
        actions
    }

    fn published(&mut self, publication: Publication, actions: &mut Vec<Action>) {
        let id = publication.entry_id;
        self.note(id);
        let position = *self.position.get_or_insert(id.previous());
        if self.ended_with_its_epoch(id, actions) {
            // Ids only ever increase: it cannot be delivered any more.
        } else if id <= position || self.early.contains_key(&id) {
            actions.push(Action::Duplicate(id));
        } else if id == position.next() {
            self.deliver(publication, actions);
            self.deliver_early(actions);
        } else {
            self.keep_early(publication);
        }
    }

    fn page(&mut self, page: Page, actions: &mut Vec<Action>) {
        let Some(position) = self.position else {
            return;
        };
        // A page that begins behind the position says nothing about what lies between.
        if page.after > position {
            return;
        }
        self.note(page.newest);
        for publication in page.entries {
            let id = publication.entry_id;
            self.note(id);
            if self.position.is_some_and(|position| id > position) {
                self.give_up_before(id, actions);
                self.remove_early(id);
                self.deliver(publication, actions);
            }
        }
        if self
            .position
            .is_some_and(|position| page.through > position)
        {
            self.give_up_before(page.through.next(), actions);
        }
        self.deliver_early(actions);
        if page.newest != EntryId::ZERO && page.newest < page.after {
            actions.push(Action::Behind {
                position: page.after,
                newest: page.newest,
            });
        }
    }

    /// Moves to just before `id`: what waits in the buffer is delivered, the rest is lost, or has
    /// ended with its epoch.
    fn give_up_before(&mut self, id: EntryId, actions: &mut Vec<Action>) {
        while let Some(entry) = self.early.first_entry().filter(|entry| *entry.key() < id) {
            let publication = entry.remove();
            self.early_bytes -= publication.frame.len();
            let before = publication.entry_id.previous();
            let gone = if before.epoch < id.epoch { ended } else { lost };
            self.pass_to(before, gone, actions);
            self.deliver(publication, actions);
        }
        self.pass_to(id.previous(), lost, actions);
    }

    /// Moves the position to `to` and reports every known number that is passed over: as `gone`
    /// those of the epoch of `to`.
    fn pass_to(
        &mut self,
        to: EntryId,
        gone: fn((EntryId, EntryId)) -> Action,
        actions: &mut Vec<Action>,
    ) {
        let Some(from) = self.position else { return };
        if to.epoch > from.epoch {
            // The tail of the old epoch, and epochs of which nothing was delivered.
            for (epoch, number) in self.newest.range(from.epoch..to.epoch) {
                let first = if *epoch == from.epoch { from.number } else { 0 };
                actions.extend(range(*epoch, first, *number).map(ended));
            }
            self.close_epochs(from, to.epoch);
            actions.push(Action::NewEpoch {
                from,
                epoch: to.epoch,
            });
            actions.extend(range(to.epoch, 0, to.number).map(gone));
            self.newest = self.newest.split_off(&to.epoch);
        } else if to > from {
            actions.extend(range(to.epoch, from.number, to.number).map(gone));
        } else {
            return;
        }
        self.position = Some(to);
    }

    /// Remembers how far the epochs before `epoch` are accounted for.
    fn close_epochs(&mut self, from: EntryId, epoch: u64) {
        for (closed, number) in self.newest.range(..epoch) {
            self.closed.insert(*closed, *number);
        }
        let accounted = self.closed.entry(from.epoch).or_default();
        *accounted = from.number.max(*accounted);
        while self.closed.len() > EPOCHS_KEPT {
            self.closed.pop_first();
        }
    }

    /// Reports numbers of an epoch that the delivery has left which are heard of only now: a page
    /// may overtake pub/sub. Says whether there were any.
    fn ended_with_its_epoch(&mut self, id: EntryId, actions: &mut Vec<Action>) -> bool {
        let left = self
            .position
            .is_some_and(|position| id.epoch < position.epoch)
            && self
                .closed
                .first_key_value()
                .is_some_and(|(oldest, _)| *oldest <= id.epoch);
        if !left {
            return false;
        }
        let accounted = self.closed.entry(id.epoch).or_default();
        let before = *accounted;
        *accounted = id.number.max(before);
        if self.closed.len() > EPOCHS_KEPT {
            self.closed.pop_first();
        }
        actions.extend(range(id.epoch, before, id.number).map(ended));
        id.number > before
    }

    fn deliver_early(&mut self, actions: &mut Vec<Action>) {
        while let (Some(position), Some(entry)) = (self.position, self.early.first_entry()) {
            let id = *entry.key();
            if id > position.next() || (id > position && id.epoch != position.epoch) {
                break;
            }
            let publication = entry.remove();
            self.early_bytes -= publication.frame.len();
            if id > position {
                self.deliver(publication, actions);
            }
        }
    }

    fn deliver(&mut self, publication: Publication, actions: &mut Vec<Action>) {
        self.position = Some(publication.entry_id);
        actions.push(Action::Deliver(publication));
    }

    fn keep_early(&mut self, publication: Publication) {
        let bytes = self.early_bytes.saturating_add(publication.frame.len());
        if self.early.len() < self.config.early_entries_max && bytes <= self.config.early_bytes_max
        {
            self.early_bytes = bytes;
            self.early.insert(publication.entry_id, publication);
        }
    }

    fn remove_early(&mut self, id: EntryId) {
        if let Some(publication) = self.early.remove(&id) {
            self.early_bytes -= publication.frame.len();
        }
    }

    fn note(&mut self, id: EntryId) {
        if id == EntryId::ZERO
            || self
                .position
                .is_some_and(|position| id.epoch < position.epoch)
        {
            return;
        }
        let number = self.newest.entry(id.epoch).or_default();
        *number = id.number.max(*number);
        if self.newest.len() > EPOCHS_KEPT {
            self.newest.pop_first();
        }
    }

    fn read_if_behind(&mut self, actions: &mut Vec<Action>) {
        let Some(position) = self.position else {
            return;
        };
        let behind = self.newest() > Some(position);
        if self.outstanding.is_none() && (behind || self.resync) {
            self.outstanding = Some(position);
            self.resync = false;
            actions.push(Action::ReadFrom { after: position });
        }
    }
}

/// The ids of the numbers in `(before, to]`, first and last, if there are any.
fn range(epoch: u64, before: u64, to: u64) -> Option<(EntryId, EntryId)> {
    let from = EntryId::new(epoch, before.saturating_add(1));
    (to > before).then_some((from, EntryId::new(epoch, to)))
}

const fn lost((from, to): (EntryId, EntryId)) -> Action {
    Action::Lost { from, to }
}

const fn ended((from, to): (EntryId, EntryId)) -> Action {
    Action::Ended { from, to }
}

#[cfg(test)]
mod tests;

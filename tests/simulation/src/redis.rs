//! A modelled Redis: one server's data, and the steps that the relay's scripts take on it.
//!
//! Every write is an [`Effect`]: applied here, and carried by the world to the replica and the
//! subscribers, later or never. A server that starts again has another run id.

use std::collections::{BTreeMap, BTreeSet};

use relay_core::EntryId;

use crate::message::{Answer, Command, Push, Request, Stamped};
use crate::mutation::Mutation;

/// How long a marker is kept: longer than a journal keeps its frames.
const SEEN_MS: u64 = 900_000;
const LEASE_MS: u64 = 4_000;
/// Requests of a bridge that has been silent for so long are taken over.
const TAKEOVER_MS: u64 = 5_000;
/// Entries of a page of the stream.
const PAGE_ENTRIES: usize = 10;
/// Requests of one read.
const TAKE_ENTRIES: usize = 4;

/// Where the stream stands, and on which server its epoch was begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) newest: EntryId,
    run: u64,
    /// Markers of older epochs do not count: sites may have left them.
    previous: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Holder {
    pub(crate) shim: usize,
    pub(crate) fence: u64,
    expires_at: u64,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fence {
    number: u64,
    run: u64,
    since: u64,
}

/// What a server holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Data {
    pub(crate) head: Option<Head>,
    pub(crate) stream: BTreeMap<EntryId, Stamped>,
    last_id: EntryId,
    seen: BTreeMap<u32, (EntryId, u64)>,
    leases: BTreeMap<usize, Holder>,
    fences: BTreeMap<usize, Fence>,
    pub(crate) positions: BTreeMap<usize, (u64, EntryId)>,
    pub(crate) requests: BTreeMap<u64, (Request, Option<(usize, u64)>)>,
    next_request: u64,
}

/// One write.
#[derive(Debug, Clone)]
pub(crate) enum Effect {
    Head(Head),
    Add(EntryId, Stamped),
    Trim(usize),
    Seen(u32, EntryId, u64),
    Lease(usize, Option<Holder>),
    Fence(usize, Fence),
    Position(usize, u64, EntryId),
    Requested(Request),
    Taken(u64, usize, u64),
    RequestGone(u64),
    Publish(Push),
}

impl Data {
    pub(crate) fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::Head(head) => self.head = Some(*head),
            Effect::Add(id, entry) => {
                self.stream.insert(*id, entry.clone());
                self.last_id = *id;
            }
            Effect::Trim(max) => {
                while self.stream.len() > *max {
                    self.stream.pop_first();
                }
            }
            Effect::Seen(frame, id, expires_at) => {
                self.seen.insert(*frame, (*id, *expires_at));
            }
            Effect::Lease(site, Some(holder)) => {
                self.leases.insert(*site, *holder);
            }
            Effect::Lease(site, None) => {
                self.leases.remove(site);
            }
            Effect::Fence(site, fence) => {
                self.fences.insert(*site, *fence);
            }
            Effect::Position(site, fence, id) => {
                self.positions.insert(*site, (*fence, *id));
            }
            Effect::Requested(request) => {
                self.next_request += 1;
                self.requests
                    .insert(self.next_request, (request.clone(), None));
            }
            Effect::Taken(entry, bridge, at) => {
                if let Some((_, holder)) = self.requests.get_mut(entry) {
                    *holder = Some((*bridge, *at));
                }
            }
            Effect::RequestGone(entry) => {
                self.requests.remove(entry);
            }
            Effect::Publish(_) => {}
        }
    }
}

/// One server process.
#[derive(Debug, Default)]
pub(crate) struct Server {
    pub(crate) data: Data,
    pub(crate) snapshot: Data,
    pub(crate) run: u64,
    pub(crate) up: bool,
    pub(crate) oom_until: u64,
    pub(crate) subscribers: BTreeSet<usize>,
    /// Grows when what is on its way from the primary will never come.
    pub(crate) generation: u64,
    pub(crate) last_apply_at: u64,
    pub(crate) effects: Vec<Effect>,
    pub(crate) stream_max: usize,
}

impl Server {
    /// Carries out a command. The world sees to it that only the primary gets writes.
    pub(crate) fn execute(
        &mut self,
        command: Command,
        now: u64,
        mutation: Option<Mutation>,
    ) -> Answer {
        if now < self.oom_until && command.needs_memory() {
            return Answer::Refused;
        }
        match command {
            Command::Append { frames, known } => self.append(frames, known, now, mutation),
            Command::BeginEpoch { known, clock_ms } => self.begin_epoch(known, clock_ms),
            Command::Beat {
                clock,
                clock_ms,
                known,
            } => {
                let stale = self.is_stale(known, mutation);
                let newest = self.data.head.map_or(EntryId::ZERO, |head| head.newest);
                if !stale {
                    self.write(Effect::Publish(Push::Beat {
                        clock,
                        clock_ms,
                        newest,
                    }));
                }
                if stale {
                    Answer::Stale
                } else {
                    Answer::Beaten(newest)
                }
            }
            Command::Subscribe { shim } => {
                self.subscribers.insert(shim);
                Answer::Subscribed
            }
            Command::ReadAfter { after } => self.page(after),
            Command::AskLease { site, shim, fence } => self.lease(site, shim, fence, now),
            Command::Release { site, shim } => {
                if self.data.leases.get(&site).is_some_and(|h| h.shim == shim) {
                    self.write(Effect::Lease(site, None));
                }
                Answer::Done
            }
            Command::Position { site, fence, id } => {
                let (known_fence, known) =
                    self.data.positions.get(&site).copied().unwrap_or_default();
                let forward = fence > known_fence || (fence == known_fence && id > known);
                if forward || mutation == Some(Mutation::NoFencing) {
                    self.write(Effect::Position(site, fence, id));
                }
                if fence < known_fence {
                    Answer::FencedOff(known_fence)
                } else {
                    Answer::Done
                }
            }
            Command::AddRequest(request) => {
                self.write(Effect::Requested(request));
                Answer::Done
            }
            Command::TakeRequests { bridge, in_hand } => self.take(bridge, &in_hand, now),
            Command::ReplyTo { entry, shim, rid } => {
                self.write(Effect::Publish(Push::Reply { shim, rid }));
                self.write(Effect::RequestGone(entry));
                Answer::Done
            }
        }
    }

    fn write(&mut self, effect: Effect) {
        self.data.apply(&effect);
        self.effects.push(effect);
    }

    fn is_stale(&self, known: EntryId, mutation: Option<Mutation>) -> bool {
        let Some(head) = self.data.head else {
            return mutation != Some(Mutation::NoEpoch);
        };
        match mutation {
            Some(Mutation::NoEpoch) => false,
            Some(Mutation::RunIdIgnored) => head.newest.epoch != known.epoch,
            _ => {
                head.run != self.run
                    || head.newest.epoch != known.epoch
                    || head.newest.number < known.number
            }
        }
    }

    fn append(
        &mut self,
        frames: Vec<Stamped>,
        known: EntryId,
        now: u64,
        mutation: Option<Mutation>,
    ) -> Answer {
        if self.is_stale(known, mutation) {
            return Answer::Stale;
        }
        let mut appended = Vec::with_capacity(frames.len());
        for entry in frames {
            let head = self.data.head.unwrap_or(Head {
                newest: EntryId::new(1, 0),
                run: self.run,
                previous: 0,
            });
            let counts = |(id, expires_at): &&(EntryId, u64)| {
                *expires_at > now
                    && (id.epoch >= head.previous || mutation == Some(Mutation::OldMarkersCount))
            };
            if let Some((id, _)) = self.data.seen.get(&entry.frame).filter(counts) {
                appended.push((*id, true));
                continue;
            }
            let id = head.newest.next();
            let frame = entry.frame;
            self.write(Effect::Head(Head { newest: id, ..head }));
            self.write(Effect::Add(id, entry.clone()));
            self.write(Effect::Trim(self.stream_max));
            if mutation != Some(Mutation::NoMarker) {
                self.write(Effect::Seen(frame, id, now + SEEN_MS));
            }
            self.write(Effect::Publish(Push::Publication(id, entry)));
            appended.push((id, false));
        }
        Answer::Appended(appended)
    }

    fn begin_epoch(&mut self, known: EntryId, clock_ms: u64) -> Answer {
        let head = self.data.head;
        if let Some(head) = head
            && head.run == self.run
            && head.newest.epoch > known.epoch
            && head.previous >= known.epoch
        {
            return Answer::Begun(head.newest.epoch);
        }
        let known_here = head.map_or(0, |head| head.newest.epoch);
        let epoch = clock_ms
            .max(known_here + 1)
            .max(known.epoch + 1)
            .max(self.data.last_id.epoch + 1);
        self.write(Effect::Head(Head {
            newest: EntryId::new(epoch, 0),
            run: self.run,
            previous: known_here.max(known.epoch),
        }));
        Answer::Begun(epoch)
    }

    fn page(&self, after: EntryId) -> Answer {
        let entries: Vec<_> = self
            .data
            .stream
            .range(after.next()..)
            .take(PAGE_ENTRIES)
            .map(|(id, entry)| (*id, entry.clone()))
            .collect();
        Answer::Page {
            after,
            at_end: entries.len() < PAGE_ENTRIES,
            entries,
            newest: self.data.head.map_or(EntryId::ZERO, |head| head.newest),
        }
    }

    fn lease(&mut self, site: usize, shim: usize, known_fence: u64, now: u64) -> Answer {
        let held = self
            .data
            .leases
            .get(&site)
            .copied()
            .filter(|h| h.expires_at > now);
        let position = self.data.positions.get(&site).copied();
        if let Some(other) = held.filter(|holder| holder.shim != shim) {
            return Answer::HeldByOther {
                fence: other.fence,
                expires_in_ms: other.expires_at - now,
            };
        }
        let mut row = self.data.fences.get(&site).copied().unwrap_or_default();
        if row.run != self.run {
            row.run = self.run;
            row.since = now;
        }
        let positions = position.map_or(0, |(fence, _)| fence);
        row.number = row.number.max(known_fence).max(positions);
        let fence = match held {
            Some(own) if own.fence >= row.number => own.fence,
            _ => row.number + 1,
        };
        row.number = row.number.max(fence);
        self.write(Effect::Fence(site, row));
        let expires_at = now + LEASE_MS;
        self.write(Effect::Lease(
            site,
            Some(Holder {
                shim,
                fence,
                expires_at,
            }),
        ));
        Answer::Granted {
            fence,
            known_for_ms: now - row.since,
            position,
        }
    }

    fn take(&mut self, bridge: usize, in_hand: &[u64], now: u64) -> Answer {
        // What is under way here is claimed again, so that nobody takes it over.
        let mut effects = Vec::new();
        let mut taken = Vec::new();
        for (entry, (request, holder)) in &self.data.requests {
            if in_hand.contains(entry) {
                effects.push(Effect::Taken(*entry, bridge, now));
                continue;
            }
            let free = holder.is_none_or(|(_, since)| since + TAKEOVER_MS <= now);
            if free && taken.len() < TAKE_ENTRIES {
                effects.push(Effect::Taken(*entry, bridge, now));
                taken.push((*entry, request.clone()));
            }
        }
        for effect in effects {
            self.write(effect);
        }
        Answer::Requests(taken)
    }
}

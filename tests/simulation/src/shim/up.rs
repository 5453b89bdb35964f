//! From the lower master's event bus to the top master: spool, batch, reply.
//!
//! - Returns and events are in the spool before anything else is done with them, and leave it with
//!   the reply. A standby keeps what it hears for a while, in case the active one is dead.
//! - After a start, a takeover or a restart of the lower master the job cache is looked through.

use std::collections::BTreeMap;

use super::{JobOp, Op, Ring, SpoolOp};
use crate::disk::Log;
use crate::message::{Command, Item, Node, Request};
use crate::mutation::Mutation;
use crate::trace::Note;
use crate::world::World;

const BATCH_ITEMS: usize = 8;
const RESEND_MS: u64 = 10_000;
const SEND_AGAIN_MS: u64 = 300;
/// How long a standby keeps what it heard: a lease, and the time until it is taken over.
const RING_MS: u64 = 10_000;
const RING_MAX: usize = 64;

#[derive(Debug)]
struct UnderWay {
    rid: u64,
    ids: Vec<u64>,
    items: Vec<Item>,
    send_at: u64,
}

/// What goes up.
#[derive(Debug)]
pub(crate) struct Up {
    pub(crate) spool: BTreeMap<u64, Item>,
    next_id: u64,
    writing: BTreeMap<u64, Vec<(u64, Item)>>,
    under_way: Option<UnderWay>,
    pub(super) wants_key: bool,
    ring: Ring,
    /// By the own clock; 0: nobody else does.
    pub(super) other_holds_until: u64,
}

impl Up {
    pub(super) fn new(log: &Log<SpoolOp>) -> Self {
        let mut spool = BTreeMap::new();
        let mut next_id = 1;
        for op in log.iter() {
            match op {
                SpoolOp::Add(id, item) => {
                    spool.insert(*id, *item);
                    next_id = next_id.max(id + 1);
                }
                SpoolOp::Remove(ids) => ids.iter().for_each(|id| {
                    spool.remove(id);
                }),
            }
        }
        Self {
            spool,
            next_id,
            writing: BTreeMap::new(),
            under_way: None,
            wants_key: false,
            ring: Ring::new(),
            other_holds_until: 0,
        }
    }

    pub(super) fn send_failed(&mut self, clock: u64) {
        if let Some(under_way) = &mut self.under_way {
            under_way.send_at = under_way.send_at.min(clock + SEND_AGAIN_MS);
        }
    }

    fn holds(&self, item: Item) -> bool {
        let writing = self.writing.values().flatten().map(|(_, item)| item);
        self.spool.values().chain(writing).any(|held| *held == item)
    }
}

impl World {
    pub(super) fn heard_on_bus(&mut self, shim: usize, item: Item) {
        let clock = self.shim_clock(shim);
        let lower = self.shims[shim].lower;
        let Some(process) = &mut self.shims[shim].process else {
            return;
        };
        // Only its own shim hears a lower master: what was published here goes up from here.
        let ours = match item {
            Item::Return(job, _) => {
                let cached = process.records_lost && self.lowers[lower].jobs.contains(&job);
                process.records.contains_key(&job) || cached
            }
            Item::Event(_) => false,
        };
        if clock < process.up.other_holds_until && !ours {
            process.up.ring.push_back((clock, item));
            if process.up.ring.len() > RING_MAX {
                process.up.ring.pop_front();
            }
            return;
        }
        self.spool(shim, vec![item]);
    }

    fn spool(&mut self, shim: usize, items: Vec<Item>) {
        let now = self.now;
        let token = self.write_takes(Node::Shim(shim));
        let early = self.is(Mutation::ReturnedBeforeSpooled);
        let this = &mut self.shims[shim];
        let Some(process) = &mut this.process else {
            return;
        };
        let mut writing = Vec::new();
        for item in items {
            let known = match item {
                Item::Return(job, minion) => {
                    process.up.holds(item)
                        || process
                            .records
                            .get(&job)
                            .is_some_and(|record| record.returned.contains(&minion))
                }
                Item::Event(_) => false,
            };
            if known || writing.iter().any(|(_, other)| *other == item) {
                continue;
            }
            if early && let Item::Return(job, minion) = item {
                let record = process.records.entry(job).or_default();
                record.returned.insert(minion);
                this.jobs.commit(JobOp::Returned(job, minion), now);
            }
            writing.push((process.up.next_id, item));
            process.up.next_id += 1;
        }
        let ops = writing.iter().map(|(id, item)| SpoolOp::Add(*id, *item));
        this.spool.write(token, ops.collect());
        process.up.writing.insert(token, writing);
    }

    pub(super) fn spool_written(&mut self, shim: usize, token: u64) {
        let now = self.now;
        let this = &mut self.shims[shim];
        let Some(process) = &mut this.process else {
            return;
        };
        let mut done = process.up.writing.split_off(&(token + 1));
        std::mem::swap(&mut done, &mut process.up.writing);
        for (id, item) in done.into_values().flatten() {
            process.up.spool.insert(id, item);
            self.trace.note(now, Note::Spooled { shim, item });
        }
        self.shed(shim);
    }

    fn shed(&mut self, shim: usize) {
        let (now, max) = (self.now, self.plan.spool_max);
        let wrong = self.is(Mutation::ShedsReturnsFirst);
        let this = &mut self.shims[shim];
        let Some(process) = &mut this.process else {
            return;
        };
        let spool = &mut process.up.spool;
        while spool.len() > max {
            let is_return = |item: &Item| matches!(item, Item::Return(..));
            let least = spool
                .iter()
                .find(|(_, item)| is_return(item) == wrong)
                .or_else(|| spool.first_key_value());
            let Some((id, item)) = least.map(|(id, item)| (*id, *item)) else {
                return;
            };
            spool.remove(&id);
            this.spool.commit(SpoolOp::Remove(vec![id]), now);
            let spared = spool.values().any(|item| !is_return(item));
            self.book.shed(item, spared, now);
            self.trace.note(now, Note::Shed { shim, item });
        }
        self.book.bound("spool", spool.len(), max, now);
    }

    /// Everything in the job cache: records of ours are gone, or another shim has worked here.
    pub(super) fn fetch_all(&mut self, shim: usize) {
        let lower = self.shims[shim].lower;
        for job in self.lowers[lower].jobs.clone() {
            self.fetch_returns_of(shim, job);
        }
    }

    /// Everything that the lower master has of the jobs published here, or begun, and that the top master has not.
    pub(super) fn fetch_returns(&mut self, shim: usize) {
        let Some(process) = &self.shims[shim].process else {
            return;
        };
        let jobs: Vec<u32> = process.records.keys().copied().collect();
        for job in jobs {
            self.fetch_returns_of(shim, job);
        }
    }

    pub(super) fn fetch_returns_of(&mut self, shim: usize, job: u32) {
        if self.is(Mutation::NoFetch) {
            return;
        }
        let lower = self.shims[shim].lower;
        let cached = self.lowers[lower]
            .returns
            .range((job, 0)..=(job, usize::MAX));
        let items: Vec<Item> = cached
            .map(|(job, minion)| Item::Return(*job, *minion))
            .collect();
        if !items.is_empty() {
            self.spool(shim, items);
        }
    }

    pub(super) fn work_up(&mut self, shim: usize) {
        let clock = self.shim_clock(shim);
        let now = self.now;
        let removes = self.is(Mutation::RemovedBeforeReply);
        let this = &mut self.shims[shim];
        let Some(process) = &mut this.process else {
            return;
        };
        // The other one's lease has ended: what was heard meanwhile is ours.
        if clock >= process.up.other_holds_until && !process.up.ring.is_empty() {
            let heard = std::mem::take(&mut process.up.ring);
            let recent = heard.into_iter().filter(|(at, _)| at + RING_MS > clock);
            let items = recent.map(|(_, item)| item).collect();
            self.spool(shim, items);
            return;
        }
        let once = self.mutation == Some(Mutation::NoResend);
        if process.up.under_way.is_none() {
            let wants_key = std::mem::take(&mut process.up.wants_key);
            let batch = process.up.spool.iter().take(BATCH_ITEMS);
            let (ids, items): (Vec<u64>, Vec<Item>) = batch.map(|(id, item)| (*id, *item)).unzip();
            if items.is_empty() && !wants_key {
                return;
            }
            let (ids, items) = if wants_key {
                (Vec::new(), Vec::new())
            } else {
                (ids, items)
            };
            if removes && !ids.is_empty() {
                self.book.left_spool(&items, &self.mom, now);
                this.spool.commit(SpoolOp::Remove(ids.clone()), now);
            }
            process.up.under_way = Some(UnderWay {
                rid: 0,
                ids,
                items,
                send_at: clock,
            });
        }
        let rid = self.new_op();
        let process = self.shims[shim].process.as_mut();
        let Some(under_way) = process.and_then(|process| process.up.under_way.as_mut()) else {
            return;
        };
        if under_way.send_at > clock || (once && under_way.rid != 0) {
            return;
        }
        under_way.send_at = clock + RESEND_MS;
        if under_way.rid == 0 {
            under_way.rid = rid;
        }
        let (rid, items) = (under_way.rid, under_way.items.clone());
        let count = items.len();
        self.note(Note::Sent {
            shim,
            rid,
            items: count,
        });
        let request = Request { shim, rid, items };
        self.shim_asks(shim, Op::AddRequest, Command::AddRequest(request));
    }

    /// Replies can be heard again: one may have been missed.
    pub(super) fn up_again(&mut self, shim: usize) {
        let clock = self.shim_clock(shim);
        if let Some(process) = &mut self.shims[shim].process {
            process.up.send_failed(clock);
        }
    }

    pub(super) fn replied(&mut self, shim: usize, rid: u64) {
        let now = self.now;
        let this = &mut self.shims[shim];
        let Some(process) = &mut this.process else {
            return;
        };
        if process.up.under_way.as_ref().map(|under_way| under_way.rid) != Some(rid) {
            return;
        }
        let Some(under_way) = process.up.under_way.take() else {
            return;
        };
        self.trace.note(now, Note::Replied { shim, rid });
        if under_way.items.is_empty() {
            if let Some(key) = self.mom.sign_ins.get(&rid) {
                this.files.keys.insert(*key);
                let key = *key;
                self.trace.note(now, Note::SignedIn { shim, key });
            }
            return;
        }
        // The mark comes first: what is in the spool without need is only sent again.
        for item in &under_way.items {
            if let Item::Return(job, minion) = *item {
                let record = process.records.entry(job).or_default();
                record.returned.insert(minion);
                this.jobs.commit(JobOp::Returned(job, minion), now);
            }
        }
        for id in &under_way.ids {
            process.up.spool.remove(id);
        }
        self.book.left_spool(&under_way.items, &self.mom, now);
        let token = self.write_takes(Node::Shim(shim));
        self.shims[shim]
            .spool
            .write(token, vec![SpoolOp::Remove(under_way.ids)]);
    }
}

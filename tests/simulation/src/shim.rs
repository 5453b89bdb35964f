//! A shim: its disk, its process, its questions to Redis, its lease.
//!
//! Drives the pure code as the daemon does; [`down`] and [`publish`] carry publications to the lower
//! master,
//! [`up`] carries returns to the top master.

mod down;
mod publish;
mod questions;
mod up;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use relay_core::clock::Clocks;
use relay_core::lease::{Lease, LeaseConfig, Standing};
use relay_core::sequence::Event;
use relay_core::serials::Serials;
use relay_core::{EntryId, Publication};

use self::down::Down;
use self::up::Up;
use crate::disk::Log;
use crate::message::{Command, Item, Message, Node, Push, Stamped};
use crate::mutation::Mutation;
use crate::plan::ShimPlan;
use crate::trace::Note;
use crate::world::World;

const OP_TIMEOUT_MS: u64 = 2_000;
/// A publish request may take longer.
const PUBLISH_TIMEOUT_MS: u64 = 5_000;
/// Silence of the subscription after which it is made anew.
const SILENCE_MS: u64 = 3_000;

/// A commit of the job records, which hold the cursor as well.
#[derive(Debug, Clone)]
pub(crate) enum JobOp {
    Begin {
        job: u32,
        frame: u32,
    },
    Done {
        job: u32,
        frame: u32,
    },
    Returned(u32, usize),
    /// Expired is final, for this frame.
    Expired(u32),
    Cursor(EntryId),
}

/// A commit of the spool.
#[derive(Debug, Clone)]
pub(crate) enum SpoolOp {
    Add(u64, Item),
    Remove(Vec<u64>),
}

/// Small files that are written rarely, each synced.
#[derive(Debug, Default)]
struct Files {
    in_company: Option<bool>,
    keys: BTreeSet<u32>,
    clocks: Option<SavedClocks>,
    /// The boot of the last start: another one means that commits may be gone.
    boot: Option<u32>,
    records_lost: bool,
}

/// Differences to the bridges' clocks as they were known last.
#[derive(Debug)]
struct SavedClocks {
    /// The own boot under which they hold.
    boot: u32,
    /// What to add to the own clock to get the wall clock.
    to_wall_ms: i64,
    known: Vec<(Box<str>, i64)>,
}

/// One shim: its disk, and its process while it runs.
#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) site: usize,
    pub(crate) lower: usize,
    pub(crate) reads: usize,
    pub(crate) host: usize,
    pub(crate) jobs: Log<JobOp>,
    pub(crate) spool: Log<SpoolOp>,
    files: Files,
    pub(crate) process: Option<Process>,
    tells_company: bool,
}

impl Shim {
    pub(crate) fn new(plan: &ShimPlan) -> Self {
        Self {
            site: plan.site,
            lower: plan.lower,
            reads: plan.reads,
            host: 0,
            jobs: Log::default(),
            spool: Log::default(),
            files: Files::default(),
            process: None,
            tells_company: plan.in_company,
        }
    }
}

#[derive(Debug)]
enum Op {
    Subscribe,
    Lease { sent_clock: u64 },
    Read { after: EntryId },
    Position { id: EntryId },
    Release,
    AddRequest,
    Publish,
}

/// What the job records say of a job.
#[derive(Debug, Default)]
struct Record {
    done: bool,
    /// Frames that it came in.
    frames: BTreeSet<u32>,
    returned: BTreeSet<usize>,
}

/// What a shim holds in memory.
#[derive(Debug)]
pub(crate) struct Process {
    clocks: Clocks,
    lease: Lease,
    /// The site's position as the last answer told it.
    told: Option<EntryId>,
    subscribed: bool,
    heard_at: u64,
    ops: BTreeMap<u64, (Op, u64)>,
    view: usize,
    records: BTreeMap<u32, Record>,
    expired: BTreeSet<u32>,
    cursor: Option<EntryId>,
    /// This site has no job records yet.
    first_start: bool,
    /// A power cut may have taken the latest job records: for as long as they would have been kept.
    records_lost: bool,
    pub(crate) down: Option<Down>,
    pub(crate) up: Up,
    serials: Serials<u32>,
    position_due: Option<EntryId>,
    position_busy: bool,
    lower_incarnation: u32,
    clocks_saved_at: u64,
}

impl World {
    pub(crate) fn shim_clock(&self, shim: usize) -> u64 {
        let host = &self.hosts[self.shims[shim].host];
        if self.is(Mutation::SteppingClock) {
            host.wall_ms(self.now)
        } else {
            host.clock_ms(self.now)
        }
    }

    /// Starts the process over what is on its disk.
    pub(crate) fn shim_starts(&mut self, shim: usize) {
        let now = self.now;
        self.shims[shim].host = self.plan.bridges + shim;
        let clock = self.shim_clock(shim);
        let boot = self.hosts[self.shims[shim].host].boot;
        let lower = self.shims[shim].lower;
        let lower_incarnation = self.life(Node::Lower(lower)).incarnation;
        let view = self.primary;
        let this = &mut self.shims[shim];
        let mut clocks = Clocks::default();
        if let Some(saved) = &this.files.clocks {
            for (name, difference) in &saved.known {
                if saved.boot == boot {
                    clocks.restore(name, *difference, clock);
                } else {
                    clocks.guess(name, difference + saved.to_wall_ms);
                }
            }
        }
        let mut records: BTreeMap<u32, Record> = BTreeMap::new();
        let mut cursor = None;
        let mut expired = BTreeSet::new();
        for op in this.jobs.iter() {
            match op {
                JobOp::Begin { job, frame } => {
                    records.entry(*job).or_default().frames.insert(*frame);
                }
                JobOp::Done { job, frame } => {
                    let record = records.entry(*job).or_default();
                    record.frames.insert(*frame);
                    record.done = true;
                }
                JobOp::Returned(job, minion) => {
                    records.entry(*job).or_default().returned.insert(*minion);
                }
                JobOp::Expired(frame) => {
                    expired.insert(*frame);
                }
                JobOp::Cursor(id) => cursor = Some(*id),
            }
        }
        let first_start = this.files.boot.is_none();
        this.files.records_lost |= this.files.boot.is_some_and(|last| last != boot);
        this.files.boot = Some(boot);
        // A shim without a past cannot tell whether it is alone.
        let in_company = this.files.in_company.unwrap_or(this.tells_company);
        this.files.in_company.get_or_insert(in_company);
        let mut up = Up::new(&this.spool);
        up.wants_key = true;
        this.process = Some(Process {
            clocks,
            lease: Lease::new(LeaseConfig::default(), in_company),
            told: None,
            subscribed: false,
            heard_at: now,
            ops: BTreeMap::new(),
            view,
            records,
            expired,
            cursor,
            first_start,
            records_lost: this.files.records_lost,
            down: None,
            up,
            serials: Serials::default(),
            position_due: None,
            position_busy: false,
            lower_incarnation,
            clocks_saved_at: now,
        });
        if self.shims[shim].files.records_lost {
            self.fetch_all(shim);
        } else {
            self.fetch_returns(shim);
        }
        self.subscribe(shim);
    }

    pub(crate) fn shim_hears(&mut self, shim: usize, message: Message) {
        match message {
            Message::FromRedis { op, answer } => self.shim_answered(shim, op, Some(answer)),
            Message::Pushed(push) => self.shim_pushed(shim, push),
            Message::Published { op } => {
                let process = self.shims[shim].process.as_mut();
                if process.is_some_and(|process| process.ops.remove(&op).is_some()) {
                    self.was_published(shim, op);
                }
            }
            Message::Bus(item) => self.heard_on_bus(shim, item),
            _ => {}
        }
        self.work(shim);
    }

    fn shim_pushed(&mut self, shim: usize, push: Push) {
        let clock = self.shim_clock(shim);
        let now = self.now;
        let Some(process) = &mut self.shims[shim].process else {
            return;
        };
        if !process.subscribed {
            return;
        }
        process.heard_at = now;
        match push {
            Push::Publication(id, stamped) => {
                self.sequence(shim, Event::Published(publication(id, &stamped)));
            }
            Push::Beat {
                clock: (host, boot),
                clock_ms,
                newest,
            } => {
                process
                    .clocks
                    .note(&format!("b{host}/{boot}"), clock_ms, clock);
                if !self.is(Mutation::BeatsIgnored) {
                    self.sequence(shim, Event::Beat { newest });
                }
            }
            Push::Reply { rid, .. } => self.replied(shim, rid),
        }
    }

    /// The number of the lease, while this one is to work.
    pub(crate) fn active(&self, shim: usize) -> Option<u64> {
        let process = self.shims[shim].process.as_ref()?;
        match process.lease.standing(self.shim_clock(shim)) {
            Standing::Active { fence } => Some(fence),
            _ if self.is(Mutation::LeaseIgnored) => Some(process.lease.fence()),
            Standing::Standby | Standing::Unknown => None,
        }
    }

    pub(crate) fn shim_tick(&mut self, shim: usize) {
        let (now, clock) = (self.now, self.shim_clock(shim));
        let host = &self.hosts[self.shims[shim].host];
        let (boot, to_wall_ms) = (host.boot, host.to_wall_ms(now));
        let lower = self.shims[shim].lower;
        let lower_incarnation = self.life(Node::Lower(lower)).incarnation;
        let this = &mut self.shims[shim];
        let Some(process) = &mut this.process else {
            return;
        };
        let limit = |op: &Op| match op {
            Op::Publish => PUBLISH_TIMEOUT_MS,
            _ => OP_TIMEOUT_MS,
        };
        let late: Vec<u64> = process
            .ops
            .iter()
            .filter(|(_, (op, sent))| sent + limit(op) <= now)
            .map(|(op, _)| *op)
            .collect();
        let silent = now >= process.heard_at + SILENCE_MS;
        if silent {
            process.heard_at = now;
            process.subscribed = false;
        }
        let asking = process
            .ops
            .values()
            .any(|(op, _)| matches!(op, Op::Lease { .. }));
        let asks = !asking && process.lease.next_ask_ms() <= clock;
        let fence = process.lease.fence();
        let restarted = std::mem::replace(&mut process.lower_incarnation, lower_incarnation)
            != lower_incarnation;
        if process.clocks_saved_at + 1_000 <= now {
            process.clocks_saved_at = now;
            let known = process.clocks.differences();
            let known = known.map(|(name, difference)| (name.into(), difference));
            this.files.clocks = Some(SavedClocks {
                boot,
                to_wall_ms,
                known: known.collect(),
            });
        }
        let lost = process.serials.lost(clock);
        for gap in lost {
            let (from, to) = (gap.from, gap.to);
            self.book.gaps += gap.publications();
            self.trace.note(now, Note::Gap { shim, from, to });
        }
        for op in late {
            self.shim_answered(shim, op, None);
        }
        if silent {
            self.subscribe(shim);
        }
        if asks {
            let site = self.shims[shim].site;
            self.shim_asks(
                shim,
                Op::Lease { sent_clock: clock },
                Command::AskLease { site, shim, fence },
            );
        }
        if restarted && lower_incarnation != 0 {
            self.fetch_returns(shim);
        }
        self.work(shim);
    }

    /// Does what can be done now.
    fn work(&mut self, shim: usize) {
        self.book_leases(shim);
        self.work_down(shim);
        self.work_up(shim);
    }

    /// Two that believe in their lease at the same moment.
    fn book_leases(&mut self, shim: usize) {
        if self.active(shim).is_none() {
            return;
        }
        let site = self.shims[shim].site;
        for other in 0..self.shims.len() {
            let down = self.shims[other].process.as_ref().map(|p| p.down.is_some());
            if other != shim
                && self.shims[other].site == site
                && down == Some(true)
                && self.active(other).is_some()
                && self.now >= self.life(Node::Shim(other)).paused_until
            {
                self.book.two_active(shim, other, self.now);
            }
        }
    }

    pub(crate) fn shim_written(&mut self, shim: usize, token: u64) {
        let now = self.now;
        let this = &mut self.shims[shim];
        if this.jobs.commit_through(token, now) {
            self.jobs_written(shim, token);
        } else if this.spool.commit_through(token, now) {
            self.spool_written(shim, token);
        }
        self.work(shim);
    }

    /// SIGTERM: the lease is given back.
    pub(crate) fn shim_drains(&mut self, shim: usize) {
        let site = self.shims[shim].site;
        if self.active(shim).is_some() {
            self.shim_asks(shim, Op::Release, Command::Release { site, shim });
        }
    }
}

fn publication(entry_id: EntryId, stamped: &Stamped) -> Publication {
    let (host, boot) = stamped.clock;
    Publication {
        entry_id,
        received_at_ms: stamped.received_at_ms,
        clock: Some(format!("b{host}/{boot}").into()),
        frame: Bytes::copy_from_slice(&stamped.frame.to_be_bytes()),
    }
}

/// What heard items wait for: see [`up`].
type Ring = VecDeque<(u64, Item)>;

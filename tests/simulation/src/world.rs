//! The world: its parts, its queue of events, its network.
//!
//! One thread and one random generator; time is a number of milliseconds. The same seed gives the
//! same run, event by event, which the trace's hash shows.
//!
//! - A message takes its time; it may be lost, held up by a cut, and overtake others.
//! - A paused process takes what came meanwhile when it goes on; a dead one never does.

use std::collections::{BTreeMap, BinaryHeap};

use fastrand::Rng;

use crate::book::Book;
use crate::bridge::Bridge;
use crate::faults::Fault;
use crate::host::Host;
use crate::lower::{Lower, Minion};
use crate::message::{Message, Node};
use crate::mom::Mom;
use crate::mutation::Mutation;
use crate::plan::Plan;
use crate::redis::{Effect, Server};
use crate::shim::Shim;
use crate::trace::{Note, Trace};

/// How often a daemon looks at its timers.
pub(crate) const TICK_MS: u64 = 100;

/// Something that happens.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Arrive {
        from: Node,
        to: Node,
        /// The sender's incarnation: what a dead process had not flushed may be lost.
        sender: u32,
        message: Message,
    },
    Tick(Node, u32),
    /// A write of a process reached the disk.
    Written(Node, u32, u64),
    /// The replica hears of a write.
    Apply {
        server: usize,
        generation: u64,
        effect: Effect,
    },
    MomPublishes,
    BusSpeaks,
    Fault(Fault),
    /// Nothing fails any more.
    Heal,
    /// A minion has finished a job.
    Finished {
        minion: usize,
        incarnation: u32,
        job: u32,
        lower: usize,
    },
    /// Minions and shims look again at what is not answered.
    MinionRetries(usize, u32),
}

#[derive(Debug)]
struct Scheduled {
    at: u64,
    seq: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest: the heap gives it first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

/// Whether a part runs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Life {
    pub(crate) up: bool,
    pub(crate) incarnation: u32,
    pub(crate) paused_until: u64,
    pub(crate) disk_stalls_until: u64,
}

/// Everything; see the module's head.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) plan: Plan,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) trace: Trace,
    pub(crate) book: Book,
    queue: BinaryHeap<Scheduled>,
    scheduled: u64,
    next_op: u64,
    lives: BTreeMap<Node, Life>,
    /// One direction each, and until when.
    pub(crate) cuts: BTreeMap<(Node, Node), u64>,
    /// Bridges' hosts first, then the shims'.
    pub(crate) hosts: Vec<Host>,
    pub(crate) servers: Vec<Server>,
    /// What Sentinel says.
    pub(crate) primary: usize,
    pub(crate) mom: Mom,
    pub(crate) bridges: Vec<Bridge>,
    pub(crate) shims: Vec<Shim>,
    pub(crate) lowers: Vec<Lower>,
    pub(crate) minions: Vec<Minion>,
}

impl World {
    pub(crate) fn new(mut rng: Rng, plan: Plan, mutation: Option<Mutation>, trace: Trace) -> Self {
        let hosts = (0..plan.bridges + plan.shims.len())
            .map(|_| Host::new(&mut rng))
            .collect();
        let servers = (0..2)
            .map(|_| Server {
                run: rng.u64(..),
                up: true,
                stream_max: plan.stream_max,
                ..Server::default()
            })
            .collect();
        let mut world = Self {
            now: 0,
            mutation,
            trace,
            book: Book::new(&plan),
            queue: BinaryHeap::new(),
            scheduled: 0,
            next_op: 0,
            lives: BTreeMap::new(),
            cuts: BTreeMap::new(),
            hosts,
            servers,
            primary: 0,
            mom: Mom::default(),
            bridges: (0..plan.bridges).map(|_| Bridge::default()).collect(),
            shims: plan.shims.iter().map(Shim::new).collect(),
            lowers: plan.lowers.iter().map(Lower::new).collect(),
            minions: plan.minions.iter().map(Minion::new).collect(),
            rng,
            plan,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.life(Node::Mom).up = true;
        for server in 0..2 {
            self.life(Node::Redis(server)).up = true;
        }
        for lower in 0..self.lowers.len() {
            self.life(Node::Lower(lower)).up = true;
        }
        for minion in 0..self.minions.len() {
            self.life(Node::Minion(minion)).up = true;
            self.after(5_000, Event::MinionRetries(minion, 0));
        }
        for bridge in 0..self.bridges.len() {
            self.start(Node::Bridge(bridge));
        }
        for shim in 0..self.shims.len() {
            self.start(Node::Shim(shim));
        }
        for (at, fault) in self.plan.faults.clone() {
            self.after(at, Event::Fault(fault));
        }
        self.after(self.plan.healed_at, Event::Heal);
        for at in self.plan.publish_at.clone() {
            self.after(at, Event::MomPublishes);
        }
        for at in self.plan.bus_events_at.clone() {
            self.after(at, Event::BusSpeaks);
        }
    }

    /// Runs to the end of the plan and looks at the result.
    pub(crate) fn run(&mut self) {
        while let Some(scheduled) = self.queue.pop() {
            if scheduled.at > self.plan.end_at || self.book.is_full() {
                break;
            }
            self.now = scheduled.at;
            self.happen(scheduled.event);
        }
        self.now = self.plan.end_at;
        self.verdict();
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive {
                from,
                to,
                sender,
                message,
            } => self.arrive(from, to, sender, message),
            Event::Tick(node, incarnation) => {
                let life = *self.life(node);
                if !life.up || life.incarnation != incarnation {
                    return;
                }
                let next = life.paused_until.max(self.now) - self.now + TICK_MS;
                self.after(next, Event::Tick(node, incarnation));
                if self.now >= life.paused_until {
                    match node {
                        Node::Bridge(bridge) => self.bridge_tick(bridge),
                        Node::Shim(shim) => self.shim_tick(shim),
                        _ => {}
                    }
                }
            }
            Event::Written(node, incarnation, token) => {
                let life = *self.life(node);
                if !life.up || life.incarnation != incarnation {
                    return;
                }
                if self.now < life.paused_until {
                    let wait = life.paused_until - self.now;
                    self.after(wait, Event::Written(node, incarnation, token));
                    return;
                }
                match node {
                    Node::Bridge(bridge) => self.bridge_written(bridge, token),
                    Node::Shim(shim) => self.shim_written(shim, token),
                    _ => {}
                }
            }
            Event::Apply {
                server,
                generation,
                effect,
            } => {
                if self.servers[server].up && self.servers[server].generation == generation {
                    self.servers[server].data.apply(&effect);
                    self.push(server, &effect);
                }
            }
            Event::MomPublishes => self.mom_publishes(),
            Event::BusSpeaks => self.event_fires(),
            Event::Fault(fault) => self.fault(fault),
            Event::Heal => self.heal(),
            Event::Finished {
                minion,
                incarnation,
                job,
                lower,
            } => self.minion_finished(minion, incarnation, job, lower),
            Event::MinionRetries(minion, incarnation) => self.minion_retries(minion, incarnation),
        }
    }

    pub(crate) fn after(&mut self, ms: u64, event: Event) {
        self.scheduled += 1;
        self.queue.push(Scheduled {
            at: self.now + ms,
            seq: self.scheduled,
            event,
        });
    }

    /// A number of its own for a question, write or request.
    pub(crate) const fn new_op(&mut self) -> u64 {
        self.next_op += 1;
        self.next_op
    }

    pub(crate) fn life(&mut self, node: Node) -> &mut Life {
        self.lives.entry(node).or_default()
    }

    pub(crate) fn note(&mut self, note: Note) {
        self.trace.note(self.now, note);
    }

    pub(crate) fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// A write that ends after a moment. The caller puts it into its file.
    pub(crate) fn write_takes(&mut self, node: Node) -> u64 {
        let token = self.new_op();
        let life = *self.life(node);
        let incarnation = life.incarnation;
        let stalled = life.disk_stalls_until.max(self.now) - self.now;
        let slow = self.rng.u8(..) < 8;
        let ms = if slow {
            self.rng.u64(50..800)
        } else {
            self.rng.u64(1..8)
        };
        self.after(stalled + ms, Event::Written(node, incarnation, token));
        token
    }
}

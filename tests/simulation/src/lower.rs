//! A lower master and its minions, as Salt has them.
//!
//! - The job cache is on the disk: it outlives the process. A request counts when it is carried
//!   out, whoever still waits for the reply.
//! - A minion drops a jid that is in its queue, and forgets the queue when it starts again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::message::{Item, Message, Node};
use crate::plan::{LowerPlan, MinionPlan};
use crate::trace::Note;
use crate::world::{Event, World};

/// Salt's `jid_queue_hwm`.
const JID_QUEUE: usize = 100;
const RETRY_MS: u64 = 5_000;

/// A lower master's disk.
#[derive(Debug)]
pub(crate) struct Lower {
    pub(crate) site: usize,
    pub(crate) jobs: BTreeSet<u32>,
    pub(crate) returns: BTreeSet<(u32, usize)>,
}

impl Lower {
    pub(crate) const fn new(plan: &LowerPlan) -> Self {
        Self {
            site: plan.site,
            jobs: BTreeSet::new(),
            returns: BTreeSet::new(),
        }
    }
}

/// A minion process.
#[derive(Debug)]
pub(crate) struct Minion {
    pub(crate) lowers: Vec<usize>,
    queue: VecDeque<u32>,
    /// Answers that no master has taken yet.
    unanswered: BTreeMap<u32, usize>,
}

impl Minion {
    pub(crate) fn new(plan: &MinionPlan) -> Self {
        Self {
            lowers: plan.lowers.clone(),
            queue: VecDeque::new(),
            unanswered: BTreeMap::new(),
        }
    }
}

impl World {
    pub(crate) fn lower_hears(&mut self, lower: usize, message: Message) {
        match message {
            Message::Publish {
                op,
                shim,
                job,
                judged_at,
            } => {
                self.note(Note::Ran { lower, job });
                let site = self.lowers[lower].site;
                self.book.ran(site, lower, job, judged_at, self.now);
                self.lowers[lower].jobs.insert(job);
                for minion in 0..self.minions.len() {
                    if self.minions[minion].lowers.contains(&lower) {
                        let message = Message::Job { job, lower };
                        self.send(Node::Lower(lower), Node::Minion(minion), message);
                    }
                }
                self.send(
                    Node::Lower(lower),
                    Node::Shim(shim),
                    Message::Published { op },
                );
            }
            Message::Returned { job, minion } => {
                let new = self.lowers[lower].returns.insert((job, minion));
                self.send(
                    Node::Lower(lower),
                    Node::Minion(minion),
                    Message::ReturnTaken { job },
                );
                if new {
                    self.bus(lower, Item::Return(job, minion));
                }
            }
            _ => {}
        }
    }

    fn bus(&mut self, lower: usize, item: Item) {
        for shim in 0..self.shims.len() {
            if self.shims[shim].lower == lower {
                let latency = self.rng.u64(1..4);
                let sender = self.life(Node::Lower(lower)).incarnation;
                self.after(
                    latency,
                    Event::Arrive {
                        from: Node::Lower(lower),
                        to: Node::Shim(shim),
                        sender,
                        message: Message::Bus(item),
                    },
                );
            }
        }
    }

    /// An event that is no return.
    pub(crate) fn event_fires(&mut self) {
        let lower = self.rng.usize(0..self.lowers.len());
        if self.life(Node::Lower(lower)).up {
            let number = u32::try_from(self.new_op()).unwrap_or(u32::MAX);
            self.bus(lower, Item::Event(number));
        }
    }

    pub(crate) fn minion_hears(&mut self, minion: usize, message: Message) {
        match message {
            Message::Job { job, lower } => {
                if self.minions[minion].queue.contains(&job) {
                    return self.note(Note::Dropped { minion, job });
                }
                let queue = &mut self.minions[minion].queue;
                queue.push_back(job);
                if queue.len() > JID_QUEUE {
                    queue.pop_front();
                }
                self.note(Note::Executed { minion, job });
                self.book.executed(minion, job, self.now);
                let incarnation = self.life(Node::Minion(minion)).incarnation;
                let takes = self.rng.u64(10..2_000);
                self.after(
                    takes,
                    Event::Finished {
                        minion,
                        incarnation,
                        job,
                        lower,
                    },
                );
            }
            Message::ReturnTaken { job } => {
                self.minions[minion].unanswered.remove(&job);
            }
            _ => {}
        }
    }

    pub(crate) fn minion_finished(
        &mut self,
        minion: usize,
        incarnation: u32,
        job: u32,
        lower: usize,
    ) {
        if self.life(Node::Minion(minion)).incarnation == incarnation {
            self.minions[minion].unanswered.insert(job, lower);
            self.return_to(minion, job, lower);
        }
    }

    fn return_to(&mut self, minion: usize, job: u32, lower: usize) {
        let message = Message::Returned { job, minion };
        self.send(Node::Minion(minion), Node::Lower(lower), message);
    }

    pub(crate) fn minion_retries(&mut self, minion: usize, incarnation: u32) {
        if self.life(Node::Minion(minion)).incarnation != incarnation {
            return;
        }
        for (job, lower) in self.minions[minion].unanswered.clone() {
            self.return_to(minion, job, lower);
        }
        self.after(RETRY_MS, Event::MinionRetries(minion, incarnation));
    }

    /// It forgets what it ran.
    pub(crate) fn minion_restarts(&mut self, minion: usize) {
        self.minions[minion].queue.clear();
        self.minions[minion].unanswered.clear();
        self.book.restarted(minion, self.now);
        let life = self.life(Node::Minion(minion));
        life.incarnation += 1;
        let incarnation = life.incarnation;
        self.after(RETRY_MS, Event::MinionRetries(minion, incarnation));
    }
}

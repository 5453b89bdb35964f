//! A bridge: the journal, appends and epochs, beats, and the sites' requests.
//!
//! Drives [`Backlog`] as `bridge/src/publications.rs` does. A frame is acknowledged when it is in
//! the journal; it is appended from there, again after each new epoch.

use std::collections::BTreeMap;

use relay_core::EntryId;
use relay_core::backlog::{Backlog, BacklogConfig};

use crate::disk::Log;
use crate::message::{Answer, Command, Message, Node, Request, Stamped};
use crate::mutation::Mutation;
use crate::trace::Note;
use crate::world::World;

const BEAT_MS: u64 = 500;
const OP_TIMEOUT_MS: u64 = 2_000;
const BATCH_FRAMES: usize = 4;
const BATCH_BYTES: u64 = 1_000;
/// How long the master may take for a request.
const MOM_TIMEOUT_MS: u64 = 5_000;

/// A commit of the journal.
#[derive(Debug, Clone)]
pub(crate) enum JournalOp {
    Frame(u64, Stamped),
    Appended(u64),
    Forget(u64),
    /// A new epoch is going to be asked for: whether it was begun may never be heard.
    Beginning,
    Epoch(u64),
}

/// One bridge: its disk, and its process while it runs.
#[derive(Debug, Default)]
pub(crate) struct Bridge {
    pub(crate) journal: Log<JournalOp>,
    pub(crate) process: Option<Process>,
}

#[derive(Debug)]
enum Op {
    Append { through: u64 },
    BeginEpoch,
    Beat,
    Take,
    Reply,
}

/// What a bridge holds in memory.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) backlog: Backlog,
    frames: BTreeMap<u64, Stamped>,
    next_seq: u64,
    /// Frames on their way into the journal.
    writing: BTreeMap<u64, (u64, Stamped)>,
    /// The newest id that this bridge knows.
    known: EntryId,
    view: usize,
    ops: BTreeMap<u64, (Op, u64)>,
    stale: bool,
    /// One append or begin at a time.
    busy: bool,
    retry_at: u64,
    beat_at: u64,
    in_hand: BTreeMap<u64, (Request, u64)>,
}

impl World {
    /// Starts the process over what is on its disk.
    pub(crate) fn bridge_starts(&mut self, bridge: usize) {
        let now = self.now;
        let boot = self.hosts[bridge].boot;
        let clock_ms = self.bridge_clock(bridge);
        let mut backlog = Backlog::new(BacklogConfig {
            entries_max: if self.is(Mutation::NoJournalBound) {
                usize::MAX
            } else {
                self.plan.journal_max
            },
            bytes_max: 1 << 20,
            age_max_ms: self.plan.ttl_ms + 60_000,
        });
        let mut frames = BTreeMap::new();
        let mut unsure = false;
        let (mut appended, mut epoch, mut next_seq) = (0, 0, 1);
        for op in self.bridges[bridge].journal.iter() {
            match op {
                JournalOp::Frame(seq, stamped) => {
                    frames.insert(*seq, stamped.clone());
                    next_seq = seq + 1;
                }
                JournalOp::Appended(through) => appended = *through,
                JournalOp::Forget(through) => frames = frames.split_off(&(through + 1)),
                JournalOp::Beginning => unsure = true,
                JournalOp::Epoch(known) => {
                    unsure = false;
                    epoch = *known;
                    // Everything waits again.
                    appended = 0;
                }
            }
        }
        for (seq, stamped) in &frames {
            let own_clock = stamped.clock == (bridge, boot);
            let at = if own_clock {
                stamped.received_at_ms
            } else {
                clock_ms
            };
            backlog.received(*seq, 10, at);
        }
        backlog.appended(appended);
        self.bridges[bridge].process = Some(Process {
            backlog,
            frames,
            next_seq,
            writing: BTreeMap::new(),
            known: EntryId::new(epoch, 0),
            view: self.primary,
            ops: BTreeMap::new(),
            stale: unsure,
            busy: false,
            retry_at: now,
            beat_at: now,
            in_hand: BTreeMap::new(),
        });
    }

    pub(crate) fn bridge_clock(&self, bridge: usize) -> u64 {
        if self.is(Mutation::SteppingClock) {
            self.hosts[bridge].wall_ms(self.now)
        } else {
            self.hosts[bridge].clock_ms(self.now)
        }
    }

    pub(crate) fn bridge_hears(&mut self, bridge: usize, message: Message) {
        match message {
            Message::Frame(frame) => self.bridge_receives(bridge, frame),
            Message::FromRedis { op, answer } => self.bridge_answered(bridge, op, Some(answer)),
            Message::FromMom { entry, shim, rid } => {
                let Some(process) = &mut self.bridges[bridge].process else {
                    return;
                };
                if process.in_hand.remove(&entry).is_some() {
                    let command = Command::ReplyTo { entry, shim, rid };
                    self.bridge_asks(bridge, Op::Reply, command);
                }
            }
            _ => {}
        }
    }

    fn bridge_receives(&mut self, bridge: usize, frame: u32) {
        self.note(Note::BridgeReceived { bridge, frame });
        let stamped = Stamped {
            frame,
            received_at_ms: self.bridge_clock(bridge),
            clock: (bridge, self.hosts[bridge].boot),
        };
        self.book.received(bridge, frame, self.now);
        let token = self.write_takes(Node::Bridge(bridge));
        let in_memory = self.is(Mutation::JournalInMemory);
        let Bridge { journal, process } = &mut self.bridges[bridge];
        let Some(process) = process else { return };
        let seq = process.next_seq;
        process.next_seq += 1;
        let op = JournalOp::Frame(seq, stamped.clone());
        journal.write(token, if in_memory { Vec::new() } else { vec![op] });
        process.writing.insert(token, (seq, stamped));
    }

    pub(crate) fn bridge_written(&mut self, bridge: usize, token: u64) {
        let now = self.now;
        let Bridge { journal, process } = &mut self.bridges[bridge];
        let Some(process) = process else { return };
        if !journal.commit_through(token, now) {
            return;
        }
        // What was written before is committed, too.
        let mut done = process.writing.split_off(&(token + 1));
        std::mem::swap(&mut done, &mut process.writing);
        for (seq, stamped) in done.into_values() {
            let Some(process) = &mut self.bridges[bridge].process else {
                return;
            };
            process.backlog.received(seq, 10, stamped.received_at_ms);
            let frame = stamped.frame;
            process.frames.insert(seq, stamped);
            self.book.journaled(bridge, frame);
            self.note(Note::Journaled { bridge, frame });
        }
        self.bridge_sheds(bridge);
        self.bridge_appends(bridge);
    }

    fn bridge_sheds(&mut self, bridge: usize) {
        let now = self.now;
        let clock_ms = self.bridge_clock(bridge);
        let Bridge { journal, process } = &mut self.bridges[bridge];
        let Some(process) = process else { return };
        for gone in [process.backlog.expire(clock_ms), process.backlog.shed()] {
            if let Some(through) = gone.through {
                journal.commit(JournalOp::Forget(through), now);
                let rest = process.frames.split_off(&(through + 1));
                let shed = std::mem::replace(&mut process.frames, rest);
                self.book
                    .shed_by_bridge(shed.values().map(|stamped| stamped.frame));
                let unappended = gone.unappended;
                self.trace.note(now, Note::Gone { bridge, unappended });
            }
        }
        let (waiting, _) = process.backlog.waiting();
        let (kept, _) = process.backlog.kept();
        let bound = self.plan.journal_max;
        self.book.bound("journal", waiting + kept, bound, now);
    }

    /// Asks Redis for the next step: an epoch, or the next batch.
    fn bridge_appends(&mut self, bridge: usize) {
        let clock_ms = self.bridge_clock(bridge);
        let now = self.now;
        let Bridge { journal, process } = &mut self.bridges[bridge];
        let Some(process) = process else { return };
        if process.busy || now < process.retry_at {
            return;
        }
        let known = process.known;
        if process.stale {
            process.busy = true;
            journal.commit(JournalOp::Beginning, now);
            return self.bridge_asks(
                bridge,
                Op::BeginEpoch,
                Command::BeginEpoch { known, clock_ms },
            );
        }
        let Some(batch) = process.backlog.next_batch(BATCH_FRAMES, BATCH_BYTES) else {
            return;
        };
        let through = *batch.end();
        let frames: Vec<Stamped> = process
            .frames
            .range(batch)
            .map(|(_, stamped)| stamped.clone())
            .collect();
        process.busy = true;
        self.bridge_asks(
            bridge,
            Op::Append { through },
            Command::Append { frames, known },
        );
    }

    fn bridge_asks(&mut self, bridge: usize, op: Op, command: Command) {
        let id = self.new_op();
        let now = self.now;
        let Some(process) = &mut self.bridges[bridge].process else {
            return;
        };
        process.ops.insert(id, (op, now));
        let server = process.view;
        self.send(
            Node::Bridge(bridge),
            Node::Redis(server),
            Message::ToRedis { op: id, command },
        );
    }

    /// `None`: no answer in time.
    fn bridge_answered(&mut self, bridge: usize, op: u64, answer: Option<Answer>) {
        let (now, primary) = (self.now, self.primary);
        let again = !self.is(Mutation::NoAppendAgain);
        let Bridge { journal, process } = &mut self.bridges[bridge];
        let Some(process) = process else { return };
        let Some((op, _)) = process.ops.remove(&op) else {
            return;
        };
        if matches!(op, Op::Append { .. } | Op::BeginEpoch) {
            process.busy = false;
        }
        match (op, answer) {
            (Op::Append { through }, Some(Answer::Appended(ids))) => {
                process.backlog.appended(through);
                journal.commit(JournalOp::Appended(through), now);
                for (id, duplicate) in ids {
                    if !duplicate && id.epoch == process.known.epoch {
                        process.known = id.max(process.known);
                    }
                }
                self.note(Note::Appended { bridge, through });
            }
            (_, Some(Answer::Stale)) => {
                process.stale = true;
                self.note(Note::Stale { bridge });
            }
            (Op::BeginEpoch, Some(Answer::Begun(epoch))) => {
                process.stale = false;
                process.known = EntryId::new(epoch, 0);
                journal.commit(JournalOp::Epoch(epoch), now);
                if again {
                    process.backlog.rewind();
                }
                self.note(Note::Epoch { bridge, epoch });
            }
            (Op::Beat, Some(Answer::Beaten(newest))) if newest.epoch == process.known.epoch => {
                process.known = newest.max(process.known);
            }
            (Op::Take, Some(Answer::Requests(requests))) => {
                for (entry, request) in requests {
                    let Some(process) = &mut self.bridges[bridge].process else {
                        return;
                    };
                    process.in_hand.insert(entry, (request.clone(), now));
                    self.send(
                        Node::Bridge(bridge),
                        Node::Mom,
                        Message::ToMom { entry, request },
                    );
                }
            }
            (Op::Append { .. } | Op::BeginEpoch, _) => {
                process.retry_at = now + self.rng.u64(50..400);
                process.view = primary;
            }
            (_, Some(Answer::Refused) | None) => process.view = primary,
            _ => {}
        }
        self.bridge_appends(bridge);
    }

    pub(crate) fn bridge_tick(&mut self, bridge: usize) {
        let now = self.now;
        let clock_ms = self.bridge_clock(bridge);
        let clock = (bridge, self.hosts[bridge].boot);
        let Some(process) = &mut self.bridges[bridge].process else {
            return;
        };
        let late: Vec<u64> = process
            .ops
            .iter()
            .filter(|(_, (_, sent))| sent + OP_TIMEOUT_MS <= now)
            .map(|(op, _)| *op)
            .collect();
        // A request whose master does not answer is left to be taken again.
        process
            .in_hand
            .retain(|_, (_, since)| *since + MOM_TIMEOUT_MS > now);
        let in_hand: Vec<u64> = process.in_hand.keys().copied().collect();
        let known = process.known;
        let beats = process.beat_at <= now;
        if beats {
            process.beat_at = now + BEAT_MS;
        }
        for op in late {
            self.bridge_answered(bridge, op, None);
        }
        if beats {
            self.bridge_asks(
                bridge,
                Op::Beat,
                Command::Beat {
                    clock,
                    clock_ms,
                    known,
                },
            );
        }
        self.bridge_asks(bridge, Op::Take, Command::TakeRequests { bridge, in_hand });
        self.bridge_sheds(bridge);
        self.bridge_appends(bridge);
    }

    /// What of a bridge's journal a power cut has lost.
    pub(crate) fn bridge_loses_power(&mut self, bridge: usize) {
        let now = self.now;
        self.bridges[bridge].journal.power_cut(&mut self.rng, now);
        let left: Vec<u32> = self.bridges[bridge]
            .journal
            .iter()
            .filter_map(|op| match op {
                JournalOp::Frame(_, stamped) => Some(stamped.frame),
                _ => None,
            })
            .collect();
        self.book.journal_lost(bridge, &left);
    }
}

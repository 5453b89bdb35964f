//! What a shim asks Redis, and what it makes of the answers.

use relay_core::lease::Asked;
use relay_core::sequence::{Event, Page};

use super::{Op, publication};
use crate::message::{Answer, Command, Message, Node};
use crate::mutation::Mutation;
use crate::world::World;

impl World {
    pub(super) fn subscribe(&mut self, shim: usize) {
        let server = self.shims[shim].reads;
        self.servers[server].subscribers.remove(&shim);
        self.shim_asks(shim, Op::Subscribe, Command::Subscribe { shim });
    }

    pub(super) fn shim_asks(&mut self, shim: usize, op: Op, command: Command) {
        let id = self.new_op();
        let now = self.now;
        let reads = self.shims[shim].reads;
        let Some(process) = &mut self.shims[shim].process else {
            return;
        };
        process.ops.insert(id, (op, now));
        let server = if command.only_reads() {
            reads
        } else {
            process.view
        };
        self.send(
            Node::Shim(shim),
            Node::Redis(server),
            Message::ToRedis { op: id, command },
        );
    }

    /// `None`: no answer in time.
    pub(super) fn shim_answered(&mut self, shim: usize, op: u64, answer: Option<Answer>) {
        let clock = self.shim_clock(shim);
        let (now, primary) = (self.now, self.primary);
        let Some(process) = &mut self.shims[shim].process else {
            return;
        };
        let Some((kind, sent_at)) = process.ops.remove(&op) else {
            return;
        };
        if matches!(answer, None | Some(Answer::Refused)) {
            process.view = primary;
        }
        match (kind, answer) {
            (Op::Subscribe, Some(Answer::Subscribed)) => {
                process.subscribed = true;
                process.heard_at = now;
                self.up_again(shim);
                self.sequence(shim, Event::Connected);
            }
            (Op::Lease { sent_clock }, answer) => self.lease_answered(shim, sent_clock, answer),
            (
                Op::Read { .. },
                Some(Answer::Page {
                    after,
                    at_end,
                    entries,
                    newest,
                }),
            ) => {
                let last = entries.last().map_or(after, |(id, _)| *id);
                let through = if at_end { last.max(newest) } else { last };
                let entries = entries
                    .iter()
                    .map(|(id, stamped)| publication(*id, stamped))
                    .collect();
                self.sequence(
                    shim,
                    Event::Page(Page {
                        after,
                        through,
                        entries,
                        newest,
                    }),
                );
            }
            (Op::Read { after }, _) => self.sequence(shim, Event::ReadFailed { after }),
            (Op::Position { id }, answer) => {
                process.position_busy = false;
                match answer {
                    Some(Answer::Done) => {
                        self.book.position_held(self.shims[shim].site, id, sent_at);
                    }
                    Some(Answer::FencedOff(fence)) => process.lease.fenced_off(fence),
                    _ => process.position_due = process.cursor,
                }
            }
            (Op::AddRequest, answer) => {
                if !matches!(answer, Some(Answer::Done)) {
                    process.up.send_failed(clock);
                }
            }
            (Op::Publish, _) => self.publish_failed(shim, op),
            (Op::Subscribe | Op::Release, _) => {}
        }
    }

    fn lease_answered(&mut self, shim: usize, sent_clock: u64, answer: Option<Answer>) {
        let clock = self.shim_clock(shim);
        let no_wait = self.is(Mutation::LeaseWithoutWait);
        let this = &mut self.shims[shim];
        let Some(process) = &mut this.process else {
            return;
        };
        let asked = match answer {
            Some(Answer::Granted {
                fence,
                known_for_ms,
                position,
            }) => {
                process.told = position.map(|(_, id)| id);
                let known_for_ms = if no_wait { u64::MAX } else { known_for_ms };
                Asked::Granted {
                    fence,
                    known_for_ms,
                }
            }
            Some(Answer::HeldByOther {
                fence,
                expires_in_ms,
            }) => Asked::HeldByOther {
                fence,
                expires_in_ms,
            },
            _ => Asked::Failed,
        };
        process.up.other_holds_until = match asked {
            Asked::HeldByOther { expires_in_ms, .. } => clock + expires_in_ms,
            Asked::Granted { .. } => 0,
            Asked::Failed => process.up.other_holds_until,
        };
        process.lease.asked(sent_clock, asked, clock);
        if this.files.in_company != Some(process.lease.in_company()) {
            this.files.in_company = Some(process.lease.in_company());
        }
    }
}

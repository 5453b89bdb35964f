//! One publication on its way to the lower master: begin on disk, request, reply, done on disk.

use super::down::{RETRY_MS, State};
use super::{JobOp, Op};
use crate::message::{Message, Node};
use crate::mutation::Mutation;
use crate::trace::Note;
use crate::world::World;

impl World {
    pub(super) fn begins(&mut self, shim: usize, job: u32, frame: u32) {
        if self.is(Mutation::BeginAfterPublish) {
            return self.request(shim);
        }
        let token = self.write_takes(Node::Shim(shim));
        self.shims[shim]
            .jobs
            .write(token, vec![JobOp::Begin { job, frame }]);
        self.set_state(shim, State::Beginning { token });
    }

    fn set_state(&mut self, shim: usize, state: State) {
        let process = self.shims[shim].process.as_mut();
        if let Some(current) = process
            .and_then(|p| p.down.as_mut())
            .and_then(|d| d.current.as_mut())
        {
            current.state = state;
        }
    }

    /// Commits of the job records have arrived.
    pub(super) fn jobs_written(&mut self, shim: usize, token: u64) {
        let Some(process) = &mut self.shims[shim].process else {
            return;
        };
        let Some(current) = process.down.as_mut().and_then(|down| down.current.as_mut()) else {
            return;
        };
        let (job, frame) = (current.job, current.frame);
        match current.state {
            State::Beginning { token: of } if of == token => {
                process.records.entry(job).or_default().frames.insert(frame);
                self.request(shim);
            }
            State::Finishing { token: of } if of == token => {
                let record = process.records.entry(job).or_default();
                record.frames.insert(frame);
                record.done = true;
                self.finished(shim, "done");
            }
            _ => {}
        }
    }

    /// Sends the publish request, if this shim may still do so and the job is still due.
    fn request(&mut self, shim: usize) {
        if self.active(shim).is_none() {
            return;
        }
        let once = self.is(Mutation::AgeJudgedOnce);
        let (age, true_age) = (self.age(shim), self.true_age(shim));
        let guessed = self.age_is_guessed(shim);
        let (now, site, lower) = (self.now, self.shims[shim].site, self.shims[shim].lower);
        let op = self.new_op();
        let ttl = self.plan.ttl_ms;
        let Some(process) = &mut self.shims[shim].process else {
            return;
        };
        let Some(current) = process.down.as_mut().and_then(|down| down.current.as_mut()) else {
            return;
        };
        let (job, frame, judged_at) = (current.job, current.frame, current.judged_at);
        if !once && age.is_none_or(|age| age > ttl) {
            self.expired(shim, job);
            return;
        }
        current.state = State::Publishing { op };
        process.ops.insert(op, (Op::Publish, now));
        if self.is(Mutation::BeginAfterPublish) {
            let token = self.write_takes(Node::Shim(shim));
            self.shims[shim]
                .jobs
                .write(token, vec![JobOp::Begin { job, frame }]);
        }
        self.note(Note::PublishSent {
            shim,
            job,
            age_ms: true_age,
        });
        self.book.guesses = guessed;
        self.book
            .sent(site, (job, frame), true_age, &self.plan, now);
        self.send(
            Node::Shim(shim),
            Node::Lower(lower),
            Message::Publish {
                op,
                shim,
                job,
                judged_at,
            },
        );
    }

    pub(super) fn was_published(&mut self, shim: usize, op: u64) {
        let process = self.shims[shim].process.as_ref();
        let state = process
            .and_then(|process| process.down.as_ref())
            .and_then(|down| down.current.as_ref())
            .map(|current| (current.state, current.unknown));
        if let Some((State::Publishing { op: of }, unknown)) = state
            && of == op
        {
            self.finish(shim, unknown);
        }
    }

    pub(super) fn publish_failed(&mut self, shim: usize, op: u64) {
        let at = self.now + RETRY_MS;
        let Some(process) = &mut self.shims[shim].process else {
            return;
        };
        let Some(current) = process.down.as_mut().and_then(|down| down.current.as_mut()) else {
            return;
        };
        if current.state != (State::Publishing { op }) {
            return;
        }
        let (job, frame) = (current.job, current.frame);
        current.at_master = None;
        current.state = State::Retry { at };
        process.records.entry(job).or_default().frames.insert(frame);
        self.note(Note::PublishFailed { shim, job });
    }

    /// It is published: now, or `before` as the job cache says. Then its returns may have passed unheard.
    pub(super) fn finish(&mut self, shim: usize, before: bool) {
        let token = self.write_takes(Node::Shim(shim));
        let process = self.shims[shim].process.as_mut();
        let Some(current) = process
            .and_then(|p| p.down.as_mut())
            .and_then(|d| d.current.as_mut())
        else {
            return;
        };
        let (job, frame) = (current.job, current.frame);
        let cursor = current.publication.entry_id;
        current.state = State::Finishing { token };
        let ops = vec![JobOp::Done { job, frame }, JobOp::Cursor(cursor)];
        self.shims[shim].jobs.write(token, ops);
        if before {
            self.fetch_returns_of(shim, job);
        }
    }
}

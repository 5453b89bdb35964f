//! From the stream to the lower master: one publication at a time, in the order of the stream.
//!
//! ```text
//! Sequencer ──► due ──► judge ──► begin on disk ──► lease and age again ──► publish request
//!                         ▲                                                      │
//!                         └── AskMaster ◄── no reply                reply ◄──────┤
//!                                                                     └► done and cursor on disk
//! ```

use std::collections::VecDeque;

use relay_core::intake::{AtMaster, Remembered, Verdict, judge};
use relay_core::sequence::{Action, Event, Sequencer, SequencerConfig};
use relay_core::{EntryId, Publication};

use super::{JobOp, Op, Shim};
use crate::message::Command;
use crate::mutation::Mutation;
use crate::trace::Note;
use crate::world::World;

pub(super) const RETRY_MS: u64 = 300;
/// Publications that wait for the delivery; further ones are read again later.
const DUE_MAX: usize = 256;

#[derive(Debug)]
enum Due {
    Publication(Publication),
    PassOver(EntryId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Judge,
    Retry { at: u64 },
    Beginning { token: u64 },
    Publishing { op: u64 },
    Finishing { token: u64 },
}

#[derive(Debug)]
pub(super) struct Current {
    pub(super) publication: Publication,
    pub(super) frame: u32,
    pub(super) job: u32,
    opened: bool,
    pub(super) at_master: Option<AtMaster>,
    /// The job cache could not tell: it may have been published before.
    pub(super) unknown: bool,
    /// When the verdict that led to the request was given.
    pub(super) judged_at: u64,
    pub(super) state: State,
}

/// The work of an active shim; dropped as a whole when the lease is gone.
#[derive(Debug)]
pub(crate) struct Down {
    pub(super) sequencer: Sequencer,
    due: VecDeque<Due>,
    pub(super) current: Option<Current>,
    /// A first start: the job cache is asked about everything until the stream's end is reached.
    careful: bool,
}

impl World {
    pub(super) fn sequence(&mut self, shim: usize, event: Event) {
        let now = self.now;
        let Some(process) = &mut self.shims[shim].process else {
            return;
        };
        let Some(down) = &mut process.down else {
            return;
        };
        // A full queue slows the reading.
        if down.due.len() >= DUE_MAX && matches!(event, Event::Published(_)) {
            return;
        }
        for action in down.sequencer.apply(event) {
            match action {
                Action::Deliver(publication) => {
                    let (entry, frame) = (publication.entry_id, frame_of(&publication));
                    let note = Note::Delivered { shim, entry, frame };
                    self.trace.note(now, note);
                    self.due(shim, Due::Publication(publication));
                }
                Action::ReadFrom { after } => {
                    self.shim_asks(shim, Op::Read { after }, Command::ReadAfter { after });
                }
                Action::Lost { from, to } => {
                    self.trace.note(now, Note::Lost { shim, from, to });
                    self.due(shim, Due::PassOver(to));
                }
                Action::Ended { from, to } => {
                    self.trace.note(now, Note::Ended { shim, from, to });
                    self.book.ended(self.shims[shim].site, from, to);
                    self.due(shim, Due::PassOver(to));
                }
                Action::NewEpoch { epoch, .. } => {
                    self.trace.note(now, Note::NewEpoch { shim, epoch });
                }
                Action::Duplicate(_) | Action::Behind { .. } => {}
            }
        }
    }

    fn due(&mut self, shim: usize, due: Due) {
        let process = self.shims[shim].process.as_mut();
        if let Some(down) = process.and_then(|process| process.down.as_mut()) {
            down.due.push_back(due);
        }
    }

    pub(super) fn work_down(&mut self, shim: usize) {
        let active = self.active(shim);
        let Some(process) = &mut self.shims[shim].process else {
            return;
        };
        match active {
            None if process.down.is_some() => {
                // Whatever is not done is somebody else's now.
                process.down = None;
                process.position_due = None;
                process
                    .ops
                    .retain(|_, (op, _)| !matches!(op, Op::Read { .. } | Op::Publish));
                self.note(Note::Inactive { shim });
            }
            None => {}
            Some(fence) => {
                if process.down.is_none() {
                    self.takes_up(shim, fence);
                }
                while self.step(shim) {}
                self.write_position(shim, fence);
            }
        }
    }

    fn takes_up(&mut self, shim: usize, fence: u64) {
        let now = self.now;
        let ignored = self.is(Mutation::PositionIgnored);
        let this = &mut self.shims[shim];
        let Some(process) = &mut this.process else {
            return;
        };
        // Whoever wrote the position was done with everything up to it, be it on this disk or not.
        let told = process.told.filter(|_| !ignored);
        let cursor = process.cursor.max(told).unwrap_or(EntryId::ZERO);
        let others = process.lease.in_company();
        let careful = process.first_start;
        process.down = Some(Down {
            sequencer: Sequencer::new(Some(cursor), SequencerConfig::default()),
            due: VecDeque::new(),
            current: None,
            careful,
        });
        let subscribed = process.subscribed;
        self.book.took_up(self.shims[shim].site, cursor, now);
        if others {
            self.fetch_all(shim);
        }
        self.note(Note::Active {
            shim,
            fence,
            from: cursor,
        });
        if subscribed {
            self.sequence(shim, Event::Connected);
        }
    }

    /// True when something was done.
    fn step(&mut self, shim: usize) -> bool {
        let now = self.now;
        let ahead = self.is(Mutation::CursorAhead);
        let Some(process) = &mut self.shims[shim].process else {
            return false;
        };
        let Some(down) = &mut process.down else {
            return false;
        };
        let Some(current) = &mut down.current else {
            let Some(due) = down.due.pop_front() else {
                if down.sequencer.lag_entries() == 0
                    && down.sequencer.position() != Some(EntryId::ZERO)
                    && process.subscribed
                {
                    down.careful = false;
                    process.first_start = false;
                }
                return false;
            };
            match due {
                Due::PassOver(id) => self.advance(shim, id),
                Due::Publication(publication) => {
                    let entry_id = publication.entry_id;
                    let frame = frame_of(&publication);
                    let job = self.mom.frames[frame as usize].job;
                    down.current = Some(Current {
                        publication,
                        frame,
                        job,
                        opened: false,
                        at_master: None,
                        unknown: false,
                        judged_at: now,
                        state: State::Judge,
                    });
                    if ahead {
                        self.check_cursor(shim, job);
                        self.advance(shim, entry_id);
                    }
                }
            }
            return true;
        };
        match current.state {
            State::Judge => self.judge_current(shim),
            State::Retry { at } if at <= now => {
                current.state = State::Judge;
                true
            }
            _ => false,
        }
    }

    fn judge_current(&mut self, shim: usize) -> bool {
        let clock = self.shim_clock(shim);
        let now = self.now;
        let (ttl, readable) = (self.plan.ttl_ms, self.plan.cache_readable);
        let dedupes = !self.is(Mutation::NoDedupe);
        let asks = !self.is(Mutation::NoJobCacheQuestion);
        let lower = self.shims[shim].lower;
        let this = &mut self.shims[shim];
        let Some(process) = &mut this.process else {
            return false;
        };
        let Some(down) = &mut process.down else {
            return false;
        };
        // Others publish here, too; or records of ours are gone.
        let careful = down.careful || process.records_lost || process.lease.in_company();
        let Some(current) = &mut down.current else {
            return false;
        };
        let (job, frame) = (current.job, current.frame);
        let entry_id = current.publication.entry_id;
        let record = process.records.get(&job).filter(|_| dedupes);
        if record.is_some_and(|record| record.done && record.frames.contains(&frame)) {
            process.serials.passed(entry_id);
            return self.finished(shim, "frame known");
        }
        if process.expired.contains(&frame) && dedupes {
            process.serials.passed(entry_id);
            return self.finished(shim, "frame expired");
        }
        let info = self.mom.frames[frame as usize];
        if !this.files.keys.contains(&info.key) {
            // A sign-in brings the current key; an older one is gone for good.
            if this.files.keys.iter().any(|key| *key > info.key) {
                process.serials.passed(entry_id);
                self.note(Note::Unopenable { shim, frame });
                self.book.unopenable(this_site(&self.shims[shim]), job);
                return self.finished(shim, "unopenable");
            }
            process.up.wants_key = true;
            current.state = State::Retry { at: now + RETRY_MS };
            return false;
        }
        if !current.opened {
            current.opened = true;
            let gaps = process
                .serials
                .opened(&info.key, info.serial, entry_id, clock);
            self.book.gaps += gaps
                .iter()
                .map(relay_core::serials::Gap::publications)
                .sum::<u64>();
        }
        let remembered = match record {
            None => Remembered::Nothing,
            Some(record) if record.done => Remembered::Done,
            Some(record) if record.frames.is_empty() => Remembered::Nothing,
            Some(_) => Remembered::Begun,
        };
        let at_master = || match (asks, readable) {
            (false, _) => AtMaster::NotPublished,
            (true, false) => AtMaster::Unknown,
            (true, true) if self.lowers[lower].jobs.contains(&job) => AtMaster::Published,
            (true, true) => AtMaster::NotPublished,
        };
        if careful && current.at_master.is_none() {
            current.at_master = Some(at_master());
        }
        current.unknown |= !readable && (careful || remembered == Remembered::Begun);
        let age = self.age(shim);
        let verdict = |at| judge(remembered, at, age, ttl);
        let process = self.shims[shim].process.as_mut();
        let Some(current) = process
            .and_then(|p| p.down.as_mut())
            .and_then(|d| d.current.as_mut())
        else {
            return false;
        };
        let mut result = verdict(current.at_master);
        if result == Verdict::AskMaster {
            let at = match (asks, readable) {
                (false, _) => AtMaster::NotPublished,
                (true, false) => AtMaster::Unknown,
                (true, true) if self.lowers[lower].jobs.contains(&job) => AtMaster::Published,
                (true, true) => AtMaster::NotPublished,
            };
            result = verdict(Some(at));
        }
        // The next look must ask again.
        current.at_master = None;
        match result {
            Verdict::Publish => {
                current.judged_at = now;
                self.begins(shim, job, frame);
                true
            }
            Verdict::Duplicate if remembered == Remembered::Done => {
                self.finished(shim, "job known")
            }
            Verdict::Duplicate => {
                self.note(Note::Judged {
                    shim,
                    job,
                    verdict: "published before",
                });
                self.finish(shim, true);
                true
            }
            Verdict::Expired { .. } => self.expired(shim, job),
            Verdict::Wait | Verdict::AskMaster => {
                current.state = State::Retry { at: now + RETRY_MS };
                false
            }
        }
    }

    /// The age of the publication at hand.
    pub(super) fn age(&mut self, shim: usize) -> Option<u64> {
        if self.is(Mutation::NoExpiry) {
            return Some(0);
        }
        let clock = self.shim_clock(shim);
        let uncorrected = self.is(Mutation::NoClockCorrection);
        let process = self.shims[shim].process.as_mut()?;
        let publication = &process.down.as_ref()?.current.as_ref()?.publication;
        let received_at_ms = publication.received_at_ms;
        if uncorrected {
            return Some(clock.saturating_sub(received_at_ms));
        }
        let name = publication.clock.as_deref();
        process.clocks.age_ms(name, received_at_ms, clock)
    }

    pub(super) fn expired(&mut self, shim: usize, job: u32) -> bool {
        let now = self.now;
        let Shim { jobs, process, .. } = &mut self.shims[shim];
        if let Some(process) = process
            && let Some(current) = process.down.as_ref().and_then(|down| down.current.as_ref())
        {
            process.expired.insert(current.frame);
            jobs.commit(JobOp::Expired(current.frame), now);
        }
        let site = self.shims[shim].site;
        let true_age = self.true_age(shim);
        let guessed = self.age_is_guessed(shim);
        self.book.guesses = guessed;
        self.book.expired(site, job, true_age, &self.plan, self.now);
        self.finished(shim, "expired")
    }

    /// The clock that stamped the publication at hand was never heard.
    pub(super) fn age_is_guessed(&self, shim: usize) -> bool {
        let Some(process) = &self.shims[shim].process else {
            return false;
        };
        let current = process.down.as_ref().and_then(|down| down.current.as_ref());
        let clock = current.and_then(|current| current.publication.clock.as_deref());
        clock.is_some_and(|clock| !process.clocks.has_heard(clock))
    }

    /// By the world's own time, since the bridge that stamped it received it.
    pub(super) fn true_age(&self, shim: usize) -> u64 {
        let current = self.shims[shim]
            .process
            .as_ref()
            .and_then(|process| process.down.as_ref())
            .and_then(|down| down.current.as_ref());
        let since = current.map(|current| {
            let clock = current.publication.clock.as_deref().unwrap_or_default();
            let bridge = usize::from(clock.starts_with("b1"));
            self.book.received_at(bridge, current.frame)
        });
        self.now - since.unwrap_or(self.now)
    }

    /// Nothing more is to be done about the publication at hand.
    pub(super) fn finished(&mut self, shim: usize, verdict: &'static str) -> bool {
        let process = self.shims[shim].process.as_mut();
        let current = process
            .and_then(|p| p.down.as_mut())
            .and_then(|d| d.current.take());
        if let Some(current) = current {
            let job = current.job;
            self.note(Note::Judged { shim, job, verdict });
            self.check_cursor(shim, job);
            self.advance(shim, current.publication.entry_id);
        }
        true
    }

    fn check_cursor(&mut self, shim: usize, job: u32) {
        let site = self.shims[shim].site;
        self.book.passed(site, job, self.now);
    }

    fn advance(&mut self, shim: usize, id: EntryId) {
        let now = self.now;
        let this = &mut self.shims[shim];
        let Some(process) = &mut this.process else {
            return;
        };
        if process.cursor < Some(id) {
            process.cursor = Some(id);
            this.jobs.commit(JobOp::Cursor(id), now);
            process.position_due = Some(id);
            self.note(Note::Cursor { shim, entry: id });
        }
    }

    fn write_position(&mut self, shim: usize, fence: u64) {
        let site = self.shims[shim].site;
        let Some(process) = &mut self.shims[shim].process else {
            return;
        };
        if process.position_busy {
            return;
        }
        if let Some(id) = process.position_due.take() {
            process.position_busy = true;
            self.shim_asks(
                shim,
                Op::Position { id },
                Command::Position { site, fence, id },
            );
        }
    }
}

fn frame_of(publication: &Publication) -> u32 {
    let bytes: [u8; 4] = publication.frame.as_ref().try_into().unwrap_or_default();
    u32::from_be_bytes(bytes)
}

const fn this_site(shim: &Shim) -> usize {
    shim.site
}

//! Returns on their way to the master, and those that it did not take.
//!
//! ```text
//! seen on the bus ──► on its way ──answer──► done
//!                         └──error, or none in time──► undelivered ──► sent again, one at a time ──answer──► done
//! ```
//! - A copy of a return that is on its way is kept while there is room ([`COPIES_BYTES_MAX`] over all minions); without one
//!   it can be sent again only where the minion itself keeps returns (`cache_jobs`), else it is only reported.
//! - A master that took a return and whose answer was lost gets it twice, as from Salt itself: it files it under the same job.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use salt_wire::ids::Jid;

/// Bytes of copies over all minions of this process.
pub(crate) const COPIES_BYTES_MAX: usize = 256 << 10;

/// Most returns on their way; a minion has as many job processes. Beyond that the oldest is not followed.
const ON_WAY_MAX: usize = 500;

/// Most undelivered returns that are remembered; the oldest is forgotten first.
const UNDELIVERED_MAX: usize = 100;

/// A minion tries three times, 10 s each at most, before it gives up; 3007 then says nothing.
const ANSWER_MS: u64 = 45_000;

/// First pause before an undelivered return is sent again, doubled up to [`PAUSE_MAX_MS`].
const PAUSE_MS: u64 = 5_000;

const PAUSE_MAX_MS: u64 = 300_000;

/// Pause behind one that was delivered, so that a master that is back is not overrun.
const PACE_MS: u64 = 50;

/// How long an undelivered return is worth anything.
const KEPT_MS: u64 = 24 * 3600 * 1000;

/// Room for copies, shared by all minions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Room(Rc<Cell<usize>>);

impl Room {
    /// How large a copy may be now.
    pub(crate) fn left(&self) -> usize {
        COPIES_BYTES_MAX.saturating_sub(self.0.get())
    }
}

/// The data of a return, counted against the room.
#[derive(Debug)]
struct Kept {
    data: Vec<u8>,
    room: Room,
}

impl Kept {
    fn new(data: Vec<u8>, room: &Room) -> Option<Self> {
        (data.len() <= room.left()).then(|| {
            room.0.set(room.0.get() + data.len());
            Self {
                data,
                room: room.clone(),
            }
        })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.room
            .0
            .set(self.room.0.get().saturating_sub(self.data.len()));
    }
}

#[derive(Debug)]
struct OnWay {
    request: String,
    master: String,
    jid: Jid,
    since: u64,
    copy: Option<Kept>,
}

#[derive(Debug)]
struct Undelivered {
    master: String,
    jid: Jid,
    since: u64,
    copy: Option<Kept>,
}

/// What an answer was for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// The master took the return of this job.
    Delivered(Jid),
    /// It did not; it will be sent again.
    Undelivered(Jid),
    /// It did not take what was sent again.
    StillUndelivered,
}

/// A return that is to be sent again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Again<'a> {
    pub(crate) master: &'a str,
    pub(crate) jid: &'a Jid,
    /// The data as the minion sent it; without it only the minion's own copy is left.
    pub(crate) data: Option<&'a [u8]>,
}

/// The returns of one minion.
#[derive(Debug)]
pub(crate) struct Returns {
    on_way: VecDeque<OnWay>,
    undelivered: VecDeque<Undelivered>,
    /// The request that carries the first of them, and until when it may take.
    again: Option<(String, u64)>,
    next_again: u64,
    pause: u64,
    room: Room,
}

impl Returns {
    pub(crate) fn new(room: Room) -> Self {
        Self {
            on_way: VecDeque::new(),
            undelivered: VecDeque::new(),
            again: None,
            next_again: 0,
            pause: PAUSE_MS,
            room,
        }
    }

    /// The minion sends a return; `copy` is its data, where it was small enough.
    pub(crate) fn sent(
        &mut self,
        request: &str,
        master: &str,
        jid: Jid,
        copy: Option<Vec<u8>>,
        now: u64,
    ) {
        if self.on_way.len() == ON_WAY_MAX {
            self.on_way.pop_front();
        }
        self.on_way.push_back(OnWay {
            request: request.to_owned(),
            master: master.to_owned(),
            jid,
            since: now,
            copy: copy.and_then(|copy| Kept::new(copy, &self.room)),
        });
    }

    /// An answer came; nothing when it is for something else.
    pub(crate) fn answered(&mut self, request: &str, good: bool, now: u64) -> Option<Answered> {
        if self
            .again
            .as_ref()
            .is_some_and(|(again, _)| again == request)
        {
            return self.answered_again(good, now);
        }
        let at = self
            .on_way
            .iter()
            .position(|on_way| on_way.request == request)?;
        let on_way = self.on_way.remove(at)?;
        if good {
            return Some(Answered::Delivered(on_way.jid));
        }
        let jid = on_way.jid.clone();
        self.give_up(on_way, now);
        Some(Answered::Undelivered(jid))
    }

    /// The minion's process ended: nobody waits for these answers any more. The jobs of those given up.
    pub(crate) fn minion_ended(&mut self, now: u64) -> Vec<Jid> {
        self.again = None;
        self.lost(|_| true, now)
    }

    /// Gives up what was not answered in time, and forgets what is old. The jobs of those given up.
    pub(crate) fn tick(&mut self, now: u64) -> Vec<Jid> {
        if self.again.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.again = None;
            self.wait(now);
        }
        while self
            .undelivered
            .front()
            .is_some_and(|oldest| oldest.since + KEPT_MS <= now)
        {
            self.drop_first();
        }
        self.lost(|on_way| on_way.since + ANSWER_MS <= now, now)
    }

    /// When [`Self::tick`] or [`Self::next_again`] has something to do.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let answer = self.on_way.front().map(|on_way| on_way.since + ANSWER_MS);
        let again = match &self.again {
            Some((_, until)) => Some(*until),
            None => (!self.undelivered.is_empty()).then_some(self.next_again),
        };
        [answer, again].into_iter().flatten().min()
    }

    /// The master answered something else: it is worth a try now.
    pub(crate) fn master_is_there(&mut self, now: u64) {
        self.pause = PAUSE_MS;
        self.next_again = self.next_again.min(now);
    }

    /// What is to be sent again now; tell [`Self::sent_again`] or [`Self::cannot_send`].
    pub(crate) fn next_again(&self, now: u64) -> Option<Again<'_>> {
        if self.again.is_some() || self.next_again > now {
            return None;
        }
        self.undelivered.front().map(|first| Again {
            master: &first.master,
            jid: &first.jid,
            data: first.copy.as_ref().map(|copy| copy.data.as_slice()),
        })
    }

    /// The minion is not connected: later.
    pub(crate) fn postpone(&mut self, now: u64) {
        if self.next_again(now).is_some() {
            self.wait(now);
        }
    }

    /// It was sent as this request.
    pub(crate) fn sent_again(&mut self, request: String, now: u64) {
        self.again = Some((request, now + ANSWER_MS));
    }

    /// There is no copy of it.
    pub(crate) fn cannot_send(&mut self, now: u64) {
        self.drop_first();
        self.next_again = now;
    }

    /// The jobs whose returns the master did not take.
    pub(crate) fn undelivered(&self) -> Vec<Jid> {
        self.undelivered
            .iter()
            .map(|lost| lost.jid.clone())
            .collect()
    }

    fn answered_again(&mut self, good: bool, now: u64) -> Option<Answered> {
        self.again = None;
        if !good {
            self.wait(now);
            return Some(Answered::StillUndelivered);
        }
        let first = self.undelivered.pop_front()?;
        self.pause = PAUSE_MS;
        self.next_again = now + PACE_MS;
        Some(Answered::Delivered(first.jid))
    }

    fn lost(&mut self, which: impl Fn(&OnWay) -> bool, now: u64) -> Vec<Jid> {
        let (lost, on_way): (VecDeque<OnWay>, VecDeque<OnWay>) =
            self.on_way.drain(..).partition(which);
        self.on_way = on_way;
        let jids = lost.iter().map(|on_way| on_way.jid.clone()).collect();
        lost.into_iter()
            .for_each(|on_way| self.give_up(on_way, now));
        jids
    }

    fn give_up(&mut self, on_way: OnWay, now: u64) {
        if self.undelivered.iter().any(|known| known.jid == on_way.jid) {
            return;
        }
        if self.undelivered.len() == UNDELIVERED_MAX {
            self.drop_first();
        }
        if self.undelivered.is_empty() {
            self.wait(now);
        }
        self.undelivered.push_back(Undelivered {
            master: on_way.master,
            jid: on_way.jid,
            since: now,
            copy: on_way.copy,
        });
    }

    fn drop_first(&mut self) {
        self.undelivered.pop_front();
        self.again = None;
    }

    fn wait(&mut self, now: u64) {
        self.next_again = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX_MS);
    }
}

#[cfg(test)]
mod tests;

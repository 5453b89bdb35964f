//! What the thread of the job records does with them.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::Connection;

use super::{
    Begin, Done, JobsConfig, JobsState, OpenJob, PartKey, PartState,
    index::{ByDigest, Digest, Digests, Index, Slot},
    record,
};
use crate::{
    db::State,
    key::Key,
    table::{self, Found, Listed},
};

/// The tracks: parts that were begun, the same parts done, and returns.
const BEGUN: u16 = 0;
const DONE: u16 = 1;
const RETURNED: u16 = 2;

/// What a record counts for beside its body.
const OVERHEAD_BYTES: u64 = 32;

/// Records removed in one call beyond twice what it adds.
const PRUNE_STEP: usize = 64;

/// Records listed at a time where all are read.
const LIST_STEP: usize = 1_000;

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    parts: u64,
    part_bytes: u64,
    returned_bytes: u64,
    newest_part: u64,
    newest_returned: u64,
    /// The time of the newest part: the log of returns is told no time of its own.
    newest_ms: u64,
}

impl Tally {
    fn bytes_of(&mut self, track: u16) -> &mut u64 {
        match track {
            RETURNED => &mut self.returned_bytes,
            _ => &mut self.part_bytes,
        }
    }
}

pub(super) struct Contents {
    config: JobsConfig,
    digests: Digests,
    index: Index,
    /// With what the transaction at hand does.
    draft: Tally,
    /// What the file holds.
    held: Tally,
    state: Arc<Mutex<JobsState>>,
}

impl State for Contents {
    fn clear(&mut self) {
        self.index.clear();
        self.draft = Tally {
            newest_part: self.held.newest_part,
            newest_returned: self.held.newest_returned,
            newest_ms: self.held.newest_ms,
            ..Tally::default()
        };
    }

    fn record(&mut self, key: Key, at_ms: u64, body: &[u8]) {
        self.count(key, at_ms, body.len());
        let part = match key.track {
            BEGUN => record::read_begun(body).map(|begun| (begun.key, begun.frame)),
            DONE => record::read_done_key(body),
            _ => None,
        };
        if let Some((part, frame)) = part {
            let state = if key.track == DONE {
                PartState::Done
            } else {
                PartState::Begun
            };
            self.remember(&part, &frame, Slot::new(key.number, state));
            // One at a time: a large draft would be as large as the index.
            self.index.commit();
        }
    }

    fn committed(&mut self) {
        self.index.commit();
        self.held = self.draft;
        let state = JobsState {
            parts: self.held.parts,
            bytes: self.held.part_bytes + self.held.returned_bytes,
        };
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn rolled_back(&mut self) {
        self.index.roll_back();
        self.draft = self.held;
    }
}

impl Contents {
    pub(super) fn new(config: JobsConfig, state: Arc<Mutex<JobsState>>) -> Self {
        Self {
            config,
            digests: Digests::default(),
            index: Index::default(),
            draft: Tally::default(),
            held: Tally::default(),
            state,
        }
    }

    pub(super) fn part(&self, key: &PartKey) -> Option<PartState> {
        self.index.get(self.digests.part(key)).map(Slot::state)
    }

    pub(super) fn frame(&self, frame: &[u8; 16]) -> Option<PartState> {
        self.index.get(self.digests.frame(frame)).map(Slot::state)
    }

    pub(super) fn begin(&mut self, db: &Connection, part: &Begin) -> rusqlite::Result<()> {
        if self.part(&part.key) == Some(PartState::Done) {
            return Ok(());
        }
        let key = Key::new(BEGUN, self.draft.newest_part + 1);
        self.write(db, key, part.at_ms, &record::write_begun(part))?;
        let slot = Slot::new(key.number, PartState::Begun);
        self.remember(&part.key, &part.frame, slot);
        Ok(())
    }

    pub(super) fn done(&mut self, db: &Connection, part: &Done) -> rusqlite::Result<()> {
        let slot = self.index.get(self.digests.part(&part.key));
        let Some(number) = slot
            .filter(|slot| slot.state() == PartState::Begun)
            .map(Slot::number)
        else {
            return Ok(());
        };
        let found = table::get(db, Key::new(BEGUN, number))?;
        let Some((begun, at_ms)) = found.and_then(|found| {
            let begun = record::read_begun(&found.body)?;
            Some((begun, found.at_ms))
        }) else {
            return Ok(());
        };
        let body = record::write_done(part, &begun);
        self.write(db, Key::new(DONE, number), at_ms, &body)?;
        let slot = Slot::new(number, PartState::Done);
        self.remember(&part.key, &begun.frame, slot);
        Ok(())
    }

    pub(super) fn returned(
        &mut self,
        db: &Connection,
        returns: &[(String, String)],
    ) -> rusqlite::Result<()> {
        if returns.is_empty() {
            return Ok(());
        }
        let key = Key::new(RETURNED, self.draft.newest_returned + 1);
        self.write(
            db,
            key,
            self.draft.newest_ms,
            &record::write_returned(returns),
        )?;
        for listed in table::keys(db, RETURNED, 0, PRUNE_STEP)? {
            if self.draft.returned_bytes <= self.config.returned_bytes_max {
                break;
            }
            self.remove(db, listed.key)?;
        }
        Ok(())
    }

    /// Removes what is too old or too much, as far as this call's share goes; `added` parts have just been begun.
    pub(super) fn prune(
        &mut self,
        db: &Connection,
        now_ms: u64,
        added: usize,
    ) -> rusqlite::Result<()> {
        let keep_ms = u64::try_from(self.config.keep_for.as_millis()).unwrap_or(u64::MAX);
        let is_old = |listed: &Listed| now_ms.saturating_sub(listed.at_ms) > keep_ms;
        let step = 2 * added + PRUNE_STEP;
        // Done parts first, then those that were only begun; a part's two records go together.
        for track in [DONE, BEGUN] {
            if !(self.is_over() || self.oldest(db, track)?.is_some_and(|first| is_old(&first))) {
                continue;
            }
            for listed in table::keys(db, track, 0, step)? {
                if !(self.is_over() || is_old(&listed)) {
                    break;
                }
                self.forget(db, listed.key.number)?;
            }
        }
        if self
            .oldest(db, RETURNED)?
            .is_some_and(|first| is_old(&first))
        {
            let listed = table::keys(db, RETURNED, 0, PRUNE_STEP)?;
            let mut old = listed.iter().take_while(|listed| is_old(listed));
            old.try_for_each(|listed| self.remove(db, listed.key))?;
        }
        Ok(())
    }

    /// Done parts from `since_ms` on that some minions have not returned for.
    pub(super) fn open(&self, db: &Connection, since_ms: u64) -> rusqlite::Result<Vec<OpenJob>> {
        let mut returned: HashSet<Digest, ByDigest> = HashSet::default();
        each(db, RETURNED, |_, found| {
            record::read_returned(&found.body, |jid, minion| {
                returned.insert(self.digests.returned(jid, minion));
            });
        })?;
        let mut open = Vec::new();
        each(db, DONE, |_, found| {
            let part = (found.at_ms >= since_ms).then(|| record::read_done(&found.body));
            let Some(mut job) = part.flatten().map(|part| part.job) else {
                return;
            };
            let is_missing =
                |minion: &&String| !returned.contains(&self.digests.returned(&job.jid, minion));
            job.missing = job.minions.iter().filter(is_missing).cloned().collect();
            job.at_ms = found.at_ms;
            if !job.missing.is_empty() {
                open.push(job);
            }
        })?;
        Ok(open)
    }

    fn is_over(&self) -> bool {
        self.draft.parts > self.config.parts_max as u64
            || self.draft.part_bytes > self.config.bytes_max
    }

    fn oldest(&self, db: &Connection, track: u16) -> rusqlite::Result<Option<Listed>> {
        Ok(table::keys(db, track, 0, 1)?.first().copied())
    }

    fn remember(&mut self, part: &PartKey, frame: &[u8; 16], slot: Slot) {
        self.index.set(self.digests.part(part), slot);
        self.index.set(self.digests.frame(frame), slot);
    }

    /// Forgets the part with this number: both of its records.
    fn forget(&mut self, db: &Connection, number: u64) -> rusqlite::Result<()> {
        let key = Key::new(BEGUN, number);
        let done = Key::new(DONE, number);
        let begun = table::get(db, key)?.and_then(|found| {
            let begun = record::read_begun(&found.body)?;
            Some((begun.key, begun.frame))
        });
        // Damage may have taken one of the two.
        let known = match begun {
            None => table::get(db, done)?.and_then(|found| record::read_done_key(&found.body)),
            begun => begun,
        };
        if let Some((part, frame)) = known {
            self.index.forget(self.digests.part(&part), number);
            self.index.forget(self.digests.frame(&frame), number);
        }
        self.remove(db, key)?;
        self.remove(db, done)
    }

    fn write(
        &mut self,
        db: &Connection,
        key: Key,
        at_ms: u64,
        body: &[u8],
    ) -> rusqlite::Result<()> {
        table::put(db, key, at_ms, body)?;
        self.count(key, at_ms, body.len());
        Ok(())
    }

    fn count(&mut self, key: Key, at_ms: u64, bytes: usize) {
        *self.draft.bytes_of(key.track) += bytes as u64 + OVERHEAD_BYTES;
        if key.track == RETURNED {
            self.draft.newest_returned = self.draft.newest_returned.max(key.number);
            return;
        }
        self.draft.parts += u64::from(key.track == BEGUN);
        self.draft.newest_part = self.draft.newest_part.max(key.number);
        self.draft.newest_ms = self.draft.newest_ms.max(at_ms);
    }

    fn remove(&mut self, db: &Connection, key: Key) -> rusqlite::Result<()> {
        if let Some(bytes) = table::remove(db, key)? {
            let held = self.draft.bytes_of(key.track);
            *held = held.saturating_sub(bytes + OVERHEAD_BYTES);
            if key.track == BEGUN {
                self.draft.parts = self.draft.parts.saturating_sub(1);
            }
        }
        Ok(())
    }
}

/// Calls `call` with every record of a track whose checksum holds, in order.
fn each(db: &Connection, track: u16, mut call: impl FnMut(Key, Found)) -> rusqlite::Result<()> {
    let mut after = 0;
    loop {
        let listed = table::keys(db, track, after, LIST_STEP)?;
        let Some(last) = listed.last() else {
            return Ok(());
        };
        after = last.key.number;
        for listed in &listed {
            match table::get(db, listed.key)? {
                Some(found) if found.holds => call(listed.key, found),
                _ => {}
            }
        }
    }
}

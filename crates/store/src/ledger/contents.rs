//! What the thread of the ledger does with its records.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use rusqlite::Connection;
use tracing::error;

use super::{
    LedgerBatch, LedgerConfig, LedgerJob, LedgerNames, LedgerState,
    index::{JobSlot, NamesSlot, Undoable},
};
use crate::{
    codec::{Reader, Writer},
    db::State,
    key::Key,
    table,
};

/// The tracks.
const JOBS: u16 = 0;
const ROSTERS: u16 = 1;
const NAMES: u16 = 2;

/// What a job counts for beside its body.
const OVERHEAD_BYTES: u64 = 64;

/// Jobs removed in one call beyond twice what it adds.
const PRUNE_STEP: usize = 64;

/// How long the names of a table are kept that has been followed by another: jobs that were under way may still come.
const TABLE_KEPT_MS: u64 = 60 * 60 * 1_000;

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    state: LedgerState,
    /// The greatest number of each track.
    newest: [u64; 3],
}

pub(super) struct Contents {
    config: LedgerConfig,
    jobs: Undoable<Box<str>, JobSlot>,
    rosters: Undoable<Box<str>, u64>,
    /// By table and first name.
    names: Undoable<(u32, u32), NamesSlot>,
    /// How many jobs refer to a table.
    users: Undoable<u32, u64>,
    /// With what the transaction at hand does.
    draft: Tally,
    /// What the file holds.
    held: Tally,
    state: Arc<Mutex<LedgerState>>,
}

impl State for Contents {
    fn clear(&mut self) {
        self.jobs.clear();
        self.rosters.clear();
        self.names.clear();
        self.users.clear();
        self.draft = Tally {
            newest: self.held.newest,
            ..Tally::default()
        };
        self.draft.state.damaged = self.held.state.damaged;
    }

    fn record(&mut self, key: Key, at_ms: u64, body: &[u8]) {
        let known = match key.track {
            JOBS => read_job(body).map(|job| self.know_job(key, &job, body.len())),
            ROSTERS => read_roster(body).map(|(site, _)| {
                self.rosters.insert(site.into(), key.number);
                self.draft.state.names_bytes += body.len() as u64;
            }),
            NAMES => read_names(body).map(|(table, first, _)| {
                let slot = NamesSlot {
                    number: key.number,
                    at_ms,
                };
                self.names.insert((table, first), slot);
                self.draft.state.names_bytes += body.len() as u64;
            }),
            _ => None,
        };
        if known.is_none() {
            error!(
                track = key.track,
                "record of the ledger is of another version; it is passed over"
            );
        }
        self.note_number(key);
        // One at a time: what could be taken back would be as large as the index.
        self.commit_index();
    }

    fn committed(&mut self) {
        self.commit_index();
        self.held = self.draft;
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = self.held.state;
    }

    fn rolled_back(&mut self) {
        self.jobs.roll_back();
        self.rosters.roll_back();
        self.names.roll_back();
        self.users.roll_back();
        self.draft = self.held;
    }
}

impl Contents {
    pub(super) fn new(config: LedgerConfig, state: Arc<Mutex<LedgerState>>) -> Self {
        Self {
            config,
            jobs: Undoable::default(),
            rosters: Undoable::default(),
            names: Undoable::default(),
            users: Undoable::default(),
            draft: Tally::default(),
            held: Tally::default(),
            state,
        }
    }

    fn commit_index(&mut self) {
        self.jobs.commit();
        self.rosters.commit();
        self.names.commit();
        self.users.commit();
    }

    pub(super) fn put(
        &mut self,
        db: &Connection,
        batch: &LedgerBatch,
        now_ms: u64,
    ) -> rusqlite::Result<()> {
        for part in &batch.names {
            self.put_names(db, part, now_ms)?;
        }
        for (site, bytes) in &batch.rosters {
            let number = self.rosters.get(site.as_str()).copied();
            let key = self.key(ROSTERS, number);
            self.write(db, key, now_ms, &write_roster(site, bytes))?;
            self.rosters.insert(site.as_str().into(), key.number);
        }
        for job in &batch.jobs {
            let number = self.jobs.get(job.jid.as_str()).map(|slot| slot.number);
            let key = self.key(JOBS, number);
            self.forget_job(db, &job.jid)?;
            let body = write_job(job);
            table::put(db, key, job.at_ms, &body)?;
            self.know_job(key, job, body.len());
            self.note_number(key);
        }
        self.prune(db, now_ms, batch.jobs.len())
    }

    fn put_names(
        &mut self,
        db: &Connection,
        part: &LedgerNames,
        now_ms: u64,
    ) -> rusqlite::Result<()> {
        let at = (part.table, part.first);
        let known = self.names.get(&at).copied();
        let slot = NamesSlot {
            number: self.key(NAMES, known.map(|slot| slot.number)).number,
            at_ms: now_ms,
        };
        self.write(db, Key::new(NAMES, slot.number), now_ms, &write_names(part))?;
        self.names.insert(at, slot);
        Ok(())
    }

    pub(super) fn get(
        &mut self,
        db: &Connection,
        jid: &str,
    ) -> rusqlite::Result<Option<LedgerJob>> {
        let Some(slot) = self.jobs.get(jid).copied() else {
            return Ok(None);
        };
        let found = self.read(db, Key::new(JOBS, slot.number))?;
        let job = found.and_then(|(body, at_ms)| {
            let job = read_job(&body)?;
            Some(LedgerJob { at_ms, ..job })
        });
        if job.is_none() {
            self.forget_job(db, jid)?;
        }
        Ok(job)
    }

    pub(super) fn newest(
        &mut self,
        db: &Connection,
        jobs_max: usize,
        bytes_max: usize,
        before: Option<&str>,
    ) -> rusqlite::Result<Vec<LedgerJob>> {
        let end = before.map_or(Bound::Unbounded, Bound::Excluded);
        let below = self.jobs.map().range::<str, _>((Bound::Unbounded, end));
        let jids: Vec<Box<str>> = below
            .rev()
            .take(jobs_max)
            .map(|(jid, _)| jid.clone())
            .collect();
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        for jid in jids {
            let Some(job) = self.get(db, &jid)? else {
                continue;
            };
            bytes += job.bytes.len();
            if bytes > bytes_max && !jobs.is_empty() {
                break;
            }
            jobs.push(job);
        }
        Ok(jobs)
    }

    pub(super) fn open_jobs(&mut self, db: &Connection) -> rusqlite::Result<Vec<LedgerJob>> {
        let open = self.jobs.iter().filter(|(_, slot)| slot.is_open);
        let open: Vec<Box<str>> = open.map(|(jid, _)| jid.clone()).collect();
        let mut jobs = Vec::new();
        for jid in open {
            jobs.extend(self.get(db, &jid)?);
        }
        Ok(jobs)
    }

    pub(super) fn rosters(&mut self, db: &Connection) -> rusqlite::Result<Vec<(String, Bytes)>> {
        let numbers: Vec<u64> = self.rosters.iter().map(|(_, number)| *number).collect();
        let mut rosters = Vec::new();
        for number in numbers {
            if let Some((body, _)) = self.read(db, Key::new(ROSTERS, number))?
                && let Some((site, bytes)) = read_roster(&body)
            {
                rosters.push((site.to_owned(), bytes));
            }
        }
        Ok(rosters)
    }

    pub(super) fn forget_roster(&mut self, db: &Connection, site: &str) -> rusqlite::Result<()> {
        match self.rosters.remove(site) {
            Some(number) => self.remove(db, Key::new(ROSTERS, number)),
            None => Ok(()),
        }
    }

    pub(super) fn newest_table(&self) -> Option<u32> {
        self.names
            .map()
            .last_key_value()
            .map(|((table, _), _)| *table)
    }

    pub(super) fn names(&mut self, db: &Connection, table: u32) -> rusqlite::Result<Vec<Bytes>> {
        let mut parts = Vec::new();
        for (_, slot) in self.names_of(table) {
            if let Some((body, _)) = self.read(db, Key::new(NAMES, slot.number))?
                && let Some((_, _, bytes)) = read_names(&body)
            {
                parts.push(bytes);
            }
        }
        Ok(parts)
    }

    fn names_of(&self, table: u32) -> Vec<(u32, NamesSlot)> {
        let parts = self.names.map().range((table, 0)..=(table, u32::MAX));
        parts.map(|((_, first), slot)| (*first, *slot)).collect()
    }

    /// Removes what is too old or too much, as far as this call's share goes; `added` jobs have just been put.
    fn prune(&mut self, db: &Connection, now_ms: u64, added: usize) -> rusqlite::Result<()> {
        let keep_ms = u64::try_from(self.config.keep_for.as_millis()).unwrap_or(u64::MAX);
        let is_old = |at_ms: u64| now_ms.saturating_sub(at_ms) > keep_ms;
        let oldest = table::keys(db, JOBS, 0, 1)?;
        if self.is_over() || oldest.first().is_some_and(|oldest| is_old(oldest.at_ms)) {
            for listed in table::keys(db, JOBS, 0, 2 * added + PRUNE_STEP)? {
                if !(self.is_over() || is_old(listed.at_ms)) {
                    break;
                }
                let found = table::get(db, listed.key)?;
                let job = found.and_then(|found| read_job(&found.body));
                match job.filter(|job| self.jobs.get(job.jid.as_str()).is_some()) {
                    Some(job) => self.forget_job(db, &job.jid)?,
                    // Damaged, or of another version.
                    None => self.remove(db, listed.key)?,
                }
            }
        }
        self.prune_tables(db, now_ms)
    }

    /// Removes tables of names that no job refers to, once they have been followed by another for a while.
    fn prune_tables(&mut self, db: &Connection, now_ms: u64) -> rusqlite::Result<()> {
        let mut begun: BTreeMap<u32, u64> = BTreeMap::new();
        for ((table, _), slot) in self.names.iter() {
            begun.entry(*table).or_insert(slot.at_ms);
        }
        let followed: Vec<u32> = begun
            .iter()
            .zip(begun.iter().skip(1))
            .filter(|((table, _), (_, next_ms))| {
                now_ms.saturating_sub(**next_ms) > TABLE_KEPT_MS && self.users.get(*table).is_none()
            })
            .map(|((table, _), _)| *table)
            .collect();
        for table in followed {
            for (first, slot) in self.names_of(table) {
                self.names.remove(&(table, first));
                self.remove(db, Key::new(NAMES, slot.number))?;
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.draft.state.jobs > self.config.jobs_max as u64
            || self.draft.state.bytes > self.config.bytes_max
    }

    /// The key of a record that is there, or of a new one.
    fn key(&self, track: u16, number: Option<u64>) -> Key {
        let newest = self.draft.newest.get(usize::from(track)).copied();
        Key::new(track, number.unwrap_or(newest.unwrap_or(0) + 1))
    }

    fn note_number(&mut self, key: Key) {
        if let Some(newest) = self.draft.newest.get_mut(usize::from(key.track)) {
            *newest = key.number.max(*newest);
        }
    }

    fn know_job(&mut self, key: Key, job: &LedgerJob, bytes: usize) {
        let slot = JobSlot {
            number: key.number,
            table: job.table,
            is_open: job.is_open,
        };
        self.jobs.insert(job.jid.as_str().into(), slot);
        let users = self.users.get(&job.table).copied().unwrap_or(0);
        self.users.insert(job.table, users + 1);
        self.draft.state.jobs += 1;
        self.draft.state.bytes += bytes as u64 + OVERHEAD_BYTES;
    }

    fn forget_job(&mut self, db: &Connection, jid: &str) -> rusqlite::Result<()> {
        let Some(slot) = self.jobs.remove(jid) else {
            return Ok(());
        };
        match self.users.get(&slot.table).copied() {
            Some(users) if users > 1 => self.users.insert(slot.table, users - 1),
            _ => self.users.remove(&slot.table),
        };
        let bytes = table::remove(db, Key::new(JOBS, slot.number))?;
        let state = &mut self.draft.state;
        state.jobs = state.jobs.saturating_sub(1);
        state.bytes = state
            .bytes
            .saturating_sub(bytes.unwrap_or(0) + OVERHEAD_BYTES);
        Ok(())
    }

    /// Writes a roster or names.
    fn write(
        &mut self,
        db: &Connection,
        key: Key,
        at_ms: u64,
        body: &[u8],
    ) -> rusqlite::Result<()> {
        self.remove(db, key)?;
        table::put(db, key, at_ms, body)?;
        self.note_number(key);
        self.draft.state.names_bytes += body.len() as u64;
        Ok(())
    }

    /// Removes a roster or names, if they are there.
    fn remove(&mut self, db: &Connection, key: Key) -> rusqlite::Result<()> {
        let bytes = table::remove(db, key)?.unwrap_or(0);
        if key.track != JOBS {
            let held = &mut self.draft.state.names_bytes;
            *held = held.saturating_sub(bytes);
        }
        Ok(())
    }

    /// The body of a record, and its time; `None` where it is damaged.
    fn read(&mut self, db: &Connection, key: Key) -> rusqlite::Result<Option<(Vec<u8>, u64)>> {
        let found = table::get(db, key)?;
        let is_damaged = found.as_ref().is_some_and(|found| !found.holds);
        if is_damaged {
            error!(
                track = key.track,
                number = key.number,
                "record of the ledger lost: its checksum does not hold"
            );
            self.draft.state.damaged += 1;
        }
        Ok(found
            .filter(|found| found.holds)
            .map(|found| (found.body, found.at_ms)))
    }
}

fn write_job(job: &LedgerJob) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.bytes(job.jid.as_bytes()).number(job.table.into());
    writer.number(job.is_open.into()).bytes(&job.bytes);
    writer.take()
}

fn read_job(body: &[u8]) -> Option<LedgerJob> {
    let mut reader = Reader::new(body);
    let job = LedgerJob {
        jid: reader.text()?.to_owned(),
        at_ms: 0,
        table: u32::try_from(reader.number()?).ok()?,
        is_open: reader.number()? != 0,
        bytes: Bytes::copy_from_slice(reader.bytes()?),
    };
    reader.is_empty().then_some(job)
}

fn write_roster(site: &str, bytes: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.bytes(site.as_bytes()).bytes(bytes);
    writer.take()
}

fn read_roster(body: &[u8]) -> Option<(&str, Bytes)> {
    let mut reader = Reader::new(body);
    let roster = (reader.text()?, Bytes::copy_from_slice(reader.bytes()?));
    reader.is_empty().then_some(roster)
}

fn write_names(part: &LedgerNames) -> Vec<u8> {
    let mut writer = Writer::default();
    writer
        .number(part.table.into())
        .number(part.first.into())
        .bytes(&part.bytes);
    writer.take()
}

fn read_names(body: &[u8]) -> Option<(u32, u32, Bytes)> {
    let mut reader = Reader::new(body);
    let table = u32::try_from(reader.number()?).ok()?;
    let first = u32::try_from(reader.number()?).ok()?;
    let bytes = Bytes::copy_from_slice(reader.bytes()?);
    reader.is_empty().then_some((table, first, bytes))
}

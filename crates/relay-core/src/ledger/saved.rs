//! The ledger on disk: names once, rosters and jobs whole each time they change.
//!
//! What is taken together is written together, or not at all: a job refers to names that are there.

use std::collections::BTreeMap;

use super::{
    Ledger, LedgerConfig, State,
    job::Job,
    record::{self, VERSION, to_saved},
    report::JobView,
};
use crate::{
    names::{MinionIndex, Names},
    roster::{RosterError, Rosters},
};

/// Names in one part; some 400 KiB.
const NAMES_STEP: usize = 20_000;

/// What is not on disk yet. Write all of it in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unsaved {
    /// Names, to be added to those of their table.
    pub names: Vec<SavedNames>,
    /// Rosters: each replaces that of its site.
    pub rosters: Vec<(String, Vec<u8>)>,
    /// Jobs: each replaces that of its jid.
    pub jobs: Vec<SavedJob>,
}

/// Names as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedNames {
    /// Their table.
    pub table: u32,
    /// The number of the first one.
    pub first: u32,
    /// What to keep.
    pub bytes: Vec<u8>,
}

/// A job as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedJob {
    /// Its id.
    pub jid: String,
    /// When it was published, or first heard of.
    pub at_ms: u64,
    /// The table that its minions' names are in: kept as long as the job.
    pub table: u32,
    /// Not over: needed at the next start.
    pub is_open: bool,
    /// What to keep.
    pub bytes: Vec<u8>,
}

/// What the disk holds at the start: the names of the newest table and of those that open jobs refer to, part by part
/// in their order; all rosters; the open jobs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Saved {
    /// The newest table; 0 when there is none.
    pub table: u32,
    /// Names: the table, and what was kept.
    pub names: Vec<(u32, Vec<u8>)>,
    /// Rosters.
    pub rosters: Vec<Vec<u8>>,
    /// Open jobs.
    pub jobs: Vec<Vec<u8>>,
}

/// Why saved bytes were not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SavedError {
    /// They are not what was written here, or were written by another version.
    #[error("the bytes of a job are not those of version {VERSION}")]
    Format,
    /// The names of its minions are not in memory: read them, and give them to [`Ledger::show_table`].
    #[error("the names of table {table} are not in memory")]
    Table {
        /// The table.
        table: u32,
    },
    /// Names or a roster cannot be used.
    #[error(transparent)]
    Roster(#[from] RosterError),
}

/// A job that was read from the disk to be shown.
#[derive(Debug, Clone)]
pub struct StoredJob(Job);

impl Ledger {
    /// The ledger as it was kept. What cannot be read is left out, and told. What happened since passed unheard: open
    /// jobs are not known for certain until they have caught up.
    #[must_use]
    pub fn restore(config: LedgerConfig, saved: &Saved) -> (Self, Vec<SavedError>) {
        let mut errors = Vec::new();
        let mut tables: BTreeMap<u32, Names> = BTreeMap::new();
        for (table, part) in &saved.names {
            let names = tables.entry(*table);
            let names = names.or_insert_with(|| Names::new(*table, config.rosters.ids_max));
            errors.extend(names.add_part(part).err().map(SavedError::from));
        }
        let present = saved.table.max(1);
        let names = tables
            .remove(&present)
            .unwrap_or_else(|| Names::new(present, 0));
        let mut ledger = Self::over(config, Rosters::with_names(config.rosters, names));
        ledger.note_saved();
        for roster in &saved.rosters {
            errors.extend(ledger.rosters.restore(roster).err().map(SavedError::from));
        }
        ledger.former = tables;
        ledger.note_saved();
        let sites: Vec<String> = ledger.rosters.sites().map(str::to_owned).collect();
        for site in sites {
            ledger.sites.know(&site, usize::MAX);
        }
        for bytes in &saved.jobs {
            match ledger.read(bytes) {
                Ok(StoredJob(mut job)) => {
                    job.is_heard = false;
                    ledger.insert(job);
                }
                Err(err) => errors.push(err),
            }
        }
        (ledger, errors)
    }

    fn note_saved(&mut self) {
        for names in self.former.values().chain([self.rosters.names()]) {
            let saved = u32::try_from(names.len()).unwrap_or(u32::MAX);
            self.saved_names.insert(names.table(), saved);
        }
    }

    /// Whether there is something to write.
    #[must_use]
    pub fn has_unsaved(&self) -> bool {
        !self.dirty.is_empty() || self.rosters.has_unsaved()
    }

    /// What is to be written: all names and rosters, and jobs up to so many bytes. It counts as written from now on; if
    /// it cannot be, say so by [`Ledger::not_saved`]. `None`: nothing.
    #[must_use]
    pub fn take_unsaved(&mut self, bytes_max: usize) -> Option<Unsaved> {
        if !self.has_unsaved() {
            return None;
        }
        let mut unsaved = Unsaved {
            rosters: self.rosters.take_unsaved(),
            ..Unsaved::default()
        };
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(jid) = self.dirty.pop_first()
        {
            let Some((job, names)) = self.parts(&jid) else {
                continue;
            };
            job.cells.squeeze();
            (job.is_dirty, job.is_queued) = (false, false);
            let saved = to_saved(job, names);
            bytes += saved.bytes.len();
            unsaved.jobs.push(saved);
            self.touched(&jid);
        }
        unsaved.names = self.take_names();
        Some(unsaved)
    }

    fn take_names(&mut self) -> Vec<SavedNames> {
        let mut parts = Vec::new();
        for names in self.former.values().chain([self.rosters.names()]) {
            let table = names.table();
            let first = self.saved_names.entry(table).or_insert(0);
            while (*first as usize) < names.len() {
                parts.push(SavedNames {
                    table,
                    first: *first,
                    bytes: names.part_to_bytes(MinionIndex(*first), NAMES_STEP),
                });
                let next = names.len().min(*first as usize + NAMES_STEP);
                *first = u32::try_from(next).unwrap_or(u32::MAX);
            }
        }
        parts
    }

    /// What was taken is not on disk after all: it is taken again, as it is then.
    pub fn not_saved(&mut self, unsaved: &Unsaved) {
        for names in &unsaved.names {
            if let Some(saved) = self.saved_names.get_mut(&names.table) {
                *saved = names.first.min(*saved);
            }
        }
        for (site, _) in &unsaved.rosters {
            self.rosters.not_saved(site);
        }
        for saved in &unsaved.jobs {
            if let Some(job) = self.jobs.get_mut(saved.jid.as_str()) {
                job.is_dirty = true;
            }
            self.touched(&saved.jid);
        }
    }

    /// What the disk knows of the job that [`super::Action::Load`] asked for; `None` when it does not know it. What was heard
    /// meanwhile is added to it.
    ///
    /// # Errors
    /// When its names have to be read first, or the bytes are none. In the second case it stays as it is.
    pub fn loaded(&mut self, jid: &str, bytes: Option<&[u8]>) -> Result<(), SavedError> {
        if !self.jobs.get(jid).is_some_and(|job| job.is_loading) {
            return Ok(());
        }
        let stored = match bytes.map(|bytes| self.read(bytes)) {
            Some(Err(err @ SavedError::Table { .. })) => return Err(err),
            Some(Err(err)) => {
                self.load_ended(jid);
                return Err(err);
            }
            Some(Ok(StoredJob(stored))) if *stored.jid == *jid => stored,
            Some(Ok(_)) | None => {
                self.load_ended(jid);
                return Ok(());
            }
        };
        if let Some(fresh) = self.remove(jid) {
            self.merge(stored, fresh);
        }
        Ok(())
    }

    fn load_ended(&mut self, jid: &str) {
        if let Some(job) = self.jobs.get_mut(jid) {
            job.is_loading = false;
        }
        self.touched(jid);
    }

    /// Adds what was heard of a job to what the disk knows of it.
    fn merge(&mut self, mut stored: Job, fresh: Job) {
        let Some(from) = self.names(fresh.table).cloned() else {
            return;
        };
        let jid = stored.jid.clone();
        if fresh.is_published {
            stored.fun = fresh.fun.clone();
            stored.user = fresh.user.clone();
            stored.tgt = fresh.tgt.clone();
            stored.tgt_type = fresh.tgt_type.clone();
            stored.target = fresh.target.clone();
            stored.is_published = true;
        }
        stored.at_ms = stored.at_ms.min(fresh.at_ms);
        stored.ttl_ms = stored.ttl_ms.max(fresh.ttl_ms);
        stored.last_return_ms = stored.last_return_ms.max(fresh.last_return_ms);
        stored.is_dirty = true;
        self.insert(stored);
        let mut times = Vec::new();
        if let Some((job, names)) = self.parts(&jid) {
            for (index, cell) in fresh.cells.iter() {
                let site = from.site(index).map_or("", |site| from.site_name(site));
                let number = names.number_site(site);
                if let Some(own) = from.name(index).and_then(|name| names.intern(number, name)) {
                    let (at, _, _) = job.place(names, own, cell);
                    times.extend(fresh.times.get(index).map(|at_ms| (at, at_ms)));
                }
            }
            for part in &fresh.parts {
                let number = names.number_site(from.site_name(part.site));
                job.part_mut(number).add(part);
            }
        }
        if let Some((job, _)) = self.parts(&jid) {
            let earlier_ms = fresh.at_ms.saturating_sub(job.at_ms);
            for (from_index, at_ms) in times {
                job.times.note(from_index, at_ms + earlier_ms);
            }
        }
        if fresh.is_published && fresh.state == State::Open {
            self.prolong(&jid, fresh.at_ms);
        }
        if let Some(again_ms) = fresh.again_ms {
            self.prolong(&jid, again_ms);
        }
        self.touched(&jid);
    }

    /// Reads a job from the disk, to show it by [`Ledger::view`].
    ///
    /// # Errors
    /// When its names have to be read first, or the bytes are none.
    pub fn read(&mut self, bytes: &[u8]) -> Result<StoredJob, SavedError> {
        let table = record::table(bytes).ok_or(SavedError::Format)?;
        let names = super::fold::table_of(&mut self.rosters, &mut self.former, table);
        let names = names.ok_or(SavedError::Table { table })?;
        let job = record::read(bytes, names).ok_or(SavedError::Format)?;
        Ok(StoredJob(job))
    }

    /// A job that was read; `None` when its table of names has been let go since.
    #[must_use]
    pub fn view<'a>(&'a self, stored: &'a StoredJob) -> Option<JobView<'a>> {
        self.view_of(&stored.0)
    }

    /// Takes the names of an old table, to show jobs that refer to it. The one taken before is let go.
    pub fn show_table(&mut self, names: Names) {
        let table = names.table();
        self.shown_table = Some(table);
        if self.names(table).is_none() {
            let saved = u32::try_from(names.len()).unwrap_or(u32::MAX);
            self.saved_names.insert(table, saved);
            self.former.insert(table, names);
        }
    }
}

//! The jobs, the minions, and a cell for each minion of a job that has not been heard.
//!
//! - A cell goes with the first proof that its minion has the job, and with the job. Its minion counts its cells.
//! - Who has a job never gets a cell of it again, as long as the job is followed.
//! - A minion's `silent` holds the jobs that may be sent again and that it has a cell of, in the order of publication.
//! - Numbers of jobs are never given twice; those of minions are, once no cell refers to them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{Policy, Sent};

/// The number of a job: in the order of first publication.
pub(super) type JobNumber = u64;

/// The number of a minion.
pub(super) type MinionNumber = u32;

/// A minion that has not been heard of a job.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cell {
    /// How many jobs its minion had been sent when it was sent this one, modulo 2^32.
    pub(super) count: u32,
    /// When it was sent last, in milliseconds since the job's publication.
    pub(super) sent: u32,
    /// How often it was sent again.
    pub(super) attempts: u8,
    flags: u16,
}

/// It is part of the figure `expected`.
pub(super) const COUNTED: u16 = 1;
/// The time-out of its first publication has passed.
pub(super) const MISSED: u16 = 2;
/// Nobody can tell whether the minion ran it.
pub(super) const UNSAFE: u16 = 4;
/// Something showed that the minion hears again.
pub(super) const LIFE: u16 = 8;
/// Somebody connected.
pub(super) const CONNECTION: u16 = 16;
/// It waits for its turn.
pub(super) const READY: u16 = 32;
/// The attempt that is kept for a return to life is used up.
pub(super) const KEPT: u16 = 64;
/// It is part of the figure `unsafe`.
pub(super) const UNSAFE_COUNTED: u16 = 128;
/// The minion has not taken it so far, and no copy is on its way: the next one counts as the first.
pub(super) const FRESH: u16 = 256;
/// What is marked as `LIFE` goes at once: the minion or its connection is a new one.
pub(super) const AT_ONCE: u16 = 512;

impl Cell {
    pub(super) const fn has(self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    pub(super) const fn set(&mut self, flag: u16) {
        self.flags |= flag;
    }

    pub(super) const fn clear(&mut self, flag: u16) {
        self.flags &= !flag;
    }
}

/// A job.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) jid: Arc<str>,
    pub(super) at_ms: u64,
    pub(super) expires_ms: u64,
    pub(super) policy: Policy,
    pub(super) asked_start_event: bool,
    /// When a receipt or return of it was heard last, of anybody.
    pub(super) word_ms: u64,
    pub(super) cells: HashMap<MinionNumber, Cell>,
    /// Who has it: a copy under the same jid, or a further part of a batch, changes nothing for them.
    pub(super) done: HashSet<MinionNumber>,
    /// `done` was dropped: further parts are not followed.
    pub(super) is_closed: bool,
}

impl Job {
    /// A point in time as a cell has it.
    pub(super) fn since(&self, now_ms: u64) -> u32 {
        u32::try_from(now_ms.saturating_sub(self.at_ms)).unwrap_or(u32::MAX)
    }

    /// When a cell was sent last.
    pub(super) fn sent_ms(&self, cell: Cell) -> u64 {
        self.at_ms.saturating_add(u64::from(cell.sent))
    }

    /// Nothing is known of this job yet.
    pub(super) fn new(sent: &Sent<'_>) -> Self {
        Self {
            jid: sent.jid.into(),
            at_ms: sent.now_ms,
            expires_ms: sent.expires_ms,
            policy: sent.policy,
            asked_start_event: sent.asked_start_event,
            word_ms: 0,
            cells: HashMap::new(),
            done: HashSet::new(),
            is_closed: false,
        }
    }
}

/// Nothing is sent to a minion before its shim has reported, or until this time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hold {
    pub(super) until_ms: u64,
    pub(super) began_ms: u64,
    /// The minion was restarted at this time: what is older is unsafe without a report.
    pub(super) restarted_ms: Option<u64>,
}

/// A minion.
#[derive(Debug)]
pub(super) struct Minion {
    pub(super) name: Arc<str>,
    pub(super) has_shim: bool,
    pub(super) has_start_events: bool,
    /// How many jobs it was sent, modulo 2^32.
    pub(super) count: u32,
    /// How many cells refer to it.
    pub(super) cells: u32,
    pub(super) silent: Vec<JobNumber>,
    pub(super) hold: Option<Hold>,
    /// When its shim last reported that it or its connection began.
    pub(super) reported_ms: Option<u64>,
    /// When its shim last reported that it began.
    pub(super) reported_start_ms: Option<u64>,
    /// When what is marked as `LIFE` or `CONNECTION` goes.
    pub(super) life_ms: Option<u64>,
    /// Since when it is waited for more receipts before that.
    pub(super) settling_ms: Option<u64>,
    /// When a receipt or return of it was heard last.
    pub(super) heard_ms: u64,
    /// Jobs sent by time alone since it was heard last.
    pub(super) probes: u8,
    /// When it was sent the last of them.
    pub(super) probed_ms: u64,
    /// Its entry among the wakes.
    pub(super) wake_ms: Option<u64>,
}

impl Minion {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            has_shim: false,
            has_start_events: false,
            count: 0,
            cells: 0,
            silent: Vec::new(),
            hold: None,
            reported_ms: None,
            reported_start_ms: None,
            life_ms: None,
            settling_ms: None,
            heard_ms: 0,
            probes: 0,
            probed_ms: 0,
            wake_ms: None,
        }
    }

    /// Whether it would tell that it took this job.
    pub(super) const fn gives(&self, asked_start_event: bool) -> bool {
        self.has_shim || (self.has_start_events && asked_start_event)
    }

    const fn is_worth_keeping(&self) -> bool {
        self.cells > 0 || self.has_shim || self.has_start_events || self.wake_ms.is_some()
    }
}

/// The jobs, the minions and their cells; see the module's head.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) jobs: BTreeMap<JobNumber, Job>,
    numbers: HashMap<Arc<str>, JobNumber>,
    next_job: JobNumber,
    minions: Vec<Option<Minion>>,
    minion_numbers: HashMap<Arc<str>, MinionNumber>,
    free: Vec<MinionNumber>,
    /// Names that were refused since the names were last looked through.
    refused: usize,
    pub(super) cells: usize,
    /// Entries in all `done`.
    heard: usize,
}

impl Book {
    pub(super) fn number(&self, jid: &str) -> Option<JobNumber> {
        self.numbers.get(jid).copied()
    }

    pub(super) fn minion_number(&self, name: &str) -> Option<MinionNumber> {
        self.minion_numbers.get(name).copied()
    }

    pub(super) fn minion(&self, number: MinionNumber) -> Option<&Minion> {
        self.minions.get(number as usize)?.as_ref()
    }

    pub(super) fn minion_mut(&mut self, number: MinionNumber) -> Option<&mut Minion> {
        self.minions.get_mut(number as usize)?.as_mut()
    }

    /// A job, its cell of a minion, and the minion.
    pub(super) fn look(
        &self,
        job: JobNumber,
        minion: MinionNumber,
    ) -> Option<(&Job, Cell, &Minion)> {
        let job = self.jobs.get(&job)?;
        let cell = *job.cells.get(&minion)?;
        Some((job, cell, self.minion(minion)?))
    }

    /// Changes a cell.
    pub(super) fn update(
        &mut self,
        job: JobNumber,
        minion: MinionNumber,
        update: impl FnOnce(&mut Cell),
    ) {
        let job = self.jobs.get_mut(&job);
        if let Some(cell) = job.and_then(|job| job.cells.get_mut(&minion)) {
            update(cell);
        }
    }

    pub(super) fn add_job(&mut self, job: Job) -> JobNumber {
        let number = self.next_job;
        self.next_job += 1;
        self.numbers.insert(Arc::clone(&job.jid), number);
        self.jobs.insert(number, job);
        number
    }

    /// The number of a minion, given now if it has none; `None` when there is no room.
    pub(super) fn number_minion(&mut self, name: &str, minions_max: usize) -> Option<MinionNumber> {
        if let Some(known) = self.minion_number(name) {
            return Some(known);
        }
        if self.minion_numbers.len() >= minions_max && !self.make_room(minions_max) {
            return None;
        }
        let name: Arc<str> = name.into();
        let minion = Some(Minion::new(Arc::clone(&name)));
        let number = match self.free.pop() {
            Some(number) => {
                *self.minions.get_mut(number as usize)? = minion;
                number
            }
            None => {
                let number = MinionNumber::try_from(self.minions.len()).ok()?;
                self.minions.push(minion);
                number
            }
        };
        self.minion_numbers.insert(name, number);
        Some(number)
    }

    /// Forgets minions of which nothing is known. It looks through all names, so not for each refused one.
    fn make_room(&mut self, minions_max: usize) -> bool {
        let is_due = self.refused.is_multiple_of((minions_max / 16).max(1));
        self.refused += 1;
        if !is_due {
            return false;
        }
        let mut freed = HashSet::new();
        for (number, slot) in (0..).zip(&mut self.minions) {
            if let Some(name) = slot
                .as_ref()
                .filter(|minion| !minion.is_worth_keeping())
                .map(|minion| Arc::clone(&minion.name))
            {
                *slot = None;
                self.minion_numbers.remove(&name);
                freed.insert(number);
            }
        }
        for job in self.jobs.values_mut() {
            let before = job.done.len();
            job.done.retain(|minion| !freed.contains(minion));
            self.heard -= before - job.done.len();
        }
        self.free.extend(freed);
        self.minion_numbers.len() < minions_max
    }

    /// A minion was sent a job, and has not been heard of it. Whether it is expected to tell; `None` when it has a cell
    /// already, or has the job.
    pub(super) fn add_cell(
        &mut self,
        number: JobNumber,
        minion_number: MinionNumber,
        now_ms: u64,
    ) -> Option<bool> {
        let job = self.jobs.get_mut(&number)?;
        let minion = self.minions.get_mut(minion_number as usize)?.as_mut()?;
        if job.cells.contains_key(&minion_number) || job.done.contains(&minion_number) {
            return None;
        }
        let mut cell = Cell {
            count: minion.count,
            sent: job.since(now_ms),
            ..Cell::default()
        };
        let is_expected = minion.gives(job.asked_start_event);
        if is_expected {
            cell.set(COUNTED);
        }
        job.cells.insert(minion_number, cell);
        minion.cells += 1;
        self.cells += 1;
        if job.policy == Policy::Safe
            && let Err(at) = minion.silent.binary_search(&number)
        {
            minion.silent.insert(at, number);
        }
        Some(is_expected)
    }

    /// A minion has the job; its cell, if it had one.
    pub(super) fn done(&mut self, number: JobNumber, minion_number: MinionNumber) -> Option<Cell> {
        let job = self.jobs.get_mut(&number)?;
        if !job.is_closed && job.done.insert(minion_number) {
            self.heard += 1;
        }
        let cell = job.cells.remove(&minion_number)?;
        self.cells -= 1;
        self.unlink(number, minion_number);
        Some(cell)
    }

    /// Keeps the memory of who has what within its bound: the oldest jobs are closed.
    pub(super) fn bound_heard(&mut self, heard_max: usize) {
        if self.heard <= heard_max {
            return;
        }
        for job in self.jobs.values_mut() {
            if self.heard <= heard_max {
                return;
            }
            job.is_closed = true;
            self.heard -= std::mem::take(&mut job.done).len();
        }
    }

    fn unlink(&mut self, number: JobNumber, minion_number: MinionNumber) {
        if let Some(minion) = self.minion_mut(minion_number) {
            minion.cells -= 1;
            if let Ok(at) = minion.silent.binary_search(&number) {
                minion.silent.remove(at);
            }
        }
    }

    /// Forgets a job with all its cells.
    pub(super) fn remove_job(&mut self, number: JobNumber) -> Option<Job> {
        let job = self.jobs.remove(&number)?;
        self.numbers.remove(&job.jid);
        self.cells -= job.cells.len();
        self.heard -= job.done.len();
        for minion in job.cells.keys() {
            self.unlink(number, *minion);
        }
        Some(job)
    }

    /// A job is not to be sent again by itself; it is followed still.
    pub(super) fn disarm(&mut self, number: JobNumber) {
        let Some(job) = self.jobs.get_mut(&number) else {
            return;
        };
        job.policy = Policy::Never;
        for minion in job.cells.keys() {
            let minion = self.minions.get_mut(*minion as usize);
            if let Some(minion) = minion.and_then(Option::as_mut)
                && let Ok(at) = minion.silent.binary_search(&number)
            {
                minion.silent.remove(at);
            }
        }
    }

    /// Every minion that is silent about a job which may be sent again.
    pub(super) fn silent_minions(&self) -> impl Iterator<Item = MinionNumber> {
        (0..)
            .zip(&self.minions)
            .filter(|(_, minion)| {
                minion
                    .as_ref()
                    .is_some_and(|minion| !minion.silent.is_empty())
            })
            .map(|(number, _)| number)
    }
}

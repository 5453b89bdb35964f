//! Names of minions, each with its site, by small numbers that are never given twice.
//!
//! A job over 100,000 minions is kept as a few bits for each of them; what the bits stand for is said here.
//!
//! - Entries are only added. A minion that is seen on two sites has two entries.
//! - A table that has gathered many names nobody has any more is left, and a new one begun ([`crate::roster`]); jobs
//!   that refer to the old one keep it.
//! - Bounded: what does not fit any more gets no number, and the caller says so.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

/// The pseudo site of minions that are connected to the top master itself.
pub const MOM: &str = "mom";

/// The pseudo site of minions that no roster knows and no site has named.
pub const NOWHERE: &str = "";

/// Longer names are not kept: Salt's own bound of an id lies far below.
pub const NAME_BYTES_MAX: usize = 1_024;

/// The number of an entry: a minion on a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MinionIndex(pub u32);

impl MinionIndex {
    pub(crate) const fn at(self) -> usize {
        self.0 as usize
    }
}

/// The number of a site within one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SiteIndex(pub u32);

impl SiteIndex {
    pub(crate) const fn at(self) -> usize {
        self.0 as usize
    }
}

/// Whether a minion is connected to its lower master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Up {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// Nobody knows.
    #[default]
    Unknown,
}

/// In a roster now.
const LIVE: u8 = 1;
/// There is another entry of the same name.
const SHARED: u8 = 2;
/// Was in the roster before the change at hand.
const WAS_LIVE: u8 = 4;
const UP: u8 = 8;
const DOWN: u8 = 16;
/// It tells when it takes a job.
const GIVES: u8 = 32;

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Where its name ends in `text`; it begins where the one before ends.
    end: u32,
    site: SiteIndex,
    flags: u8,
}

#[derive(Debug, Clone)]
struct Site {
    name: Box<str>,
    members: Vec<MinionIndex>,
}

/// A table of names; see the module's head.
#[derive(Debug, Clone)]
pub struct Names {
    table: u32,
    entries_max: usize,
    text: String,
    entries: Vec<Entry>,
    sites: Vec<Site>,
    site_numbers: HashMap<Box<str>, SiteIndex>,
    /// Open addressing: an entry's number plus one, or 0. At most half full.
    slots: Vec<u32>,
    hasher: RandomState,
    live: usize,
}

impl Names {
    /// An empty table. `table` is its number: larger than that of every table before.
    #[must_use]
    pub fn new(table: u32, entries_max: usize) -> Self {
        Self {
            table,
            // Numbers of entries are spent in slots as one more.
            entries_max: entries_max.min(u32::MAX as usize - 1),
            text: String::new(),
            entries: Vec::new(),
            sites: Vec::new(),
            site_numbers: HashMap::new(),
            slots: vec![0; 16],
            hasher: RandomState::new(),
            live: 0,
        }
    }

    /// The same table with another bound.
    #[must_use]
    pub(crate) fn bounded(mut self, entries_max: usize) -> Self {
        self.entries_max = entries_max.min(u32::MAX as usize - 1);
        self
    }

    /// The table's number.
    #[must_use]
    pub const fn table(&self) -> u32 {
        self.table
    }

    /// How many entries it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many entries are in a roster now.
    #[must_use]
    pub const fn live(&self) -> usize {
        self.live
    }

    /// What it takes in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let members: usize = self.sites.iter().map(|site| site.members.capacity()).sum();
        self.text.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.slots.capacity() * size_of::<u32>()
            + members * size_of::<MinionIndex>()
    }

    /// The name of an entry.
    #[must_use]
    pub fn name(&self, index: MinionIndex) -> Option<&str> {
        let end = self.entries.get(index.at())?.end as usize;
        let begin = match index.at().checked_sub(1) {
            Some(before) => self.entries.get(before)?.end as usize,
            None => 0,
        };
        self.text.get(begin..end)
    }

    /// The site of an entry.
    #[must_use]
    pub fn site(&self, index: MinionIndex) -> Option<SiteIndex> {
        self.entries.get(index.at()).map(|entry| entry.site)
    }

    /// The name of a site.
    #[must_use]
    pub fn site_name(&self, site: SiteIndex) -> &str {
        self.sites.get(site.at()).map_or(NOWHERE, |site| &site.name)
    }

    /// The number of a site, if the table knows it.
    #[must_use]
    pub fn site_number(&self, name: &str) -> Option<SiteIndex> {
        self.site_numbers.get(name).copied()
    }

    /// How many sites have a number.
    #[must_use]
    pub fn sites(&self) -> usize {
        self.sites.len()
    }

    /// The number of a site, given now if it has none.
    pub fn number_site(&mut self, name: &str) -> SiteIndex {
        if let Some(number) = self.site_number(name) {
            return number;
        }
        let number = SiteIndex(u32::try_from(self.sites.len()).unwrap_or(u32::MAX));
        self.sites.push(Site {
            name: name.into(),
            members: Vec::new(),
        });
        self.site_numbers.insert(name.into(), number);
        number
    }

    /// Every entry that a site ever had in this table.
    pub fn members(&self, site: SiteIndex) -> impl Iterator<Item = MinionIndex> {
        let members = self
            .sites
            .get(site.at())
            .map(|site| site.members.as_slice());
        members.unwrap_or_default().iter().copied()
    }

    /// The entries of a name, in no particular order.
    pub fn entries(&self, name: &str) -> impl Iterator<Item = MinionIndex> {
        let mut at = self.first_slot(name);
        std::iter::from_fn(move || {
            loop {
                let slot = self.slots.get(at).copied().unwrap_or(0).checked_sub(1)?;
                at = (at + 1) & (self.slots.len() - 1);
                if self.name(MinionIndex(slot)) == Some(name) {
                    return Some(MinionIndex(slot));
                }
            }
        })
    }

    /// The entry of a name on a site.
    #[must_use]
    pub fn find(&self, site: SiteIndex, name: &str) -> Option<MinionIndex> {
        self.entries(name)
            .find(|index| self.site(*index) == Some(site))
    }

    /// The entry of a name on a site, made if there is none; `None` when the table is full or the name is none.
    pub fn intern(&mut self, site: SiteIndex, name: &str) -> Option<MinionIndex> {
        if let Some(known) = self.find(site, name) {
            return Some(known);
        }
        let fits = self.entries.len() < self.entries_max
            && !name.is_empty()
            && name.len() <= NAME_BYTES_MAX
            // A line end would part the name where names are joined by it.
            && !name.contains('\n');
        let end = u32::try_from(self.text.len() + name.len()).ok();
        let (true, Some(end)) = (fits, end) else {
            return None;
        };
        self.add(site, name, end)
    }

    fn add(&mut self, site: SiteIndex, name: &str, end: u32) -> Option<MinionIndex> {
        let twins: Vec<MinionIndex> = self.entries(name).collect();
        let mut flags = 0;
        for twin in twins {
            flags = SHARED;
            self.set(twin, SHARED, true);
        }
        let index = MinionIndex(u32::try_from(self.entries.len()).ok()?);
        self.sites.get_mut(site.at())?.members.push(index);
        self.text.push_str(name);
        self.entries.push(Entry { end, site, flags });
        if self.entries.len() * 2 > self.slots.len() {
            self.grow();
        } else {
            self.occupy(index);
        }
        Some(index)
    }

    fn grow(&mut self) {
        self.slots = vec![0; self.slots.len() * 2];
        for index in 0..u32::try_from(self.entries.len()).unwrap_or(u32::MAX) {
            self.occupy(MinionIndex(index));
        }
    }

    fn occupy(&mut self, index: MinionIndex) {
        let mut at = self.first_slot(self.name(index).unwrap_or_default());
        while let Some(slot) = self.slots.get_mut(at) {
            if *slot == 0 {
                *slot = index.0 + 1;
                return;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    fn first_slot(&self, name: &str) -> usize {
        let hash = self.hasher.hash_one(name);
        usize::try_from(hash & (self.slots.len() as u64 - 1)).unwrap_or(0)
    }

    fn has(&self, index: MinionIndex, flag: u8) -> bool {
        self.entries
            .get(index.at())
            .is_some_and(|entry| entry.flags & flag != 0)
    }

    fn set(&mut self, index: MinionIndex, flag: u8, to: bool) {
        if let Some(entry) = self.entries.get_mut(index.at()) {
            entry.flags = if to {
                entry.flags | flag
            } else {
                entry.flags & !flag
            };
        }
    }

    /// Whether the entry is in its site's roster now.
    #[must_use]
    pub fn is_live(&self, index: MinionIndex) -> bool {
        self.has(index, LIVE)
    }

    /// Whether another entry has the same name.
    #[must_use]
    pub fn is_shared(&self, index: MinionIndex) -> bool {
        self.has(index, SHARED)
    }

    /// Whether the minion is connected.
    #[must_use]
    pub fn up(&self, index: MinionIndex) -> Up {
        match (self.has(index, UP), self.has(index, DOWN)) {
            (true, _) => Up::Yes,
            (false, true) => Up::No,
            (false, false) => Up::Unknown,
        }
    }

    pub(crate) fn set_up(&mut self, index: MinionIndex, up: Up) {
        self.set(index, UP, up == Up::Yes);
        self.set(index, DOWN, up == Up::No);
    }

    /// Whether the minion gives receipts.
    #[must_use]
    pub fn gives(&self, index: MinionIndex) -> bool {
        self.has(index, GIVES)
    }

    pub(crate) fn set_gives(&mut self, index: MinionIndex) {
        self.set(index, GIVES, true);
    }

    pub(crate) fn set_live(&mut self, index: MinionIndex, live: bool) {
        if self.is_live(index) == live {
            return;
        }
        self.set(index, LIVE, live);
        if live {
            self.live += 1;
        } else {
            self.live -= 1;
            self.set_up(index, Up::Unknown);
        }
    }

    /// The roster of a site becomes `now`; how many were added and removed.
    pub(crate) fn replace_roster(
        &mut self,
        site: SiteIndex,
        now: &[MinionIndex],
    ) -> (usize, usize) {
        let before: Vec<MinionIndex> = self
            .members(site)
            .filter(|index| self.is_live(*index))
            .collect();
        before
            .iter()
            .for_each(|index| self.set(*index, WAS_LIVE, true));
        let mut kept = 0;
        let mut added = 0;
        for index in now {
            if self.has(*index, WAS_LIVE) {
                kept += 1;
                self.set(*index, WAS_LIVE, false);
            } else if !self.is_live(*index) {
                added += 1;
                self.set_live(*index, true);
            }
        }
        for index in &before {
            if self.has(*index, WAS_LIVE) {
                self.set(*index, WAS_LIVE, false);
                self.set_live(*index, false);
            }
        }
        (added, before.len() - kept)
    }

    /// Every entry that is in a roster now, with its name.
    pub fn live_entries(&self) -> impl Iterator<Item = (MinionIndex, SiteIndex, &str)> {
        let mut begin = 0;
        (0_u32..)
            .zip(&self.entries)
            .filter_map(move |(index, entry)| {
                let end = entry.end as usize;
                let name = self.text.get(begin..end)?;
                begin = end;
                (entry.flags & LIVE != 0).then_some((MinionIndex(index), entry.site, name))
            })
    }
}

#[cfg(test)]
mod tests;

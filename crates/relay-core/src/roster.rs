//! Which minions each site has, as its shim announces them.
//!
//! ```text
//! announcement ──all parts of a number there──► digest holds? ──yes──► Changed, Unchanged
//!       └─ not yet: Waiting                          └─ no: Stale; what was known stays
//! ```
//! - A roster counts only whole: its digest is that of the announcement, or it is not taken.
//! - A change counts only on the roster that it was made for. After a lost one the next full announcement mends it.
//! - Bounded by sites, ids and the bytes of unfinished parts; what goes beyond is refused and said so.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::{MinionIndex, Names, SiteIndex, Up};

mod announcement;
mod parts;
mod saved;

use self::parts::Parts;
pub use self::{
    announcement::{Announced, Announcement, Digest, Kind, Stale},
    saved::RosterError,
};

/// The bounds of [`Rosters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RostersConfig {
    /// Most sites.
    pub sites_max: usize,
    /// Most ids, those of former minions included that jobs still refer to.
    pub ids_max: usize,
    /// Most bytes of a site's announcement while parts of it are missing.
    pub parts_bytes_max: usize,
    /// So many names of former minions are kept beside an eighth of the present ones before a new table is begun.
    pub former_max: usize,
}

impl Default for RostersConfig {
    fn default() -> Self {
        Self {
            sites_max: 2_000,
            ids_max: 2_000_000,
            parts_bytes_max: 4 << 20,
            former_max: 1_024,
        }
    }
}

#[derive(Debug)]
struct Site {
    number: SiteIndex,
    run: String,
    announced: u64,
    digest: Digest,
    is_complete: bool,
    live: usize,
    /// To be written to disk.
    is_unsaved: bool,
}

/// The rosters of all sites; see the module's head.
#[derive(Debug)]
pub struct Rosters {
    config: RostersConfig,
    names: Names,
    sites: BTreeMap<String, Site>,
    waiting: BTreeMap<String, Parts>,
}

impl Rosters {
    /// No sites yet; their names go into the table with this number.
    #[must_use]
    pub fn new(config: RostersConfig, table: u32) -> Self {
        Self {
            names: Names::new(table, config.ids_max),
            config,
            sites: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// The names, those of former minions included.
    #[must_use]
    pub const fn names(&self) -> &Names {
        &self.names
    }

    pub(crate) const fn names_mut(&mut self) -> &mut Names {
        &mut self.names
    }

    /// The sites that have announced a roster, sorted.
    pub fn sites(&self) -> impl Iterator<Item = &str> {
        self.sites.keys().map(String::as_str)
    }

    /// Whether this is a site that has announced a roster.
    #[must_use]
    pub fn is_site(&self, id: &str) -> bool {
        self.sites.contains_key(id)
    }

    /// The digest of a site's roster.
    #[must_use]
    pub fn digest(&self, site: &str) -> Option<Digest> {
        self.sites.get(site).map(|site| site.digest)
    }

    /// Whether a site's roster holds every id below the site.
    #[must_use]
    pub fn is_complete(&self, site: &str) -> bool {
        self.sites.get(site).is_some_and(|site| site.is_complete)
    }

    /// The minions of a site, and whether each is connected.
    pub fn ids(&self, site: &str) -> impl Iterator<Item = (&str, Up)> {
        let number = self.sites.get(site).map(|site| site.number);
        let members = number
            .into_iter()
            .flat_map(|number| self.names.members(number));
        members
            .filter(|index| self.names.is_live(*index))
            .filter_map(|index| {
                let name = self.names.name(index)?;
                Some((name, self.names.up(index)))
            })
    }

    /// How many minions a site has.
    #[must_use]
    pub fn count(&self, site: &str) -> usize {
        self.sites.get(site).map_or(0, |site| site.live)
    }

    /// The sites whose rosters hold this minion.
    pub fn site_of(&self, minion: &str) -> impl Iterator<Item = &str> {
        let entries = self.names.entries(minion);
        entries
            .filter(|index| self.names.is_live(*index))
            .filter_map(|index| {
                let site = self.names.site(index)?;
                Some(self.names.site_name(site))
            })
    }

    /// These minions of a site give receipts. What is known of a name that is in no roster yet is not on disk before it is.
    pub(crate) fn gives_receipts<'a>(
        &mut self,
        site: &str,
        minions: impl IntoIterator<Item = &'a str>,
    ) {
        let number = self.names.number_site(site);
        let mut is_news = false;
        for minion in minions {
            if let Some(index) = self.names.intern(number, minion) {
                is_news |= !self.names.gives(index);
                self.names.set_gives(index);
            }
        }
        if is_news {
            self.not_saved(site);
        }
    }

    /// Takes an announcement of `site`.
    pub fn announce(&mut self, site: &str, announcement: &Announcement) -> Announced {
        let stale = |reason| Announced::Stale { reason };
        if let Some(known) = self.sites.get(site)
            && known.run == announcement.run
            && announcement.number <= known.announced
        {
            if announcement.number == known.announced {
                return Announced::Unchanged;
            }
            return stale(Stale::Older);
        }
        if !self.sites.contains_key(site) && self.sites.len() >= self.config.sites_max {
            return stale(Stale::TooLarge);
        }
        if announcement.parts == 1 && announcement.part == 0 {
            self.waiting.remove(site);
            return self.take(site, announcement);
        }
        let waiting = self.waiting.entry(site.to_owned()).or_default();
        match waiting.add(announcement, self.config.parts_bytes_max) {
            Ok(Some(whole)) => {
                self.waiting.remove(site);
                self.take(site, &whole)
            }
            Ok(None) => Announced::Waiting,
            Err(reason) => {
                if waiting.is_empty() {
                    self.waiting.remove(site);
                }
                stale(reason)
            }
        }
    }

    /// Takes a whole announcement.
    fn take(&mut self, site: &str, announcement: &Announcement) -> Announced {
        let known = self.sites.get(site);
        let checked = match announcement.kind {
            Kind::Full => check_full(announcement),
            Kind::Change { base } if known.map(|known| known.digest) == Some(base) => {
                self.check_change(site, announcement)
            }
            Kind::Change { .. } => Err(Stale::Base),
        };
        let before = known.map_or(0, |known| known.live);
        let after = match checked {
            Ok(after) => after,
            Err(reason) => return Announced::Stale { reason },
        };
        if self.names.live() - before + after > self.config.ids_max {
            return Announced::Stale {
                reason: Stale::TooLarge,
            };
        }
        let is_first = known.is_none();
        let number = self.names.number_site(site);
        let Some((added, removed)) = self.apply(number, announcement) else {
            return Announced::Stale {
                reason: Stale::TooLarge,
            };
        };
        let is_same = !is_first && added == 0 && removed == 0;
        let was_complete = known_complete(self.sites.get(site));
        let roster = Site {
            number,
            run: announcement.run.clone(),
            announced: announcement.number,
            digest: announcement.digest,
            is_complete: announcement.is_complete,
            live: after,
            is_unsaved: !is_same
                || was_complete != Some(announcement.is_complete)
                || self.sites.get(site).is_some_and(|site| site.is_unsaved),
        };
        self.sites.insert(site.to_owned(), roster);
        if is_same {
            return Announced::Unchanged;
        }
        Announced::Changed {
            added,
            removed,
            is_first,
        }
    }

    /// How many minions there are after a change, if its digest holds.
    fn check_change(&self, site: &str, change: &Announcement) -> Result<usize, Stale> {
        let mut after: BTreeSet<&str> = self.ids(site).map(|(id, _)| id).collect();
        for id in &change.removed {
            after.remove(id.as_str());
        }
        after.extend(change.ids.iter().map(|(id, _)| id.as_str()));
        if Digest::of_sorted(after.iter().copied()) == change.digest {
            Ok(after.len())
        } else {
            Err(Stale::Digest)
        }
    }

    /// Makes the announcement's roster the site's; `None` when the table of names is full.
    fn apply(&mut self, site: SiteIndex, announcement: &Announcement) -> Option<(usize, usize)> {
        let ids = announcement.ids.iter();
        let indexes: Option<Vec<MinionIndex>> =
            ids.map(|(id, _)| self.names.intern(site, id)).collect();
        let indexes = indexes?;
        let counts = match announcement.kind {
            Kind::Full => self.names.replace_roster(site, &indexes),
            Kind::Change { .. } => {
                let is_new = |names: &Names, index: &MinionIndex| !names.is_live(*index);
                let mut counts = (0, 0);
                for id in &announcement.removed {
                    if let Some(index) = self.names.find(site, id)
                        && self.names.is_live(index)
                    {
                        self.names.set_live(index, false);
                        counts.1 += 1;
                    }
                }
                for index in &indexes {
                    counts.0 += usize::from(is_new(&self.names, index));
                    self.names.set_live(*index, true);
                }
                counts
            }
        };
        for (index, (_, up)) in indexes.iter().zip(&announcement.ids) {
            self.names.set_up(*index, *up);
        }
        Some(counts)
    }

    /// Forgets a site that is no more; whether it was known.
    pub fn forget(&mut self, site: &str) -> bool {
        self.waiting.remove(site);
        let Some(gone) = self.sites.remove(site) else {
            return false;
        };
        self.names.replace_roster(gone.number, &[]);
        true
    }

    /// Begins a new table of names when many of the present one are of former minions; the former table.
    pub(crate) fn compact_if_due(&mut self) -> Option<Names> {
        let former = self.names.len() - self.names.live();
        if former <= self.config.former_max + self.names.live() / 8 {
            return None;
        }
        let mut next = Names::new(self.names.table().saturating_add(1), self.config.ids_max);
        for (name, site) in &mut self.sites {
            let number = next.number_site(name);
            let members = self.names.members(site.number);
            for index in members.filter(|index| self.names.is_live(*index)) {
                let entry = self
                    .names
                    .name(index)
                    .and_then(|id| next.intern(number, id));
                if let Some(entry) = entry {
                    next.set_live(entry, true);
                    next.set_up(entry, self.names.up(index));
                    if self.names.gives(index) {
                        next.set_gives(entry);
                    }
                }
            }
            site.number = number;
            site.is_unsaved = true;
        }
        Some(std::mem::replace(&mut self.names, next))
    }
}

fn known_complete(site: Option<&Site>) -> Option<bool> {
    site.map(|site| site.is_complete)
}

/// How many minions a full roster has, if its digest holds.
fn check_full(announcement: &Announcement) -> Result<usize, Stale> {
    if !announcement.removed.is_empty() {
        return Err(Stale::Malformed);
    }
    let mut ids: Vec<&str> = announcement.ids.iter().map(|(id, _)| id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    if Digest::of_sorted(ids.iter().copied()) == announcement.digest {
        Ok(ids.len())
    } else {
        Err(Stale::Digest)
    }
}

#[cfg(test)]
mod tests;

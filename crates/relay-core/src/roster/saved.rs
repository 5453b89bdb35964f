//! Rosters and names as bytes for the disk.
//!
//! Names are written once, when they are new; a site's roster is written whole each time it changes, as numbers.

use super::{Digest, Rosters, RostersConfig, Site};
use crate::{
    codec::{Reader, Writer},
    names::{MinionIndex, Names},
};

const VERSION: u64 = 1;

/// A roster that says who gives receipts.
const WITH_RECEIPTS: u64 = 2;

/// Why saved bytes were not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// They are not what was written here, or were written by another version.
    #[error("the bytes are not those of version {VERSION}")]
    Format,
    /// Names before these are missing.
    #[error("names of table {table} are missing before number {first}")]
    Gap {
        /// The table.
        table: u32,
        /// The first number of what is there.
        first: u32,
    },
    /// The roster refers to names that are not there.
    #[error("the roster of {site} refers to table {table}, which is not the present one")]
    Table {
        /// The site.
        site: String,
        /// The table.
        table: u32,
    },
}

impl Names {
    /// The entries from `from` on, at most so many, as bytes.
    #[must_use]
    pub fn part_to_bytes(&self, from: MinionIndex, entries_max: usize) -> Vec<u8> {
        let end = self.len().min(from.at().saturating_add(entries_max));
        let mut writer = Writer::default();
        writer
            .number(VERSION)
            .number(self.table().into())
            .number(from.0.into());
        let entries: Vec<MinionIndex> = (from.0..)
            .take(end.saturating_sub(from.at()))
            .map(MinionIndex)
            .collect();
        for of_site in entries.chunk_by(|one, other| self.site(*one) == self.site(*other)) {
            let site = of_site.first().and_then(|index| self.site(*index));
            let site = site.map_or("", |site| self.site_name(site));
            writer.text(site).number(of_site.len() as u64);
            for index in of_site {
                writer.text(self.name(*index).unwrap_or_default());
            }
        }
        writer.finish()
    }

    /// Adds what [`Names::part_to_bytes`] wrote; parts come in their order, and a repeated one is passed over.
    ///
    /// # Errors
    /// When the bytes are not such a part, or one before it is missing; the table holds what came before.
    pub fn add_part(&mut self, bytes: &[u8]) -> Result<(), RosterError> {
        let mut reader = Reader::new(bytes);
        let mut head = || {
            Some((
                reader.number()?,
                reader.small::<u32>()?,
                reader.small::<u32>()?,
            ))
        };
        let (VERSION, table, first) = head().ok_or(RosterError::Format)? else {
            return Err(RosterError::Format);
        };
        if table != self.table() || first as usize > self.len() {
            return Err(RosterError::Gap { table, first });
        }
        let mut next = first;
        while !reader.is_empty() {
            self.add_run(&mut reader, &mut next)
                .ok_or(RosterError::Format)?;
        }
        Ok(())
    }

    fn add_run(&mut self, reader: &mut Reader<'_>, next: &mut u32) -> Option<()> {
        let site = self.number_site(reader.text()?);
        for _ in 0..reader.number()? {
            let index = self.intern(site, reader.text()?)?;
            // A name that stands there already has its own place, or the numbers of all others would move.
            (index.0 == *next).then_some(())?;
            *next = next.checked_add(1)?;
        }
        Some(())
    }

    /// Reads a table from all of its parts, in their order.
    ///
    /// # Errors
    /// As [`Names::add_part`].
    pub fn from_parts<'a>(
        table: u32,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, RosterError> {
        let mut names = Self::new(table, usize::MAX);
        parts
            .into_iter()
            .try_for_each(|part| names.add_part(part))?;
        Ok(names)
    }
}

impl Rosters {
    /// No sites yet, over names that are known already.
    #[must_use]
    pub fn with_names(config: RostersConfig, names: Names) -> Self {
        Self {
            names: names.bounded(config.ids_max),
            ..Self::new(config, 0)
        }
    }

    /// The sites whose rosters are not on disk yet, each as bytes; they count as saved from now on.
    pub(crate) fn take_unsaved(&mut self) -> Vec<(String, Vec<u8>)> {
        let mut unsaved = Vec::new();
        for (name, site) in &mut self.sites {
            if std::mem::take(&mut site.is_unsaved) {
                unsaved.push((name.clone(), to_bytes(name, site, &self.names)));
            }
        }
        unsaved
    }

    pub(crate) fn has_unsaved(&self) -> bool {
        self.sites.values().any(|site| site.is_unsaved)
    }

    /// The roster of this site is not on disk after all.
    pub(crate) fn not_saved(&mut self, site: &str) {
        if let Some(site) = self.sites.get_mut(site) {
            site.is_unsaved = true;
        }
    }

    /// Takes a site's roster back from the disk.
    ///
    /// # Errors
    /// When the bytes are none, or refer to names that are not there.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), RosterError> {
        let mut reader = Reader::new(bytes);
        let saved = read(&mut reader).ok_or(RosterError::Format)?;
        let number = self.names.number_site(saved.name);
        let holds = |index: &MinionIndex| self.names.site(*index) == Some(number);
        if saved.table != self.names.table() || !saved.members.iter().all(holds) {
            return Err(RosterError::Table {
                site: saved.name.to_owned(),
                table: saved.table,
            });
        }
        let ids = saved
            .members
            .iter()
            .filter_map(|index| self.names.name(*index));
        let mut ids: Vec<&str> = ids.collect();
        ids.sort_unstable();
        if Digest::of_sorted(ids) != saved.digest {
            return Err(RosterError::Format);
        }
        self.names.replace_roster(number, &saved.members);
        for index in saved.gives {
            self.names.set_gives(index);
        }
        let site = Site {
            number,
            run: saved.run.to_owned(),
            announced: saved.announced,
            digest: saved.digest,
            is_complete: saved.is_complete,
            live: saved.members.len(),
            is_unsaved: false,
        };
        self.sites.insert(saved.name.to_owned(), site);
        Ok(())
    }
}

struct Saved<'a> {
    name: &'a str,
    table: u32,
    run: &'a str,
    announced: u64,
    digest: Digest,
    is_complete: bool,
    members: Vec<MinionIndex>,
    gives: Vec<MinionIndex>,
}

fn to_bytes(name: &str, site: &Site, names: &Names) -> Vec<u8> {
    let mut writer = Writer::default();
    writer
        .number(WITH_RECEIPTS)
        .text(name)
        .number(names.table().into());
    writer
        .text(&site.run)
        .number(site.announced)
        .raw(&site.digest.0);
    writer.number(site.is_complete.into());
    let mut next = 0;
    for index in names
        .members(site.number)
        .filter(|index| names.is_live(*index))
    {
        let gives = u64::from(names.gives(index));
        writer.number(u64::from(index.0 - next) << 1 | gives);
        next = index.0 + 1;
    }
    writer.finish()
}

fn read<'a>(reader: &mut Reader<'a>) -> Option<Saved<'a>> {
    let version = reader.number()?;
    matches!(version, VERSION | WITH_RECEIPTS).then_some(())?;
    let name = reader.text()?;
    let table = reader.small()?;
    let run = reader.text()?;
    let announced = reader.number()?;
    let digest = Digest(reader.raw(8)?.try_into().ok()?);
    let is_complete = reader.number()? != 0;
    let (mut members, mut gives) = (Vec::new(), Vec::new());
    let mut next = 0_u32;
    while !reader.is_empty() {
        let step = reader.number()?;
        let (step, does_give) = match version {
            VERSION => (step, false),
            _ => (step >> 1, step & 1 == 1),
        };
        let index = next.checked_add(u32::try_from(step).ok()?)?;
        members.push(MinionIndex(index));
        if does_give {
            gives.push(MinionIndex(index));
        }
        next = index.checked_add(1)?;
    }
    Some(Saved {
        name,
        table,
        run,
        announced,
        digest,
        is_complete,
        members,
        gives,
    })
}

//! How many minions of each site reached each step: counted once for each job, for the metrics.

use std::collections::BTreeMap;

use super::cells::{Cell, RECEIVED, RETURNED};
use crate::names::{MinionIndex, Names, SiteIndex};

/// How many minions reached each step since the ledger was made, counted once for each job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deliveries {
    /// Expected.
    pub expected: u64,
    /// Named by their site.
    pub accepted: u64,
    /// Took the job.
    pub received: u64,
    /// Returned, failures included.
    pub returned: u64,
}

impl Deliveries {
    fn step(&mut self, before: Cell, after: Cell) {
        let new = |is: fn(Cell) -> bool| u64::from(is(after) && !is(before));
        self.expected += new(|cell| cell != Cell::NONE);
        self.accepted += new(Cell::is_accepted);
        self.received += new(|cell| cell.reached(RECEIVED));
        self.returned += new(|cell| cell.reached(RETURNED));
    }

    fn add(&mut self, other: &Self) {
        self.expected += other.expected;
        self.accepted += other.accepted;
        self.received += other.received;
        self.returned += other.returned;
    }
}

/// The counts of all sites; they only grow.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// By the site's number in the present table of names.
    table: u32,
    present: Vec<Deliveries>,
    /// By name: what was counted under tables of before.
    former: BTreeMap<String, Deliveries>,
}

impl Counts {
    /// A minion got from one step to another.
    pub(super) fn count(&mut self, names: &Names, index: MinionIndex, before: Cell, after: Cell) {
        if let Some(site) = names.site(index) {
            self.of(names, site).step(before, after);
        }
    }

    /// So many minions of a site are expected.
    pub(super) fn expected(&mut self, names: &Names, site: &str, minions: usize) {
        if let Some(site) = names.site_number(site) {
            self.of(names, site).expected += minions as u64;
        }
    }

    fn of(&mut self, names: &Names, site: SiteIndex) -> &mut Deliveries {
        if names.table() != self.table {
            return self
                .former
                .entry(names.site_name(site).to_owned())
                .or_default();
        }
        if self.present.len() <= site.at() {
            self.present.resize(site.at() + 1, Deliveries::default());
        }
        &mut self.present[site.at()]
    }

    /// Numbers are those of table `next` from now on.
    pub(super) fn renumber(&mut self, former: Option<&Names>, next: u32) {
        for (number, count) in (0_u32..).zip(std::mem::take(&mut self.present)) {
            let name = former.map_or("", |names| names.site_name(SiteIndex(number)));
            self.former.entry(name.to_owned()).or_default().add(&count);
        }
        self.table = next;
    }

    /// The counts by site, sorted; `names` is the present table.
    pub(super) fn all<'a>(&'a self, names: &'a Names) -> Vec<(&'a str, Deliveries)> {
        let mut all: BTreeMap<&str, Deliveries> = BTreeMap::new();
        for (site, count) in &self.former {
            all.entry(site).or_default().add(count);
        }
        for (number, count) in (0_u32..).zip(&self.present) {
            all.entry(names.site_name(SiteIndex(number)))
                .or_default()
                .add(count);
        }
        all.retain(|_, count| *count != Deliveries::default());
        all.into_iter().collect()
    }
}

//! What is heard of minions goes into the cells of their job.

use super::{
    Action, FIND_JOB, Ledger, Returned, State,
    cells::{Cell, EXPECTED, FAILED, RECEIVED, RETURNED, RUNNING, STOPPED, UNMATCHED},
    job::{Job, Said, is_unnamed},
    sites::Reach,
};
use crate::names::{MinionIndex, NOWHERE, Names};

/// Texts of a job's head and a site's reason are cut at this length.
pub(super) const TEXT_BYTES_MAX: usize = 256;

impl Ledger {
    /// A site named the minions that its lower master published the job for, and those of a list that it does not have.
    #[must_use]
    pub fn accepted<'a>(
        &mut self,
        jid: &str,
        site: &str,
        minions: impl IntoIterator<Item = &'a str>,
        missing: impl IntoIterator<Item = &'a str>,
        at_ms: u64,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        self.learn_site(site);
        if self.queries.get(jid).is_some() {
            return actions;
        }
        self.ensure(jid, at_ms, &mut actions);
        let mut named = 0_usize;
        let minions = minions.into_iter().inspect(|_| named += 1);
        let new = self.place_all(jid, site, minions, Cell::new(EXPECTED).accepted());
        // What comes late from the job cache settles from now on.
        let now_ms = self.now_ms;
        let Some((job, names)) = self.parts(jid) else {
            return actions;
        };
        let number = names.number_site(site);
        for minion in missing {
            if let Some(index) = names.find(number, minion)
                && is_unnamed(job.cells.get(index))
            {
                job.set(index, Cell::new(UNMATCHED));
            }
        }
        let is_open = job.state == State::Open;
        let part = job.part_mut(number);
        // An ack that names nobody new is one that was sent twice.
        if new > 0 || named == 0 || part.acks == 0 {
            part.acks = part.acks.saturating_add(1);
            part.acked_ms = part.acked_ms.max(at_ms).max(now_ms);
        }
        if !is_open {
            part.at_close = Reach::Up;
        }
        job.change();
        self.touched(jid);
        actions
    }

    /// Minions took the job.
    #[must_use]
    pub fn received<'a>(
        &mut self,
        jid: &str,
        minions: impl IntoIterator<Item = &'a str>,
        at_ms: u64,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.queries.get(jid).is_none() {
            self.ensure(jid, at_ms, &mut actions);
            self.heard_of(jid, minions, Cell::new(RECEIVED), at_ms);
        }
        actions
    }

    /// A site told which of its minions gave receipts.
    #[must_use]
    pub fn receipts<'a>(
        &mut self,
        jid: &str,
        site: &str,
        minions: impl IntoIterator<Item = &'a str>,
        at_ms: u64,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        self.learn_site(site);
        if self.queries.get(jid).is_some() {
            return actions;
        }
        self.ensure(jid, at_ms, &mut actions);
        let (mut number, mut is_news) = (None, false);
        let find = |_: &Job, names: &mut Names, minion: &str| {
            let number = *number.get_or_insert_with(|| names.number_site(site));
            let index = names.intern(number, minion)?;
            is_news |= !names.gives(index);
            names.set_gives(index);
            Some(index)
        };
        self.fold(jid, minions, Cell::new(RECEIVED), Some(at_ms), find);
        if is_news {
            self.rosters.not_saved(site);
        }
        actions
    }

    /// These minions of a site give receipts from now on: that one of them gives none means something.
    pub fn gives_receipts<'a>(&mut self, site: &str, minions: impl IntoIterator<Item = &'a str>) {
        self.rosters.gives_receipts(site, minions);
    }

    /// An operator had a job sent again to some of its minions: it is open anew.
    #[must_use]
    pub fn sent_again(&mut self, jid: &str, at_ms: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        self.ensure(jid, at_ms, &mut actions);
        if let Some(job) = self.jobs.get_mut(jid) {
            job.again_ms = Some(at_ms);
        }
        self.prolong(jid, at_ms);
        actions
    }

    /// A return came.
    #[must_use]
    pub fn returned(&mut self, returned: &Returned<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        let Returned { jid, minion, .. } = *returned;
        if let Some(about) = self.queries.get(jid).map(str::to_owned) {
            self.answered(&about, minion, !returned.is_empty, returned.at_ms);
            return actions;
        }
        if returned.fun == FIND_JOB {
            // Its publication passed unheard: what it asks about nobody knows.
            self.drop_if_unpublished(jid);
            return actions;
        }
        if self.is_summary(minion) {
            return actions;
        }
        self.ensure(jid, returned.at_ms, &mut actions);
        let step = if returned.is_failed { FAILED } else { RETURNED };
        if self.heard_of(jid, [minion], Cell::new(step), returned.at_ms) > 0
            && let Some(job) = self.jobs.get_mut(jid)
        {
            job.last_return_ms = job.last_return_ms.max(returned.at_ms);
            if job.fun.is_empty() {
                job.fun = cut(returned.fun, TEXT_BYTES_MAX).into();
            }
        }
        actions
    }

    /// Whether a return under this id is a site's own answer, and not a minion's.
    fn is_summary(&self, id: &str) -> bool {
        self.sites.is_site(id) && self.rosters.site_of(id).next().is_none()
    }

    /// A minion said whether it runs the job.
    fn answered(&mut self, jid: &str, minion: &str, is_running: bool, at_ms: u64) {
        if !self.jobs.contains_key(jid) || self.is_summary(minion) {
            return;
        }
        if is_running {
            self.heard_of(jid, [minion], Cell::new(RUNNING), at_ms);
            return;
        }
        let Some((job, names)) = self.parts(jid) else {
            return;
        };
        // It ran and does not any more: its return may be on its way, or it died.
        let running = |index: &MinionIndex| job.cells.get(*index).step() == RUNNING;
        let found = names.entries(minion).find(running);
        if let Some(index) = found {
            let cell = job.cells.get(index);
            let stopped = Cell::new(STOPPED);
            job.set(
                index,
                if cell.is_accepted() {
                    stopped.accepted()
                } else {
                    stopped
                },
            );
            self.touched(jid);
        }
    }

    /// A site told what it did with a job instead of publishing it.
    #[must_use]
    pub fn site_said(
        &mut self,
        jid: &str,
        site: &str,
        said: Said,
        reason: &str,
        at_ms: u64,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        self.learn_site(site);
        if self.queries.get(jid).is_some() {
            return actions;
        }
        self.ensure(jid, at_ms, &mut actions);
        let now_ms = self.now_ms;
        let Some((job, names)) = self.parts(jid) else {
            return actions;
        };
        let is_open = job.state == State::Open;
        let part = job.part_mut(names.number_site(site));
        if !is_open {
            part.at_close = Reach::Up;
        }
        if said == Said::NoMatch && part.said != Some(Said::NoMatch) {
            part.acks = part.acks.saturating_add(1);
            part.acked_ms = part.acked_ms.max(at_ms).max(now_ms);
        }
        // What weighs most stands, in whatever order it was said.
        if part.said.is_none_or(|known| known < said) {
            part.said = Some(said);
            part.reason = cut(reason, TEXT_BYTES_MAX).into();
        }
        job.change();
        self.touched(jid);
        actions
    }

    /// Adds what a site says of its minions; how many cells that changed.
    pub(super) fn place_all<'a>(
        &mut self,
        jid: &str,
        site: &str,
        minions: impl IntoIterator<Item = &'a str>,
        heard: Cell,
    ) -> usize {
        let mut number = None;
        self.fold(jid, minions, heard, None, |_, names, minion| {
            let number = *number.get_or_insert_with(|| names.number_site(site));
            names.intern(number, minion)
        })
    }

    /// Adds what minions say of themselves; how many cells that changed.
    fn heard_of<'a>(
        &mut self,
        jid: &str,
        minions: impl IntoIterator<Item = &'a str>,
        heard: Cell,
        at_ms: u64,
    ) -> usize {
        self.fold(jid, minions, heard, Some(at_ms), |job, names, minion| {
            job.holder(names, minion).or_else(|| {
                let nowhere = names.number_site(NOWHERE);
                names.intern(nowhere, minion)
            })
        })
    }

    /// Adds the same to the cell of each minion; `index_of` finds the cell. How many that changed. `has_since`: when they
    /// had the job at the latest.
    fn fold<'a>(
        &mut self,
        jid: &str,
        minions: impl IntoIterator<Item = &'a str>,
        heard: Cell,
        has_since: Option<u64>,
        mut index_of: impl FnMut(&Job, &mut Names, &str) -> Option<MinionIndex>,
    ) -> usize {
        let Some((job, names)) = self.jobs.get_mut(jid).and_then(|job| {
            let names = table_of(&mut self.rosters, &mut self.former, job.table)?;
            Some((job, names))
        }) else {
            return 0;
        };
        let mut changed = 0;
        for minion in minions {
            let Some(index) = index_of(job, names, minion) else {
                self.unnamed += 1;
                continue;
            };
            let (at, before, after) = job.place(names, index, heard);
            if before != after {
                changed += 1;
                self.deliveries.count(names, at, before, after);
            }
            if let Some(at_ms) = has_since
                && job.times.note(at, at_ms.saturating_sub(job.at_ms))
            {
                job.is_dirty = true;
                changed += usize::from(before == after);
            }
        }
        if changed > 0 {
            self.touched(jid);
        }
        changed
    }
}

/// The beginning of a text, at most so many bytes.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max))
        .unwrap_or(text)
}

/// Which names a job's cells refer to.
pub(super) fn table_of<'a>(
    rosters: &'a mut crate::roster::Rosters,
    former: &'a mut std::collections::BTreeMap<u32, Names>,
    table: u32,
) -> Option<&'a mut Names> {
    if rosters.names().table() == table {
        Some(rosters.names_mut())
    } else {
        former.get_mut(&table)
    }
}

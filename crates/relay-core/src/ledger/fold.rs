//! What is heard goes into the cells of its job.

use super::{
    Action, Deliveries, FIND_JOB, Ledger, Published, Returned, SiteMissing, State,
    cells::{Cell, EXPECTED, FAILED, RECEIVED, RETURNED, RUNNING, UNMATCHED},
    job::{Job, Said, is_unnamed},
    sites::Reach,
};
use crate::{
    expect::{SiteExpected, expect},
    names::{MOM, MinionIndex, NOWHERE, Names},
    roster::{Announced, Announcement},
    target::{self, Match, Target},
};

/// A target is shown up to this length.
const TGT_SHOWN_BYTES: usize = 1_024;

/// A target is kept up to this length, for sites that turn up later.
const TGT_KEPT_BYTES: usize = 4_096;

/// Texts of a job's head and a site's reason are cut at this length.
const TEXT_BYTES_MAX: usize = 256;

impl Ledger {
    /// A job appeared. Repeated, or another part of a batch under the same jid: what it means is added.
    #[must_use]
    pub fn published(&mut self, published: &Published) -> Vec<Action> {
        let mut actions = Vec::new();
        if published.fun == FIND_JOB {
            self.follow(published);
            return actions;
        }
        let jid = published.jid.as_str();
        let expected = expect(&published.tgt_type, &published.tgt, &self.rosters);
        let is_first = !self.jobs.get(jid).is_some_and(|job| job.is_published);
        self.with_job(jid, published.at_ms, &mut actions, |job, _| {
            describe(job, published);
        });
        let own = self.expect_of_mom(jid, &published.mom_minions);
        let told = self.expect_of_sites(jid, &expected, is_first);
        let is_new = is_first || own > 0 || !told.is_empty();
        if is_new {
            self.prolong(jid, published.at_ms);
        }
        if published.is_past || !is_new {
            return actions;
        }
        for (site, minions) in told {
            self.tell_expected(jid, &site, &minions, &mut actions);
        }
        self.tell_sites_missing(published, &expected, &mut actions);
        actions
    }

    /// Remembers what a find_job asks about.
    fn follow(&mut self, published: &Published) {
        if let Some(about) = &published.asks_about {
            self.queries
                .add(&published.jid, about, self.config.queries_max);
        }
        self.drop_if_unpublished(&published.jid);
    }

    /// A job that turned out to be a find_job: it was heard of by an ack first.
    fn drop_if_unpublished(&mut self, jid: &str) {
        if self.jobs.get(jid).is_some_and(|job| !job.is_published) {
            self.remove(jid);
        }
    }

    /// The minions of the top master itself.
    fn expect_of_mom(&mut self, jid: &str, minions: &[String]) -> usize {
        let is_own =
            |id: &&String| !self.sites.is_site(id) && self.rosters.site_of(id).next().is_none();
        let own: Vec<&String> = minions.iter().filter(is_own).collect();
        if own.is_empty() {
            return 0;
        }
        let own: Vec<String> = own.into_iter().cloned().collect();
        // The top master has published the job for them: that is what a site's ack says of others.
        self.place_all(
            jid,
            MOM,
            own.iter().map(String::as_str),
            Cell::new(EXPECTED).accepted(),
        )
    }

    /// What the rosters say; the minions of each site that were not known to be meant.
    fn expect_of_sites(
        &mut self,
        jid: &str,
        expected: &[SiteExpected],
        is_first: bool,
    ) -> Vec<(String, Vec<MinionIndex>)> {
        let mut told = Vec::new();
        for of_site in expected {
            let new = self.expect_of_site(jid, of_site, is_first);
            if !new.is_empty() {
                told.push((of_site.site.clone(), new));
            }
        }
        told
    }

    fn expect_of_site(
        &mut self,
        jid: &str,
        expected: &SiteExpected,
        is_first: bool,
    ) -> Vec<MinionIndex> {
        let mut new = Vec::new();
        let names = self.rosters.names();
        let Some(job) = self.jobs.get_mut(jid) else {
            return new;
        };
        if job.table != names.table() {
            // The job is older than the present table: its names are looked up in its own.
            let minions = expected
                .minions
                .iter()
                .filter_map(|index| names.name(*index));
            let minions: Vec<String> = minions.map(str::to_owned).collect();
            let minions = minions.iter().map(String::as_str);
            if self.place_all(jid, &expected.site, minions, Cell::new(EXPECTED)) > 0 || is_first {
                self.note_published(jid, expected);
            }
            return new;
        }
        for index in &expected.minions {
            let (at, before, after) = job.place(names, *index, Cell::new(EXPECTED));
            if before == Cell::NONE && after != Cell::NONE {
                new.push(at);
            }
        }
        self.deliveries_of(&expected.site).expected += new.len() as u64;
        // A publication that is heard of twice is no further part of the job.
        if is_first || !new.is_empty() {
            self.note_published(jid, expected);
        }
        new
    }

    fn note_published(&mut self, jid: &str, expected: &SiteExpected) {
        let Some((job, names)) = self.parts(jid) else {
            return;
        };
        let number = names.number_site(&expected.site);
        let part = job.part_mut(number);
        part.published = part.published.saturating_add(1);
        part.ask |= expected.ask;
        job.is_dirty = true;
        self.touched(jid);
    }

    /// Tells the `salt` command whom to wait for. A minion that another site has, too, is waited for if that one lives.
    fn tell_expected(
        &self,
        jid: &str,
        site: &str,
        minions: &[MinionIndex],
        actions: &mut Vec<Action>,
    ) {
        let names = self.rosters.names();
        let is_down = self.sites.of(site) == Reach::Down;
        let (mut waited, mut missing) = (Vec::new(), Vec::new());
        for index in minions {
            let Some(name) = names.name(*index) else {
                continue;
            };
            let is_elsewhere = || {
                self.rosters
                    .site_of(name)
                    .any(|site| self.sites.of(site) != Reach::Down)
            };
            if is_down && !(names.is_shared(*index) && is_elsewhere()) {
                missing.push(name.to_owned());
            } else {
                waited.push(name.to_owned());
            }
        }
        let step = self.config.expected_named_max.max(1);
        let expect = |minions: &[String], missing: &[String]| Action::Expect {
            jid: jid.to_owned(),
            site: site.to_owned(),
            minions: minions.to_vec(),
            missing: missing.to_vec(),
        };
        actions.extend(waited.chunks(step).map(|minions| expect(minions, &[])));
        actions.extend(missing.chunks(step).map(|missing| expect(&[], missing)));
    }

    /// Answers for the sites that cannot be asked and that the job means.
    fn tell_sites_missing(
        &self,
        published: &Published,
        expected: &[SiteExpected],
        actions: &mut Vec<Action>,
    ) {
        for site in self
            .sites
            .names()
            .filter(|site| self.sites.of(site) == Reach::Down)
        {
            let of_site = expected.iter().find(|expected| expected.site == site);
            let is_asked = of_site.is_some_and(|expected| expected.ask);
            let means = target::is_expected_without_data(&published.tgt_type, &published.tgt, site);
            if is_asked || means == Match::Yes {
                let (jid, fun) = (&published.jid, &published.fun);
                actions.extend(self.site_missing(jid, fun, site, is_asked));
            }
        }
    }

    fn site_missing(&self, jid: &str, fun: &str, site: &str, is_asked: bool) -> Option<Action> {
        let state = self.sites.get(site)?;
        let view = self.job(jid)?;
        let missing = view.missing().filter(|minion| minion.site == site);
        let mut missing: Vec<&str> = missing.map(|minion| minion.id).collect();
        missing.sort_unstable();
        let expected = (!is_asked).then_some(missing.len());
        missing.truncate(self.config.missing_named_max);
        Some(Action::SiteMissing(SiteMissing {
            jid: jid.to_owned(),
            fun: fun.to_owned(),
            site: site.to_owned(),
            since_ms: state.since_ms,
            reason: state.reason.clone(),
            expected,
            missing: missing.into_iter().map(str::to_owned).collect(),
        }))
    }

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
        self.with_job(jid, at_ms, &mut actions, |_, _| ());
        let mut named = 0_usize;
        let minions = minions.into_iter().inspect(|_| named += 1);
        let new = self.place_all(jid, site, minions, Cell::new(EXPECTED).accepted());
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
            part.acked_ms = part.acked_ms.max(at_ms);
        }
        if !is_open {
            part.at_close = Reach::Up;
        }
        job.is_dirty = true;
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
            self.with_job(jid, at_ms, &mut actions, |_, _| ());
            self.heard_of(jid, minions, Cell::new(RECEIVED));
        }
        actions
    }

    /// A return came.
    #[must_use]
    pub fn returned(&mut self, returned: &Returned<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        let Returned { jid, minion, .. } = *returned;
        if let Some(about) = self.queries.get(jid).map(str::to_owned) {
            self.answered(&about, minion, !returned.is_empty);
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
        self.with_job(jid, returned.at_ms, &mut actions, |job, _| {
            if job.fun.is_empty() {
                job.fun = cut(returned.fun, TEXT_BYTES_MAX).into();
            }
        });
        let step = if returned.is_failed { FAILED } else { RETURNED };
        if self.heard_of(jid, [minion], Cell::new(step)) > 0
            && let Some(job) = self.jobs.get_mut(jid)
        {
            job.last_return_ms = job.last_return_ms.max(returned.at_ms);
        }
        actions
    }

    /// Whether a return under this id is a site's own answer, and not a minion's.
    fn is_summary(&self, id: &str) -> bool {
        self.sites.is_site(id) && self.rosters.site_of(id).next().is_none()
    }

    /// A minion said whether it runs the job.
    fn answered(&mut self, jid: &str, minion: &str, is_running: bool) {
        if !self.jobs.contains_key(jid) || self.is_summary(minion) {
            return;
        }
        if is_running {
            self.heard_of(jid, [minion], Cell::new(RUNNING));
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
            let received = Cell::new(RECEIVED);
            job.set(
                index,
                if cell.is_accepted() {
                    received.accepted()
                } else {
                    received
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
        self.with_job(jid, at_ms, &mut actions, |job, names| {
            let is_open = job.state == State::Open;
            let part = job.part_mut(names.number_site(site));
            if !is_open {
                part.at_close = Reach::Up;
            }
            let is_final = |said| matches!(said, Said::Expired | Said::Refused | Said::Unusable);
            if said == Said::NoMatch && part.said != Some(Said::NoMatch) {
                part.acks = part.acks.saturating_add(1);
                part.acked_ms = part.acked_ms.max(at_ms);
            }
            // What it said of one part of a batch is not taken back by another, in whatever order.
            if part
                .said
                .is_none_or(|known| !is_final(known) && (is_final(said) || known < said))
            {
                part.said = Some(said);
                part.reason = cut(reason, TEXT_BYTES_MAX).into();
            }
            job.is_dirty = true;
        });
        actions
    }

    /// A site announced its roster, or a part of it.
    pub fn announce(
        &mut self,
        site: &str,
        announcement: &Announcement,
    ) -> (Announced, Vec<Action>) {
        let announced = self.rosters.announce(site, announcement);
        let mut actions = Vec::new();
        if let Announced::Changed { is_first, .. } = announced {
            self.learn_site(site);
            self.leave_table_if_due();
            if is_first {
                self.expect_of_new_site(site, &mut actions);
            }
        }
        (announced, actions)
    }

    /// A site that turned up while jobs are open takes them from the stream, unless they have expired.
    fn expect_of_new_site(&mut self, site: &str, actions: &mut Vec<Action>) {
        let is_due = |job: &&Job| {
            job.state == State::Open && job.at_ms.saturating_add(job.ttl_ms) > self.now_ms
        };
        let jobs = self.jobs.values().filter(is_due);
        let due: Vec<(String, Target, String)> = jobs
            .filter_map(|job| {
                Some((
                    job.jid.to_string(),
                    job.target.clone()?,
                    job.tgt_type.to_string(),
                ))
            })
            .collect();
        for (jid, target, tgt_type) in due {
            let expected = expect(&tgt_type, &target, &self.rosters);
            let expected: Vec<_> = expected
                .into_iter()
                .filter(|of_site| of_site.site == site)
                .collect();
            for (site, minions) in self.expect_of_sites(&jid, &expected, true) {
                self.tell_expected(&jid, &site, &minions, actions);
            }
        }
    }

    /// Forgets a site that is no more. Its share of the jobs stays as it is.
    pub fn forget_site(&mut self, site: &str) -> bool {
        self.sites.forget(site);
        self.rosters.forget(site)
    }

    /// A site can be reached, since `at_ms`.
    #[must_use]
    pub fn site_up(&mut self, site: &str, at_ms: u64) -> Vec<Action> {
        self.learn_site(site);
        let is_new = self.sites.set(site, Reach::Up, at_ms, "");
        let up = || Action::SiteUp {
            site: site.to_owned(),
            since_ms: at_ms,
            minions: self.rosters.count(site),
        };
        is_new.then(up).into_iter().collect()
    }

    /// A site cannot be reached, since `at_ms`. Open jobs that wait for its own answer are answered for.
    #[must_use]
    pub fn site_down(&mut self, site: &str, at_ms: u64, reason: &str) -> Vec<Action> {
        self.learn_site(site);
        if !self
            .sites
            .set(site, Reach::Down, at_ms, cut(reason, TEXT_BYTES_MAX))
        {
            return Vec::new();
        }
        let mut actions = vec![Action::SiteDown {
            site: site.to_owned(),
            since_ms: at_ms,
            reason: reason.to_owned(),
            minions: self.rosters.count(site),
        }];
        let asked = self.jobs.values().filter(|job| {
            job.state == State::Open
                && self.names(job.table).is_some_and(|names| {
                    let part = names.site_number(site).and_then(|number| job.part(number));
                    part.is_some_and(super::job::Part::is_asked)
                })
        });
        let missing = asked.filter_map(|job| self.site_missing(&job.jid, &job.fun, site, true));
        actions.extend(missing);
        actions
    }

    /// Something may have passed unheard: what is open is not known for certain any more.
    pub fn missed(&mut self) {
        let open = self
            .jobs
            .values_mut()
            .filter(|job| job.state == State::Open);
        open.for_each(|job| job.is_heard = false);
    }

    /// What passed unheard of this job has been made good, from the top master's job cache.
    pub fn caught_up(&mut self, jid: &str) {
        if let Some(job) = self.jobs.get_mut(jid) {
            job.is_heard = true;
            self.touched(jid);
        }
    }

    /// Notes that this is a site: what was taken for a minion under its name is none.
    fn learn_site(&mut self, site: &str) {
        // As many again as may have rosters: sites that only ack.
        if !self.sites.know(site, 2 * self.config.rosters.sites_max)
            || self.rosters.site_of(site).next().is_some()
        {
            return;
        }
        let mut jids = Vec::new();
        for job in self.jobs.values_mut() {
            let table = if job.table == self.rosters.names().table() {
                Some(self.rosters.names())
            } else {
                self.former.get(&job.table)
            };
            let Some(names) = table else { continue };
            for pseudo in [MOM, NOWHERE]
                .map(|pseudo| names.site_number(pseudo))
                .into_iter()
                .flatten()
            {
                if let Some(index) = names.find(pseudo, site)
                    && job.cells.get(index) != Cell::NONE
                {
                    job.set(index, Cell::NONE);
                    jids.push(job.jid.clone());
                }
            }
        }
        jids.iter().for_each(|jid| self.touched(jid));
    }

    /// Adds what a site says of its minions; how many cells that changed.
    fn place_all<'a>(
        &mut self,
        jid: &str,
        site: &str,
        minions: impl IntoIterator<Item = &'a str>,
        heard: Cell,
    ) -> usize {
        let Some((job, names)) = self.parts(jid) else {
            return 0;
        };
        let number = names.number_site(site);
        let (mut changed, mut unnamed) = (0, 0);
        let mut count = Deliveries::default();
        for minion in minions {
            match names.intern(number, minion) {
                Some(index) => {
                    let (_, before, after) = job.place(names, index, heard);
                    changed += usize::from(before != after);
                    count.add(before, after);
                }
                None => unnamed += 1,
            }
        }
        self.counted(site, count, unnamed);
        self.touched(jid);
        changed
    }

    /// Adds what minions say of themselves; how many cells that changed.
    fn heard_of<'a>(
        &mut self,
        jid: &str,
        minions: impl IntoIterator<Item = &'a str>,
        heard: Cell,
    ) -> usize {
        let Some((job, names)) = self.parts(jid) else {
            return 0;
        };
        let mut nowhere = None;
        let (mut changed, mut unnamed) = (0, 0);
        let mut counts: Vec<Deliveries> = vec![Deliveries::default(); names.sites() + 1];
        for minion in minions {
            let index = job.holder(names, minion).or_else(|| {
                let nowhere = *nowhere.get_or_insert_with(|| names.number_site(NOWHERE));
                names.intern(nowhere, minion)
            });
            let Some(index) = index else {
                unnamed += 1;
                continue;
            };
            let (at, before, after) = job.place(names, index, heard);
            changed += usize::from(before != after);
            let count = names.site(at).and_then(|site| counts.get_mut(site.at()));
            count.into_iter().for_each(|count| count.add(before, after));
        }
        let named: Vec<(String, Deliveries)> = (0_u32..)
            .zip(counts)
            .filter(|(_, count)| *count != Deliveries::default())
            .map(|(site, count)| {
                (
                    names.site_name(crate::names::SiteIndex(site)).to_owned(),
                    count,
                )
            })
            .collect();
        self.unnamed += unnamed;
        for (site, count) in named {
            self.counted(&site, count, 0);
        }
        self.touched(jid);
        changed
    }

    fn deliveries_of(&mut self, site: &str) -> &mut Deliveries {
        if !self.deliveries.contains_key(site) {
            self.deliveries
                .insert(site.to_owned(), Deliveries::default());
        }
        self.deliveries.entry(site.to_owned()).or_default()
    }

    fn counted(&mut self, site: &str, count: Deliveries, unnamed: u64) {
        self.unnamed += unnamed;
        if count == Deliveries::default() {
            return;
        }
        let sum = self.deliveries_of(site);
        sum.expected += count.expected;
        sum.accepted += count.accepted;
        sum.received += count.received;
        sum.returned += count.returned;
    }
}

impl Deliveries {
    fn add(&mut self, before: Cell, after: Cell) {
        let new = |is: fn(Cell) -> bool| u64::from(is(after) && !is(before));
        self.expected += new(|cell| cell != Cell::NONE);
        self.accepted += new(Cell::is_accepted);
        self.received += new(|cell| cell.step() >= RECEIVED);
        self.returned += new(|cell| cell.step() >= RETURNED);
    }
}

/// Writes the head of a job.
fn describe(job: &mut Job, published: &Published) {
    let Published { tgt, .. } = published;
    if !job.is_published {
        job.at_ms = published.at_ms;
    }
    job.at_ms = job.at_ms.min(published.at_ms);
    job.is_published = true;
    job.fun = cut(&published.fun, TEXT_BYTES_MAX).into();
    job.user = cut(&published.user, TEXT_BYTES_MAX).into();
    job.tgt_type = cut(&published.tgt_type, TEXT_BYTES_MAX).into();
    job.ttl_ms = job.ttl_ms.max(published.ttl_ms);
    let (shown, bytes) = shown(tgt);
    if job.tgt.is_empty() || job.tgt.as_ref() == shown {
        job.tgt = shown.into();
    } else if !job.tgt.contains(shown.as_str()) {
        // Another part of a batch.
        job.tgt = cut(&format!("{},{shown}", job.tgt), TGT_SHOWN_BYTES).into();
    }
    job.target = (bytes <= TGT_KEPT_BYTES).then(|| tgt.clone());
    job.is_dirty = true;
}

/// A target as it is shown, and how long it is.
fn shown(tgt: &Target) -> (String, usize) {
    match tgt {
        Target::Text(text) => (cut(text, TGT_SHOWN_BYTES).to_owned(), text.len()),
        Target::List(ids) => {
            let mut shown = String::new();
            for id in ids {
                if shown.len() > TGT_SHOWN_BYTES {
                    break;
                }
                if !shown.is_empty() {
                    shown.push(',');
                }
                shown.push_str(id);
            }
            let bytes = ids.iter().map(|id| id.len() + 1).sum();
            (cut(&shown, TGT_SHOWN_BYTES).to_owned(), bytes)
        }
    }
}

/// The beginning of a text, at most so many bytes.
fn cut(text: &str, bytes_max: usize) -> &str {
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

//! A job appears: whom it means, and what the `salt` command is told at once.

use super::{
    Action, FIND_JOB, Ledger, Published, SiteMissing,
    cells::{Cell, EXPECTED},
    fold::{TEXT_BYTES_MAX, cut},
    job::Job,
    sites::Reach,
};
use crate::{
    expect::{SiteExpected, expect},
    names::{MOM, MinionIndex},
    target::{self, Match, Target},
};

/// A target is shown up to this length.
const TGT_SHOWN_BYTES: usize = 1_024;

/// A target is kept up to this length, for sites that turn up later.
const TGT_KEPT_BYTES: usize = 4_096;

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
        self.ensure(jid, published.at_ms, &mut actions);
        if let Some(job) = self.jobs.get_mut(jid) {
            describe(job, published);
        }
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
    pub(super) fn drop_if_unpublished(&mut self, jid: &str) {
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
    pub(super) fn expect_of_sites(
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
        self.deliveries.expected(names, &expected.site, new.len());
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
        job.change();
        self.touched(jid);
    }

    /// Tells the `salt` command whom to wait for. A minion that another site has, too, is waited for if that one lives.
    pub(super) fn tell_expected(
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

    pub(super) fn site_missing(
        &self,
        jid: &str,
        fun: &str,
        site: &str,
        is_asked: bool,
    ) -> Option<Action> {
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
}

/// Writes the head of a job.
fn describe(job: &mut Job, published: &Published) {
    let Published { tgt, .. } = published;
    let at_ms = match job.is_published {
        true => job.at_ms.min(published.at_ms),
        false => published.at_ms,
    };
    job.times.appeared(job.at_ms, at_ms);
    job.at_ms = at_ms;
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
    job.change();
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

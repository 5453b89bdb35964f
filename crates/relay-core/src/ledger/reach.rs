//! Sites come and go, and so does the ledger's own hearing.

use super::{
    Action, Ledger, State,
    cells::Cell,
    fold::{TEXT_BYTES_MAX, cut},
    job::Job,
    sites::Reach,
};
use crate::{
    expect::expect,
    names::{MOM, NOWHERE},
    roster::{Announced, Announcement},
    target::Target,
};

impl Ledger {
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
                    part.is_some_and(|part| part.is_asked() && part.said.is_none())
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
        let now_ms = self.now_ms;
        if let Some(job) = self.jobs.get_mut(jid)
            && !job.is_heard
        {
            job.is_heard = true;
            job.change();
            job.review_ms = Some(now_ms);
            self.touched(jid);
        }
    }

    /// Notes that this is a site: what was taken for a minion under its name is none.
    pub(super) fn learn_site(&mut self, site: &str) {
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
}

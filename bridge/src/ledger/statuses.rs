//! The last word of each site about itself, and what it lost, summed over the runs of its shim. Pure.
//!
//! - A shim counts from 0 in each run: what a status says beyond the last one of the same run is new, and all of the
//!   first one of a run.
//! - Bounded by the ledger's number of sites: what nobody knows as a site is not kept.

use std::collections::BTreeMap;

use salt_wire::saltway::{LostAt, Status};

/// What is kept of a site's statuses.
#[derive(Debug, Default)]
pub(super) struct SiteStatus {
    /// The last one.
    pub(super) last: Option<Status>,
    /// When it was heard, in unix milliseconds.
    pub(super) heard_ms: u64,
    /// Publications lost, over all runs that were heard.
    pub(super) lost: BTreeMap<LostAt, u64>,
    /// Publications that expired, over all runs that were heard.
    pub(super) expired: u64,
}

/// What a status tells beyond the ones before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct More {
    /// Publications lost, by the hop that lost them.
    pub(super) lost: Vec<(LostAt, u64)>,
    /// Minions that missed a job at first.
    pub(super) missed: u64,
}

/// Every site's; see the module's head.
#[derive(Debug, Default)]
pub(super) struct Statuses(BTreeMap<String, SiteStatus>);

impl Statuses {
    /// Takes a status; what it tells beyond the ones before. The first status of a site names every hop, so that its series
    /// stand from then on.
    pub(super) fn take(&mut self, status: Status, now_ms: u64) -> More {
        let site = self.0.entry(status.site.to_string()).or_default();
        let before = site.last.take().filter(|last| last.run == status.run);
        let lost_before = |hop: LostAt| {
            let lost = before.iter().flat_map(|last| &last.lost);
            lost.filter(|(at, _)| *at == hop)
                .map(|(_, count)| *count)
                .max()
        };
        let mut more = Vec::new();
        for hop in LostAt::ALL {
            let counts = status.lost.iter().filter(|(at, _)| *at == hop);
            let count = counts.map(|(_, count)| *count).max().unwrap_or(0);
            let new = count.saturating_sub(lost_before(hop).unwrap_or(0));
            if new > 0 || before.is_none() {
                more.push((hop, new));
            }
            if new > 0 {
                let sum = site.lost.entry(hop).or_default();
                *sum = sum.saturating_add(new);
            }
        }
        let expired = before.as_ref().map_or(0, |last| last.expired);
        let new = status.expired.saturating_sub(expired);
        site.expired = site.expired.saturating_add(new);
        let missed = |status: &Status| status.last_hop.map_or(0, |hop| hop.missed);
        let missed = missed(&status).saturating_sub(before.as_ref().map_or(0, missed));
        site.heard_ms = now_ms;
        site.last = Some(status);
        More { lost: more, missed }
    }

    /// One site's.
    pub(super) fn get(&self, site: &str) -> Option<&SiteStatus> {
        self.0.get(site)
    }

    /// Every site's, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &SiteStatus)> {
        self.0.iter().map(|(name, site)| (name.as_str(), site))
    }
}

#[cfg(test)]
mod tests {
    use salt_wire::{ids::MinionId, saltway::SpoolFigures};

    use super::*;

    fn status(run: &str, lost: &[(LostAt, u64)], expired: u64) -> Status {
        Status {
            site: MinionId::parse("dc1").expect("an id"),
            run: run.to_owned(),
            version: "0.1.0".to_owned(),
            minions: 3,
            up: 2,
            roster: None,
            entry: None,
            lag_entries: 0,
            lag_seconds: 0.0,
            spool: SpoolFigures {
                entries: 0,
                bytes: 0,
            },
            lost: lost.to_vec(),
            expired,
            active: true,
            last_hop: None,
        }
    }

    #[test]
    fn missed_deliveries_count_on_over_the_runs_of_a_shim() {
        let mut statuses = Statuses::default();
        let mut missed = |run: &str, missed: Option<u64>| {
            let last_hop = missed.map(|missed| salt_wire::saltway::LastHop {
                missed,
                ..Default::default()
            });
            let status = Status {
                last_hop,
                ..status(run, &[], 0)
            };
            statuses.take(status, 1).missed
        };
        assert_eq!(missed("a", None), 0);
        assert_eq!(missed("a", Some(3)), 3);
        assert_eq!(missed("a", Some(5)), 2);
        assert_eq!(missed("b", Some(1)), 1);
    }

    #[test]
    fn losses_are_summed_over_the_runs_of_a_shim() {
        let mut statuses = Statuses::default();
        let mut take = |status, now_ms| statuses.take(status, now_ms).lost;
        let first = take(status("a", &[(LostAt::Redis, 2)], 1), 1);
        let at = |hop| first.iter().find(|(at, _)| *at == hop).map(|(_, n)| *n);
        assert_eq!(first.len(), 4, "every hop is named");
        assert_eq!((at(LostAt::Redis), at(LostAt::Mom)), (Some(2), Some(0)));
        let again = take(status("a", &[(LostAt::Redis, 2)], 1), 2);
        assert_eq!(again, []);
        let more = take(status("a", &[(LostAt::Redis, 5), (LostAt::Site, 1)], 3), 3);
        assert_eq!(more, [(LostAt::Redis, 3), (LostAt::Site, 1)]);
        let next = take(status("b", &[(LostAt::Redis, 1)], 0), 4);
        assert!(next.contains(&(LostAt::Redis, 1)), "{next:?}");
        let less = take(status("b", &[(LostAt::Redis, 0)], 0), 5);
        assert_eq!(less, []);
        let site = statuses.get("dc1").expect("known");
        assert_eq!((site.lost.get(&LostAt::Redis), site.expired), (Some(&6), 3));
        assert_eq!(statuses.iter().count(), 1);
    }
}

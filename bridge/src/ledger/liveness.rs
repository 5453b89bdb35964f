//! Whether a site is up: its lease in Redis and its status on the MoM's bus are looked at together. Pure; no clock.
//!
//! | sign of life | down when |
//! |---|---|
//! | the site's lease is held | it is not for more than 2 s, or Redis does not answer for more than 3 s |
//! | a status came through the whole path | none came for 30 s |
//!
//! - A bus that is away says nothing about the sites: the time of a status counts from when the bus was last there.
//! - Nor does time in which this process stood still (stopped, or its host was): it could have heard nothing.
//! - A site is unknown until the first sign of life, or until its absence has lasted as long as for any other.

use std::collections::BTreeMap;

/// A lease that is not there for longer is gone: Redis itself keeps it 4 s after its last renewal.
pub(super) const LEASE_GONE_MS: u64 = 2_000;

/// Longer than a Redis takes to fail over within a datacentre's network hiccup; shorter than the `salt` command waits.
pub(super) const REDIS_GONE_MS: u64 = 3_000;

/// Six statuses missed.
pub(super) const STATUS_GONE_MS: u64 = 30_000;

/// A longer pause between two judgements, which are made ten times a second, is one of this process.
const PAUSE_MS: u64 = 1_500;

/// Whether a site can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Too early to tell.
    Unknown,
    /// It shows signs of life.
    Up,
    /// It does not.
    Down,
}

/// A site's state, since when and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Site {
    /// Up, down or unknown.
    pub(crate) state: State,
    /// Unix milliseconds of the change to it.
    pub(crate) since_ms: u64,
    /// What is amiss; empty while nothing is.
    pub(crate) reason: String,
    lease_seen_ms: u64,
    /// When the last status came; before the first one the time at which the site became known.
    status_ms: u64,
    known_ms: u64,
}

/// A change of a site's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) site: String,
    pub(super) up: bool,
    pub(super) reason: String,
    pub(super) at_ms: u64,
}

/// Every known site; see the module's head.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    sites: BTreeMap<String, Site>,
    /// When Redis last answered a look.
    redis_ms: Option<u64>,
    /// When the bus came back; `None` while it is away.
    bus_since_ms: Option<u64>,
    /// When the sites were judged last.
    judged_ms: Option<u64>,
}

impl Liveness {
    /// A site that has announced itself, or that is known from the disk.
    pub(super) fn know(&mut self, site: &str, now_ms: u64) {
        if !self.sites.contains_key(site) {
            let known = Site {
                state: State::Unknown,
                since_ms: now_ms,
                reason: "nothing heard yet".to_owned(),
                lease_seen_ms: 0,
                status_ms: now_ms,
                known_ms: now_ms,
            };
            self.sites.insert(site.to_owned(), known);
        }
    }

    /// Every site with its state, by name.
    pub(super) fn sites(&self) -> impl Iterator<Item = (&str, &Site)> {
        self.sites.iter().map(|(name, site)| (name.as_str(), site))
    }

    /// One site.
    pub(super) fn get(&self, site: &str) -> Option<&Site> {
        self.sites.get(site)
    }

    /// A status of the site came.
    pub(super) fn status(&mut self, site: &str, now_ms: u64) {
        self.know(site, now_ms);
        if let Some(site) = self.sites.get_mut(site) {
            site.status_ms = now_ms;
        }
    }

    /// Redis answered: these sites hold their lease.
    pub(super) fn leases<'a>(&mut self, held: impl IntoIterator<Item = &'a str>, now_ms: u64) {
        self.redis_ms = Some(now_ms);
        for name in held {
            if let Some(site) = self.sites.get_mut(name) {
                site.lease_seen_ms = now_ms;
            }
        }
    }

    /// The bus is there, or away.
    pub(super) fn bus(&mut self, there: bool, now_ms: u64) {
        self.bus_since_ms = match (there, self.bus_since_ms) {
            (true, None) => Some(now_ms),
            (true, since) => since,
            (false, _) => None,
        };
    }

    /// Judges every site anew.
    pub(super) fn tick(&mut self, now_ms: u64) -> Vec<Change> {
        let paused_ms = now_ms.saturating_sub(self.judged_ms.unwrap_or(now_ms));
        if paused_ms > PAUSE_MS {
            self.forgive(paused_ms, now_ms);
        }
        self.judged_ms = Some(now_ms);
        let (redis_ms, bus_since_ms) = (self.redis_ms, self.bus_since_ms);
        let mut changes = Vec::new();
        for (name, site) in &mut self.sites {
            let judged = site.judge(redis_ms, bus_since_ms, now_ms);
            let (state, reason) = match judged {
                Ok(true) => (State::Up, String::new()),
                Ok(false) => continue,
                Err(reason) => (State::Down, reason),
            };
            if site.state == state {
                site.reason = reason;
                continue;
            }
            site.state = state;
            site.since_ms = now_ms;
            site.reason.clone_from(&reason);
            changes.push(Change {
                site: name.clone(),
                up: state == State::Up,
                reason,
                at_ms: now_ms,
            });
        }
        changes
    }
}

impl Liveness {
    /// Takes time in which nothing could be heard for none.
    fn forgive(&mut self, paused_ms: u64, now_ms: u64) {
        let later = |ms: &mut u64| *ms = ms.saturating_add(paused_ms).min(now_ms);
        self.redis_ms.iter_mut().for_each(later);
        for site in self.sites.values_mut() {
            later(&mut site.status_ms);
            later(&mut site.known_ms);
            if site.lease_seen_ms > 0 {
                later(&mut site.lease_seen_ms);
            }
        }
    }
}

impl Site {
    /// Up, not to be told yet, or down with the reason.
    fn judge(&self, redis_ms: Option<u64>, bus: Option<u64>, now_ms: u64) -> Result<bool, String> {
        let redis = redis_ms.unwrap_or(self.known_ms);
        let redis_gone = now_ms.saturating_sub(redis);
        if redis_gone > REDIS_GONE_MS {
            return Err(format!(
                "Redis has not answered for {}",
                seconds(redis_gone)
            ));
        }
        // What was not looked at is not gone.
        let lease_gone = redis.saturating_sub(self.lease_seen_ms.max(self.known_ms));
        if lease_gone > LEASE_GONE_MS {
            let gone = now_ms.saturating_sub(self.lease_seen_ms);
            return Err(match self.lease_seen_ms {
                0 => "no master-shim of the site holds its lease in Redis".to_owned(),
                _ => format!("no sign of life for {}", seconds(gone)),
            });
        }
        if let Some(bus_ms) = bus {
            let quiet = now_ms.saturating_sub(self.status_ms.max(bus_ms));
            if quiet > STATUS_GONE_MS {
                return Err(format!(
                    "its lease is renewed, but no status came through the MoM for {}",
                    seconds(quiet)
                ));
            }
        }
        Ok(self.lease_seen_ms > 0)
    }
}

fn seconds(ms: u64) -> String {
    format!("{} s", ms / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Judges each 250 ms until then.
    fn changes(liveness: &mut Liveness, now_ms: u64) -> Vec<(String, bool)> {
        let from_ms = liveness.judged_ms.map_or(now_ms, |judged| judged + 250);
        let times = (from_ms..now_ms).step_by(250).chain([now_ms]);
        let changes = times.flat_map(|time| liveness.tick(time));
        changes.map(|change| (change.site, change.up)).collect()
    }

    fn up(now_ms: u64) -> Liveness {
        let mut liveness = Liveness::default();
        liveness.bus(true, now_ms);
        liveness.know("a", now_ms);
        liveness.leases(["a"], now_ms);
        liveness.status("a", now_ms);
        assert_eq!(changes(&mut liveness, now_ms), [("a".to_owned(), true)]);
        liveness
    }

    #[test]
    fn a_site_is_down_two_seconds_after_its_lease_was_last_there() {
        let mut liveness = up(10_000);
        for now in [10_500, 11_000, 12_000] {
            liveness.leases([], now);
            assert_eq!(changes(&mut liveness, now), []);
        }
        liveness.leases([], 12_500);
        assert_eq!(changes(&mut liveness, 12_500), [("a".to_owned(), false)]);
        assert!(liveness.get("a").expect("known").reason.contains("2 s"));
        liveness.leases(["a"], 13_000);
        assert_eq!(changes(&mut liveness, 13_000), [("a".to_owned(), true)]);
    }

    #[test]
    fn a_redis_that_does_not_answer_takes_every_site_down_after_three_seconds() {
        let mut liveness = up(10_000);
        // The lease was not looked at; that alone is no evidence against the site for longer.
        assert_eq!(changes(&mut liveness, 12_900), []);
        assert_eq!(changes(&mut liveness, 13_100), [("a".to_owned(), false)]);
        let reason = &liveness.get("a").expect("known").reason;
        assert!(reason.contains("Redis"), "{reason}");
    }

    #[test]
    fn a_site_whose_statuses_stay_away_is_down_but_not_while_the_bus_is() {
        let mut liveness = up(10_000);
        let beat = |liveness: &mut Liveness, now| {
            liveness.leases(["a"], now);
            changes(liveness, now)
        };
        assert_eq!(beat(&mut liveness, 39_000), []);
        liveness.bus(false, 39_500);
        assert_eq!(beat(&mut liveness, 100_000), []);
        liveness.bus(true, 100_000);
        assert_eq!(beat(&mut liveness, 129_000), []);
        assert_eq!(beat(&mut liveness, 130_500), [("a".to_owned(), false)]);
        liveness.status("a", 131_000);
        assert_eq!(beat(&mut liveness, 131_000), [("a".to_owned(), true)]);
    }

    #[test]
    fn a_pause_of_this_process_is_no_evidence_against_a_site() {
        let mut liveness = up(10_000);
        assert_eq!(changes(&mut liveness, 10_250), []);
        // Stopped for a minute; then the lease is looked for, and not there.
        assert_eq!(liveness.tick(70_250), []);
        liveness.leases([], 70_500);
        assert_eq!(changes(&mut liveness, 70_500), []);
        // What is gone is gone after that.
        liveness.leases([], 72_500);
        assert_eq!(changes(&mut liveness, 72_500), [("a".to_owned(), false)]);
    }

    #[test]
    fn a_site_known_from_the_disk_is_unknown_until_its_lease_was_looked_for() {
        let mut liveness = Liveness::default();
        liveness.know("a", 1_000);
        liveness.leases([], 1_100);
        assert_eq!(changes(&mut liveness, 1_500), []);
        assert_eq!(liveness.get("a").expect("known").state, State::Unknown);
        liveness.leases([], 3_100);
        assert_eq!(changes(&mut liveness, 3_100), [("a".to_owned(), false)]);
    }
}

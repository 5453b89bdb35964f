//! Which sites can be reached, as the owner of the ledger finds.

use std::collections::BTreeMap;

/// Whether a site can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reach {
    /// It lives.
    Up,
    /// It gives no sign of life.
    Down,
    /// Nobody has looked yet.
    #[default]
    Unknown,
}

impl Reach {
    /// The word for the interface.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }
}

/// What is known of a site.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SiteState {
    /// Whether it can be reached.
    pub reach: Reach,
    /// Since when, in unix milliseconds.
    pub since_ms: u64,
    /// Why not.
    pub reason: String,
}

/// Every site that has announced itself, acked, or been looked at. As many as there are rosters, and some that only
/// acked: the owner bounds what it looks at, the names of acks come from accepted keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Sites(BTreeMap<String, SiteState>);

impl Sites {
    pub(super) fn of(&self, site: &str) -> Reach {
        self.0.get(site).map_or(Reach::Unknown, |state| state.reach)
    }

    pub(super) fn get(&self, site: &str) -> Option<&SiteState> {
        self.0.get(site)
    }

    /// Notes that this is a site; whether that is new.
    pub(super) fn know(&mut self, site: &str, sites_max: usize) -> bool {
        if self.0.contains_key(site) || self.0.len() >= sites_max {
            return false;
        }
        self.0.insert(site.to_owned(), SiteState::default());
        true
    }

    /// Sets a site's state; whether that is another one.
    pub(super) fn set(&mut self, site: &str, reach: Reach, since_ms: u64, reason: &str) -> bool {
        let Some(state) = self.0.get_mut(site) else {
            return false;
        };
        if state.reach == reach {
            reason.clone_into(&mut state.reason);
            return false;
        }
        *state = SiteState {
            reach,
            since_ms,
            reason: reason.to_owned(),
        };
        true
    }

    pub(super) fn forget(&mut self, site: &str) {
        self.0.remove(site);
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn is_site(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }
}

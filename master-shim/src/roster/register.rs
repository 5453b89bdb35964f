//! Who is there and who is up, in memory.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use salt_wire::saltway::{Presence, RosterDigest};

use super::keys::{Look, Stamp};

/// Minions by their ids, in the order of their bytes.
pub(crate) type Minions = BTreeMap<Arc<str>, Presence>;

/// How many minions there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Census {
    pub(crate) up: usize,
    pub(crate) down: usize,
    pub(crate) unknown: usize,
}

impl Census {
    /// All of them.
    pub(crate) fn minions(&self) -> usize {
        self.up + self.down + self.unknown
    }
}

/// The roster at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Snapshot {
    /// Who is there.
    pub(crate) minions: Arc<Minions>,
    /// Names them.
    pub(crate) digest: RosterDigest,
    /// Whether nobody else can be reached through this site.
    pub(crate) complete: bool,
}

/// What a look has changed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    /// Who is there, or whether all are known.
    pub(super) changed: bool,
    /// Whether the look before failed, or there was none.
    pub(super) was_unreadable: bool,
    /// How many are there now.
    pub(super) minions: usize,
}

/// The roster, as its owner keeps it.
#[derive(Debug)]
pub(crate) struct Register {
    minions: Arc<Minions>,
    census: Census,
    digest: RosterDigest,
    /// The latest look that succeeded.
    look: Option<Stamp>,
    /// Whether the latest look succeeded and named everybody who can be reached.
    complete: bool,
    looked: bool,
    unreadable: bool,
}

impl Default for Register {
    fn default() -> Self {
        Self {
            minions: Arc::default(),
            census: Census::default(),
            digest: RosterDigest::of_sorted([]),
            look: None,
            complete: false,
            looked: false,
            unreadable: false,
        }
    }
}

impl Register {
    /// Who is there.
    pub(super) fn minions(&self) -> &Minions {
        &self.minions
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            minions: Arc::clone(&self.minions),
            digest: self.digest,
            complete: self.complete,
        }
    }

    pub(super) fn census(&self) -> Census {
        self.census
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn look(&self) -> Option<Stamp> {
        self.look
    }

    /// Takes a look. Minions that stay keep their presence.
    pub(super) fn take(&mut self, look: Look, others_below: bool) -> Taken {
        let was_unreadable = self.unreadable || !self.looked;
        let complete = !others_below && look.strange == 0;
        let same = self.minions.len() == look.ids.len() && self.minions.keys().eq(look.ids.iter());
        let changed = !same || complete != self.complete || !self.looked;
        if !same {
            let presence = |id: &Arc<str>| self.minions.get(id).copied().unwrap_or_default();
            let minions: Minions = look
                .ids
                .iter()
                .map(|id| (Arc::clone(id), presence(id)))
                .collect();
            self.digest = RosterDigest::of_sorted(minions.keys().map(AsRef::as_ref));
            self.census = Census::default();
            for presence in minions.values() {
                *self.census.of(*presence) += 1;
            }
            self.minions = Arc::new(minions);
        }
        self.look = Some(look.stamp);
        self.complete = complete;
        self.looked = true;
        self.unreadable = false;
        Taken {
            changed,
            was_unreadable,
            minions: self.minions.len(),
        }
    }

    /// A look has failed: who is known stays, but there may be others.
    pub(super) fn unreadable(&mut self) -> Taken {
        let taken = Taken {
            changed: self.complete || !self.looked,
            was_unreadable: self.unreadable,
            minions: self.minions.len(),
        };
        self.look = None;
        self.complete = false;
        self.looked = true;
        self.unreadable = true;
        taken
    }

    /// Notes a minion's presence: whether that was news, or nothing if it has no accepted key.
    pub(super) fn set(&mut self, minion: &str, presence: Presence) -> Option<bool> {
        let before = *self.minions.get(minion)?;
        if before == presence {
            return Some(false);
        }
        // Copies the map if somebody still holds a snapshot of it.
        *Arc::make_mut(&mut self.minions).get_mut(minion)? = presence;
        *self.census.of(before) -= 1;
        *self.census.of(presence) += 1;
        Some(true)
    }

    /// All others are down. Whether that was news.
    pub(super) fn only_these_are_up(&mut self, present: &HashSet<&str>) -> bool {
        let is_up = |id: &str| match present.contains(id) {
            true => Presence::Up,
            false => Presence::Down,
        };
        let news: Vec<(Arc<str>, Presence)> = self
            .minions
            .iter()
            .map(|(id, before)| (id, *before, is_up(id)))
            .filter(|(_, before, now)| before != now)
            .map(|(id, _, now)| (Arc::clone(id), now))
            .collect();
        for (id, presence) in &news {
            self.set(id, *presence);
        }
        !news.is_empty()
    }
}

impl Census {
    fn of(&mut self, presence: Presence) -> &mut usize {
        match presence {
            Presence::Up => &mut self.up,
            Presence::Down => &mut self.down,
            Presence::Unknown => &mut self.unknown,
        }
    }
}

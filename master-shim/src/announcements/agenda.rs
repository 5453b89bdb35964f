//! What part of the roster is to be told next, and when: decisions only, nothing is sent here.

use std::{collections::VecDeque, time::Duration};

use salt_wire::{
    ids::MinionId,
    saltway::{Roster, RosterKind},
};
use tokio::time::Instant;

use super::{news::Heard, parts::Head};
use crate::roster::{Snapshot, Version};

/// How often the whole roster is told although nobody seems to need it.
const FULL_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// A bridge may be heard before it listens to the MoM's bus: it is told again then.
const AGAIN_AFTER: Duration = Duration::from_secs(15);

/// Who comes and who goes is told together at this distance: a job to everybody brings a site's minions up in a moment.
const PRESENCE_INTERVAL: Duration = Duration::from_secs(1);

/// Whoever writes to Redis can make up new bridges: not more than one whole roster in this time on their account.
const FULL_DISTANCE: Duration = Duration::from_secs(2);

/// What the MoM knows.
#[derive(Debug, Clone)]
struct Told {
    snapshot: Snapshot,
    version: Version,
}

/// The plan of one MoM's announcements.
pub(super) struct Agenda {
    site: MinionId,
    run: String,
    /// Of the latest announcement.
    number: u64,
    /// What the MoM has answered for.
    told: Option<Told>,
    /// What it will know when the parts are told.
    telling: Option<Told>,
    /// Parts of the announcement under way; the first one is in flight, or to be sent.
    parts: VecDeque<Roster>,
    full_at: Instant,
    again_at: Option<Instant>,
    last_full: Option<Instant>,
    presence_at: Instant,
    heard: Heard,
}

impl Agenda {
    pub(super) fn new(site: MinionId, run: String, now: Instant) -> Self {
        Self {
            site,
            run,
            number: 0,
            told: None,
            telling: None,
            parts: VecDeque::new(),
            full_at: now,
            again_at: None,
            last_full: None,
            presence_at: now,
            heard: Heard::default(),
        }
    }

    /// The MoM may know nothing, or what another shim told.
    pub(super) fn forget(&mut self) {
        self.told = None;
        self.telling = None;
        self.parts.clear();
    }

    /// The whole roster is to be told.
    pub(super) fn tell_all(&mut self, now: Instant) {
        let earliest = self.last_full.map_or(now, |last| last + FULL_DISTANCE);
        self.full_at = self.full_at.min(now.max(earliest));
    }

    /// Bridges that are new do not know the roster, nor may those that were not heard for a while.
    pub(super) fn heard(&mut self, heard: Heard, now: Instant) {
        let before = std::mem::replace(&mut self.heard, heard);
        if heard.births > before.births {
            self.again_at = Some(now + AGAIN_AFTER);
        }
        if heard.births > before.births || heard.returns > before.returns {
            self.tell_all(now);
        }
    }

    /// When there may be something to tell next, if nothing happens.
    pub(super) fn next(&self, version: Version) -> Instant {
        let presence = self
            .told
            .as_ref()
            .is_some_and(|told| told.version != version);
        match presence {
            true => self.full_at.min(self.presence_at),
            false => self.full_at,
        }
    }

    /// The part to send now, if any; the same one until it is answered, unless everything is told anew.
    pub(super) fn part(
        &mut self,
        now: Instant,
        version: Version,
        snapshot: impl FnOnce() -> Snapshot,
    ) -> Option<Roster> {
        if self.full_at <= now {
            self.begin_full(now, snapshot(), version);
        } else if self.parts.is_empty() {
            match self.told.take() {
                None => self.begin_full(now, snapshot(), version),
                Some(told) => self.begin_change(now, told, version, snapshot),
            }
        }
        self.parts.front().cloned()
    }

    /// The MoM has answered to the first part.
    pub(super) fn answered(&mut self) {
        self.parts.pop_front();
        if self.parts.is_empty() {
            self.told = self.telling.take().or(self.told.take());
        }
    }

    fn begin_full(&mut self, now: Instant, snapshot: Snapshot, version: Version) {
        self.full_at = self.again_at.take().unwrap_or(now + FULL_INTERVAL);
        self.last_full = Some(now);
        let parts = self.head().full(&snapshot);
        self.begin(now, parts, Told { snapshot, version });
    }

    fn begin_change(
        &mut self,
        now: Instant,
        told: Told,
        version: Version,
        snapshot: impl FnOnce() -> Snapshot,
    ) {
        let members = told.version.members != version.members;
        let presence = told.version.presence != version.presence && self.presence_at <= now;
        if !members && !presence {
            self.told = Some(told);
            return;
        }
        let snapshot = snapshot();
        match self.head().change(&told.snapshot, &snapshot) {
            Ok(Some(change)) => {
                self.told = Some(told);
                self.begin(now, vec![change], Told { snapshot, version });
            }
            Ok(None) => self.told = Some(Told { snapshot, version }),
            Err(_) => self.begin_full(now, snapshot, version),
        }
    }

    fn head(&self) -> Head<'_> {
        Head {
            site: &self.site,
            run: &self.run,
            number: self.number + 1,
        }
    }

    fn begin(&mut self, now: Instant, parts: Vec<Roster>, telling: Told) {
        self.number += 1;
        self.presence_at = now + PRESENCE_INTERVAL;
        // Until a whole roster is told, nothing can be told relative to one.
        if parts
            .first()
            .is_some_and(|part| part.kind == RosterKind::Full)
        {
            self.told = None;
        }
        self.parts = parts.into();
        self.telling = Some(telling);
    }
}

#[cfg(test)]
mod tests;

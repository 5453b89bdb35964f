//! A roster as events: whole in parts, or what has changed.

use std::sync::Arc;

use salt_wire::{
    ids::MinionId,
    saltway::{IdList, Members, Presence, Roster, RosterKind},
};

use crate::roster::Snapshot;

/// Bytes of ids in one event: Salt cuts large values off events above 1 MiB.
pub(super) const PART_BYTES_MAX: usize = 256 << 10;

/// What all parts of one announcement have in common.
pub(super) struct Head<'a> {
    pub(super) site: &'a MinionId,
    pub(super) run: &'a str,
    pub(super) number: u64,
}

impl Head<'_> {
    fn part(&self, snapshot: &Snapshot, kind: RosterKind, members: Members) -> Roster {
        Roster {
            site: self.site.clone(),
            run: self.run.to_owned(),
            number: self.number,
            parts: 1,
            part: 0,
            kind,
            digest: snapshot.digest,
            members,
            removed: IdList::default(),
            complete: snapshot.complete,
        }
    }

    /// The whole roster; one part at least.
    pub(super) fn full(&self, snapshot: &Snapshot) -> Vec<Roster> {
        let mut chunks: Vec<Vec<(&str, Presence)>> = vec![Vec::new()];
        let mut bytes = 0;
        for (id, presence) in snapshot.minions.iter() {
            bytes += id.len() + 1;
            if bytes > PART_BYTES_MAX {
                chunks.push(Vec::new());
                bytes = id.len() + 1;
            }
            if let Some(chunk) = chunks.last_mut() {
                chunk.push((id, *presence));
            }
        }
        let parts = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        let numbered = (0..parts).zip(chunks);
        numbered
            .map(|(part, chunk)| Roster {
                parts,
                part,
                ..self.part(snapshot, RosterKind::Full, members(chunk))
            })
            .collect()
    }

    /// What has changed since `before`: `Ok(None)` for nothing, `Err` when only the whole roster says it.
    pub(super) fn change(
        &self,
        before: &Snapshot,
        now: &Snapshot,
    ) -> Result<Option<Roster>, TooLarge> {
        if before.complete != now.complete {
            return Err(TooLarge);
        }
        if Arc::ptr_eq(&before.minions, &now.minions) {
            return Ok(None);
        }
        let news = now.minions.iter();
        let news = news.filter(|(id, presence)| before.minions.get(*id) != Some(presence));
        let news: Vec<(&str, Presence)> = news.map(|(id, presence)| (&**id, *presence)).collect();
        let gone = before.minions.keys().map(AsRef::as_ref);
        let gone: Vec<&str> = gone.filter(|id| !now.minions.contains_key(*id)).collect();
        if news.is_empty() && gone.is_empty() {
            return Ok(None);
        }
        let ids = news.iter().map(|(id, _)| *id).chain(gone.iter().copied());
        if ids.map(|id| id.len() + 1).sum::<usize>() > PART_BYTES_MAX {
            return Err(TooLarge);
        }
        let kind = RosterKind::Change {
            base: before.digest,
        };
        Ok(Some(Roster {
            removed: IdList::new(gone).unwrap_or_default(),
            ..self.part(now, kind, members(news))
        }))
    }
}

/// The change does not fit one event, or is none of minions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

fn members(list: Vec<(&str, Presence)>) -> Members {
    // Names of files that were checked when they were read.
    Members::new(list).unwrap_or_default()
}

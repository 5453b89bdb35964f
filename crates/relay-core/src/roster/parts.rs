//! Puts the parts of an announcement together.

use std::collections::BTreeMap;

use super::{Announcement, Stale};

/// More parts than this make no sense: a part has up to 256 KiB.
const PARTS_MAX: u32 = 1_024;

/// What an id counts for beside its bytes.
const ID_BYTES: usize = 32;

/// The parts of a site's newest announcement, as far as they are there.
#[derive(Debug, Default)]
pub(super) struct Parts {
    parts: BTreeMap<u32, Announcement>,
    bytes: usize,
}

impl Parts {
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Takes a part; the whole announcement when it was the last one missing.
    pub(super) fn add(
        &mut self,
        part: &Announcement,
        bytes_max: usize,
    ) -> Result<Option<Announcement>, Stale> {
        if part.part >= part.parts || part.parts > PARTS_MAX {
            return Err(Stale::Malformed);
        }
        if let Some(first) = self.parts.values().next() {
            if first.run == part.run && part.number < first.number {
                return Err(Stale::Older);
            }
            if first.run != part.run || first.number != part.number {
                *self = Self::default();
            } else if (first.parts, first.kind, first.digest)
                != (part.parts, part.kind, part.digest)
            {
                return Err(Stale::Malformed);
            }
        }
        if self.parts.contains_key(&part.part) {
            return Ok(None);
        }
        self.bytes += bytes(part);
        if self.bytes > bytes_max {
            *self = Self::default();
            return Err(Stale::TooLarge);
        }
        self.parts.insert(part.part, part.clone());
        Ok((self.parts.len() == part.parts as usize)
            .then(|| self.join())
            .flatten())
    }

    fn join(&mut self) -> Option<Announcement> {
        let mut parts = std::mem::take(self).parts.into_values();
        let mut whole = parts.next()?;
        for part in parts {
            whole.ids.extend(part.ids);
            whole.removed.extend(part.removed);
            whole.is_complete &= part.is_complete;
        }
        (whole.parts, whole.part) = (1, 0);
        Some(whole)
    }
}

fn bytes(part: &Announcement) -> usize {
    let ids = part.ids.iter().map(|(id, _)| id).chain(&part.removed);
    ids.map(|id| id.len() + ID_BYTES).sum()
}

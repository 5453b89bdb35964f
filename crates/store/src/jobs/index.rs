//! Finds parts and frames in memory: a hash of each, with the number of its record and whether that is done.

use std::{
    collections::HashMap,
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
};

use super::{PartKey, PartState};

/// A hash under a key that is drawn for each process: nobody can choose what collides. Of 400,000 of them two are the
/// same once in 10^8 processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest(u64);

#[derive(Debug, Default)]
pub(super) struct Digests(RandomState);

impl Digests {
    pub(super) fn part(&self, key: &PartKey) -> Digest {
        Digest(self.0.hash_one((0_u8, &key.jid, key.part)))
    }

    pub(super) fn frame(&self, frame: &[u8; 16]) -> Digest {
        Digest(self.0.hash_one((1_u8, frame)))
    }

    pub(super) fn returned(&self, jid: &str, minion: &str) -> Digest {
        Digest(self.0.hash_one((2_u8, jid, minion)))
    }
}

/// Takes a [`Digest`] for its own hash.
#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a digest is one u64");
    }

    fn write_u64(&mut self, digest: u64) {
        self.0 = digest;
    }
}

pub(super) type ByDigest = BuildHasherDefault<AsItIs>;

/// Where a part's records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(u64);

impl Slot {
    pub(super) fn new(number: u64, state: PartState) -> Self {
        Self(number << 1 | u64::from(state == PartState::Done))
    }

    pub(super) fn number(self) -> u64 {
        self.0 >> 1
    }

    pub(super) fn state(self) -> PartState {
        if self.0 & 1 == 1 {
            PartState::Done
        } else {
            PartState::Begun
        }
    }
}

/// The index, and what the transaction at hand does to it.
#[derive(Debug, Default)]
pub(super) struct Index {
    held: HashMap<Digest, Slot, ByDigest>,
    draft: HashMap<Digest, Option<Slot>, ByDigest>,
}

impl Index {
    pub(super) fn get(&self, digest: Digest) -> Option<Slot> {
        match self.draft.get(&digest) {
            Some(slot) => *slot,
            None => self.held.get(&digest).copied(),
        }
    }

    pub(super) fn set(&mut self, digest: Digest, slot: Slot) {
        self.draft.insert(digest, Some(slot));
    }

    /// Forgets the digest, if it still means the part with this number.
    pub(super) fn forget(&mut self, digest: Digest, number: u64) {
        if self.get(digest).is_some_and(|slot| slot.number() == number) {
            self.draft.insert(digest, None);
        }
    }

    pub(super) fn commit(&mut self) {
        for (digest, slot) in self.draft.drain() {
            match slot {
                Some(slot) => self.held.insert(digest, slot),
                None => self.held.remove(&digest),
            };
        }
    }

    pub(super) fn roll_back(&mut self) {
        self.draft.clear();
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

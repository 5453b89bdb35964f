//! Where the records of jobs, rosters and names are; what the transaction at hand does to it can be taken back.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, btree_map},
};

/// A map whose changes hold only once they are committed.
#[derive(Debug)]
pub(super) struct Undoable<K, V> {
    map: BTreeMap<K, V>,
    /// What was there before each change.
    before: Vec<(K, Option<V>)>,
}

impl<K, V> Default for Undoable<K, V> {
    fn default() -> Self {
        Self {
            map: BTreeMap::new(),
            before: Vec::new(),
        }
    }
}

impl<K: Ord + Clone, V: Clone> Undoable<K, V> {
    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.map.get(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let before = self.map.insert(key.clone(), value);
        self.before.push((key, before.clone()));
        before
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (key, value) = self.map.remove_entry(key)?;
        self.before.push((key, Some(value.clone())));
        Some(value)
    }

    pub(super) fn iter(&self) -> btree_map::Iter<'_, K, V> {
        self.map.iter()
    }

    pub(super) fn map(&self) -> &BTreeMap<K, V> {
        &self.map
    }

    pub(super) fn commit(&mut self) {
        // Opening a file leaves as many as there are records.
        self.before = Vec::new();
    }

    pub(super) fn roll_back(&mut self) {
        while let Some((key, before)) = self.before.pop() {
            match before {
                Some(value) => self.map.insert(key, value),
                None => self.map.remove(&key),
            };
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct JobSlot {
    pub(super) number: u64,
    pub(super) table: u32,
    pub(super) is_open: bool,
}

/// Where a part of names is, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NamesSlot {
    pub(super) number: u64,
    pub(super) at_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_taken_back_in_their_order() {
        let mut index: Undoable<Box<str>, u64> = Undoable::default();
        index.insert("a".into(), 1);
        index.insert("b".into(), 2);
        index.commit();
        index.insert("a".into(), 3);
        index.remove("b");
        index.insert("b".into(), 4);
        index.insert("c".into(), 5);
        index.remove("c");
        assert_eq!((index.get("a"), index.get("b")), (Some(&3), Some(&4)));
        index.roll_back();
        let held: Vec<(&str, u64)> = index
            .iter()
            .map(|(key, value)| (key.as_ref(), *value))
            .collect();
        assert_eq!(held, [("a", 1), ("b", 2)]);
    }
}

//! Publications that never came: gaps in the top master's own `serial`.
//!
//! The top master counts its publications from 1 under each of its keys, consecutively. Our entries
//! have numbers of their own: a gap in the serials without a gap in the entries is a publication
//! that the relay has lost without noticing.
//!
//! ```text
//! entries  5   6   7          8        (epoch ends)   1     2 = known already     3
//! serials  10  11  14         15                      11    -                     18
//!                  12, 13 lost before the bridge            16, 17 lost in Redis
//! ```
//! - Two bridges may append in another order than the master's: a gap counts only after
//!   [`PATIENCE_MS`], and what comes late closes it.
//! - Across entries that the stream had no more nothing is counted: those are counted by their ids.
//! - Nothing is known before the first publication.

use crate::entry::EntryId;

/// How long a gap may still close: a bridge that lags, or that appends again after a new epoch.
pub const PATIENCE_MS: u64 = 10_000;
/// Keys followed: the current one and those that still open what was under way.
const KEYS_MAX: usize = 4;
/// Gaps open at a time per key; more are counted at once.
const GAPS_MAX: usize = 64;

/// Where publications were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// Between the top master and the bridges.
    Mom,
    /// In Redis: it forgot them, and no bridge appended them again.
    Redis,
}

/// Publications that never came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Where they were lost.
    pub hop: Hop,
    /// The first missing serial.
    pub from: u64,
    /// The last missing serial.
    pub to: u64,
}

impl Gap {
    /// How many they are.
    #[must_use]
    pub const fn publications(&self) -> u64 {
        self.to - self.from + 1
    }
}

/// Follows the serials of one top master; a key is whatever names its AES key.
#[derive(Debug)]
pub struct Serials<K> {
    /// The key used last is at the end.
    keys: Vec<Key<K>>,
    /// The last entry accounted for: opened, or passed.
    last_entry: Option<EntryId>,
    /// Entries are missing behind the last opened publication: their ids tell of them.
    interrupted: bool,
    /// A new epoch has begun behind the last opened publication.
    new_epoch: bool,
}

#[derive(Debug)]
struct Key<K> {
    key: K,
    highest: u64,
    /// Each with the time at which it was seen.
    gaps: Vec<(Gap, u64)>,
}

impl<K> Default for Serials<K> {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            last_entry: None,
            interrupted: false,
            new_epoch: false,
        }
    }
}

impl<K: Eq + Clone> Serials<K> {
    /// An entry was passed over without being opened: a frame that is known already, or that no
    /// key opens. Entries come in the order of their ids, each once.
    pub fn passed(&mut self, entry_id: EntryId) {
        if let Some(last) = self.last_entry {
            let follows = if entry_id.epoch == last.epoch {
                entry_id == last.next()
            } else {
                self.new_epoch = true;
                entry_id.number == 1
            };
            self.interrupted |= !follows;
        }
        self.last_entry = Some(entry_id);
    }

    /// An entry was opened with `key`. Returns the gaps that there is no room to be patient about.
    #[must_use]
    pub fn opened(&mut self, key: &K, serial: u64, entry_id: EntryId, now_ms: u64) -> Vec<Gap> {
        self.passed(entry_id);
        let hop = match (
            std::mem::take(&mut self.interrupted),
            std::mem::take(&mut self.new_epoch),
        ) {
            (true, _) => None,
            (false, true) => Some(Hop::Redis),
            (false, false) => Some(Hop::Mom),
        };
        let mut known = match self.keys.iter().position(|known| known.key == *key) {
            Some(index) => self.keys.remove(index),
            None => Key {
                key: key.clone(),
                // A new key counts from 1; of the first key the beginning was not seen.
                highest: if self.keys.is_empty() {
                    serial.saturating_sub(1)
                } else {
                    0
                },
                gaps: Vec::new(),
            },
        };
        known.came(serial, hop, now_ms);
        let mut counted = known.crowded_out();
        if self.keys.len() >= KEYS_MAX {
            let oldest = self.keys.remove(0);
            counted.extend(oldest.gaps.into_iter().map(|(gap, _)| gap));
        }
        self.keys.push(known);
        counted
    }

    /// The gaps that have not closed in time; each is returned once.
    #[must_use]
    pub fn lost(&mut self, now_ms: u64) -> Vec<Gap> {
        let mut lost = Vec::new();
        for key in &mut self.keys {
            let over = |since: &u64| since.saturating_add(PATIENCE_MS) <= now_ms;
            let those = key.gaps.extract_if(.., |(_, since)| over(since));
            lost.extend(those.map(|(gap, _)| gap));
        }
        lost
    }

    /// Gaps that may still close, and are not counted yet.
    #[must_use]
    pub fn open_gaps(&self) -> usize {
        self.keys.iter().map(|key| key.gaps.len()).sum()
    }
}

impl<K> Key<K> {
    fn came(&mut self, serial: u64, hop: Option<Hop>, now_ms: u64) {
        if serial <= self.highest {
            return self.close(serial);
        }
        let gap = |hop| Gap {
            hop,
            from: self.highest + 1,
            to: serial - 1,
        };
        if let Some(gap) = hop.map(gap).filter(|gap| gap.from <= gap.to) {
            self.gaps.push((gap, now_ms));
        }
        self.highest = serial;
    }

    /// A late one: its gap is split around it.
    fn close(&mut self, serial: u64) {
        let inside = |(gap, _): &(Gap, u64)| (gap.from..=gap.to).contains(&serial);
        let Some(index) = self.gaps.iter().position(inside) else {
            return;
        };
        let (gap, since) = self.gaps.remove(index);
        let before = (gap.from < serial).then(|| Gap {
            to: serial - 1,
            ..gap
        });
        let behind = (serial < gap.to).then(|| Gap {
            from: serial + 1,
            ..gap
        });
        let rest = before.into_iter().chain(behind);
        self.gaps.extend(rest.map(|gap| (gap, since)));
    }

    fn crowded_out(&mut self) -> Vec<Gap> {
        let excess = self.gaps.len().saturating_sub(GAPS_MAX);
        self.gaps.drain(..excess).map(|(gap, _)| gap).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000;
    const LATER: u64 = NOW + PATIENCE_MS;

    fn id(epoch: u64, number: u64) -> EntryId {
        EntryId::new(epoch, number)
    }

    /// What is lost in the end, as hop, first and last serial, after these publications.
    fn check(publications: &[(char, u64, EntryId)], expected: &[(Hop, u64, u64)]) {
        let mut serials = Serials::default();
        for (key, serial, entry_id) in publications {
            assert_eq!(serials.opened(key, *serial, *entry_id, NOW), []);
        }
        assert_eq!(serials.lost(LATER - 1), [], "too early");
        let lost = serials.lost(LATER);
        let lost: Vec<_> = lost.iter().map(|gap| (gap.hop, gap.from, gap.to)).collect();
        assert_eq!(lost, expected);
        assert_eq!(serials.lost(u64::MAX), [], "counted twice");
    }

    #[test]
    fn gap_between_consecutive_entries_was_lost_before_the_bridge() {
        let publications = [
            ('a', 10, id(1, 1)),
            ('a', 11, id(1, 2)),
            ('a', 15, id(1, 3)),
        ];
        check(&publications, &[(Hop::Mom, 12, 14)]);
    }

    #[test]
    fn new_key_counts_from_one() {
        let publications = [('a', 10, id(1, 1)), ('b', 3, id(1, 2))];
        check(&publications, &[(Hop::Mom, 1, 2)]);
    }

    #[test]
    fn entries_that_redis_lost_are_not_counted_again() {
        let publications = [('a', 10, id(1, 1)), ('a', 15, id(1, 6))];
        check(&publications, &[]);
        let publications = [('a', 10, id(1, 1)), ('a', 15, id(2, 6))];
        check(&publications, &[]);
    }

    #[test]
    fn gap_behind_a_new_epoch_was_lost_in_redis() {
        let publications = [('a', 10, id(1, 1)), ('a', 15, id(2, 1))];
        check(&publications, &[(Hop::Redis, 11, 14)]);
    }

    #[test]
    fn late_ones_close_their_gap() {
        let publications = [
            ('a', 10, id(1, 1)),
            ('a', 15, id(1, 2)),
            ('a', 12, id(1, 3)),
            ('a', 14, id(1, 4)),
            ('a', 11, id(1, 5)),
            ('a', 16, id(1, 6)),
        ];
        check(&publications, &[(Hop::Mom, 13, 13)]);
    }

    #[test]
    fn old_key_that_comes_again_opens_no_gap() {
        let publications = [
            ('a', 10, id(1, 1)),
            ('b', 1, id(1, 2)),
            ('a', 11, id(1, 3)),
            ('b', 2, id(1, 4)),
        ];
        check(&publications, &[]);
    }

    #[test]
    fn frames_known_already_do_not_disturb() {
        let mut serials = Serials::default();
        assert_eq!(serials.opened(&'a', 10, id(1, 7), NOW), []);
        serials.passed(id(2, 1));
        serials.passed(id(2, 2));
        assert_eq!(serials.opened(&'a', 12, id(2, 3), NOW), []);
        serials.passed(id(2, 4));
        assert_eq!(serials.opened(&'a', 14, id(2, 5), NOW), []);
        let lost = serials.lost(LATER);
        let lost: Vec<_> = lost.iter().map(|gap| (gap.hop, gap.from)).collect();
        assert_eq!(lost, [(Hop::Redis, 11), (Hop::Mom, 13)]);
    }

    #[test]
    fn gaps_and_keys_are_bounded() {
        let mut serials = Serials::default();
        let mut counted = 0;
        for number in 1..=500 {
            let gaps = serials.opened(&(number / 100), number * 2, id(1, number), NOW);
            counted += gaps.iter().map(Gap::publications).sum::<u64>();
        }
        assert!(serials.keys.len() <= KEYS_MAX);
        assert!(serials.open_gaps() <= KEYS_MAX * GAPS_MAX);
        counted += serials
            .lost(LATER)
            .iter()
            .map(Gap::publications)
            .sum::<u64>();
        // Per key its highest serial without those that came; the first key was seen from 2 on.
        assert_eq!(counted, 98 + 298 + 498 + 698 + 898 + 999);
    }
}

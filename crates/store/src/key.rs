//! The key of a record: the track that it belongs to, and its number.
//!
//! Tracks keep apart what a store looks up apart (a lane's returns from its events, begun parts from done ones) in one
//! table: the records of a track lie together, in the order of their numbers.

/// Bits of a number: at 100,000 records a second it lasts for 89 years.
const NUMBER_BITS: u32 = 48;

/// Tracks are below this.
pub(crate) const TRACKS: u16 = 1 << (63 - NUMBER_BITS);

const NUMBER_MASK: i64 = (1 << NUMBER_BITS) - 1;

/// The key of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) number: u64,
    pub(crate) track: u16,
}

impl Key {
    pub(crate) fn new(track: u16, number: u64) -> Self {
        debug_assert!(track < TRACKS && number >> NUMBER_BITS == 0);
        Self { number, track }
    }

    /// The key in the table: ordered by track, then number.
    pub(crate) fn row(self) -> i64 {
        i64::from(self.track) << NUMBER_BITS | signed(self.number)
    }

    pub(crate) fn from_row(row: i64) -> Self {
        let track = u16::try_from((row >> NUMBER_BITS) & i64::from(TRACKS - 1))
            .expect("masked to less than 16 bits");
        Self::new(track, (row & NUMBER_MASK).unsigned_abs())
    }

    /// The key as callers see it: ordered by number, over all tracks.
    pub(crate) fn id(self) -> i64 {
        signed(self.number) << (63 - NUMBER_BITS) | i64::from(self.track)
    }

    pub(crate) fn from_id(id: i64) -> Self {
        let track = u16::try_from(id & i64::from(TRACKS - 1)).expect("masked to less than 16 bits");
        Self::new(track, (id.max(0) >> (63 - NUMBER_BITS)).unsigned_abs())
    }
}

/// SQLite's integers are signed; ours stay below its maximum.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The other way round, of what was written by [`signed`].
pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_both_spellings_and_keep_their_orders() {
        let keys = [
            Key::new(0, 1),
            Key::new(TRACKS - 1, 1),
            Key::new(3, 2),
            Key::new(0, (1 << NUMBER_BITS) - 1),
            Key::new(TRACKS - 1, (1 << NUMBER_BITS) - 1),
        ];
        for key in keys {
            assert_eq!(Key::from_row(key.row()), key);
            assert_eq!(Key::from_id(key.id()), key);
            assert!(key.row() > 0 && key.id() > 0);
        }
        assert!(keys.is_sorted_by_key(|key| key.id()));
        assert!(Key::new(1, 9).row() < Key::new(2, 1).row());
    }
}

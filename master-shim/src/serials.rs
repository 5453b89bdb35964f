//! Sees publications that were lost between the MoM and the bridge: gaps in the MoM's own `serial`.
//!
//! The MoM counts its publications under one AES key from 1, consecutively. Pure.

use relay_core::entry::EntryId;
use salt_wire::crypticle::AesKey;

/// Follows the serials of one MoM.
#[derive(Debug, Default)]
pub(crate) struct Serials {
    last: Option<(AesKey, u64)>,
    /// The entry that `last` came in.
    entry_id: EntryId,
}

impl Serials {
    /// How many publications are missing before this one, which opened with `key`.
    ///
    /// Nothing is known before the first publication, nor across entries that Redis lost: those are counted there.
    pub(crate) fn missing_before(&mut self, key: &AesKey, serial: u64, entry_id: EntryId) -> u64 {
        let follows = entry_id == self.entry_id.next();
        let missing = match &self.last {
            Some(_) if !follows => 0,
            Some((last_key, last)) if last_key == key => serial.saturating_sub(last + 1),
            // A new key counts from 1.
            Some(_) => serial.saturating_sub(1),
            None => 0,
        };
        self.last = Some((key.clone(), serial));
        self.entry_id = entry_id;
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64) -> EntryId {
        EntryId { epoch: 1, number }
    }

    #[test]
    fn gap_in_the_serial_is_counted() {
        let key = AesKey::generate().expect("random bytes");
        let mut serials = Serials::default();
        assert_eq!(
            serials.missing_before(&key, 10, entry(1)),
            0,
            "nothing is known before"
        );
        assert_eq!(serials.missing_before(&key, 11, entry(2)), 0);
        assert_eq!(serials.missing_before(&key, 15, entry(3)), 3);
    }

    #[test]
    fn new_key_counts_from_one() {
        let keys = [(); 2].map(|()| AesKey::generate().expect("random bytes"));
        let mut serials = Serials::default();
        assert_eq!(serials.missing_before(&keys[0], 10, entry(1)), 0);
        assert_eq!(serials.missing_before(&keys[1], 3, entry(2)), 2);
    }

    #[test]
    fn entries_that_redis_lost_are_not_counted_again() {
        let key = AesKey::generate().expect("random bytes");
        let mut serials = Serials::default();
        assert_eq!(serials.missing_before(&key, 10, entry(1)), 0);
        assert_eq!(serials.missing_before(&key, 15, entry(6)), 0);
    }
}

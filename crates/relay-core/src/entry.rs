//! Entry ids of the publications stream and the publications that carry them.
//!
//! The id of an entry is the id of its Redis stream entry, `<epoch>-<number>`. The epoch is the
//! unix time in milliseconds at which the stream was begun; within it the numbers are consecutive
//! from 1, so that a reader sees a missing entry at once. A greater epoch is a stream begun anew.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

/// The id of one entry of the publications stream. Ordered as Redis orders stream ids.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// Unix time in milliseconds at which this stream was begun; grows with every new beginning.
    pub epoch: u64,
    /// Position within the epoch: the first entry is 1; 0 stands before the first.
    pub number: u64,
}

impl EntryId {
    /// The id before every entry, `0-0`: the newest id of a stream that holds nothing.
    pub const ZERO: Self = Self {
        epoch: 0,
        number: 0,
    };

    /// An id of its two parts.
    #[must_use]
    pub const fn new(epoch: u64, number: u64) -> Self {
        Self { epoch, number }
    }

    /// The id that follows within the same epoch.
    #[must_use]
    pub const fn next(self) -> Self {
        Self {
            epoch: self.epoch,
            number: self.number.saturating_add(1),
        }
    }

    /// The id that precedes within the same epoch; that of number 0 is itself.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self {
            epoch: self.epoch,
            number: self.number.saturating_sub(1),
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no entry id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an entry id: expected `<epoch>-<number>`, both decimal numbers below 2^64")]
pub struct ParseEntryIdError;

impl FromStr for EntryId {
    type Err = ParseEntryIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, number) = text.split_once('-').ok_or(ParseEntryIdError)?;
        Ok(Self {
            epoch: decimal(epoch)?,
            number: decimal(number)?,
        })
    }
}

/// Digits only: `u64::from_str` would also take a leading `+`.
fn decimal(digits: &str) -> Result<u64, ParseEntryIdError> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ParseEntryIdError);
    }
    digits.parse().map_err(|_too_large| ParseEntryIdError)
}

/// One frame of the top master's publish stream, with the number that its append gave it.
#[derive(Clone, PartialEq, Eq)]
pub struct Publication {
    /// The id of the stream entry.
    pub entry_id: EntryId,
    /// Unix time in milliseconds at which the bridge received the frame.
    pub received_at_ms: u64,
    /// The clock that this time was read from, `<bridge>/<start>`: only times of the same clock can
    /// be compared with each other. `None` when the entry does not say.
    pub clock: Option<Box<str>>,
    /// The top master's payload frame, unopened.
    pub frame: Bytes,
}

impl fmt::Debug for Publication {
    /// Shows the frame's length only: frames are large and their bytes say nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publication")
            .field("entry_id", &self.entry_id)
            .field("received_at_ms", &self.received_at_ms)
            .field("clock", &self.clock)
            .field("frame_bytes", &self.frame.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_as_redis_writes_it_and_read_back() {
        for id in [
            EntryId::ZERO,
            EntryId::new(1_795_000_000_000, 7),
            EntryId::new(u64::MAX, u64::MAX),
        ] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "1-2-3",
            "+1-2",
            "1-+2",
            " 1-2",
            "1-18446744073709551616",
            "a-1",
        ] {
            assert_eq!(text.parse::<EntryId>(), Err(ParseEntryIdError), "{text:?}");
        }
    }

    #[test]
    fn ids_are_ordered_by_epoch_then_number() {
        assert!(EntryId::new(1, 9) < EntryId::new(2, 1));
        assert!(EntryId::new(2, 1) < EntryId::new(2, 1).next());
        assert_eq!(EntryId::new(2, 1).previous(), EntryId::new(2, 0));
        assert_eq!(EntryId::new(2, 0).previous(), EntryId::new(2, 0));
    }
}

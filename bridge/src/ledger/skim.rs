//! Reads single values of a msgpack map without building the rest of it in memory.
//!
//! A return may be a megabyte of a command's output, of which the ledger needs a number and a boolean. What is not asked
//! for is stepped over, nested or not, without recursion and without memory.
//!
//! - Hostile bytes end the reading, never the process: whatever cannot be read counts as not there.

use bytes::Bytes;
use salt_wire::msgpack::{Limits, Value, decode};

/// Most keys of an event's own map that are looked at. Salt's returns have about a dozen.
const KEYS_MAX: usize = 256;

/// Calls `each` with every key of the map that is text, and the bytes of its value, until `each` has had enough (`false`).
pub(super) fn fields<'a>(data: &'a [u8], mut each: impl FnMut(&'a [u8], &'a [u8]) -> bool) {
    let mut cursor = Cursor { data, at: 0 };
    let Some(entries) = cursor.map_len() else {
        return;
    };
    for _ in 0..entries.min(KEYS_MAX) {
        let Some(key) = cursor.skip() else { return };
        let Some(value) = cursor.skip() else { return };
        if let Some(key) = text(key)
            && !each(key, value)
        {
            return;
        }
    }
}

/// The bytes of a string, without its marker.
pub(super) fn text(value: &[u8]) -> Option<&[u8]> {
    let head = match value.first()? {
        0xa0..=0xbf => 1,
        0xc4 | 0xd9 => 2,
        0xc5 | 0xda => 3,
        0xc6 | 0xdb => 5,
        _ => return None,
    };
    value.get(head..)
}

/// Decodes a value that [`fields`] found in `data`.
pub(super) fn value(data: &Bytes, found: &[u8]) -> Option<Value> {
    decode(&data.slice_ref(found), Limits::CONTENT).ok()
}

struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
}

/// What stands behind a marker.
enum Body {
    /// So many bytes.
    Bytes(usize),
    /// So many values.
    Values(usize),
}

impl<'a> Cursor<'a> {
    /// The number of entries of the map that begins here; the cursor then stands at its first key.
    fn map_len(&mut self) -> Option<usize> {
        let marker = *self.data.get(self.at)?;
        self.at += 1;
        match marker {
            0x80..=0x8f => Some(usize::from(marker & 0x0f)),
            0xde => self.length(2),
            0xdf => self.length(4),
            _ => None,
        }
    }

    /// Steps over one value and returns its bytes.
    fn skip(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        // Each value that is owed takes a byte at least, so that this cannot run longer than the input.
        let mut owed = 1_usize;
        while owed > 0 {
            owed -= 1;
            match self.body()? {
                Body::Bytes(length) => {
                    self.at = self.at.checked_add(length)?;
                }
                Body::Values(values) => owed = owed.checked_add(values)?,
            }
            if self.at > self.data.len() || owed > self.data.len() - self.at {
                return None;
            }
        }
        self.data.get(start..self.at)
    }

    fn body(&mut self) -> Option<Body> {
        let marker = *self.data.get(self.at)?;
        self.at += 1;
        Some(match marker {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => Body::Bytes(0),
            0x80..=0x8f => Body::Values(usize::from(marker & 0x0f) * 2),
            0x90..=0x9f => Body::Values(usize::from(marker & 0x0f)),
            0xa0..=0xbf => Body::Bytes(usize::from(marker & 0x1f)),
            0xc4 | 0xd9 => Body::Bytes(self.length(1)?),
            0xc5 | 0xda => Body::Bytes(self.length(2)?),
            0xc6 | 0xdb => Body::Bytes(self.length(4)?),
            0xc7 => Body::Bytes(self.length(1)?.checked_add(1)?),
            0xc8 => Body::Bytes(self.length(2)?.checked_add(1)?),
            0xc9 => Body::Bytes(self.length(4)?.checked_add(1)?),
            0xcc | 0xd0 => Body::Bytes(1),
            0xcd | 0xd1 => Body::Bytes(2),
            0xca | 0xce | 0xd2 => Body::Bytes(4),
            0xcb | 0xcf | 0xd3 => Body::Bytes(8),
            0xd4 => Body::Bytes(2),
            0xd5 => Body::Bytes(3),
            0xd6 => Body::Bytes(5),
            0xd7 => Body::Bytes(9),
            0xd8 => Body::Bytes(17),
            0xdc => Body::Values(self.length(2)?),
            0xdd => Body::Values(self.length(4)?),
            0xde => Body::Values(self.length(2)?.checked_mul(2)?),
            0xdf => Body::Values(self.length(4)?.checked_mul(2)?),
            0xc1 => return None,
        })
    }

    /// A big-endian length of so many bytes.
    fn length(&mut self, bytes: usize) -> Option<usize> {
        let digits = self.data.get(self.at..self.at + bytes)?;
        self.at += bytes;
        Some(
            digits
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte)),
        )
    }
}

#[cfg(test)]
mod tests {
    use salt_wire::msgpack::{Dialect, encode};

    use super::*;

    fn everything() -> Value {
        let long = "x".repeat(70_000);
        let nested = Value::map([("b", Value::array([1_i64, -1, 300, 70_000, 5_000_000_000]))]);
        Value::map([
            ("nil", Value::Nil),
            ("float", Value::Float64(1.5)),
            ("small", Value::Float32(0.5)),
            ("short", "abc".into()),
            ("middle", "y".repeat(300).into()),
            ("long", long.into()),
            ("binary", Value::Raw(Bytes::from_static(b"\xff\xfe"))),
            ("date", Value::Ext(78, Bytes::from_static(b"2026"))),
            ("deep", nested),
            ("huge", Value::UInt(u64::MAX)),
            ("retcode", Value::Int(7)),
            ("success", Value::Bool(false)),
        ])
    }

    #[test]
    fn fields_are_found_between_values_of_every_kind() {
        let data = encode(&everything(), Dialect::New);
        let mut found = Vec::new();
        fields(&data, |key, bytes| {
            let decoded = value(&data, bytes).expect("one document");
            found.push((String::from_utf8_lossy(key).into_owned(), decoded));
            true
        });
        let found = Value::map(found);
        assert_eq!(found, everything());
    }

    #[test]
    fn reading_ends_where_the_caller_has_what_it_wants() {
        let data = encode(&everything(), Dialect::New);
        let mut seen = 0;
        fields(&data, |key, _| {
            seen += 1;
            key != b"short"
        });
        assert_eq!(seen, 4);
    }

    #[test]
    fn bytes_that_are_cut_off_or_declare_too_much_end_the_reading() {
        let data = encode(&everything(), Dialect::New);
        for end in 0..data.len().min(400) {
            fields(data.get(..end).expect("in range"), |_, _| true);
        }
        for hostile in [
            &b"\xdf\xff\xff\xff\xff"[..],
            b"\x81\xa1x\xdd\xff\xff\xff\xff",
            b"\x81\xa1x\xc9\xff\xff\xff\xff",
            b"\x81\xc1\xc1",
            b"\xff",
            b"",
        ] {
            let mut seen = 0;
            fields(hostile, |_, _| {
                seen += 1;
                true
            });
            assert_eq!(seen, 0, "{hostile:?}");
        }
        let nested = [&[0x81, 0xa1, b'x'][..], &[0x91; 100_000]].concat();
        fields(&nested, |_, _| true);
    }
}

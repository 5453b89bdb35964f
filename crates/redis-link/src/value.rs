//! Taking the client library's reply values apart without copying their bytes.

use bytes::Bytes;
use redis::Value;
use relay_core::EntryId;

/// The largest part of an entry id that a bridge can write: its numbers go through Lua's doubles.
const NUMBER_MAX: u64 = (1 << 53) - 1;

/// The bytes of a string value.
pub(crate) fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(Bytes::from(bytes)),
        Value::SimpleString(text) => Some(Bytes::from(text)),
        Value::Okay => Some(Bytes::from_static(b"OK")),
        _ => None,
    }
}

/// The text of a string value.
pub(crate) fn text(value: Value) -> Option<String> {
    bytes(value).and_then(|bytes| String::from_utf8(bytes.into()).ok())
}

/// The elements of an array value.
pub(crate) fn array(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(values) | Value::Set(values) => Some(values),
        _ => None,
    }
}

/// A decimal number, as an integer or as digits.
pub(crate) fn number(value: Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(number).ok(),
        other => digits(&text(other)?),
    }
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing into a String does not fail.
            write!(text, "{byte:02x}").unwrap_or_default();
            text
        })
}

/// A number in digits only.
pub(crate) fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// An id that a bridge can have written.
pub(crate) fn entry_id(text: &str) -> Option<EntryId> {
    let id: EntryId = text.parse().ok()?;
    (id.epoch <= NUMBER_MAX && id.number <= NUMBER_MAX).then_some(id)
}

/// The longest name of a clock: a bridge's name, a slash and a time in milliseconds.
const CLOCK_BYTES_MAX: usize = 300;

/// The name of a clock. One that no bridge gives is as good as none: the publication is still
/// there, only its age is judged with less care.
pub(crate) fn clock(text: &str) -> Option<Box<str>> {
    let fits = (1..=CLOCK_BYTES_MAX).contains(&text.len());
    (fits && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| text.into())
}

/// One entry of a stream as it came: its id and its fields, flat. A deleted entry that is still
/// pending has no fields.
pub(crate) struct RawEntry {
    pub(crate) id: String,
    pub(crate) fields: Option<Vec<Value>>,
}

impl RawEntry {
    /// Takes an element of XRANGE's, XREADGROUP's or XAUTOCLAIM's array apart.
    pub(crate) fn new(value: Value) -> Option<Self> {
        let mut parts = array(value)?.into_iter();
        let id = text(parts.next()?)?;
        let fields = parts.next().and_then(array);
        Some(Self { id, fields })
    }

    /// Sum of the bytes of its fields.
    pub(crate) fn len(&self) -> usize {
        let len = |value: &Value| match value {
            Value::BulkString(bytes) => bytes.len(),
            _ => 0,
        };
        self.fields.iter().flatten().map(len).sum()
    }

    /// The values of the named fields; of a name that occurs twice the first counts.
    pub(crate) fn take<const N: usize>(&mut self, names: [&str; N]) -> [Option<Bytes>; N] {
        let mut found = [const { None }; N];
        let mut fields = self.fields.take().into_iter().flatten();
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            let Some(name) = bytes(name) else { continue };
            let index = names.iter().position(|wanted| wanted.as_bytes() == name);
            if let Some(slot) = index.and_then(|index| found.get_mut(index))
                && slot.is_none()
            {
                *slot = bytes(value);
            }
        }
        found
    }
}

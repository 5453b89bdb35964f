//! One msgpack document in memory, and the ways to look into it.

use std::fmt;

use bytes::Bytes;

use crate::ids::{Jid, MinionId};

/// Longest text that `Debug` shows; longer strings show their length only. Salt's key strings have
/// 76 characters, so that no key reaches a log through a `{:?}`.
const DEBUG_TEXT_MAX: usize = 64;

/// A msgpack value as Salt understands it.
///
/// Clones are cheap for strings (they share the input) and deep for arrays and maps.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// Python's `None`.
    Nil,
    /// `True` or `False`.
    Bool(bool),
    /// Any integer that fits 64 bits with a sign.
    Int(i64),
    /// An integer above `i64::MAX`. Larger ones travel as text.
    UInt(u64),
    /// A 32-bit float; Salt itself sends 64-bit floats only.
    Float32(f32),
    /// A 64-bit float.
    Float64(f64),
    /// Text or bytes: Salt makes it text when it is valid UTF-8.
    Raw(Bytes),
    /// A list, tuple or set.
    Array(Vec<Self>),
    /// A dictionary in wire order. Keys need not be text, and may repeat on hostile input.
    Map(Vec<(Self, Self)>),
    /// An extension type: 78 is a date, 79 a constant of Salt's.
    Ext(i8, Bytes),
}

impl Value {
    /// A map with text keys, in the given order.
    pub fn map<K: AsRef<str>>(entries: impl IntoIterator<Item = (K, Self)>) -> Self {
        Self::Map(
            entries
                .into_iter()
                .map(|(key, value)| (key.as_ref().into(), value))
                .collect(),
        )
    }

    /// An array of anything that converts into a value.
    pub fn array<T: Into<Self>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::Array(items.into_iter().map(Into::into).collect())
    }

    /// Whether this is nil.
    pub fn is_nil(&self) -> bool {
        matches!(self, Self::Nil)
    }

    /// The text of a string that is valid UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        self.as_bytes()
            .and_then(|raw| std::str::from_utf8(raw).ok())
    }

    /// The bytes of a string, text or not.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Raw(raw) => Some(raw),
            _ => None,
        }
    }

    /// The integer, if it fits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The integer, if it is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Int(number) => u64::try_from(*number).ok(),
            Self::UInt(number) => Some(*number),
            _ => None,
        }
    }

    /// The boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// The elements of an array.
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The entries of a map, in wire order.
    pub fn as_map(&self) -> Option<&[(Self, Self)]> {
        match self {
            Self::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value of a text key of a map. Of repeated keys the last one counts, as in Salt.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let position = self.position(key)?;
        self.as_map()
            .and_then(|entries| entries.get(position))
            .map(|(_, value)| value)
    }

    /// The text under a key of a map.
    pub fn get_str(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Self::as_str)
    }

    /// Sets a text key of a map, in place when it exists and at the end when it does not. Does
    /// nothing to a value that is no map.
    pub fn set(&mut self, key: &str, value: impl Into<Self>) {
        let position = self.position(key);
        if let Self::Map(entries) = self {
            match position.and_then(|at| entries.get_mut(at)) {
                Some((_, slot)) => *slot = value.into(),
                None => entries.push((key.into(), value.into())),
            }
        }
    }

    /// Removes a text key of a map, all of its repetitions too, and returns what counted.
    pub fn remove(&mut self, key: &str) -> Option<Self> {
        let Self::Map(entries) = self else {
            return None;
        };
        let mut removed = None;
        while let Some(at) = entries.iter().rposition(|(name, _)| name.is_text(key)) {
            let (_, value) = entries.remove(at);
            removed.get_or_insert(value);
        }
        removed
    }

    fn is_text(&self, text: &str) -> bool {
        matches!(self, Self::Raw(raw) if raw == text.as_bytes())
    }

    fn position(&self, key: &str) -> Option<usize> {
        self.as_map()?
            .iter()
            .rposition(|(name, _)| name.is_text(key))
    }
}

/// Shows the shape and short texts only: loads carry keys and whole command outputs.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil => f.write_str("nil"),
            Self::Bool(flag) => flag.fmt(f),
            Self::Int(number) => number.fmt(f),
            Self::UInt(number) => number.fmt(f),
            Self::Float32(number) => number.fmt(f),
            Self::Float64(number) => number.fmt(f),
            Self::Raw(raw) => match std::str::from_utf8(raw) {
                Ok(text) if text.len() <= DEBUG_TEXT_MAX => text.fmt(f),
                _ => write!(f, "raw({} bytes)", raw.len()),
            },
            Self::Array(items) => f.debug_list().entries(items).finish(),
            Self::Map(entries) => f
                .debug_map()
                .entries(entries.iter().map(|(k, v)| (k, v)))
                .finish(),
            Self::Ext(kind, data) => write!(f, "ext({kind}, {} bytes)", data.len()),
        }
    }
}

macro_rules! value_from {
    ($($source:ty => |$name:ident| $value:expr),* $(,)?) => {
        $(impl From<$source> for Value {
            fn from($name: $source) -> Self {
                $value
            }
        })*
    };
}

value_from! {
    bool => |flag| Self::Bool(flag),
    i64 => |number| Self::Int(number),
    i32 => |number| Self::Int(number.into()),
    u16 => |number| Self::Int(number.into()),
    u32 => |number| Self::Int(number.into()),
    u64 => |number| i64::try_from(number).map_or(Self::UInt(number), Self::Int),
    f64 => |number| Self::Float64(number),
    &str => |text| Self::Raw(Bytes::copy_from_slice(text.as_bytes())),
    String => |text| Self::Raw(text.into()),
    &[u8] => |raw| Self::Raw(Bytes::copy_from_slice(raw)),
    Vec<u8> => |raw| Self::Raw(raw.into()),
    Bytes => |raw| Self::Raw(raw),
    &Jid => |jid| jid.as_str().into(),
    &MinionId => |id| id.as_str().into(),
    Vec<Self> => |items| Self::Array(items),
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Nil, Into::into)
    }
}

//! Bytes to [`Value`], for bytes that anybody may have sent.

use bytes::Bytes;
use rmp::Marker;

use super::Value;

/// Deepest nesting that is read. Salt's own packer stops at 511 levels, and ours adds the levels of
/// the envelope on top of a document that was read within this bound.
pub const MAX_DEPTH: usize = 512;

/// Memory taken by one element of an array, the unit in which decoding is bounded: each element
/// takes at least one byte of input, and is paid for before its container is allocated.
pub const BYTES_PER_ELEMENT: usize = size_of::<Value>();

/// What a decoder refuses beforehand.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Levels of arrays and maps.
    pub depth: usize,
    /// Array elements and map keys and values, all together.
    pub elements: usize,
}

impl Limits {
    /// For documents from an authenticated peer: as deep as Salt writes, as many elements as the
    /// input has bytes.
    pub const CONTENT: Self = Self {
        depth: MAX_DEPTH,
        elements: usize::MAX,
    };

    /// For envelopes, which anybody can send: a handful of keys. The room above that is for
    /// `autosign_grains`, whose values are lists at times.
    pub const ENVELOPE: Self = Self {
        depth: 8,
        elements: 1024,
    };
}

/// Why bytes are not a msgpack document that is accepted here. Offsets count from its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The document declares more than the input holds.
    #[error("msgpack document is cut off: {missing} more bytes are declared at offset {offset}")]
    Truncated {
        /// Where the missing bytes would begin.
        offset: usize,
        /// At least this many bytes are missing.
        missing: usize,
    },
    /// A document ends before its input does.
    #[error("{length} bytes follow the msgpack document that ends at offset {offset}")]
    Trailing {
        /// End of the document.
        offset: usize,
        /// Bytes after it.
        length: usize,
    },
    /// Arrays and maps are nested too deeply.
    #[error("msgpack document is nested deeper than {limit} levels")]
    TooDeep {
        /// The limit that was in force.
        limit: usize,
    },
    /// More elements than the caller accepts.
    #[error("msgpack document has more than {limit} elements")]
    TooManyElements {
        /// The limit that was in force.
        limit: usize,
    },
    /// The byte 0xc1, which msgpack never uses.
    #[error("byte 0xc1 at offset {offset} begins no msgpack value")]
    Reserved {
        /// Where it stands.
        offset: usize,
    },
}

/// Reads one document that fills the whole input.
///
/// # Errors
/// See [`DecodeError`]; nothing is allocated for what the input only declares.
pub fn decode(input: &Bytes, limits: Limits) -> Result<Value, DecodeError> {
    let (value, end) = decode_prefix(input, limits)?;
    match input.len() - end {
        0 => Ok(value),
        length => Err(DecodeError::Trailing {
            offset: end,
            length,
        }),
    }
}

/// Reads the document at the start of the input and tells where it ends.
///
/// # Errors
/// See [`DecodeError`]; [`DecodeError::Truncated`] means that a longer input may succeed.
pub fn decode_prefix(input: &Bytes, limits: Limits) -> Result<(Value, usize), DecodeError> {
    let mut decoder = Decoder {
        input,
        offset: 0,
        owed: 1,
        seen: 0,
        limits,
    };
    let value = decoder.value(0)?;
    Ok((value, decoder.offset))
}

struct Decoder<'a> {
    input: &'a Bytes,
    offset: usize,
    /// Elements that open containers declared and that are still to come. Each takes a byte at
    /// least, so that this never exceeds what is left of the input.
    owed: usize,
    seen: usize,
    limits: Limits,
}

impl Decoder<'_> {
    fn value(&mut self, depth: usize) -> Result<Value, DecodeError> {
        let start = self.offset;
        let [marker] = self.fixed()?;
        self.owed -= 1;
        Ok(match Marker::from_u8(marker) {
            Marker::Null => Value::Nil,
            Marker::True => Value::Bool(true),
            Marker::False => Value::Bool(false),
            Marker::FixPos(number) => Value::Int(number.into()),
            Marker::FixNeg(number) => Value::Int(number.into()),
            Marker::U8 => Value::Int(u8::from_be_bytes(self.fixed()?).into()),
            Marker::U16 => Value::Int(u16::from_be_bytes(self.fixed()?).into()),
            Marker::U32 => Value::Int(u32::from_be_bytes(self.fixed()?).into()),
            Marker::U64 => u64::from_be_bytes(self.fixed()?).into(),
            Marker::I8 => Value::Int(i8::from_be_bytes(self.fixed()?).into()),
            Marker::I16 => Value::Int(i16::from_be_bytes(self.fixed()?).into()),
            Marker::I32 => Value::Int(i32::from_be_bytes(self.fixed()?).into()),
            Marker::I64 => Value::Int(i64::from_be_bytes(self.fixed()?)),
            Marker::F32 => Value::Float32(f32::from_be_bytes(self.fixed()?)),
            Marker::F64 => Value::Float64(f64::from_be_bytes(self.fixed()?)),
            Marker::FixStr(length) => Value::Raw(self.slice(length.into())?),
            Marker::Str8 | Marker::Bin8 => {
                self.length8().and_then(|n| self.slice(n)).map(Value::Raw)?
            }
            Marker::Str16 | Marker::Bin16 => self
                .length16()
                .and_then(|n| self.slice(n))
                .map(Value::Raw)?,
            Marker::Str32 | Marker::Bin32 => self
                .length32()
                .and_then(|n| self.slice(n))
                .map(Value::Raw)?,
            Marker::FixArray(length) => self.array(length.into(), depth)?,
            Marker::Array16 => self.length16().and_then(|n| self.array(n, depth))?,
            Marker::Array32 => self.length32().and_then(|n| self.array(n, depth))?,
            Marker::FixMap(length) => self.map(length.into(), depth)?,
            Marker::Map16 => self.length16().and_then(|n| self.map(n, depth))?,
            Marker::Map32 => self.length32().and_then(|n| self.map(n, depth))?,
            Marker::FixExt1 => self.ext(1)?,
            Marker::FixExt2 => self.ext(2)?,
            Marker::FixExt4 => self.ext(4)?,
            Marker::FixExt8 => self.ext(8)?,
            Marker::FixExt16 => self.ext(16)?,
            Marker::Ext8 => self.length8().and_then(|n| self.ext(n))?,
            Marker::Ext16 => self.length16().and_then(|n| self.ext(n))?,
            Marker::Ext32 => self.length32().and_then(|n| self.ext(n))?,
            Marker::Reserved => return Err(DecodeError::Reserved { offset: start }),
        })
    }

    fn array(&mut self, length: usize, depth: usize) -> Result<Value, DecodeError> {
        self.open(length, depth)?;
        let mut items = Vec::with_capacity(length);
        for _ in 0..length {
            items.push(self.value(depth + 1)?);
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, length: usize, depth: usize) -> Result<Value, DecodeError> {
        self.open(length.saturating_mul(2), depth)?;
        let mut entries = Vec::with_capacity(length);
        for _ in 0..length {
            let key = self.value(depth + 1)?;
            entries.push((key, self.value(depth + 1)?));
        }
        Ok(Value::Map(entries))
    }

    fn ext(&mut self, length: usize) -> Result<Value, DecodeError> {
        let kind = i8::from_be_bytes(self.fixed()?);
        Ok(Value::Ext(kind, self.slice(length)?))
    }

    /// Accounts for the elements of a container before any memory is taken for them.
    fn open(&mut self, elements: usize, depth: usize) -> Result<(), DecodeError> {
        if depth >= self.limits.depth {
            return Err(DecodeError::TooDeep {
                limit: self.limits.depth,
            });
        }
        self.seen = self.seen.saturating_add(elements);
        if self.seen > self.limits.elements {
            return Err(DecodeError::TooManyElements {
                limit: self.limits.elements,
            });
        }
        self.owed = self.owed.saturating_add(elements);
        self.require(self.owed)
    }

    fn require(&self, length: usize) -> Result<(), DecodeError> {
        let left = self.input.len() - self.offset;
        match length.checked_sub(left) {
            None | Some(0) => Ok(()),
            Some(missing) => Err(DecodeError::Truncated {
                offset: self.input.len(),
                missing,
            }),
        }
    }

    fn slice(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        self.require(length)?;
        let start = self.offset;
        self.offset += length;
        Ok(self.input.slice(start..self.offset))
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.require(N)?;
        let start = self.offset;
        self.offset += N;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.input[start..self.offset]);
        Ok(bytes)
    }

    fn length8(&mut self) -> Result<usize, DecodeError> {
        self.fixed()
            .map(|bytes| usize::from(u8::from_be_bytes(bytes)))
    }

    fn length16(&mut self) -> Result<usize, DecodeError> {
        self.fixed()
            .map(|bytes| usize::from(u16::from_be_bytes(bytes)))
    }

    fn length32(&mut self) -> Result<usize, DecodeError> {
        // Where an address has fewer bits than a length, no input is that long either.
        self.fixed()
            .map(|bytes| usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX))
    }
}

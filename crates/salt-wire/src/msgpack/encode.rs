//! [`Value`] to bytes, in the dialect of the reader.

use std::io::{self, Write};

use bytes::Bytes;
use rmp::encode::{self as write, ValueWriteError};

use super::Value;

/// Which family of markers strings get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Request and publish ports, and all that is signed there: `fixstr`, `raw16`, `raw32`; never
    /// `str8`, never `bin`.
    Old,
    /// Event bus: `str` (with `str8`) for valid UTF-8, else `bin`.
    New,
}

/// Writes one document, in Salt's shortest form of each number and length.
///
/// # Panics
/// If one string or container has more than `u32::MAX` bytes or elements, which msgpack cannot
/// express and no frame carries.
pub fn encode(value: &Value, dialect: Dialect) -> Bytes {
    encode_after(&[], value, dialect).into()
}

/// Writes a document behind a prefix, into one allocation of the right size.
///
/// # Panics
/// As [`encode()`].
pub fn encode_after(prefix: &[u8], value: &Value, dialect: Dialect) -> Vec<u8> {
    let mut counter = Counter(prefix.len());
    write_value(&mut counter, value, dialect).expect("counting cannot fail");
    let mut out = Vec::with_capacity(counter.0);
    out.extend_from_slice(prefix);
    write_value(&mut out, value, dialect).expect("writing to memory cannot fail");
    out
}

struct Counter(usize);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_value<W: Write>(
    out: &mut W,
    value: &Value,
    dialect: Dialect,
) -> Result<(), ValueWriteError> {
    match value {
        Value::Nil => write::write_nil(out).map_err(ValueWriteError::InvalidMarkerWrite)?,
        Value::Bool(flag) => {
            write::write_bool(out, *flag).map_err(ValueWriteError::InvalidMarkerWrite)?;
        }
        Value::Int(number) => {
            write::write_sint(out, *number)?;
        }
        Value::UInt(number) => {
            write::write_uint(out, *number)?;
        }
        Value::Float32(number) => write::write_f32(out, *number)?,
        Value::Float64(number) => write::write_f64(out, *number)?,
        Value::Raw(raw) => {
            match dialect {
                Dialect::Old => write_old_raw_len(out, raw.len())?,
                Dialect::New if std::str::from_utf8(raw).is_ok() => {
                    write::write_str_len(out, length(raw.len())).map(drop)?;
                }
                Dialect::New => write::write_bin_len(out, length(raw.len())).map(drop)?,
            }
            out.write_all(raw)
                .map_err(ValueWriteError::InvalidDataWrite)?;
        }
        Value::Array(items) => {
            write::write_array_len(out, length(items.len()))?;
            for item in items {
                write_value(out, item, dialect)?;
            }
        }
        Value::Map(entries) => {
            write::write_map_len(out, length(entries.len()))?;
            for (key, value) in entries {
                write_value(out, key, dialect)?;
                write_value(out, value, dialect)?;
            }
        }
        Value::Ext(kind, data) => {
            write::write_ext_meta(out, length(data.len()), *kind)?;
            out.write_all(data)
                .map_err(ValueWriteError::InvalidDataWrite)?;
        }
    }
    Ok(())
}

/// The old specification has no `str8`: 32 bytes and more take a 16-bit length.
fn write_old_raw_len<W: Write>(out: &mut W, bytes: usize) -> Result<(), ValueWriteError> {
    match u16::try_from(bytes) {
        Ok(short @ 32..=255) => {
            out.write_all(&[rmp::Marker::Str16.to_u8()])
                .map_err(ValueWriteError::InvalidMarkerWrite)?;
            out.write_all(&short.to_be_bytes())
                .map_err(ValueWriteError::InvalidDataWrite)
        }
        _ => write::write_str_len(out, length(bytes)).map(drop),
    }
}

fn length(elements: usize) -> u32 {
    u32::try_from(elements).expect("msgpack lengths have 32 bits, and no frame is longer")
}

//! msgpack in Salt's two dialects.
//!
//! The request and publish ports speak the old specification, in which text and bytes share one
//! family of markers (`raw`); the event bus speaks the new one (`str` and `bin`). Salt reads both
//! in the same way: every string is bytes first, and text where the bytes are valid UTF-8.
//! [`Value`] mirrors that: one variant, [`Value::Raw`], for all of them, so that a value read from
//! the bus goes out on the request port with the very bytes that the minion sent.
//!
//! - Decoding copies no string: each one is a slice of the input, and keeps that input alive.
//! - Decoding allocates at most [`BYTES_PER_ELEMENT`] bytes for each byte of input, whatever
//!   lengths the input declares, and refuses nesting deeper than [`MAX_DEPTH`].

mod decode;
mod encode;
mod value;

pub use decode::{BYTES_PER_ELEMENT, DecodeError, Limits, MAX_DEPTH, decode, decode_prefix};
pub use encode::{Dialect, encode, encode_after};
pub use value::Value;

#[cfg(test)]
mod tests;

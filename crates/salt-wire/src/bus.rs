//! Salt's event bus on its unix sockets: frames of 3006, 3007 and 3008 in and out.
//!
//! Bytes in, events out; the sockets themselves are the business of `salt-link`.
//!
//! ```text
//! master_event_pub.ipc ──bytes──► BusDecoder ──► Event { tag, data }
//! master_event_pull.ipc ◄──bytes── encode_event ◄── tag, data
//!
//! frame   = map {"head": {}, "body": bin(tag "\n\n" data)}      data = msgpack map, new spec
//! framing = LengthPrefix: u32 big-endian length, frame          3006 both ways, 3008 towards the master
//!           Streaming:    frames back to back                   3007 both ways, 3008 from the master
//! ```
//! - The tag is known before the data is looked at; data is never decoded here.
//! - No more is held than the bytes fed, and never more than the frame limit and one feed.
//! - A frame whose limits are known but whose content is wrong is reported and skipped; when the
//!   limits themselves are lost there is no way to find the next frame, and the caller reconnects.

mod decoder;
mod skim;
mod tag;
#[cfg(test)]
mod tests;

pub use decoder::{BusDecoder, Decoded, FRAME_BYTES_MAX, FramingError};
pub use skim::{FIELD_BYTES_MAX, Field, MapSkim, Skimmed, Skimmer, Wanted};
pub use tag::{EventTag, is_jid};

use bytes::{BufMut, Bytes, BytesMut};

use crate::msgpack::{DecodeError, Limits, Value, decode};

/// What stands between the tag and the data in the body of a frame.
const TAG_END: &[u8] = b"\n\n";

/// How frames are told apart on a stream; see the head of this module for who uses which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// A u32 big-endian length in front of every frame.
    LengthPrefix,
    /// Frames back to back; msgpack itself says where one ends.
    Streaming,
}

impl Framing {
    /// The framing of a stream that begins with this byte, or nothing when it can be neither.
    ///
    /// A streamed frame begins with the marker of a small map (0x80..=0x8f, in practice 0x82).
    /// A length below 2 GiB begins with a byte below 0x80 (in practice 0x00 or 0x01).
    #[must_use]
    pub fn detect(first: u8) -> Option<Self> {
        match first {
            0x00..=0x7f => Some(Self::LengthPrefix),
            0x80..=0x8f => Some(Self::Streaming),
            _ => None,
        }
    }
}

/// One event of the bus. `Debug` shows the length of the data only: a bus carries keys, too
/// (`salt/auth/creds` of a minion's).
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// The tag, such as `salt/job/20261120175418824928/new`.
    pub tag: String,
    /// The data as it came: a msgpack map of the new spec, not decoded and not checked.
    pub data: Bytes,
}

impl Event {
    /// What the tag says.
    #[must_use]
    pub fn parsed_tag(&self) -> EventTag<'_> {
        EventTag::parse(&self.tag)
    }

    /// Decodes the data; every call does it anew. Salt's own events hold a map.
    ///
    /// # Errors
    /// When the data is not one msgpack document.
    pub fn value(&self) -> Result<Value, DecodeError> {
        decode(&self.data, Limits::CONTENT)
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Event")
            .field("tag", &self.tag)
            .field("data_bytes", &self.data.len())
            .finish()
    }
}

/// Why an event cannot be written as a frame.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EncodeError {
    /// The tag holds the sequence that ends a tag, so a reader would cut it there.
    #[error("event tag {tag:?} holds an empty line, which ends a tag on the event bus")]
    TagHoldsEnd {
        /// The tag as given.
        tag: String,
    },
    /// Lengths on the bus are u32.
    #[error("event {tag:?} is {bytes} bytes long, more than a frame of the event bus can say")]
    TooLong {
        /// The tag as given.
        tag: String,
        /// Bytes of tag and data.
        bytes: usize,
    },
}

/// Writes one event as Salt's own client does: byte for byte the frame of `fire_event`.
///
/// `data` is a msgpack map of the new spec. Salt's clients put `_stamp` (ISO time, UTC) into it;
/// this function does not.
///
/// # Errors
/// When the tag holds an empty line, or the frame would not fit a u32 length.
pub fn encode_event(tag: &str, data: &[u8], framing: Framing) -> Result<Bytes, EncodeError> {
    if tag
        .as_bytes()
        .windows(TAG_END.len())
        .any(|pair| pair == TAG_END)
    {
        return Err(EncodeError::TagHoldsEnd {
            tag: tag.to_owned(),
        });
    }
    let body = tag.len() + TAG_END.len() + data.len();
    // The marker and length of a bin are 2, 3 or 5 bytes.
    let head: &[u8] = b"\x82\xa4head\x80\xa4body";
    let marker = match body {
        0..=0xff => 2,
        0x100..=0xffff => 3,
        _ => 5,
    };
    let frame = head.len() + marker + body;
    let too_long = || EncodeError::TooLong {
        tag: tag.to_owned(),
        bytes: body,
    };
    let frame_u32 = u32::try_from(frame).map_err(|_| too_long())?;
    let body_u32 = u32::try_from(body).map_err(|_| too_long())?;

    let mut out = BytesMut::with_capacity(4 + frame);
    if framing == Framing::LengthPrefix {
        out.put_u32(frame_u32);
    }
    out.put_slice(head);
    if let Ok(short) = u8::try_from(body) {
        out.put_u8(0xc4);
        out.put_u8(short);
    } else if let Ok(middle) = u16::try_from(body) {
        out.put_u8(0xc5);
        out.put_u16(middle);
    } else {
        out.put_u8(0xc6);
        out.put_u32(body_u32);
    }
    out.put_slice(tag.as_bytes());
    out.put_slice(TAG_END);
    out.put_slice(data);
    Ok(out.freeze())
}

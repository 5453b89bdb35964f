//! Cuts a stream of the event bus into events, whichever way it is framed.

use bytes::{Buf, Bytes, BytesMut};

use super::{Event, Framing, TAG_END};

/// Largest frame accepted unless the caller says otherwise: 256 MiB.
///
/// Salt trims events above `max_event_size` (1 MiB), but an operator may raise that to carry large
/// returns; beyond a quarter of a gibibyte a length is far more likely to be garbage.
pub const FRAME_BYTES_MAX: usize = 256 << 20;

/// Everything of a streamed frame but its body: Salt writes 13 bytes (`head` is an empty map).
const ENVELOPE_BYTES_MAX: usize = 64 << 10;

/// Longest tag accepted. Salt's longest are a few hundred bytes.
const TAG_BYTES_MAX: usize = 64 << 10;

/// Bodies up to this size are copied out, so that a small event that is kept does not keep the
/// whole read buffer alive.
const COPY_BYTES_MAX: usize = 16 << 10;

/// The stream cannot be followed any more: reconnect.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FramingError {
    /// The first byte fits neither framing.
    #[error("event bus begins with byte {byte:#04x}, which is neither a length nor a frame")]
    UnknownFraming {
        /// The byte.
        byte: u8,
    },
    /// A frame is longer than the limit.
    #[error("event bus announces a frame of {bytes} bytes, the limit is {limit}")]
    TooLong {
        /// Bytes announced.
        bytes: u64,
        /// The limit of this decoder.
        limit: usize,
    },
    /// A streamed frame is not a msgpack map of the expected form.
    #[error("event bus sent bytes that are not a frame: {detail}")]
    NotAFrame {
        /// What was found.
        detail: &'static str,
    },
}

/// What the decoder found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// An event whose tag was wanted.
    Event(Event),
    /// A frame whose content is no event; it was skipped and the stream goes on.
    Malformed {
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Incremental reader of one connection; make a new one for every connection.
///
/// ```text
/// first byte ──► LengthPrefix | Streaming ──► frames ...
///      └──────────────┴──────────────┴──► FramingError, for good
/// ```
#[derive(Debug)]
pub struct BusDecoder {
    buffer: BytesMut,
    framing: Option<Framing>,
    frame_bytes_max: usize,
    /// The buffer is not looked at again before it holds this many bytes.
    wait_for: usize,
}

/// Where the body of a complete frame lies.
struct Span {
    frame: usize,
    body: Option<(usize, usize)>,
}

enum Scan {
    Complete(Span),
    /// At least this many bytes are needed in all.
    Needs(usize),
}

impl Default for BusDecoder {
    fn default() -> Self {
        Self::new(FRAME_BYTES_MAX)
    }
}

impl BusDecoder {
    /// A decoder that refuses frames of more than `frame_bytes_max` bytes.
    #[must_use]
    pub fn new(frame_bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            framing: None,
            frame_bytes_max,
            wait_for: 1,
        }
    }

    /// The framing of this stream, once its first byte has been decoded.
    #[must_use]
    pub fn framing(&self) -> Option<Framing> {
        self.framing
    }

    /// Bytes fed and not yet decoded.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Appends bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The buffer to append bytes of the stream to, for readers that read straight into it.
    /// Nothing but appending is allowed.
    pub fn read_buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next event whose tag is `wanted`, or nothing when more bytes are needed.
    ///
    /// # Errors
    /// When the stream can no longer be followed. Every later call fails in the same way.
    pub fn next_event(
        &mut self,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Option<Decoded>, FramingError> {
        loop {
            let Some(&first) = self.buffer.first() else {
                return Ok(None);
            };
            let framing = match self.framing {
                Some(framing) => framing,
                None => {
                    Framing::detect(first).ok_or(FramingError::UnknownFraming { byte: first })?
                }
            };
            self.framing = Some(framing);
            if self.buffer.len() < self.wait_for {
                return Ok(None);
            }
            let scan = match framing {
                Framing::LengthPrefix => self.scan_prefixed()?,
                Framing::Streaming => self.scan_streaming()?,
            };
            let span = match scan {
                Scan::Complete(span) => span,
                Scan::Needs(bytes) => {
                    self.wait_for = bytes;
                    return Ok(None);
                }
            };
            self.wait_for = 1;
            if let Some(decoded) = self.take(&span, &wanted) {
                return Ok(Some(decoded));
            }
        }
    }

    fn scan_prefixed(&self) -> Result<Scan, FramingError> {
        let Some(prefix) = self.buffer.first_chunk::<4>() else {
            return Ok(Scan::Needs(4));
        };
        let announced = u32::from_be_bytes(*prefix);
        let length = self.within_limit(u64::from(announced))?;
        let frame = 4 + length;
        let Some(content) = self.buffer.get(4..frame) else {
            return Ok(Scan::Needs(frame));
        };
        // The prefix says where the frame ends, so whatever is wrong inside is only this frame's.
        let body = match scan_frame(content) {
            Ok(Step::Done { end, body }) if end == length => body,
            Ok(_) | Err(_) => None,
        };
        Ok(Scan::Complete(Span {
            frame,
            body: body.map(|(from, to)| (from + 4, to + 4)),
        }))
    }

    fn scan_streaming(&self) -> Result<Scan, FramingError> {
        match scan_frame(&self.buffer).map_err(|detail| FramingError::NotAFrame { detail })? {
            Step::Done { end, body } => {
                self.within_limit(end as u64)?;
                Ok(Scan::Complete(Span { frame: end, body }))
            }
            Step::Needs(bytes) => Ok(Scan::Needs(self.within_limit(bytes)?)),
        }
    }

    fn within_limit(&self, bytes: u64) -> Result<usize, FramingError> {
        usize::try_from(bytes)
            .ok()
            .filter(|&bytes| bytes <= self.frame_bytes_max)
            .ok_or(FramingError::TooLong {
                bytes,
                limit: self.frame_bytes_max,
            })
    }

    /// Takes one complete frame off the buffer. Nothing when its tag is not wanted.
    fn take(&mut self, span: &Span, wanted: &impl Fn(&str) -> bool) -> Option<Decoded> {
        let found = span
            .body
            .and_then(|(from, to)| Some((from, to, self.buffer.get(from..to)?)));
        let Some((from, to, body)) = found else {
            self.buffer.advance(span.frame);
            return Some(Decoded::Malformed {
                reason: "the frame holds no body of bytes",
            });
        };
        let tag_room = body.get(..TAG_BYTES_MAX + TAG_END.len()).unwrap_or(body);
        let tag_end = tag_room
            .windows(TAG_END.len())
            .position(|pair| pair == TAG_END);
        let tag = tag_end.and_then(|end| std::str::from_utf8(body.get(..end)?).ok());
        let (Some(end), Some(tag)) = (tag_end, tag) else {
            self.buffer.advance(span.frame);
            return Some(Decoded::Malformed {
                reason: "the event has no tag of UTF-8 text within 64 KiB",
            });
        };
        if !wanted(tag) {
            self.buffer.advance(span.frame);
            return None;
        }
        let tag = tag.to_owned();
        let data_from = from + end + TAG_END.len();
        let data = if to - data_from <= COPY_BYTES_MAX {
            let data = self.buffer.get(data_from..to).map(Bytes::copy_from_slice);
            self.buffer.advance(span.frame);
            data.unwrap_or_default()
        } else {
            self.buffer
                .split_to(span.frame)
                .freeze()
                .slice(data_from..to)
        };
        Some(Decoded::Event(Event { tag, data }))
    }
}

enum Step {
    /// The frame ends before `end`; its body, if it has one of bytes, lies between the two.
    Done {
        end: usize,
        body: Option<(usize, usize)>,
    },
    /// At least so many bytes are needed to go on.
    Needs(u64),
}

/// Walks over one map. Errors say why the bytes cannot be a frame.
fn scan_frame(bytes: &[u8]) -> Result<Step, &'static str> {
    let Some(&marker) = bytes.first() else {
        return Ok(Step::Needs(1));
    };
    if marker & 0xf0 != 0x80 {
        return Err("a frame is a small map");
    }
    let mut at = 1;
    let mut body = None;
    let mut body_bytes = 0;
    for _ in 0..(marker & 0x0f) {
        let key_at = at;
        let key = match scan_value(bytes, at)? {
            Walk::Past(end) => bytes.get(key_at..end).unwrap_or_default(),
            Walk::Needs(needs) => return needs_within(needs, body_bytes),
        };
        at += key.len();
        let value_at = at;
        at = match scan_value(bytes, value_at)? {
            Walk::Past(end) => end,
            // Only the body may be long.
            Walk::Needs(needs) if key == b"\xa4body" && bin_header(bytes, value_at).is_some() => {
                return Ok(Step::Needs(needs));
            }
            Walk::Needs(needs) => return needs_within(needs, body_bytes),
        };
        if key == b"\xa4body" {
            body = bin_header(bytes, value_at).map(|header| (value_at + header, at));
            body_bytes += at - value_at;
        }
        if at - body_bytes > ENVELOPE_BYTES_MAX {
            return Err("a frame carries more than a body");
        }
    }
    Ok(Step::Done { end: at, body })
}

fn needs_within(needs: u64, body_bytes: usize) -> Result<Step, &'static str> {
    if needs > (ENVELOPE_BYTES_MAX + body_bytes) as u64 {
        return Err("a frame carries more than a body");
    }
    Ok(Step::Needs(needs))
}

/// Length of the header of a bin or raw value that begins here.
fn bin_header(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        0xa0..=0xbf => Some(1),
        0xc4 | 0xd9 => Some(2),
        0xc5 | 0xda => Some(3),
        0xc6 | 0xdb => Some(5),
        _ => None,
    }
}

enum Walk {
    Past(usize),
    Needs(u64),
}

/// Walks over one msgpack value of any kind, nested or not, without recursion.
fn scan_value(bytes: &[u8], from: usize) -> Result<Walk, &'static str> {
    let mut at = from as u64;
    let mut pending: u64 = 1;
    while pending > 0 {
        pending -= 1;
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let Some(&marker) = bytes.get(start) else {
            return Ok(Walk::Needs(at + 1));
        };
        // Bytes of the big-endian number after the marker, and what it counts.
        let (number, fixed) = match marker {
            0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => (0, 0),
            0x80..=0x8f => {
                pending += 2 * u64::from(marker & 0x0f);
                (0, 0)
            }
            0x90..=0x9f => {
                pending += u64::from(marker & 0x0f);
                (0, 0)
            }
            0xa0..=0xbf => (0, u64::from(marker & 0x1f)),
            0xc1 => return Err("byte 0xc1 is not msgpack"),
            0xc4 | 0xd9 => (1, 0),
            0xc5 | 0xda => (2, 0),
            0xc6 | 0xdb => (4, 0),
            0xc7 => (1, 1),
            0xc8 => (2, 1),
            0xc9 => (4, 1),
            0xcc | 0xd0 => (0, 1),
            0xcd | 0xd1 => (0, 2),
            0xca | 0xce | 0xd2 => (0, 4),
            0xcb | 0xcf | 0xd3 => (0, 8),
            0xd4 => (0, 2),
            0xd5 => (0, 3),
            0xd6 => (0, 5),
            0xd7 => (0, 9),
            0xd8 => (0, 17),
            0xdc | 0xde => (2, 0),
            0xdd | 0xdf => (4, 0),
        };
        let digits_end = start.saturating_add(1 + number);
        let Some(digits) = bytes.get(start + 1..digits_end) else {
            return Ok(Walk::Needs(digits_end as u64));
        };
        let count = digits
            .iter()
            .fold(0_u64, |sum, &digit| sum << 8 | u64::from(digit));
        at += (1 + number) as u64 + fixed;
        match marker {
            0xdc | 0xdd => pending += count,
            0xde | 0xdf => pending += 2 * count,
            _ => at += count,
        }
        if pending > ENVELOPE_BYTES_MAX as u64 {
            return Err("a frame carries more than a body");
        }
    }
    match usize::try_from(at).ok().filter(|&end| end <= bytes.len()) {
        Some(end) => Ok(Walk::Past(end)),
        None => Ok(Walk::Needs(at)),
    }
}

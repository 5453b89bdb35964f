//! Reads an event bus in little memory: the tag and a few short fields of each event, however large it is.
//!
//! ```text
//! bytes ──► Skimmer ──tag──► wanted? ──► MapSkim ──► Skimmed { tag, fields, copy }
//! ```
//! For a program that shall stay small beside a minion whose returns may have hundreds of MiB.
//!
//! - Nothing is held but the tag, the wanted fields and, where it is asked for, a copy up to a bound.
//! - Only frames of Salt's own form are read. With lengths in front a wrong one is skipped; else it ends the reading.

use super::{FRAME_BYTES_MAX, Framing, FramingError, TAG_END};

/// Longest tag that is read; Salt's longest are a few hundred bytes. Events with longer ones are skipped.
const TAG_BYTES_MAX: usize = 1024;

/// Longest text that a field keeps.
pub const FIELD_BYTES_MAX: usize = 512;

/// What stands before a body: `{"head": {}, "body": `.
const ENVELOPE: &[u8; 12] = b"\x82\xa4head\x80\xa4body";

/// A value under a wanted key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// Text of at most [`FIELD_BYTES_MAX`] bytes.
    Text(String),
    /// `None`.
    Nil,
    /// `True` or `False`.
    Bool(bool),
    /// Anything else, not looked at.
    Other,
}

/// What shall be done with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing.
    Skip,
    /// Read the fields.
    Fields,
    /// Read the fields, and copy the data if it has at most so many bytes.
    Copy(usize),
}

/// One event that was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skimmed {
    /// Its tag.
    pub tag: String,
    /// The values under the wanted keys, in the order of the keys.
    pub fields: Vec<Option<Field>>,
    /// The data as it came, when a copy was wanted and it is not too large.
    pub copy: Option<Vec<u8>>,
    /// How large the data is.
    pub data_bytes: usize,
}

impl Skimmed {
    /// The text of a field.
    #[must_use]
    pub fn text(&self, field: usize) -> Option<&str> {
        match self.fields.get(field)? {
            Some(Field::Text(text)) => Some(text),
            _ => None,
        }
    }
}

/// Incremental reader of one connection; make a new one for every connection.
#[derive(Debug)]
pub struct Skimmer {
    keys: &'static [&'static str],
    framing: Option<Framing>,
    at: At,
    /// Bytes of the frame behind its length, or of the envelope, collected so far.
    head: Vec<u8>,
    /// Bytes of the frame that are still to come, where the framing tells.
    frame_left: Option<usize>,
    /// Bytes of the body that are still to come.
    body_left: usize,
    tag: Vec<u8>,
    map: Option<MapSkim>,
    copy: Option<Vec<u8>>,
    data_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Length,
    Envelope,
    Tag,
    Data,
    /// The rest of a body that nobody wants.
    Rest,
    /// The rest of a frame that is none of Salt's.
    Frame,
}

impl Skimmer {
    /// A reader that looks for these keys.
    #[must_use]
    pub fn new(keys: &'static [&'static str]) -> Self {
        Self {
            keys,
            framing: None,
            at: At::Envelope,
            head: Vec::new(),
            frame_left: None,
            body_left: 0,
            tag: Vec::new(),
            map: None,
            copy: None,
            data_bytes: 0,
        }
    }

    /// The framing of this stream, once its first byte was read.
    #[must_use]
    pub fn framing(&self) -> Option<Framing> {
        self.framing
    }

    /// Reads bytes of the stream; `wanted` is asked for each tag and `found` is told each event that ends in them.
    ///
    /// # Errors
    /// When the stream cannot be followed any more.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        wanted: &mut dyn FnMut(&str) -> Wanted,
        found: &mut dyn FnMut(Skimmed),
    ) -> Result<(), FramingError> {
        while let Some(&first) = bytes.first() {
            if self.framing.is_none() {
                let framing = Framing::detect(first);
                self.framing = Some(framing.ok_or(FramingError::UnknownFraming { byte: first })?);
                self.begin_frame();
            }
            let used = match self.at {
                At::Length => self.length(first)?,
                At::Envelope => self.envelope(first)?,
                At::Tag => self.tag(first, wanted),
                At::Data => self.data(bytes),
                At::Rest => bytes.len().min(self.body_left),
                At::Frame => bytes.len().min(self.frame_left.unwrap_or(0)),
            };
            self.passed(used, found);
            bytes = bytes.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    fn begin_frame(&mut self) {
        self.head.clear();
        self.frame_left = None;
        self.at = match self.framing {
            Some(Framing::LengthPrefix) => At::Length,
            _ => At::Envelope,
        };
    }

    fn length(&mut self, byte: u8) -> Result<usize, FramingError> {
        self.head.push(byte);
        if let Some(digits) = self.head.first_chunk::<4>() {
            let length = within_limit(u32::from_be_bytes(*digits))?;
            self.head.clear();
            // The byte itself is passed as one of the frame, see `passed`.
            self.frame_left = Some(length + 1);
            self.at = At::Envelope;
        }
        Ok(1)
    }

    fn envelope(&mut self, byte: u8) -> Result<usize, FramingError> {
        self.head.push(byte);
        let known = self.head.len().min(ENVELOPE.len());
        if self.head.get(..known) != ENVELOPE.get(..known) {
            return self.not_a_frame("a frame does not begin as Salt's do");
        }
        let digits = match self.head.get(ENVELOPE.len()) {
            None => return Ok(1),
            Some(0xc4) => 1,
            Some(0xc5) => 2,
            Some(0xc6) => 4,
            Some(_) => return self.not_a_frame("the body of a frame is not bytes"),
        };
        let number = self.head.get(ENVELOPE.len() + 1..).unwrap_or_default();
        if number.len() == digits {
            let length = number
                .iter()
                .fold(0, |sum: u32, &digit| sum << 8 | u32::from(digit));
            let length = within_limit(length)?;
            if self.frame_left.is_some_and(|left| left != length + 1) {
                return self.not_a_frame("the body does not fill the frame");
            }
            self.tag.clear();
            // As with the frame's length.
            self.body_left = length + 1;
            self.at = At::Tag;
        }
        Ok(1)
    }

    fn not_a_frame(&mut self, detail: &'static str) -> Result<usize, FramingError> {
        match self.frame_left {
            Some(_) => {
                self.at = At::Frame;
                Ok(1)
            }
            None => Err(FramingError::NotAFrame { detail }),
        }
    }

    fn tag(&mut self, byte: u8, wanted: &mut dyn FnMut(&str) -> Wanted) -> usize {
        self.tag.push(byte);
        let Some(tag) = self.tag.strip_suffix(TAG_END) else {
            if self.tag.len() > TAG_BYTES_MAX {
                self.at = At::Rest;
            }
            return 1;
        };
        let wanted = std::str::from_utf8(tag).map_or(Wanted::Skip, wanted);
        self.data_bytes = self.body_left - 1;
        self.at = At::Data;
        self.copy = None;
        match wanted {
            Wanted::Skip => self.at = At::Rest,
            Wanted::Fields => self.map = Some(MapSkim::new(self.keys)),
            Wanted::Copy(max) => {
                self.map = Some(MapSkim::new(self.keys));
                self.copy = (self.data_bytes <= max).then(|| Vec::with_capacity(self.data_bytes));
            }
        }
        1
    }

    fn data(&mut self, bytes: &[u8]) -> usize {
        let used = bytes.len().min(self.body_left);
        let part = bytes.get(..used).unwrap_or_default();
        if let Some(map) = &mut self.map {
            map.feed(part);
        }
        if let Some(copy) = &mut self.copy {
            copy.extend_from_slice(part);
        }
        used
    }

    /// Counts bytes off the body and the frame, and ends what ends with them.
    fn passed(&mut self, bytes: usize, found: &mut dyn FnMut(Skimmed)) {
        if let Some(left) = &mut self.frame_left {
            *left = left.saturating_sub(bytes);
        }
        let body_ends = match self.at {
            At::Tag | At::Data | At::Rest => {
                self.body_left = self.body_left.saturating_sub(bytes);
                self.body_left == 0
            }
            At::Length | At::Envelope | At::Frame => false,
        };
        if body_ends {
            self.end_of_body(found);
            self.begin_frame();
        } else if self.frame_left == Some(0) {
            self.begin_frame();
        }
    }

    fn end_of_body(&mut self, found: &mut dyn FnMut(Skimmed)) {
        let map = self.map.take();
        let copy = self.copy.take();
        let tag = self.tag.strip_suffix(TAG_END).map(<[u8]>::to_vec);
        let whole = map
            .filter(|_| self.at == At::Data)
            .and_then(MapSkim::finish);
        if let (Some(fields), Some(Ok(tag))) = (whole, tag.map(String::from_utf8)) {
            found(Skimmed {
                tag,
                fields,
                copy,
                data_bytes: self.data_bytes,
            });
        }
    }
}

fn within_limit(length: u32) -> Result<usize, FramingError> {
    let bytes = u64::from(length);
    usize::try_from(bytes)
        .ok()
        .filter(|&bytes| bytes <= FRAME_BYTES_MAX)
        .ok_or(FramingError::TooLong {
            bytes,
            limit: FRAME_BYTES_MAX,
        })
}

/// Walks over one msgpack map, of either dialect, and keeps the values of a few keys of its top level.
///
/// Of repeated keys the last one counts, as in Salt. Nothing nested is kept, so neither depth nor size costs memory.
#[derive(Debug)]
pub struct MapSkim {
    keys: &'static [&'static str],
    fields: Vec<Option<Field>>,
    /// Marker and digits of the value that begins.
    head: [u8; 5],
    head_len: usize,
    /// Bytes of the current value that are still to come.
    raw_left: u64,
    /// What of them is kept.
    kept: Option<Vec<u8>>,
    /// Values inside of the current one that are still to come.
    nested: u64,
    /// Keys and values of the map that are still to come; `None` before it began.
    items_left: Option<u64>,
    /// The wanted key whose value comes.
    key: Option<usize>,
    broken: bool,
}

/// What a marker and its digits announce.
struct Head {
    raw: u64,
    children: u64,
    what: What,
}

#[derive(PartialEq, Eq)]
enum What {
    Map,
    Text,
    Plain(Field),
}

impl MapSkim {
    /// A walk that looks for these keys.
    #[must_use]
    pub fn new(keys: &'static [&'static str]) -> Self {
        Self {
            keys,
            fields: vec![None; keys.len()],
            head: [0; 5],
            head_len: 0,
            raw_left: 0,
            kept: None,
            nested: 0,
            items_left: None,
            key: None,
            broken: false,
        }
    }

    /// Reads more of the map; bytes behind its end make it unreadable.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(&first) = bytes.first() {
            if self.broken || self.items_left == Some(0) {
                self.broken = true;
                return;
            }
            let used = if self.raw_left > 0 {
                self.raw(bytes)
            } else {
                self.marker(first);
                1
            };
            bytes = bytes.get(used..).unwrap_or_default();
        }
    }

    /// The fields, in the order of the keys; nothing when this was no whole map.
    #[must_use]
    pub fn finish(self) -> Option<Vec<Option<Field>>> {
        (!self.broken && self.items_left == Some(0)).then_some(self.fields)
    }

    /// The fields that were read so far, of a map that was not read to its end.
    #[must_use]
    pub fn so_far(self) -> Vec<Option<Field>> {
        self.fields
    }

    fn raw(&mut self, bytes: &[u8]) -> usize {
        let used = usize::try_from(self.raw_left).map_or(bytes.len(), |left| left.min(bytes.len()));
        if let (Some(kept), Some(part)) = (&mut self.kept, bytes.get(..used)) {
            kept.extend_from_slice(part);
        }
        self.raw_left -= used as u64;
        self.end_of_value();
        used
    }

    fn marker(&mut self, byte: u8) {
        if let Some(slot) = self.head.get_mut(self.head_len) {
            *slot = byte;
            self.head_len += 1;
        }
        let Some(head) = read_head(self.head.get(..self.head_len).unwrap_or_default()) else {
            return;
        };
        self.head_len = 0;
        match head {
            Ok(head) => self.begin_value(head),
            Err(()) => self.broken = true,
        }
    }

    fn begin_value(&mut self, head: Head) {
        let Head {
            raw,
            children,
            what,
        } = head;
        let Some(items_left) = self.items_left else {
            self.broken = what != What::Map;
            self.items_left = Some(children);
            return;
        };
        self.raw_left = raw;
        if self.nested > 0 {
            self.nested -= 1;
        } else if items_left % 2 == 0 {
            let keeps = what == What::Text && raw <= FIELD_BYTES_MAX as u64;
            self.kept = keeps.then(Vec::new);
        } else if let Some(slot) = self.key.and_then(|key| self.fields.get_mut(key)) {
            match what {
                What::Text if raw <= FIELD_BYTES_MAX as u64 => self.kept = Some(Vec::new()),
                What::Plain(field) => *slot = Some(field),
                What::Text | What::Map => *slot = Some(Field::Other),
            }
        }
        self.nested = self.nested.saturating_add(children);
        self.end_of_value();
    }

    /// Ends the value of the top level, if it is all there.
    fn end_of_value(&mut self) {
        if self.raw_left > 0 || self.nested > 0 {
            return;
        }
        let Some(items_left) = self.items_left.filter(|&left| left > 0) else {
            return;
        };
        let kept = self.kept.take();
        if items_left % 2 == 0 {
            let name = kept.as_deref();
            let known = |key: &&str| Some(key.as_bytes()) == name;
            self.key = self.keys.iter().position(known);
        } else if let (Some(text), Some(key)) = (kept, self.key.take()) {
            let field = String::from_utf8(text).map_or(Field::Other, Field::Text);
            if let Some(slot) = self.fields.get_mut(key) {
                *slot = Some(field);
            }
        }
        self.items_left = Some(items_left - 1);
    }
}

/// Reads a marker with its digits; nothing when digits are missing.
fn read_head(bytes: &[u8]) -> Option<Result<Head, ()>> {
    let marker = *bytes.first()?;
    // Bytes of the number behind the marker.
    let digits = match marker {
        0xc4 | 0xd9 | 0xc7 => 1,
        0xc5 | 0xda | 0xc8 | 0xdc | 0xde => 2,
        0xc6 | 0xdb | 0xc9 | 0xdd | 0xdf => 4,
        _ => 0,
    };
    let number = bytes.get(1..)?;
    if number.len() < digits {
        return None;
    }
    let number = number
        .iter()
        .fold(0_u64, |sum, &digit| sum << 8 | u64::from(digit));
    let low = |mask: u8| u64::from(marker & mask);
    let (raw, children, what) = match marker {
        0x80..=0x8f => (0, 2 * low(0x0f), What::Map),
        0xde | 0xdf => (0, 2 * number, What::Map),
        0x90..=0x9f => (0, low(0x0f), What::Plain(Field::Other)),
        0xdc | 0xdd => (0, number, What::Plain(Field::Other)),
        0xa0..=0xbf => (low(0x1f), 0, What::Text),
        0xc4..=0xc6 | 0xd9..=0xdb => (number, 0, What::Text),
        0xc7..=0xc9 => (number + 1, 0, What::Plain(Field::Other)),
        0xc0 => (0, 0, What::Plain(Field::Nil)),
        0xc1 => return Some(Err(())),
        0xc2 | 0xc3 => (0, 0, What::Plain(Field::Bool(marker == 0xc3))),
        0xcc | 0xd0 => (1, 0, What::Plain(Field::Other)),
        0xcd | 0xd1 | 0xd4 => (2, 0, What::Plain(Field::Other)),
        0xd5 => (3, 0, What::Plain(Field::Other)),
        0xca | 0xce | 0xd2 => (4, 0, What::Plain(Field::Other)),
        0xd6 => (5, 0, What::Plain(Field::Other)),
        0xcb | 0xcf | 0xd3 => (8, 0, What::Plain(Field::Other)),
        0xd7 => (9, 0, What::Plain(Field::Other)),
        0xd8 => (17, 0, What::Plain(Field::Other)),
        0x00..=0x7f | 0xe0..=0xff => (0, 0, What::Plain(Field::Other)),
    };
    Some(Ok(Head {
        raw,
        children,
        what,
    }))
}

#[cfg(test)]
mod tests;

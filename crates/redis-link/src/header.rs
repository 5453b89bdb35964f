//! The header line of pub/sub messages: `key=value` pairs, a line end, then the raw frame.
//!
//! ```text
//! v=1 id=<epoch>-<number> t=<received ms> c=<clock>\n<frame>       publication
//! v=1 beat=<bridge> id=<newest id> t=<now ms> c=<clock>\n          heart-beat
//! v=1 rid=<rid> status=ok\n<frame>                                 reply
//! v=1 rid=<rid> status=refused|timeout reason=<word>\n             reply without a frame
//! ```
//! Keys that are not known are ignored; a `v` that is not known is refused by name.

/// The longest header that is looked at. Ours take some 80 bytes plus two names of at most 300.
const HEADER_BYTES_MAX: usize = 1024;

/// The pairs of a header and where the frame begins.
pub(crate) struct Header<'a> {
    text: &'a str,
    /// Index of the first byte behind the line end.
    pub(crate) frame_at: usize,
}

impl<'a> Header<'a> {
    /// Reads the header of a message; the error says what is wrong with it.
    pub(crate) fn parse(message: &'a [u8]) -> Result<Self, String> {
        let head = message
            .get(..message.len().min(HEADER_BYTES_MAX))
            .unwrap_or_default();
        let end = head
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or("no header line")?;
        let text = std::str::from_utf8(head.get(..end).unwrap_or_default())
            .map_err(|_not_text| "the header line is not text")?;
        let header = Self {
            text,
            frame_at: end + 1,
        };
        match header.get("v") {
            Some("1") => Ok(header),
            Some(other) => Err(format!("unknown version v={}", other.escape_debug())),
            None => Err("the header line has no v=".to_owned()),
        }
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&'a str> {
        self.text
            .split(' ')
            .find_map(|pair| pair.split_once('=').filter(|(k, _)| *k == key))
            .map(|(_, v)| v)
    }

    /// The value of a key that has to be there, turned by `parse`.
    pub(crate) fn field<T>(
        &self,
        key: &str,
        parse: impl Fn(&'a str) -> Option<T>,
    ) -> Result<T, String> {
        let value = self
            .get(key)
            .ok_or_else(|| format!("the header line has no {key}="))?;
        parse(value).ok_or_else(|| format!("bad value {key}={}", value.escape_debug()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_ignored_and_the_frame_begins_behind_the_line() {
        let message = b"v=1 id=5-6 new=thing t=7\n\0\nframe";
        let header = Header::parse(message).expect("a header");
        assert_eq!(header.get("id"), Some("5-6"));
        assert_eq!(message.get(header.frame_at..), Some(&b"\0\nframe"[..]));
        assert!(header.field("t", |t| t.parse::<u64>().ok()).is_ok());
        assert!(header.field("rid", |t| t.parse::<u64>().ok()).is_err());
    }

    #[test]
    fn what_is_no_header_is_refused_with_the_reason() {
        let long = [b'x'; 5000];
        for (message, reason) in [
            (&b""[..], "no header line"),
            (b"v=1 id=5-6", "no header line"),
            (&long, "no header line"),
            (b"\xff\xfe\n", "not text"),
            (b"id=5-6\n", "no v="),
            (b"v=2 id=5-6\n", "unknown version v=2"),
        ] {
            let error = Header::parse(message).err().unwrap_or_default();
            assert!(error.contains(reason), "{error:?} for {message:?}");
        }
    }
}

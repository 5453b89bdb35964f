//! Many minion ids in little room, and the digest by which two ends know that they mean the same ones.

use std::fmt;

use crate::ids::{self, IdError};

/// Minion ids in the order in which they were written, each fit for a file name and a tag.
///
/// They are kept as one text, one id a line: a roster of 50,000 ids is one allocation.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct IdList {
    /// Ids joined by line ends; no id holds one.
    text: Box<str>,
    count: usize,
}

impl IdList {
    /// Checks and keeps ids.
    ///
    /// # Errors
    /// When one of them is none.
    pub fn new<'a>(ids: impl IntoIterator<Item = &'a str>) -> Result<Self, IdError> {
        let mut text = String::new();
        let mut count = 0;
        for id in ids {
            ids::check(id)?;
            if count > 0 {
                text.push('\n');
            }
            text.push_str(id);
            count += 1;
        }
        Ok(Self {
            text: text.into(),
            count,
        })
    }

    /// Reads ids joined by line ends.
    ///
    /// # Errors
    /// When one of them is none.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let mut count = 0;
        if !text.is_empty() {
            for id in text.split('\n') {
                ids::check(id)?;
                count += 1;
            }
        }
        Ok(Self {
            text: text.into(),
            count,
        })
    }

    /// The ids.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.text.split('\n').take(self.count)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The ids joined by line ends, as they travel.
    #[must_use]
    pub fn as_text(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for IdList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            0..=5 => f.debug_list().entries(self.iter()).finish(),
            many => write!(f, "[{many} ids]"),
        }
    }
}

/// Names the ids of a whole roster: the first 8 bytes of the SHA-256 over them in the order of their bytes, each
/// followed by a line end. On the wire 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RosterDigest([u8; 8]);

impl RosterDigest {
    /// The digest of ids that come in the order of their bytes, none twice.
    #[cfg(feature = "crypto")]
    #[must_use]
    pub fn of_sorted<'a>(ids: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hasher = openssl::sha::Sha256::new();
        for id in ids {
            hasher.update(id.as_bytes());
            hasher.update(b"\n");
        }
        let whole = hasher.finish();
        let mut digest = [0; 8];
        digest.copy_from_slice(&whole[..8]);
        Self(digest)
    }

    /// Reads 16 lower-case hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 16 || !text.bytes().all(plain) {
            return None;
        }
        u64::from_str_radix(text, 16)
            .ok()
            .map(|number| Self(number.to_be_bytes()))
    }
}

impl fmt::Display for RosterDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for RosterDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

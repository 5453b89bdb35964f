//! What a site announces of its minions, and what becomes of it.

use std::fmt;

use openssl::sha::Sha256;

use crate::names::Up;

/// The first 16 hex digits of SHA-256 over the sorted ids, each followed by a line end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub(super) [u8; 8]);

impl Digest {
    /// The digest of ids that come sorted by their bytes, each once.
    pub fn of_sorted<'a>(ids: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hash = Sha256::new();
        for id in ids {
            hash.update(id.as_bytes());
            hash.update(b"\n");
        }
        let [a, b, c, d, e, f, g, h, ..] = hash.finish();
        Self([a, b, c, d, e, f, g, h])
    }

    /// Reads 16 hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = is_hex.then(|| u64::from_str_radix(text, 16))?;
        value.ok().map(|value| Self(value.to_be_bytes()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// What an announcement is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The whole roster, or a part of it.
    Full,
    /// What changed since the roster with this digest.
    Change {
        /// The digest before.
        base: Digest,
    },
}

/// One announcement of a site's, or one part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Names the process that announces.
    pub run: String,
    /// Counts the announcements of this run.
    pub number: u64,
    /// How many parts it has.
    pub parts: u32,
    /// Which one this is, from 0 on.
    pub part: u32,
    /// Whole or a change.
    pub kind: Kind,
    /// The digest of the whole roster after it.
    pub digest: Digest,
    /// Minions: all of them, or those that are new or whose connection changed.
    pub ids: Vec<(String, Up)>,
    /// Minions that are gone; only in a change.
    pub removed: Vec<String>,
    /// The roster holds every id below the site. Otherwise the site itself has to be asked for every job.
    pub is_complete: bool,
}

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// The roster is another one now.
    Changed {
        /// Minions that are new.
        added: usize,
        /// Minions that are gone.
        removed: usize,
        /// The site was not known before.
        is_first: bool,
    },
    /// The same minions; their connections may have changed.
    Unchanged,
    /// Parts of it are still to come.
    Waiting,
    /// It was not taken; what was known stays.
    Stale {
        /// Why.
        reason: Stale,
    },
}

/// Why an announcement was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// A later one of the same run was taken before.
    Older,
    /// It is a change of another roster than the known one.
    Base,
    /// The digest is not that of the ids.
    Digest,
    /// Its parts do not fit each other, or make no sense.
    Malformed,
    /// A bound would be exceeded.
    TooLarge,
}

impl Stale {
    /// The word for logs and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Older => "older",
            Self::Base => "base",
            Self::Digest => "digest",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
        }
    }
}

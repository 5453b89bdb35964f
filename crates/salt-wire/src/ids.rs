//! The names that Salt gives to jobs and minions, checked once.
//!
//! Both end up in event tags, file names of the master and log lines, and both come from the
//! network: a [`Jid`] or [`MinionId`] in hand is safe in all three. Clones share the text.

use std::fmt;
use std::sync::Arc;

/// Longest id in bytes: masters keep a file of that name for each, and Linux file names end here.
pub const ID_MAX: usize = 255;

/// Why a text is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing there.
    #[error("an id cannot be empty")]
    Empty,
    /// See [`ID_MAX`].
    #[error("an id of {length} bytes is longer than {ID_MAX}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A slash, backslash, NUL or other control character.
    #[error("an id cannot contain the character {character:?}")]
    Character {
        /// The first one found.
        character: char,
    },
    /// `.` or `..`.
    #[error("an id cannot be a directory's own name")]
    Dots,
}

pub(crate) fn check(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > ID_MAX {
        return Err(IdError::TooLong { length: text.len() });
    }
    if let Some(character) = text
        .chars()
        .find(|c| matches!(c, '/' | '\\') || c.is_control())
    {
        return Err(IdError::Character { character });
    }
    if matches!(text, "." | "..") {
        return Err(IdError::Dots);
    }
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and keeps an id.
            ///
            /// # Errors
            /// If it is empty, too long, or unfit for a file name or tag; see [`IdError`].
            pub fn parse(text: &str) -> Result<Self, IdError> {
                check(text).map(|()| Self(text.into()))
            }

            /// The id as it is on the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }
    };
}

id! {
    /// A job id. Masters make 20 digits (`YYYYMMDDhhmmssffffff`), but keep any text they are given.
    Jid
}
id! {
    /// The id of a minion, or of a syndic or master as a client of another master.
    MinionId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_what_a_file_name_and_a_tag_can_hold() {
        let check = |text: &str, expected: Result<(), IdError>| {
            assert_eq!(MinionId::parse(text).map(drop), expected, "{text:?}");
        };
        check("web-01.example.net", Ok(()));
        check("größe", Ok(()));
        check("a b", Ok(()));
        check("...", Ok(()));
        check(&"x".repeat(255), Ok(()));
        check("", Err(IdError::Empty));
        check(".", Err(IdError::Dots));
        check("..", Err(IdError::Dots));
        check("../x", Err(IdError::Character { character: '/' }));
        check("a\\b", Err(IdError::Character { character: '\\' }));
        check("a\0b", Err(IdError::Character { character: '\0' }));
        check("a\nb", Err(IdError::Character { character: '\n' }));
        check(&"x".repeat(256), Err(IdError::TooLong { length: 256 }));
    }
}

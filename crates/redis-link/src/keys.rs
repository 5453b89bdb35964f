//! Names of keys and channels in Redis, and the names they are made of.

use std::fmt;

/// Longest name of a relay, site or bridge. Salt's ids are host names: at most 253 characters.
const NAME_BYTES_MAX: usize = 253;

/// A name that cannot be part of a key, channel or header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {name:?} cannot be used: take 1 to 253 characters out of letters, digits, `.`, `_`, `-`, `:` and `@`"
)]
pub struct InvalidName {
    /// What the name was to be: `mom`, `site`, `bridge name`.
    pub what: &'static str,
    /// The name as given.
    pub name: String,
}

fn check(what: &'static str, name: &str) -> Result<(), InvalidName> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:@".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(fits) {
        return Err(InvalidName {
            what,
            name: name.to_owned(),
        });
    }
    Ok(())
}

/// The name of a site or bridge: goes into channel names, headers and consumer names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteName(String);

impl SiteName {
    /// Takes a site's name (the lower master's id) or a bridge's.
    ///
    /// # Errors
    /// When the name could break a key or a header.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        check("site or bridge name", name)?;
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The keys and channels of one relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayKeys {
    prefix: String,
}

impl RelayKeys {
    /// The keys of the relay that the configuration calls `mom`.
    ///
    /// # Errors
    /// When the name could break a key.
    pub fn new(mom: &str) -> Result<Self, InvalidName> {
        check("mom", mom)?;
        Ok(Self {
            prefix: format!("saltway:{{{mom}}}:"),
        })
    }

    /// The stream of publications, and the channel of the same name.
    #[must_use]
    pub fn publications(&self) -> String {
        format!("{}publications", self.prefix)
    }

    /// The hash {epoch, number, run} of the newest entry and the server that its epoch began on.
    #[must_use]
    pub fn head(&self) -> String {
        format!("{}head", self.prefix)
    }

    /// The marker that a frame of this digest was appended.
    #[must_use]
    pub fn seen(&self, digest: &str) -> String {
        format!("{}seen:{digest}", self.prefix)
    }

    /// The lease of a site: which of its shims is active.
    #[must_use]
    pub fn lease(&self, site: &SiteName) -> String {
        format!("{}lease:{site}", self.prefix)
    }

    /// The number of a site's newest lease, kept when the lease has ended.
    #[must_use]
    pub fn fence(&self, site: &SiteName) -> String {
        format!("{}fence:{site}", self.prefix)
    }

    /// How far a site is.
    #[must_use]
    pub fn position(&self, site: &SiteName) -> String {
        format!("{}position:{site}", self.prefix)
    }

    /// The stream of the sites' requests.
    #[must_use]
    pub fn requests(&self) -> String {
        format!("{}requests", self.prefix)
    }

    /// The channels of the replies to all sites, as a pattern.
    #[must_use]
    pub fn replies_pattern(&self) -> String {
        format!("{}replies:*", self.prefix)
    }

    /// The channel of the replies to one site.
    #[must_use]
    pub fn replies(&self, site: &SiteName) -> String {
        format!("{}replies:{site}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_relay_share_a_slot() {
        let keys = RelayKeys::new("main").expect("valid");
        assert_eq!(keys.publications(), "saltway:{main}:publications");
        assert_eq!(keys.seen("ab"), "saltway:{main}:seen:ab");
        let site = SiteName::new("dc1.example.com").expect("valid");
        assert_eq!(
            keys.replies(&site),
            "saltway:{main}:replies:dc1.example.com"
        );
    }

    #[test]
    fn names_that_break_keys_or_headers_are_refused() {
        for name in ["", "a b", "a\n", "{a}", "a=b", "ä", &"x".repeat(254)] {
            assert!(RelayKeys::new(name).is_err(), "{name:?}");
            assert!(SiteName::new(name).is_err(), "{name:?}");
        }
    }
}

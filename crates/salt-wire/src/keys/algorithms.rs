//! The algorithm names that travel in requests.

use std::fmt;
use std::str::FromStr;

use openssl::hash::MessageDigest;
use openssl::md::{Md, MdRef};

/// An algorithm name that no current master knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("algorithm {name:?} is not supported; use one of {supported:?}")]
pub struct UnknownAlgorithm {
    /// As given, shortened when absurdly long.
    pub name: String,
    /// The names that are.
    pub supported: &'static [&'static str],
}

/// How keys and tokens are encrypted (`encryption_algorithm`, on the wire `enc_algo`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EncAlgo {
    /// Salt's default.
    #[default]
    OaepSha1,
    /// With SHA-224 for both hashes.
    OaepSha224,
}

/// How messages are signed (`signing_algorithm`, on the wire `sig_algo`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SigAlgo {
    /// Salt's default.
    #[default]
    Pkcs1v15Sha1,
    /// With SHA-224.
    Pkcs1v15Sha224,
}

impl EncAlgo {
    /// Names on the wire.
    pub const NAMES: &'static [&'static str] = &["OAEP-SHA1", "OAEP-SHA224"];

    /// Name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OaepSha1 => "OAEP-SHA1",
            Self::OaepSha224 => "OAEP-SHA224",
        }
    }

    pub(super) fn digest(self) -> &'static MdRef {
        match self {
            Self::OaepSha1 => Md::sha1(),
            Self::OaepSha224 => Md::sha224(),
        }
    }
}

impl SigAlgo {
    /// Names on the wire.
    pub const NAMES: &'static [&'static str] = &["PKCS1v15-SHA1", "PKCS1v15-SHA224"];

    /// Name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pkcs1v15Sha1 => "PKCS1v15-SHA1",
            Self::Pkcs1v15Sha224 => "PKCS1v15-SHA224",
        }
    }

    pub(super) fn digest(self) -> MessageDigest {
        match self {
            Self::Pkcs1v15Sha1 => MessageDigest::sha1(),
            Self::Pkcs1v15Sha224 => MessageDigest::sha224(),
        }
    }
}

impl FromStr for EncAlgo {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        [Self::OaepSha1, Self::OaepSha224]
            .into_iter()
            .find(|algo| algo.as_str() == name)
            .ok_or_else(|| unknown(name, Self::NAMES))
    }
}

impl FromStr for SigAlgo {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        [Self::Pkcs1v15Sha1, Self::Pkcs1v15Sha224]
            .into_iter()
            .find(|algo| algo.as_str() == name)
            .ok_or_else(|| unknown(name, Self::NAMES))
    }
}

fn unknown(name: &str, supported: &'static [&'static str]) -> UnknownAlgorithm {
    UnknownAlgorithm {
        name: name.chars().take(64).collect(),
        supported,
    }
}

impl fmt::Display for EncAlgo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for SigAlgo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

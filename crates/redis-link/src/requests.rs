//! The sites' requests to the top master and the replies to them.
//!
//! ```text
//! site                                                                   bridge
//! Tunnel ─request─► RequestsClient ─XADD─► requests stream ─XREADGROUP─► RequestsConsumer
//!    ▲                                                                          │ Request
//!    └── ReplyEvent ◄── pub/sub ◄── replies:<site> ◄──PUBLISH, XACK, XDEL── Replier ◄─┘ Outcome
//! ```
//! At least once: a request whose reply does not come is sent again under the same id, and a bridge
//! that dies leaves its requests to the others. What is tunnelled has to bear that.

mod client;
mod consumer;
mod tunnel;

use std::fmt;

use bytes::Bytes;

pub use client::{ReplyEvent, RequestsClient};
pub use consumer::{Replier, Request, RequestEvent, RequestsConsumer, RequestsGauge};
pub use tunnel::{Tunnel, TunnelConfig, TunnelError, TunnelTask};

use crate::value::hex;

/// Bounds of requests and replies, for both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestsConfig {
    /// Entries that the requests stream keeps, about. Older ones are trimmed and sent again by
    /// their sites.
    pub requests_max: u64,
    /// Larger request frames are refused, on either side.
    pub frame_bytes_max: usize,
    /// Larger reply frames are not published but refused as `reply-too-large`: a site's output
    /// buffer on the server takes 32 MiB by default.
    pub reply_bytes_max: usize,
}

impl Default for RequestsConfig {
    fn default() -> Self {
        Self {
            requests_max: 10_000,
            frame_bytes_max: 128 << 20,
            reply_bytes_max: 16 << 20,
        }
    }
}

/// Identifies a request through all its repetitions: 16 random bytes, 32 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(String);

impl RequestId {
    /// A new random id.
    ///
    /// # Panics
    /// Never in practice: when the system has no random numbers.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0_u8; 16];
        openssl::rand::rand_bytes(&mut bytes).expect("the system gives random numbers");
        Self(hex(&bytes))
    }

    /// Reads an id: 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 32 && text.bytes().all(digit)).then(|| Self(text.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What became of a request at the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The top master's reply frame.
    Reply(Bytes),
    /// The bridge does not pass this request; the reason is a word such as `clear-publish`.
    Refused(String),
    /// The top master did not reply in time; the reason is a word.
    TimedOut(String),
}

/// A reason as it goes into a header: one word of at most 64 harmless characters.
fn word(reason: &str) -> String {
    let harmless = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '-'
        }
    };
    let word: String = reason.chars().take(64).map(harmless).collect();
    if word.is_empty() {
        "unknown".to_owned()
    } else {
        word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_random_and_read_back() {
        let id = RequestId::random();
        assert_eq!(RequestId::parse(id.as_str()), Some(id.clone()));
        assert_ne!(RequestId::random(), id);
        for text in ["", "0", &"g".repeat(32), &"A".repeat(32), &"0".repeat(33)] {
            assert_eq!(RequestId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_reason_cannot_break_a_header() {
        assert_eq!(word("no such\nkey=1"), "no-such-key-1");
        assert_eq!(word(""), "unknown");
        assert_eq!(word(&"x".repeat(1000)).len(), 64);
    }
}

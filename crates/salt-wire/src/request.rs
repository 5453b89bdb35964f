//! Requests to a master's port 4506, and its replies.
//!
//! ```text
//! request = {enc: clear, load: <map>, version: 3}
//!         | {enc: aes, load: <container of the session key>, version: 3, id, enc_algo, sig_algo}
//! reply   = <container with the request's nonce> | <map> | <text of an error>
//! ```
//! - A reply opens with the session key and the nonce of its own request, or not at all.
//! - `bad load` means that the request was not processed: sign in again, then repeat it.

use std::fmt;

use bytes::Bytes;
use openssl::error::ErrorStack;
use openssl::rand::rand_bytes;

use crate::crypticle::{AesKey, CrypticleError, is_container_length};
use crate::ids::MinionId;
use crate::keys::{EncAlgo, KeyError, PrivateKey, SigAlgo};
use crate::msgpack::{DecodeError, Dialect, Limits, Value, decode, encode};

/// The protocol version of all that is sent here; the least that current masters accept.
pub const PROTOCOL_VERSION: i64 = 3;

/// Longest error text of a master that is kept; the ones known have less than 60 characters.
const ERROR_TEXT_MAX: usize = 1024;

/// 32 hex characters that tie a reply to its request.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Nonce(String);

/// Why a text is no nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a nonce is 32 lower-case hex characters")]
pub struct NonceError;

impl Nonce {
    /// A new random nonce.
    ///
    /// # Errors
    /// If the random number generator fails.
    pub fn random() -> Result<Self, ErrorStack> {
        let mut bytes = [0; 16];
        rand_bytes(&mut bytes)?;
        Ok(Self(
            bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        ))
    }

    /// Checks a nonce from the wire.
    ///
    /// # Errors
    /// If it is anything but 32 lower-case hex characters.
    pub fn parse(text: &str) -> Result<Self, NonceError> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == 32 && text.bytes().all(is_hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NonceError)
        }
    }

    /// The characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who sends a request, as all requests of one key pair say it.
#[derive(Clone)]
pub struct Identity {
    id: MinionId,
    tok: Bytes,
    enc_algo: EncAlgo,
    sig_algo: SigAlgo,
}

impl Identity {
    /// Computes `tok`, which is the same in all requests, once.
    ///
    /// # Errors
    /// If the library fails.
    pub fn new(
        id: MinionId,
        key: &PrivateKey,
        enc_algo: EncAlgo,
        sig_algo: SigAlgo,
    ) -> Result<Self, KeyError> {
        Ok(Self {
            id,
            tok: key.tok()?.into(),
            enc_algo,
            sig_algo,
        })
    }

    /// The id that the master knows the sender by.
    pub fn id(&self) -> &MinionId {
        &self.id
    }

    /// The proof of key ownership: whoever has it and a session key can send as this id.
    pub fn tok(&self) -> &Bytes {
        &self.tok
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A clear request: `_auth`, `publish` or `ping`.
pub fn encode_clear(load: Value) -> Bytes {
    let version = Value::Int(PROTOCOL_VERSION);
    let envelope = Value::map([
        ("enc", "clear".into()),
        ("load", load),
        ("version", version),
    ]);
    encode(&envelope, Dialect::Old)
}

/// The liveness probe that needs no key: the master answers with the load itself.
pub fn encode_ping() -> Bytes {
    encode_clear(Value::map([("cmd", "ping".into())]))
}

/// A request under the session key. `load` is the command's map; `nonce`, `ts` (Unix seconds),
/// `tok` and `id` are set in it.
///
/// # Errors
/// If the load is too long for a container or the library fails.
pub fn encode_aes(
    session: &AesKey,
    identity: &Identity,
    nonce: &Nonce,
    ts: u64,
    load: Value,
) -> Result<Bytes, CrypticleError> {
    let plaintext = encode(&complete_load(identity, nonce, ts, load), Dialect::Old);
    Ok(encode_envelope(identity, session.encrypt(&plaintext)?))
}

/// The map that goes into the container of a request.
pub fn complete_load(identity: &Identity, nonce: &Nonce, ts: u64, mut load: Value) -> Value {
    load.set("nonce", nonce.as_str());
    load.set("ts", ts);
    load.set("tok", identity.tok.clone());
    load.set("id", &identity.id);
    load
}

/// The envelope around a container.
pub fn encode_envelope(identity: &Identity, container: Vec<u8>) -> Bytes {
    let envelope = Value::map([
        ("enc", "aes".into()),
        ("load", container.into()),
        ("version", Value::Int(PROTOCOL_VERSION)),
        ("id", (&identity.id).into()),
        ("enc_algo", identity.enc_algo.as_str().into()),
        ("sig_algo", identity.sig_algo.as_str().into()),
    ]);
    encode(&envelope, Dialect::Old)
}

/// A reply before anything is opened.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A plain text: one of the master's errors.
    Text(String),
    /// A map: the answer to a clear request, or an error of the transport.
    Map(Value),
    /// What may be a container.
    Encrypted(Bytes),
}

/// Why a reply is not the answer to its request.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// The master did not process the request: version, session key, `tok`, id or age did not suit.
    #[error("the master answered `bad load`: it did not accept the session, sign in again")]
    BadLoad,
    /// The reply is no text and does not open with the session key.
    #[error("the reply does not open with the session key, sign in again")]
    WrongKey,
    /// Any other text or map where a container belongs.
    #[error("the master refused the request: {text}")]
    Refused {
        /// What the master said, shortened.
        text: String,
    },
    /// The reply is no msgpack, or none of the forms of a reply.
    #[error("the reply is no msgpack text, map or container")]
    Malformed(#[source] Option<DecodeError>),
    /// The container opens, but does not hold the answer to this request.
    #[error("the reply cannot be opened")]
    Container(#[source] CrypticleError),
}

impl ReplyError {
    /// Whether signing in again and repeating the request once can help. The request was not
    /// processed, or its answer is nothing to wait for, so that repeating it is safe.
    pub fn needs_sign_in(&self) -> bool {
        matches!(self, Self::BadLoad | Self::WrongKey)
    }
}

/// Reads the form of a reply from a peer that is not authenticated: a text, a container, or a map
/// of an envelope's size.
///
/// # Errors
/// [`ReplyError::Malformed`] for what no master sends.
pub fn decode_reply(frame: &Bytes) -> Result<Reply, ReplyError> {
    decode_reply_within(frame, Limits::ENVELOPE)
}

/// As [`decode_reply`], for maps that may be larger.
pub(crate) fn decode_reply_within(frame: &Bytes, limits: Limits) -> Result<Reply, ReplyError> {
    let value = decode(frame, limits).map_err(|error| ReplyError::Malformed(Some(error)))?;
    match value {
        Value::Map(_) => Ok(Reply::Map(value)),
        // Random bytes of a container's length are not valid UTF-8.
        Value::Raw(raw) => match std::str::from_utf8(&raw) {
            Ok(text) => Ok(Reply::Text(text.chars().take(ERROR_TEXT_MAX).collect())),
            Err(_) if is_container_length(raw.len()) => Ok(Reply::Encrypted(raw)),
            Err(_) => Err(ReplyError::Malformed(None)),
        },
        _ => Err(ReplyError::Malformed(None)),
    }
}

/// Opens the reply to an AES request.
///
/// # Errors
/// See [`ReplyError`]; [`needs_sign_in`](ReplyError::needs_sign_in) says what to do.
pub fn open_reply(session: &AesKey, nonce: &Nonce, frame: &Bytes) -> Result<Value, ReplyError> {
    let container = match decode_reply(frame)? {
        Reply::Encrypted(container) => container,
        Reply::Text(text) if text == "bad load" => return Err(ReplyError::BadLoad),
        Reply::Text(text) => return Err(ReplyError::Refused { text }),
        Reply::Map(map) => return Err(refused_by_map(&map)),
    };
    let plaintext = session
        .decrypt_with_nonce(nonce, &container)
        .map_err(|error| match error {
            CrypticleError::WrongKey => ReplyError::WrongKey,
            other => ReplyError::Container(other),
        })?;
    decode(&plaintext, Limits::CONTENT).map_err(|error| ReplyError::Malformed(Some(error)))
}

/// Masters before 3008 answer what they cannot read with `{"msg": "bad load"}`, later ones with
/// `{"error": "Routing error"}`.
fn refused_by_map(map: &Value) -> ReplyError {
    match map.get_str("msg").or_else(|| map.get_str("error")) {
        Some("bad load") => ReplyError::BadLoad,
        Some(text) => ReplyError::Refused {
            text: text.chars().take(ERROR_TEXT_MAX).collect(),
        },
        None => ReplyError::Malformed(None),
    }
}

#[cfg(test)]
mod tests;

//! Publications: what a master sends on port 4505.
//!
//! ```text
//! frames  = [payload] | [topic][payload]          (two when the master filters by topic)
//! payload = {enc: aes, load: <container of the common AES key>, sig_algo?, sig?}
//! load    = the job, see `PublicationLoad`
//! ```
//! - The signature covers the container's bytes, so that it can be checked without any key.
//! - The load is kept whole: fields unknown here reach the lower master all the same.

mod load;

use bytes::Bytes;

use crate::crypticle::{AesKey, CrypticleError};
use crate::keys::{PublicKey, SigAlgo, UnknownAlgorithm};
use crate::msgpack::{DecodeError, Limits, Value, decode};

pub use load::{LoadError, PublicationLoad};

/// Why a payload is no publication, or does not open.
#[derive(Debug, thiserror::Error)]
pub enum PublicationError {
    /// No msgpack.
    #[error("the publication is no msgpack document of an envelope's size")]
    Decode(#[source] DecodeError),
    /// Not a map with `enc: aes`, `load` and perhaps `sig`.
    #[error("the publication has no usable {field:?}")]
    Envelope {
        /// The part that is missing or of the wrong kind.
        field: &'static str,
    },
    /// A signature, but not by the master's key.
    #[error("the publication is not signed by the master's key")]
    BadSignature,
    /// A signature that cannot be checked.
    #[error("the signature of the publication cannot be checked")]
    SigAlgo(#[source] UnknownAlgorithm),
    /// The container does not open; see [`PublicationError::is_wrong_key`].
    #[error("the publication cannot be opened")]
    Container(#[source] CrypticleError),
    /// The container opens, but holds no msgpack.
    #[error("the load of the publication is no msgpack document")]
    LoadDecode(#[source] DecodeError),
    /// The container opens, but holds no job.
    #[error("the load of the publication is no job")]
    Load(#[source] LoadError),
}

impl PublicationError {
    /// Whether the master has changed its key: sign in again, then open the same frame again.
    pub fn is_wrong_key(&self) -> bool {
        matches!(self, Self::Container(error) if error.is_wrong_key())
    }
}

/// Whether a publication carried a signature; a wrong one is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// By the master's key.
    Valid,
    /// The master has `sign_pub_messages: False`.
    Absent,
}

/// A payload frame, not yet opened.
#[derive(Clone, Debug)]
pub struct Publication {
    container: Bytes,
    signature: Option<(Option<String>, Bytes)>,
}

impl Publication {
    /// Reads a payload frame.
    ///
    /// # Errors
    /// If it is no publication; nothing of it is secret or believed yet.
    pub fn parse(frame: &Bytes) -> Result<Self, PublicationError> {
        let envelope = decode(frame, Limits::ENVELOPE).map_err(PublicationError::Decode)?;
        let missing = |field| PublicationError::Envelope { field };
        if envelope.get_str("enc") != Some("aes") {
            return Err(missing("enc"));
        }
        let raw = |value: &Value| value.as_bytes().cloned();
        let container = envelope.get("load").and_then(raw).ok_or(missing("load"))?;
        let signature = match envelope.get("sig") {
            None => None,
            Some(sig) => {
                let sig_algo = envelope.get_str("sig_algo").map(str::to_owned);
                Some((sig_algo, raw(sig).ok_or(missing("sig"))?))
            }
        };
        Ok(Self {
            container,
            signature,
        })
    }

    /// Checks the signature, if there is one.
    ///
    /// # Errors
    /// If there is one and the key did not make it.
    pub fn verify(&self, master_key: &PublicKey) -> Result<Signature, PublicationError> {
        let Some((sig_algo, signature)) = &self.signature else {
            return Ok(Signature::Absent);
        };
        let sig_algo = match sig_algo {
            Some(name) => name.parse().map_err(PublicationError::SigAlgo)?,
            None => SigAlgo::default(),
        };
        if master_key.verify(sig_algo, &self.container, signature) {
            Ok(Signature::Valid)
        } else {
            Err(PublicationError::BadSignature)
        }
    }

    /// Opens the load.
    ///
    /// # Errors
    /// If the key is another one, or the content no job.
    pub fn decrypt(&self, aes: &AesKey) -> Result<PublicationLoad, PublicationError> {
        let plaintext = aes
            .decrypt(&self.container)
            .map_err(PublicationError::Container)?;
        let load = decode(&plaintext, Limits::CONTENT).map_err(PublicationError::LoadDecode)?;
        PublicationLoad::new(load).map_err(PublicationError::Load)
    }
}

/// Which frames of a master's socket are publications for a relay.
pub mod topics {
    use super::Bytes;

    /// The topics that a relay keeps of a filtering master. Each publication carries exactly one of
    /// them, once; the other copies are addressed to single minions.
    pub const KEPT: [&[u8]; 2] = [b"broadcast", b"syndic"];

    /// What the frames of one message are.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Selection {
        /// A payload to carry on.
        Payload(Bytes),
        /// A copy for a single minion.
        OtherTopic,
        /// Neither one frame nor two.
        Malformed {
            /// How many frames there were.
            frames: usize,
        },
    }

    /// Looks at the frames of one message.
    pub fn select(frames: &[Bytes]) -> Selection {
        match frames {
            [payload] => Selection::Payload(payload.clone()),
            [topic, payload] if KEPT.contains(&topic.as_ref()) => {
                Selection::Payload(payload.clone())
            }
            [_, _] => Selection::OtherTopic,
            _ => Selection::Malformed {
                frames: frames.len(),
            },
        }
    }
}

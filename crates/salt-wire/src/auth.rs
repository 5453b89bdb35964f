//! Signing in with a master: the `_auth` request, and what its reply must prove.
//!
//! ```text
//! AuthExchange::begin ──request──► master
//!                   ◄──reply── {enc: clear, load: <bytes>, sig}
//! verify: stored key? ─► signature ─► nonce ─► AES key and its signature ─► token ─► finger
//! ```
//! - No key leaves [`AuthExchange::verify`] before every check is passed, in this order.
//! - A refusal cannot be verified before the master's key is known; with a stored key it must be
//!   signed by it, so that nobody else can tell a running relay that it is rejected.

mod error;
mod request;
mod verify;

use std::fmt;

use zeroize::Zeroizing;

use crate::crypticle::AesKey;
use crate::ids::MinionId;
use crate::keys::{EncAlgo, PrivateKey, PublicKey, SigAlgo};
use crate::msgpack::Value;
use crate::request::Nonce;

pub use error::{AuthBeginError, AuthError};
pub use request::AuthRequest;

/// Who signs in, and what it knows of the master.
#[derive(Debug)]
pub struct SignIn<'a> {
    /// Own id.
    pub id: &'a MinionId,
    /// Own key.
    pub key: &'a PrivateKey,
    /// The master's key as stored at the first sign-in (`syndic_master.pub`), if there was one.
    pub master_key: Option<&'a PublicKey>,
    /// `encryption_algorithm`.
    pub enc_algo: EncAlgo,
    /// `signing_algorithm`.
    pub sig_algo: SigAlgo,
    /// Values of the grains named by `autosign_grains`, as a map.
    pub autosign_grains: Option<Value>,
}

/// What the configuration demands of the master's key beyond equality with the stored one.
#[derive(Clone, Copy, Debug)]
pub struct MasterCheck<'a> {
    /// `syndic_finger`, else `master_finger`; `None` when neither is set.
    pub finger: Option<&'a str>,
    /// `hash_type`, the hash of `finger`.
    pub hash_type: &'a str,
    /// The key in `<master_sign_key_name>.pub` if `verify_master_pubkey_sign` is on: it then vouches
    /// for a new or changed master key.
    pub signing_key: Option<&'a PublicKey>,
    /// `always_verify_signature`: the signing key must vouch for the stored key, too.
    pub always_verify_signature: bool,
}

impl Default for MasterCheck<'_> {
    fn default() -> Self {
        Self {
            finger: None,
            hash_type: "sha256",
            signing_key: None,
            always_verify_signature: false,
        }
    }
}

/// What the master said, once it is believed.
#[derive(Clone, Debug)]
pub enum AuthOutcome {
    /// Signed in.
    Accepted(Box<Credentials>),
    /// The own key waits for `salt-key -a` on the master: ask again later.
    Pending,
    /// Refused for a reason that only an operator can remove.
    Refused(RefusedReason),
}

/// The fruit of a sign-in.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The master's key: to be stored when [`store_master_key`](Self::store_master_key) is set.
    pub master_key: PublicKey,
    /// No key was stored, or a signing key vouched for another one.
    pub store_master_key: bool,
    /// Opens publications.
    pub aes: AesKey,
    /// For requests and replies of this id.
    pub session: AesKey,
    /// The master's `publish_port`. Salt's own syndic ignores it in favour of the configured one.
    pub publish_port: u16,
}

/// Why a master does not let an id in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedReason {
    /// The key was rejected, or another key is stored for this id, or the id is not valid. The
    /// master tells these apart in its log only.
    RejectedOrDenied,
    /// `max_minions` is reached.
    Full,
    /// The master does not support `encryption_algorithm`.
    BadEncAlgo,
    /// The master does not support `signing_algorithm`.
    BadSigAlgo,
}

impl RefusedReason {
    /// A stable word, for metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RejectedOrDenied => "rejected",
            Self::Full => "full",
            Self::BadEncAlgo => "bad_enc_algo",
            Self::BadSigAlgo => "bad_sig_algo",
        }
    }
}

impl fmt::Display for RefusedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RejectedOrDenied => {
                "the master rejected this key, or holds another key for this id: \
                 see `salt-key -L` on the master, delete the wrong key with `salt-key -d`"
            }
            Self::Full => "the master has as many minions as its max_minions allows",
            Self::BadEncAlgo => "the master does not support the configured encryption_algorithm",
            Self::BadSigAlgo => "the master does not support the configured signing_algorithm",
        })
    }
}

/// One sign-in under way: the request that was sent, and what its reply is checked against.
#[derive(Debug)]
pub struct AuthExchange {
    request: AuthRequest,
    key: PrivateKey,
    token: Option<Token>,
    master_key: Option<PublicKey>,
}

/// What only the owner of the master's key can read from the request and send back.
struct Token(Zeroizing<String>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl AuthExchange {
    /// Makes the request, with a fresh nonce, and a token if the master's key is known.
    ///
    /// # Errors
    /// If a key is too short for the algorithm or the cryptographic library fails.
    pub fn begin(sign_in: &SignIn<'_>) -> Result<Self, AuthBeginError> {
        let token = match sign_in.master_key {
            // Salt uses a key string as token.
            Some(_) => Some(Token(AesKey::generate()?.to_text())),
            None => None,
        };
        let sealed = match (&token, sign_in.master_key) {
            (Some(Token(text)), Some(key)) => {
                Some(key.encrypt(sign_in.enc_algo, text.as_bytes())?.into())
            }
            _ => None,
        };
        let request = AuthRequest {
            id: sign_in.id.clone(),
            public_key: sign_in.key.public_key()?,
            nonce: Nonce::random()?,
            enc_algo: sign_in.enc_algo,
            sig_algo: sign_in.sig_algo,
            token: sealed,
            autosign_grains: sign_in.autosign_grains.clone(),
        };
        Ok(Self {
            request,
            key: sign_in.key.clone(),
            token,
            master_key: sign_in.master_key.cloned(),
        })
    }

    /// Takes up an exchange whose request was recorded; for comparing with captured replies.
    pub fn recorded(
        request: AuthRequest,
        key: PrivateKey,
        token: Option<Zeroizing<String>>,
        master_key: Option<PublicKey>,
    ) -> Self {
        Self {
            request,
            key,
            token: token.map(Token),
            master_key,
        }
    }

    /// What was asked.
    pub fn request(&self) -> &AuthRequest {
        &self.request
    }
}

#[cfg(test)]
mod tests;

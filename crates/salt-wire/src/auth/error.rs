//! Why a sign-in could not be begun, or its reply is not believed.

use openssl::error::ErrorStack;

use crate::keys::KeyError;
use crate::request::ReplyError;

/// Why no request could be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthBeginError {
    /// A key is too short, or the library failed.
    #[error("the sign-in request cannot be made with these keys")]
    Key(#[from] KeyError),
    /// The library failed.
    #[error("the cryptographic library failed")]
    Library(#[from] ErrorStack),
}

/// Why a reply is not believed.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The master answered with an error text (`bad load`, or an exception of its own).
    #[error("the master answered the sign-in with the text {text:?}")]
    Text {
        /// As sent, shortened.
        text: String,
    },
    /// No reply of the forms that masters send.
    #[error("the sign-in reply cannot be read")]
    Unreadable(#[source] ReplyError),
    /// A part of the reply is missing or of the wrong kind.
    #[error("the sign-in reply has no usable {field:?}")]
    Malformed {
        /// Name of the part.
        field: &'static str,
    },
    /// The master's key cannot be read.
    #[error("the master's public key in the sign-in reply cannot be used")]
    MasterKey(#[source] KeyError),
    /// Another key than the stored one.
    #[error(
        "the master presented the key {offered}, but the stored key is {stored}: if the master's key \
         was really replaced, delete the stored one (syndic_master.pub in pki_dir); otherwise this \
         is not your master"
    )]
    MasterKeyChanged {
        /// SHA-256 fingerprint of the key on disk.
        stored: String,
        /// Of the key in the reply.
        offered: String,
    },
    /// A refusal or pending notice that the stored key did not sign.
    #[error(
        "the sign-in reply is not signed by the stored master key {stored}: if the master's key was \
         really replaced, delete the stored one (syndic_master.pub in pki_dir); otherwise this is \
         not your master"
    )]
    SignedByAnother {
        /// SHA-256 fingerprint of the key on disk.
        stored: String,
    },
    /// The master signs its key, but the signature is not wanted.
    #[error(
        "the master sends a signature of its key (master_sign_pubkey): set \
         verify_master_pubkey_sign and give its signing key, or switch it off on the master"
    )]
    PubSigUnexpected,
    /// `verify_master_pubkey_sign` is on, but no signature came.
    #[error(
        "verify_master_pubkey_sign is set, but the master does not sign its key: set \
         master_sign_pubkey on the master"
    )]
    PubSigMissing,
    /// The signing key did not make the signature.
    #[error("the signature of the master's key is not by the configured signing key")]
    PubSigInvalid,
    /// The reply is not signed by the key it presents.
    #[error("the sign-in reply is not signed by the master's key")]
    BadSignature,
    /// The reply belongs to another request.
    #[error("the nonce of the sign-in reply is not the one of the request")]
    WrongNonce,
    /// A key in the reply was not encrypted for us.
    #[error("the {field:?} key in the sign-in reply does not open with the own key")]
    Undecryptable {
        /// `aes` or `session`.
        field: &'static str,
        /// What the library said; absent when it opened, but holds no key.
        #[source]
        source: Option<KeyError>,
    },
    /// The AES key is not vouched for.
    #[error("the AES key in the sign-in reply is not signed by the master's key")]
    AesKeyNotSigned,
    /// The peer could not read the token, so that it does not have the stored key's private half.
    #[error("the sign-in reply does not repeat the token: the peer does not own the master's key")]
    WrongToken,
    /// A master of before the releases with session keys.
    #[error("the master gives no session key: it is older than the supported releases, update it")]
    NoSession,
    /// `syndic_finger` or `master_finger` names another key.
    #[error("the master's key has the fingerprint {actual}, but {configured} is configured")]
    WrongFinger {
        /// From the configuration.
        configured: String,
        /// Of the key in the reply.
        actual: String,
    },
    /// The fingerprint could not be computed.
    #[error("the fingerprint of the master's key cannot be checked")]
    Finger(#[source] KeyError),
}

impl AuthError {
    /// Whether asking again can help. All else stays as it is until somebody changes a key or the
    /// configuration.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Text { .. } | Self::Unreadable(_) | Self::Malformed { .. } | Self::WrongNonce
        )
    }
}

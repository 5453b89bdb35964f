//! Why a request frame does not pass.

use crate::ids::IdError;
use crate::msgpack::DecodeError;

/// Why a request frame does not pass. None of them carries a text of the sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not one msgpack document of an envelope's size.
    #[error("the request is not one msgpack document of an envelope's size")]
    Msgpack(#[source] DecodeError),
    /// The document is no map.
    #[error("the request is no map")]
    NotMap,
    /// A map key that is no text.
    #[error("the request has a map key that is no text")]
    Key,
    /// A map key twice, so that readers may differ in which one counts.
    #[error("the request has a map key twice")]
    RepeatedKey,
    /// An extension type, which no request needs.
    #[error("the request has an extension type")]
    Ext,
    /// Neither `aes` nor `clear`.
    #[error("the request's enc is neither aes nor clear")]
    Enc,
    /// Not a protocol version that supported masters answer.
    #[error("the request has no protocol version of 2 or more")]
    Version,
    /// No load, or one that does not fit `enc`.
    #[error("the request's load is neither a map (clear) nor the length of a container (aes)")]
    Load,
    /// A clear command other than `_auth`.
    #[error("the request is a clear command other than _auth")]
    ClearCommand,
    /// No id, or one that cannot be one.
    #[error("the request has no valid id")]
    Id(#[source] Option<IdError>),
    /// `_auth` without the nonce that masters insist on.
    #[error("the sign-in has no nonce of 32 hex characters")]
    Nonce,
    /// `_auth` without a key that every master can read.
    #[error("the sign-in has no RSA public key of at least 2048 bits in the form that Salt writes")]
    PublicKey,
    /// An `enc_algo` that masters do not know.
    #[error("the request's enc_algo is not supported")]
    EncAlgo,
    /// A `sig_algo` that masters do not know.
    #[error("the request's sig_algo is not supported")]
    SigAlgo,
    /// A token that is no encrypted block.
    #[error("the sign-in's token is no encrypted block")]
    Token,
    /// `autosign_grains` that is no map.
    #[error("the sign-in's autosign_grains is no map")]
    AutosignGrains,
}

impl Refusal {
    /// A short stable word, for a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Msgpack(_) => "msgpack",
            Self::NotMap => "not_map",
            Self::Key => "key",
            Self::RepeatedKey => "repeated_key",
            Self::Ext => "ext",
            Self::Enc => "enc",
            Self::Version => "version",
            Self::Load => "load",
            Self::ClearCommand => "clear_command",
            Self::Id(_) => "id",
            Self::Nonce => "nonce",
            Self::PublicKey => "public_key",
            Self::EncAlgo => "enc_algo",
            Self::SigAlgo => "sig_algo",
            Self::Token => "token",
            Self::AutosignGrains => "autosign_grains",
        }
    }
}

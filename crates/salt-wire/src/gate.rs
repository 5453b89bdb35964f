//! The bridge's gate: which request frames may reach the master's port 4506.
//!
//! A bridge carries the requests of its sites without opening them. What passes is `enc: aes` (the
//! master checks the rest) and a well-formed `_auth`. Everything else is refused: clear `publish`,
//! `runner` and `wheel` because they are commands, and malformed requests because masters of 3006
//! and 3007 never answer some of them and lose a worker process to each until they are restarted.
//!
//! - Passed frames mean the same to every reader: no repeated keys, no bytes after the document, no
//!   extension types, text keys only, and no more than an envelope needs.
//! - What the master will parse is parsed here first: ids, algorithm names, the public key.

mod refusal;

use bytes::Bytes;

use crate::auth::AuthRequest;
use crate::crypticle::{KEY_TEXT_LEN, is_container_length};
use crate::ids::MinionId;
use crate::keys::{EncAlgo, PublicKey, SigAlgo};
use crate::msgpack::{Limits, Value, decode};
use crate::request::Nonce;

pub use refusal::Refusal;

/// Masters and minions refuse to make keys shorter than this, so that none in use is.
const KEY_BITS_MIN: u32 = 2048;

/// A token is one RSA block of the master's key.
const TOKEN_LEN_MAX: usize = 2048;

/// What a frame that may pass is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// A request under the session key of `id`.
    Aes {
        /// Who claims to send it; the master verifies that.
        id: MinionId,
    },
    /// A sign-in of `id`.
    Auth {
        /// Who claims to send it.
        id: MinionId,
    },
}

/// Decides on one request frame.
///
/// # Errors
/// The reason why it must not reach a master.
pub fn inspect(frame: &Bytes) -> Result<RequestKind, Refusal> {
    let envelope = read_envelope(frame)?;
    match envelope.get_str("enc") {
        Some("aes") => inspect_aes(&envelope).map(|id| RequestKind::Aes { id }),
        Some("clear") => inspect_clear(&envelope).map(|auth| RequestKind::Auth { id: auth.id }),
        _ => Err(Refusal::Enc),
    }
}

/// Reads a sign-in as strictly as [`inspect`] does.
///
/// # Errors
/// The reason why it is not well-formed.
pub fn read_auth(frame: &Bytes) -> Result<AuthRequest, Refusal> {
    let envelope = read_envelope(frame)?;
    if envelope.get_str("enc") == Some("clear") {
        inspect_clear(&envelope)
    } else {
        Err(Refusal::Enc)
    }
}

fn read_envelope(frame: &Bytes) -> Result<Value, Refusal> {
    let envelope = decode(frame, Limits::ENVELOPE).map_err(Refusal::Msgpack)?;
    if envelope.as_map().is_none() {
        return Err(Refusal::NotMap);
    }
    check_plain(&envelope)?;
    // Version 0 and 1 are unsigned; every master of a supported release refuses them anyway.
    match envelope.get("version").and_then(Value::as_i64) {
        Some(2..=255) => Ok(envelope),
        _ => Err(Refusal::Version),
    }
}

fn inspect_aes(envelope: &Value) -> Result<MinionId, Refusal> {
    let id = read_id(envelope)?;
    let container = envelope
        .get("load")
        .and_then(Value::as_bytes)
        .ok_or(Refusal::Load)?;
    if !is_container_length(container.len()) {
        return Err(Refusal::Load);
    }
    read_algorithms(envelope)?;
    Ok(id)
}

fn inspect_clear(envelope: &Value) -> Result<AuthRequest, Refusal> {
    let load = envelope
        .get("load")
        .filter(|load| load.as_map().is_some())
        .ok_or(Refusal::Load)?;
    if load.get_str("cmd") != Some("_auth") {
        return Err(Refusal::ClearCommand);
    }
    let id = read_id(load)?;
    let nonce = load
        .get_str("nonce")
        .and_then(|nonce| Nonce::parse(nonce).ok());
    let nonce = nonce.ok_or(Refusal::Nonce)?;
    let (enc_algo, sig_algo) = read_algorithms(load)?;
    let public_key = load
        .get("pub")
        .and_then(Value::as_bytes)
        .ok_or(Refusal::PublicKey)?;
    let public_key = PublicKey::from_pem(public_key).map_err(|_| Refusal::PublicKey)?;
    if !public_key.is_canonical() || public_key.bits() < KEY_BITS_MIN {
        return Err(Refusal::PublicKey);
    }
    let token = match load.get("token").map(Value::as_bytes) {
        None => None,
        Some(Some(token)) if (KEY_TEXT_LEN..=TOKEN_LEN_MAX).contains(&token.len()) => {
            Some(token.clone())
        }
        Some(_) => return Err(Refusal::Token),
    };
    let autosign_grains = match load.get("autosign_grains") {
        None | Some(Value::Nil) => None,
        Some(grains @ Value::Map(_)) => Some(grains.clone()),
        Some(_) => return Err(Refusal::AutosignGrains),
    };
    Ok(AuthRequest {
        id,
        public_key,
        nonce,
        enc_algo,
        sig_algo,
        token,
        autosign_grains,
    })
}

fn read_id(map: &Value) -> Result<MinionId, Refusal> {
    let id = map.get_str("id").ok_or(Refusal::Id(None))?;
    MinionId::parse(id).map_err(|error| Refusal::Id(Some(error)))
}

fn read_algorithms(map: &Value) -> Result<(EncAlgo, SigAlgo), Refusal> {
    let enc_algo = match map.get("enc_algo") {
        None => EncAlgo::default(),
        Some(name) => name
            .as_str()
            .and_then(|n| n.parse().ok())
            .ok_or(Refusal::EncAlgo)?,
    };
    let sig_algo = match map.get("sig_algo") {
        None => SigAlgo::default(),
        Some(name) => name
            .as_str()
            .and_then(|n| n.parse().ok())
            .ok_or(Refusal::SigAlgo)?,
    };
    Ok((enc_algo, sig_algo))
}

/// Refuses what readers understand in different ways, or do not survive: Python cannot use arrays
/// or maps as keys, and makes objects of extension types. The limits of an envelope bound the
/// recursion, and the number of keys that are compared with each other.
fn check_plain(value: &Value) -> Result<(), Refusal> {
    match value {
        Value::Ext(..) => Err(Refusal::Ext),
        Value::Array(items) => items.iter().try_for_each(check_plain),
        Value::Map(entries) => {
            let mut names = Vec::with_capacity(entries.len());
            for (key, value) in entries {
                names.push(key.as_str().ok_or(Refusal::Key)?);
                check_plain(value)?;
            }
            names.sort_unstable();
            let repeated = names
                .windows(2)
                .any(|pair| matches!(pair, [a, b] if a == b));
            if repeated {
                Err(Refusal::RepeatedKey)
            } else {
                Ok(())
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

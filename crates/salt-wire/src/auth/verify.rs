//! The checks of a sign-in reply, in their order.

use bytes::Bytes;
use openssl::base64;
use openssl::memcmp;
use openssl::sha::sha256;

use super::{AuthError, AuthExchange, AuthOutcome, Credentials, MasterCheck, RefusedReason, Token};
use crate::crypticle::AesKey;
use crate::keys::PublicKey;
use crate::msgpack::{Limits, Value, decode};
use crate::request::{Reply, decode_reply};

impl AuthExchange {
    /// Checks a reply and opens the keys in it.
    ///
    /// # Errors
    /// If the reply is not proven to come from the master in answer to this request.
    pub fn verify(&self, reply: &Bytes, check: &MasterCheck<'_>) -> Result<AuthOutcome, AuthError> {
        let envelope = match decode_reply(reply).map_err(AuthError::Unreadable)? {
            Reply::Map(envelope) => envelope,
            Reply::Text(text) => return Err(AuthError::Text { text }),
            Reply::Encrypted(_) => return Err(AuthError::Malformed { field: "load" }),
        };
        if let Some(reason) = unsigned_refusal(&envelope) {
            return Ok(AuthOutcome::Refused(reason));
        }
        let signed = bytes(&envelope, "load")?;
        let signature = bytes(&envelope, "sig")?;
        let load =
            decode(signed, Limits::ENVELOPE).map_err(|_| AuthError::Malformed { field: "load" })?;
        let is_signed_by = |key: &PublicKey| key.verify(self.request.sig_algo, signed, signature);
        if load.get("pub_key").is_some() {
            let (master_key, store_master_key) = self.master_key(&load, check)?;
            if !is_signed_by(&master_key) {
                return Err(AuthError::BadSignature);
            }
            self.check_nonce(&load)?;
            let credentials = self.open(&load, master_key, store_master_key)?;
            check_finger(&credentials.master_key, check)?;
            return Ok(AuthOutcome::Accepted(Box::new(credentials)));
        }
        if let Some(stored) = self.master_key.as_ref().filter(|key| !is_signed_by(key)) {
            return Err(AuthError::SignedByAnother {
                stored: fingerprint(stored),
            });
        }
        self.check_nonce(&load)?;
        not_accepted(&load)
    }

    /// The key that the reply presents, and whether it has to be stored.
    fn master_key(
        &self,
        load: &Value,
        check: &MasterCheck<'_>,
    ) -> Result<(PublicKey, bool), AuthError> {
        let text = bytes(load, "pub_key")?;
        let offered = PublicKey::from_pem(text).map_err(AuthError::MasterKey)?;
        let vouched = match (check.signing_key, load.get("pub_sig")) {
            (Some(key), Some(pub_sig)) => Some((key, pub_sig)),
            (None, None) => None,
            (None, Some(_)) => return Err(AuthError::PubSigUnexpected),
            (Some(_), None) => return Err(AuthError::PubSigMissing),
        };
        let changed = match &self.master_key {
            Some(stored) if *stored == offered && !check.always_verify_signature => {
                return Ok((offered, false));
            }
            Some(stored) => (*stored != offered).then_some(stored),
            None => None,
        };
        match (vouched, changed) {
            (Some((key, pub_sig)), _) if !is_vouched_for(key, self, text, pub_sig) => {
                return Err(AuthError::PubSigInvalid);
            }
            (None, Some(stored)) => {
                return Err(AuthError::MasterKeyChanged {
                    stored: fingerprint(stored),
                    offered: fingerprint(&offered),
                });
            }
            (Some(_), _) | (None, None) => {}
        }
        Ok((offered, changed.is_some() || self.master_key.is_none()))
    }

    fn check_nonce(&self, load: &Value) -> Result<(), AuthError> {
        if load.get_str("nonce") == Some(self.request.nonce.as_str()) {
            Ok(())
        } else {
            Err(AuthError::WrongNonce)
        }
    }

    fn open(
        &self,
        load: &Value,
        master_key: PublicKey,
        store_master_key: bool,
    ) -> Result<Credentials, AuthError> {
        let aes = self.open_key(load, "aes")?;
        let digest: String = sha256(aes.to_text().as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let vouched = master_key
            .x931_recover(bytes(load, "sig")?)
            .unwrap_or_default();
        if vouched != digest.as_bytes() {
            return Err(AuthError::AesKeyNotSigned);
        }
        // A master whose new key the signing key vouches for cannot read a token for the old one.
        if let Some(token) = self.token.as_ref().filter(|_| !store_master_key) {
            self.check_token(load, token)?;
        }
        if load.get("session").is_none() {
            return Err(AuthError::NoSession);
        }
        let publish_port = load
            .get("publish_port")
            .and_then(Value::as_u64)
            .and_then(|port| u16::try_from(port).ok())
            .ok_or(AuthError::Malformed {
                field: "publish_port",
            })?;
        let session = self.open_key(load, "session")?;
        Ok(Credentials {
            master_key,
            store_master_key,
            aes,
            session,
            publish_port,
        })
    }

    fn open_key(&self, load: &Value, field: &'static str) -> Result<AesKey, AuthError> {
        let text = self
            .key
            .decrypt(self.request.enc_algo, bytes(load, field)?)
            .map_err(|source| AuthError::Undecryptable {
                field,
                source: Some(source),
            })?;
        std::str::from_utf8(&text)
            .ok()
            .and_then(|text| AesKey::parse(text).ok())
            .ok_or(AuthError::Undecryptable {
                field,
                source: None,
            })
    }

    fn check_token(&self, load: &Value, Token(token): &Token) -> Result<(), AuthError> {
        let returned = load
            .get("token")
            .and_then(Value::as_bytes)
            .and_then(|sealed| self.key.decrypt(self.request.enc_algo, sealed).ok())
            .ok_or(AuthError::WrongToken)?;
        if returned.len() == token.len() && memcmp::eq(&returned, token.as_bytes()) {
            Ok(())
        } else {
            Err(AuthError::WrongToken)
        }
    }
}

fn bytes<'a>(map: &'a Value, field: &'static str) -> Result<&'a Bytes, AuthError> {
    map.get(field)
        .and_then(Value::as_bytes)
        .ok_or(AuthError::Malformed { field })
}

fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint("sha256").unwrap_or_default()
}

/// `pub_sig` is base64 with line breaks, over the very text of `pub_key`.
fn is_vouched_for(key: &PublicKey, exchange: &AuthExchange, text: &[u8], pub_sig: &Value) -> bool {
    let encoded: String = pub_sig
        .as_str()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .collect();
    base64::decode_block(&encoded)
        .is_ok_and(|signature| key.verify(exchange.request.sig_algo, text, &signature))
}

fn check_finger(key: &PublicKey, check: &MasterCheck<'_>) -> Result<(), AuthError> {
    let Some(configured) = check.finger else {
        return Ok(());
    };
    let actual = key
        .fingerprint(check.hash_type)
        .map_err(AuthError::Finger)?;
    if actual.eq_ignore_ascii_case(configured.trim()) {
        Ok(())
    } else {
        Err(AuthError::WrongFinger {
            configured: configured.to_owned(),
            actual,
        })
    }
}

/// Masters answer an algorithm that they do not know without a signature.
fn unsigned_refusal(envelope: &Value) -> Option<RefusedReason> {
    match envelope.get("load")?.get_str("ret")? {
        "bad enc algo" => Some(RefusedReason::BadEncAlgo),
        "bad sig algo" => Some(RefusedReason::BadSigAlgo),
        _ => None,
    }
}

fn not_accepted(load: &Value) -> Result<AuthOutcome, AuthError> {
    match load.get("ret") {
        Some(Value::Bool(true)) => Ok(AuthOutcome::Pending),
        Some(Value::Bool(false)) => Ok(AuthOutcome::Refused(RefusedReason::RejectedOrDenied)),
        Some(ret) if ret.as_str() == Some("full") => Ok(AuthOutcome::Refused(RefusedReason::Full)),
        _ => Err(AuthError::Malformed { field: "ret" }),
    }
}

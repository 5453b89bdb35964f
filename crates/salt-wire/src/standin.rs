//! The master's side of the protocol, for stand-ins in tests and benches.
//!
//! A stand-in master accepts every key, publishes what it is told and answers nil to every request.
//! Saltway's daemons use nothing of this.

use bytes::Bytes;

use crate::auth::AuthRequest;
use crate::crypticle::{AesKey, CrypticleError};
use crate::ids::MinionId;
use crate::keys::{KeyError, PrivateKey, SigAlgo};
use crate::msgpack::{Dialect, Limits, Value, decode, encode};
use crate::request::Nonce;

/// The keys of a stand-in master.
#[derive(Clone, Debug)]
pub struct Master {
    /// Signs replies and publications.
    pub key: PrivateKey,
    /// Of all publications.
    pub aes: AesKey,
    /// Of the requests of all clients; a real master has one for each.
    pub session: AesKey,
    /// What sign-in replies say; clients are free to ignore it.
    pub publish_port: u16,
}

/// Why a stand-in cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum StandinError {
    /// An RSA operation failed.
    #[error("an RSA operation of the stand-in master failed")]
    Key(#[from] KeyError),
    /// A container could not be made or opened.
    #[error("a container of the stand-in master failed")]
    Container(#[from] CrypticleError),
    /// The request is none of those that relays send.
    #[error("the stand-in master does not understand the request: no usable {field:?}")]
    Request {
        /// What is missing.
        field: &'static str,
    },
}

/// An AES request, opened.
#[derive(Clone, Debug)]
pub struct AesRequest {
    /// Who sent it.
    pub id: MinionId,
    /// What its reply must carry.
    pub nonce: Nonce,
    /// The command's map.
    pub load: Value,
}

impl Master {
    /// The signed reply that accepts a sign-in.
    ///
    /// # Errors
    /// If the client's key is too short for its algorithms.
    pub fn accept(&self, request: &AuthRequest) -> Result<Bytes, StandinError> {
        let sealed = |text: &[u8]| request.public_key.encrypt(request.enc_algo, text);
        let aes = self.aes.to_text();
        let digest: String = openssl::sha::sha256(aes.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut load = Value::map([
            ("enc", "pub".into()),
            ("pub_key", self.key.public_key()?.to_pem().into()),
            ("publish_port", self.publish_port.into()),
        ]);
        if let Some(token) = &request.token {
            // A real master, too, leaves out a token that it cannot read.
            if let Ok(token) = self.key.decrypt(request.enc_algo, token) {
                load.set("token", sealed(&token)?);
            }
        }
        load.set("aes", sealed(aes.as_bytes())?);
        load.set("session", sealed(self.session.to_text().as_bytes())?);
        load.set("sig", self.key.x931_sign(digest.as_bytes())?);
        load.set("nonce", request.nonce.as_str());
        self.sign(&load, request.sig_algo)
    }

    /// The signed reply that does not accept a sign-in: `ret` is true for a pending key, false for a
    /// rejected one, or the text `full`.
    ///
    /// # Errors
    /// If the library fails.
    pub fn answer(
        &self,
        request: &AuthRequest,
        ret: impl Into<Value>,
    ) -> Result<Bytes, StandinError> {
        let load = Value::map([
            ("ret", ret.into()),
            ("nonce", request.nonce.as_str().into()),
        ]);
        self.sign(&load, request.sig_algo)
    }

    fn sign(&self, load: &Value, sig_algo: SigAlgo) -> Result<Bytes, StandinError> {
        let load = encode(load, Dialect::Old);
        let sig = self.key.sign(sig_algo, &load)?;
        let reply = Value::map([
            ("enc", "clear".into()),
            ("load", load.into()),
            ("sig", sig.into()),
        ]);
        Ok(encode(&reply, Dialect::Old))
    }

    /// The payload frame of a publication; `serial` becomes the last key of the load.
    ///
    /// # Errors
    /// If the load is too long or the library fails.
    pub fn publish(
        &self,
        mut load: Value,
        serial: u64,
        sign: Option<SigAlgo>,
    ) -> Result<Bytes, StandinError> {
        load.set("serial", serial);
        let container = self.aes.encrypt(&encode(&load, Dialect::Old))?;
        let mut payload = Value::map([("enc", Value::from("aes"))]);
        let signature =
            sign.map(|algo| Ok::<_, KeyError>((algo, self.key.sign(algo, &container)?)));
        payload.set("load", container);
        if let Some((algo, signature)) = signature.transpose()? {
            payload.set("sig_algo", algo.as_str());
            payload.set("sig", signature);
        }
        Ok(encode(&payload, Dialect::Old))
    }

    /// Opens an AES request.
    ///
    /// # Errors
    /// If it is none, or under another session key; a real master answers `bad load`.
    pub fn open(&self, frame: &Bytes) -> Result<AesRequest, StandinError> {
        let missing = |field| move || StandinError::Request { field };
        let envelope = decode(frame, Limits::ENVELOPE).map_err(|_| missing("enc")())?;
        let container = envelope
            .get("load")
            .and_then(Value::as_bytes)
            .ok_or_else(missing("load"))?;
        let plaintext = self.session.decrypt(container)?;
        let load = decode(&plaintext, Limits::CONTENT).map_err(|_| missing("load")())?;
        let id = load.get_str("id").and_then(|id| MinionId::parse(id).ok());
        let nonce = load
            .get_str("nonce")
            .and_then(|nonce| Nonce::parse(nonce).ok());
        Ok(AesRequest {
            id: id.ok_or_else(missing("id"))?,
            nonce: nonce.ok_or_else(missing("nonce"))?,
            load,
        })
    }

    /// The reply to an AES request; nil is what returns and events are answered with.
    ///
    /// # Errors
    /// If the answer is too long or the library fails.
    pub fn reply(&self, nonce: &Nonce, answer: &Value) -> Result<Bytes, StandinError> {
        let container = self
            .session
            .encrypt_with_nonce(nonce, &encode(answer, Dialect::Old))?;
        Ok(encode(&container.into(), Dialect::Old))
    }
}

/// The error that masters answer with where they do not accept a session.
pub fn bad_load() -> Bytes {
    encode(&"bad load".into(), Dialect::Old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::EncAlgo;
    use crate::publication::{Publication, Signature};
    use crate::request::{Identity, encode_aes, open_reply};

    fn master() -> Master {
        Master {
            key: PrivateKey::generate(2048).unwrap(),
            aes: AesKey::generate().unwrap(),
            session: AesKey::generate().unwrap(),
            publish_port: 4505,
        }
    }

    #[test]
    fn a_relay_opens_what_a_stand_in_publishes() {
        let master = master();
        let load = [("fun", "test.ping"), ("tgt", "*"), ("jid", "1")];
        let load = Value::map(load.map(|(name, text)| (name, Value::from(text))));
        let key = master.key.public_key().unwrap();
        for (sign, expected) in [
            (Some(SigAlgo::Pkcs1v15Sha224), Signature::Valid),
            (None, Signature::Absent),
        ] {
            let frame = master.publish(load.clone(), 7, sign).unwrap();
            let publication = Publication::parse(&frame).unwrap();
            assert_eq!(publication.verify(&key).unwrap(), expected);
            assert_eq!(publication.decrypt(&master.aes).unwrap().serial(), Some(7));
            assert!(
                publication
                    .decrypt(&master.session)
                    .unwrap_err()
                    .is_wrong_key()
            );
        }
    }

    #[test]
    fn a_stand_in_answers_what_a_relay_requests() {
        let (master, nonce) = (master(), Nonce::random().unwrap());
        let key = PrivateKey::generate(2048).unwrap();
        let id = MinionId::parse("syn1").unwrap();
        let identity =
            Identity::new(id.clone(), &key, EncAlgo::default(), SigAlgo::default()).unwrap();
        let load = Value::map([("cmd", "_return".into())]);
        let frame = encode_aes(&master.session, &identity, &nonce, 1, load).unwrap();
        let request = master.open(&frame).unwrap();
        assert_eq!((&request.id, &request.nonce), (&id, &nonce));
        assert_eq!(request.load.get_str("cmd"), Some("_return"));
        let reply = master.reply(&request.nonce, &Value::Nil).unwrap();
        assert_eq!(
            open_reply(&master.session, &nonce, &reply).unwrap(),
            Value::Nil
        );
        assert!(
            open_reply(&master.session, &nonce, &bad_load())
                .unwrap_err()
                .needs_sign_in()
        );
    }
}

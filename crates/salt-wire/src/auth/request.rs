//! The `_auth` request as it travels.

use bytes::Bytes;

use crate::ids::MinionId;
use crate::keys::{EncAlgo, PublicKey, SigAlgo};
use crate::msgpack::Value;
use crate::request::{Nonce, encode_clear};

/// A well-formed `_auth` request. It is read by [`gate`](crate::gate), which is strict, because
/// masters before 3008 lose a worker to a malformed one.
#[derive(Clone, Debug)]
pub struct AuthRequest {
    /// Who asks.
    pub id: MinionId,
    /// Its key.
    pub public_key: PublicKey,
    /// To be repeated in the reply.
    pub nonce: Nonce,
    /// How the keys in the reply shall be encrypted.
    pub enc_algo: EncAlgo,
    /// How the reply shall be signed.
    pub sig_algo: SigAlgo,
    /// A token encrypted for the master, when its key is known.
    pub token: Option<Bytes>,
    /// A map of grains by which the master may accept the key.
    pub autosign_grains: Option<Value>,
}

impl AuthRequest {
    /// The payload frame, its keys in Salt's order.
    pub fn encode(&self) -> Bytes {
        let mut load = Value::map([
            ("cmd", "_auth".into()),
            ("id", Value::from(&self.id)),
            ("nonce", self.nonce.as_str().into()),
            ("enc_algo", self.enc_algo.as_str().into()),
            ("sig_algo", self.sig_algo.as_str().into()),
        ]);
        if let Some(grains) = &self.autosign_grains {
            load.set("autosign_grains", grains.clone());
        }
        if let Some(token) = &self.token {
            load.set("token", token.clone());
        }
        load.set("pub", self.public_key.to_pem());
        encode_clear(load)
    }
}

//! RSA as Salt uses it: OAEP for keys and tokens, PKCS #1 v1.5 for signatures, ANSI X9.31 for `tok`.
//!
//! All operations are libcrypto's own, which blinds private keys; nothing here touches a number.
//! Private keys show in no `Debug` and are wiped by the library when dropped.

mod algorithms;

use std::fmt;
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::hash::{MessageDigest, hash};
use openssl::pkey::{PKey, Private, Public};
use openssl::pkey_ctx::{PkeyCtx, PkeyCtxRef};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::{Signer, Verifier};
use zeroize::Zeroizing;

pub use algorithms::{EncAlgo, SigAlgo, UnknownAlgorithm};

/// Longest PEM text that is looked at; a key of [`KEY_BITS_MAX`] takes about 3 KiB, a private one 13.
pub const PEM_LEN_MAX: usize = 16 * 1024;

/// Below this OAEP cannot carry a key string.
pub const KEY_BITS_MIN: u32 = 1024;

/// Where libcrypto refuses to compute; a public key of a stranger must not cost minutes.
pub const KEY_BITS_MAX: u32 = 16_384;

/// `RSA_X931_PADDING` of `openssl/rsa.h`.
const X931_PADDING: i32 = 5;

/// What Salt signs as `tok`: the proof of key ownership in each request, the same every time.
pub const TOK_MESSAGE: &[u8] = b"salt";

/// Why a key could not be read or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not a PEM file with an RSA key, or one that asks for a passphrase.
    #[error("not an RSA key without passphrase in PEM form")]
    Pem(#[source] Option<ErrorStack>),
    /// Too short to carry Salt's keys, or too long to compute with.
    #[error("an RSA key of {bits} bits is not between {KEY_BITS_MIN} and {KEY_BITS_MAX}")]
    Size {
        /// Bits of its modulus.
        bits: u32,
    },
    /// The hash of a fingerprint is not one that the library knows.
    #[error("the hash {name:?} for fingerprints is not known; Salt's default is sha256")]
    UnknownHash {
        /// As configured (`hash_type`).
        name: String,
    },
    /// Data that this key did not make, or that was made for another key.
    #[error("the RSA operation {operation} failed: the data does not belong to this key")]
    Operation {
        /// Its name.
        operation: &'static str,
        /// What the library said.
        #[source]
        source: ErrorStack,
    },
}

/// A private key: the syndic's own, or a stand-in master's.
#[derive(Clone)]
pub struct PrivateKey(PKey<Private>);

impl PrivateKey {
    /// Reads `minion.pem` or `master.pem`.
    ///
    /// # Errors
    /// If it is no RSA key, has a passphrase, or an unusable size.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        if pem.len() > PEM_LEN_MAX {
            return Err(KeyError::Pem(None));
        }
        // With a passphrase given, even an empty one, the library never asks on the terminal.
        let rsa = Rsa::private_key_from_pem_passphrase(pem, b"").map_err(pem_error)?;
        Self::from_rsa(rsa)
    }

    /// Reads PKCS #1 in DER, the form of the recorded vectors.
    ///
    /// # Errors
    /// As [`from_pem`](Self::from_pem).
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        Rsa::private_key_from_der(der)
            .map_err(pem_error)
            .and_then(Self::from_rsa)
    }

    /// A new key.
    ///
    /// # Errors
    /// If the size is unusable or the library fails.
    pub fn generate(bits: u32) -> Result<Self, KeyError> {
        check_size(bits)?;
        Rsa::generate(bits)
            .map_err(failed("generate"))
            .and_then(Self::from_rsa)
    }

    fn from_rsa(rsa: Rsa<Private>) -> Result<Self, KeyError> {
        check_size(rsa.n().num_bits().unsigned_abs())?;
        PKey::from_rsa(rsa).map(Self).map_err(pem_error)
    }

    /// PKCS #1 PEM, stripped, as Salt writes its key files.
    ///
    /// # Errors
    /// If the library fails.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        let pem = Zeroizing::new(self.rsa()?.private_key_to_pem().map_err(failed("write"))?);
        Ok(Zeroizing::new(clean(&String::from_utf8_lossy(&pem))))
    }

    /// The public half.
    ///
    /// # Errors
    /// If the library fails.
    pub fn public_key(&self) -> Result<PublicKey, KeyError> {
        PublicKey::from_pem(&self.0.public_key_to_pem().map_err(failed("write"))?)
    }

    /// Opens what was encrypted for this key.
    ///
    /// # Errors
    /// If it was not, or with another algorithm.
    pub fn decrypt(&self, algo: EncAlgo, data: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let open = || {
            let mut ctx = PkeyCtx::new(&self.0)?;
            ctx.decrypt_init()?;
            set_oaep(&mut ctx, algo)?;
            let mut plain = Zeroizing::new(Vec::new());
            ctx.decrypt_to_vec(data, &mut plain)?;
            Ok(plain)
        };
        open().map_err(failed("OAEP decrypt"))
    }

    /// Signs a message (PKCS #1 v1.5).
    ///
    /// # Errors
    /// If the library fails.
    pub fn sign(&self, algo: SigAlgo, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        Signer::new(algo.digest(), &self.0)
            .and_then(|mut signer| signer.sign_oneshot_to_vec(message))
            .map_err(failed("sign"))
    }

    /// Salt's "private encrypt": deterministic, k bytes for a modulus of k bytes.
    ///
    /// # Errors
    /// If the message does not fit the key.
    pub fn x931_sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let rsa = self.rsa()?;
        let mut signature = vec![0; self.0.size()];
        let length = rsa
            .private_encrypt(message, &mut signature, Padding::from_raw(X931_PADDING))
            .map_err(failed("X9.31 sign"))?;
        signature.truncate(length);
        Ok(signature)
    }

    /// The `tok` of every request made with this key.
    ///
    /// # Errors
    /// If the library fails.
    pub fn tok(&self) -> Result<Vec<u8>, KeyError> {
        self.x931_sign(TOK_MESSAGE)
    }

    fn rsa(&self) -> Result<Rsa<Private>, KeyError> {
        self.0.rsa().map_err(failed("read"))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({} bits)", self.0.bits())
    }
}

/// A public key and the text it came as. Equal when the keys are, however they are written.
#[derive(Clone)]
pub struct PublicKey {
    key: PKey<Public>,
    text: Arc<str>,
}

impl PublicKey {
    /// Reads a public key file, or the text of a `pub` or `pub_key` field.
    ///
    /// # Errors
    /// If it is no RSA key or has an unusable size.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        if pem.len() > PEM_LEN_MAX {
            return Err(KeyError::Pem(None));
        }
        let text = std::str::from_utf8(pem).map_err(|_| KeyError::Pem(None))?;
        let rsa = Rsa::public_key_from_pem(pem)
            .or_else(|_| Rsa::public_key_from_pem_pkcs1(pem))
            .map_err(pem_error)?;
        check_size(rsa.n().num_bits().unsigned_abs())?;
        let key = PKey::from_rsa(rsa).map_err(pem_error)?;
        Ok(Self {
            key,
            text: clean(text).into(),
        })
    }

    /// The text as it came, without surrounding white space and with LF line ends.
    pub fn to_pem(&self) -> &str {
        &self.text
    }

    /// Whether the text is the one that Salt itself writes for this key, and the exponent one that
    /// every library takes: only such a key is sure to be read by a master.
    pub fn is_canonical(&self) -> bool {
        let exponent_fits = self.key.rsa().is_ok_and(|rsa| {
            let exponent = rsa.e();
            exponent.is_bit_set(0) && (2..=64).contains(&exponent.num_bits())
        });
        let pem = self.key.public_key_to_pem().unwrap_or_default();
        exponent_fits && String::from_utf8(pem).is_ok_and(|pem| clean(&pem) == *self.text)
    }

    /// Bits of the modulus.
    pub fn bits(&self) -> u32 {
        self.key.bits()
    }

    /// Encrypts for the owner of the private key.
    ///
    /// # Errors
    /// If the data is too long for the key.
    pub fn encrypt(&self, algo: EncAlgo, data: &[u8]) -> Result<Vec<u8>, KeyError> {
        let enclose = || {
            let mut ctx = PkeyCtx::new(&self.key)?;
            ctx.encrypt_init()?;
            set_oaep(&mut ctx, algo)?;
            let mut sealed = Vec::new();
            ctx.encrypt_to_vec(data, &mut sealed)?;
            Ok(sealed)
        };
        enclose().map_err(failed("OAEP encrypt"))
    }

    /// Whether a signature (PKCS #1 v1.5) over a message is this key's.
    pub fn verify(&self, algo: SigAlgo, message: &[u8], signature: &[u8]) -> bool {
        Verifier::new(algo.digest(), &self.key)
            .and_then(|mut verifier| verifier.verify_oneshot(signature, message))
            // The library reports a signature of the wrong shape as an error; it is not this key's.
            .unwrap_or(false)
    }

    /// The message inside an X9.31 "private encrypt".
    ///
    /// # Errors
    /// If another key made it.
    pub fn x931_recover(&self, signature: &[u8]) -> Result<Vec<u8>, KeyError> {
        let open = || {
            let rsa = self.key.rsa()?;
            let mut message = vec![0; self.key.size()];
            let length =
                rsa.public_decrypt(signature, &mut message, Padding::from_raw(X931_PADDING))?;
            message.truncate(length);
            Ok(message)
        };
        open().map_err(failed("X9.31 recover"))
    }

    /// The fingerprint as `salt-key -F` prints it (`aa:bb:..`): the hash of the lines between the
    /// first and the last, line ends included. `hash_name` is Salt's `hash_type`, sha256 by default.
    ///
    /// # Errors
    /// If the hash is not known.
    pub fn fingerprint(&self, hash_name: &str) -> Result<String, KeyError> {
        let unknown = || KeyError::UnknownHash {
            name: hash_name.to_owned(),
        };
        let digest = MessageDigest::from_name(hash_name).ok_or_else(unknown)?;
        let lines: Vec<&str> = self
            .text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let body: String = match lines.as_slice() {
            [_, body @ .., _] => body.iter().flat_map(|line| [line, "\n"]).collect(),
            _ => String::new(),
        };
        let sum = hash(digest, body.as_bytes()).map_err(|_| unknown())?;
        Ok(sum
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .join(":"))
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.key.public_eq(&other.key)
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fingerprint = self.fingerprint("sha256").unwrap_or_default();
        write!(f, "PublicKey({} bits, {fingerprint})", self.bits())
    }
}

/// Salt's `clean_key`.
fn clean(pem: &str) -> String {
    pem.trim().lines().collect::<Vec<_>>().join("\n")
}

fn set_oaep<T>(ctx: &mut PkeyCtxRef<T>, algo: EncAlgo) -> Result<(), ErrorStack> {
    ctx.set_rsa_padding(Padding::PKCS1_OAEP)?;
    ctx.set_rsa_oaep_md(algo.digest())?;
    ctx.set_rsa_mgf1_md(algo.digest())
}

fn check_size(bits: u32) -> Result<(), KeyError> {
    if (KEY_BITS_MIN..=KEY_BITS_MAX).contains(&bits) {
        Ok(())
    } else {
        Err(KeyError::Size { bits })
    }
}

fn pem_error(source: ErrorStack) -> KeyError {
    KeyError::Pem(Some(source))
}

fn failed(operation: &'static str) -> impl FnOnce(ErrorStack) -> KeyError {
    move |source| KeyError::Operation { operation, source }
}

#[cfg(test)]
mod tests;

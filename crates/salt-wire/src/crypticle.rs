//! Salt's AES container, which carries publications, requests and replies.
//!
//! ```text
//! blob      = IV (16) || AES-192-CBC(PKCS#7(plaintext)) || HMAC-SHA256(IV || CBC data) (32)
//! plaintext = "pickle::" || [nonce (32 hex characters), in replies only] || msgpack
//! ```
//! - The MAC is checked before anything is decrypted, in constant time.
//! - Keys never show in `Debug` and are wiped when dropped.

use std::fmt;

use bytes::Bytes;
use openssl::base64;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::memcmp;
use openssl::pkey::PKey;
use openssl::rand::rand_bytes;
use openssl::sign::Signer;
use openssl::symm::{Cipher, Crypter, Mode};
use zeroize::Zeroizing;

use crate::request::Nonce;

/// Characters of a key string: base64 of 24 bytes for AES-192 and 32 for HMAC-SHA256.
pub const KEY_TEXT_LEN: usize = 76;
const CIPHER_KEY_LEN: usize = 24;
const KEY_LEN: usize = 56;
const BLOCK_LEN: usize = 16;
const MAC_LEN: usize = 32;

/// Shortest container: IV, one block, MAC.
pub const BLOB_LEN_MIN: usize = BLOCK_LEN + BLOCK_LEN + MAC_LEN;

/// Longest plaintext and container. OpenSSL counts in 31 bits; Salt's largest returns are far below.
pub const BLOB_LEN_MAX: usize = 1 << 30;

/// Historical name of what is msgpack since long; Salt takes plaintext without it for an empty map.
const PREFIX: &[u8] = b"pickle::";

/// Why a container could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum CrypticleError {
    /// The blob is shorter than the shortest container, or not a whole number of blocks.
    #[error("{length} bytes are no AES container: they do not fit IV, whole blocks and MAC")]
    Length {
        /// Length of the blob.
        length: usize,
    },
    /// More than [`BLOB_LEN_MAX`].
    #[error("{length} bytes are too long for an AES container (the limit is {BLOB_LEN_MAX})")]
    TooLong {
        /// Length of the blob or plaintext.
        length: usize,
    },
    /// Made with another key, or changed on the way.
    #[error("the MAC of the AES container does not fit: it was made with another key")]
    WrongKey,
    /// The MAC fits, but what it covers is no plaintext of Salt's.
    #[error("the AES container is authentic, but its plaintext is not Salt's")]
    NotSalt,
    /// The reply answers another request than the one that was sent.
    #[error("the nonce of the reply is not the one of the request")]
    WrongNonce,
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    Library(#[from] ErrorStack),
}

impl CrypticleError {
    /// Whether signing in again, which brings the current keys, can help.
    pub fn is_wrong_key(&self) -> bool {
        matches!(self, Self::WrongKey)
    }
}

/// Why a text is no key string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an AES key string is base64 of {KEY_LEN} bytes, {KEY_TEXT_LEN} characters")]
pub struct KeyTextError;

/// The keys of a container: the master's, for all publications, or a session's.
#[derive(Clone)]
pub struct AesKey(Zeroizing<[u8; KEY_LEN]>);

impl AesKey {
    /// Reads a key string as the master sends it.
    ///
    /// # Errors
    /// If it is not the base64 of 56 bytes in the one form that Salt writes.
    pub fn parse(text: &str) -> Result<Self, KeyTextError> {
        if text.len() != KEY_TEXT_LEN {
            return Err(KeyTextError);
        }
        let raw = Zeroizing::new(base64::decode_block(text).map_err(|_| KeyTextError)?);
        let key = Self(Zeroizing::new(
            raw.as_slice().try_into().map_err(|_| KeyTextError)?,
        ));
        // The master signs the hash of the text, so that there must be no second spelling of a key.
        if memcmp::eq(key.to_text().as_bytes(), text.as_bytes()) {
            Ok(key)
        } else {
            Err(KeyTextError)
        }
    }

    /// A new random key.
    ///
    /// # Errors
    /// If the random number generator fails.
    pub fn generate() -> Result<Self, ErrorStack> {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        rand_bytes(key.as_mut_slice())?;
        Ok(Self(key))
    }

    /// The key string, for files that only their owner reads.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(base64::encode_block(self.0.as_slice()))
    }

    /// Encloses plaintext (msgpack, for everything that Salt reads) under a fresh IV.
    ///
    /// # Errors
    /// If the plaintext is too long or the library fails.
    pub fn encrypt(&self, plaintext: &[u8]) -> Result<Vec<u8>, CrypticleError> {
        self.encrypt_under(fresh_iv()?, &[PREFIX, plaintext])
    }

    /// Encloses the plaintext of a reply to the request with this nonce.
    ///
    /// # Errors
    /// If the plaintext is too long or the library fails.
    pub fn encrypt_with_nonce(
        &self,
        nonce: &Nonce,
        plaintext: &[u8],
    ) -> Result<Vec<u8>, CrypticleError> {
        self.encrypt_under(fresh_iv()?, &[PREFIX, nonce.as_str().as_bytes(), plaintext])
    }

    /// As [`encrypt`](Self::encrypt) under a given IV, to compare with recorded containers. An IV
    /// that is used twice tells a reader which plaintexts begin alike.
    ///
    /// # Errors
    /// If the plaintext is too long or the library fails.
    pub fn encrypt_with_iv(
        &self,
        iv: [u8; BLOCK_LEN],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, CrypticleError> {
        self.encrypt_under(iv, &[PREFIX, plaintext])
    }

    /// Opens a container; returns what follows `pickle::`.
    ///
    /// # Errors
    /// See [`CrypticleError`]; [`is_wrong_key`](CrypticleError::is_wrong_key) tells a rotated key
    /// from nonsense.
    pub fn decrypt(&self, blob: &[u8]) -> Result<Bytes, CrypticleError> {
        if blob.len() > BLOB_LEN_MAX {
            return Err(CrypticleError::TooLong { length: blob.len() });
        }
        if !is_container_length(blob.len()) {
            return Err(CrypticleError::Length { length: blob.len() });
        }
        let (body, mac) = blob.split_at(blob.len() - MAC_LEN);
        if !memcmp::eq(&self.mac(body)?, mac) {
            return Err(CrypticleError::WrongKey);
        }
        let (iv, data) = body.split_at(BLOCK_LEN);
        let mut crypter = self.crypter(Mode::Decrypt, iv)?;
        let mut plaintext = vec![0; data.len() + BLOCK_LEN];
        let mut length = crypter.update(data, &mut plaintext)?;
        length += crypter
            .finalize(&mut plaintext[length..])
            .map_err(|_| CrypticleError::NotSalt)?;
        plaintext.truncate(length);
        if !plaintext.starts_with(PREFIX) {
            return Err(CrypticleError::NotSalt);
        }
        Ok(Bytes::from(plaintext).slice(PREFIX.len()..))
    }

    /// Opens the reply to the request with this nonce; returns what follows the nonce.
    ///
    /// # Errors
    /// As [`decrypt`](Self::decrypt), and [`CrypticleError::WrongNonce`] for a reply to another
    /// request.
    pub fn decrypt_with_nonce(&self, nonce: &Nonce, blob: &[u8]) -> Result<Bytes, CrypticleError> {
        let plaintext = self.decrypt(blob)?;
        let nonce = nonce.as_str().as_bytes();
        if plaintext.starts_with(nonce) {
            Ok(plaintext.slice(nonce.len()..))
        } else {
            Err(CrypticleError::WrongNonce)
        }
    }

    fn encrypt_under(
        &self,
        iv: [u8; BLOCK_LEN],
        parts: &[&[u8]],
    ) -> Result<Vec<u8>, CrypticleError> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > BLOB_LEN_MAX - BLOB_LEN_MIN {
            return Err(CrypticleError::TooLong { length });
        }
        let mut crypter = self.crypter(Mode::Encrypt, &iv)?;
        // Room for IV, padding and MAC, and for the spare block that the library asks for.
        let mut blob = vec![0; length + BLOB_LEN_MIN + BLOCK_LEN];
        blob[..BLOCK_LEN].copy_from_slice(&iv);
        let mut end = BLOCK_LEN;
        for part in parts {
            end += crypter.update(part, &mut blob[end..])?;
        }
        end += crypter.finalize(&mut blob[end..])?;
        let mac = self.mac(&blob[..end])?;
        blob.truncate(end);
        blob.extend_from_slice(&mac);
        Ok(blob)
    }

    fn crypter(&self, mode: Mode, iv: &[u8]) -> Result<Crypter, ErrorStack> {
        Crypter::new(
            Cipher::aes_192_cbc(),
            mode,
            &self.0[..CIPHER_KEY_LEN],
            Some(iv),
        )
    }

    fn mac(&self, body: &[u8]) -> Result<[u8; MAC_LEN], ErrorStack> {
        let key = PKey::hmac(&self.0[CIPHER_KEY_LEN..])?;
        let mut mac = [0; MAC_LEN];
        Signer::new(MessageDigest::sha256(), &key)?.sign_oneshot(&mut mac, body)?;
        Ok(mac)
    }
}

/// Whether a blob of this length can be a container at all.
pub fn is_container_length(length: usize) -> bool {
    length >= BLOB_LEN_MIN && (length - MAC_LEN).is_multiple_of(BLOCK_LEN)
}

fn fresh_iv() -> Result<[u8; BLOCK_LEN], ErrorStack> {
    let mut iv = [0; BLOCK_LEN];
    rand_bytes(&mut iv)?;
    Ok(iv)
}

impl PartialEq for AesKey {
    fn eq(&self, other: &Self) -> bool {
        memcmp::eq(self.0.as_slice(), other.0.as_slice())
    }
}

impl Eq for AesKey {}

impl fmt::Debug for AesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AesKey(..)")
    }
}

#[cfg(test)]
mod tests;

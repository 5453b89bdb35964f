//! A public key whose private half nobody has.
//!
//! It is an ordinary RSA key of 2048 bits, but that its modulus begins with a text: the one prime
//! is random, the other is the next one that makes their product begin so. That takes nothing from
//! its strength (half of a modulus may be chosen freely), and makes it known without any record.

use openssl::bn::{BigNum, BigNumContext, BigNumRef};
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Public};
use openssl::rsa::Rsa;

/// How the modulus begins. The first byte makes it exactly [`BITS`] long; together far below the
/// half of it that may be chosen.
const MARK: &[u8] = b"\xc0saltway placeholder: nobody has its private half";

/// As Salt's own keys by default.
const BITS: i32 = 2048;

/// Rounds of the primality test: the number of OpenSSL for keys of this size.
const PRIME_CHECKS: i32 = 64;

/// An RSA public key.
pub(super) struct PublicKey(Rsa<Public>);

impl PublicKey {
    /// A new one, with the mark. Its primes are wiped before this returns.
    pub(super) fn generate() -> Result<Self, ErrorStack> {
        loop {
            let modulus = marked_modulus()?;
            if begins_with_mark(&modulus) {
                let exponent = BigNum::from_u32(65_537)?;
                return Ok(Self(Rsa::from_public_components(modulus, exponent)?));
            }
        }
    }

    /// The key in a PEM text, if it holds one.
    pub(super) fn from_pem(pem: &[u8]) -> Option<Self> {
        PKey::public_key_from_pem(pem).ok()?.rsa().ok().map(Self)
    }

    /// As Salt writes keys.
    pub(super) fn to_pem(&self) -> Result<Vec<u8>, ErrorStack> {
        self.0.public_key_to_pem()
    }

    /// Whether it was made here, or on another MoM, by [`Self::generate`].
    pub(super) fn is_marked(&self) -> bool {
        begins_with_mark(self.0.n())
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.n() == other.0.n() && self.0.e() == other.0.e()
    }
}

fn begins_with_mark(modulus: &BigNumRef) -> bool {
    modulus.num_bits() == BITS && modulus.to_vec().starts_with(MARK)
}

/// A product of two secret primes near a number that begins with the mark.
fn marked_modulus() -> Result<BigNum, ErrorStack> {
    let mut context = BigNumContext::new_secure()?;
    let mut wanted = MARK.to_vec();
    let mut rest = vec![0; 2048 / 8 - MARK.len()];
    openssl::rand::rand_bytes(&mut rest)?;
    wanted.append(&mut rest);
    let wanted = BigNum::from_slice(&wanted)?;
    let mut first = BigNum::new_secure()?;
    first.generate_prime(BITS / 2, false, None, None)?;
    let mut second = BigNum::new_secure()?;
    second.checked_div(&wanted, &first, &mut context)?;
    if !second.is_bit_set(0) {
        second.add_word(1)?;
    }
    // Some 350 odd numbers until the next prime; that moves the modulus far below the mark.
    while !second.is_prime_fasttest(PRIME_CHECKS, &mut context, true)? {
        second.add_word(2)?;
    }
    let mut modulus = BigNum::new()?;
    modulus.checked_mul(&first, &second, &mut context)?;
    first.clear();
    second.clear();
    Ok(modulus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_key_is_known_by_its_content_alone() {
        let key = PublicKey::generate().expect("made");
        let again = PublicKey::from_pem(&key.to_pem().expect("text")).expect("a key");
        assert!(again.is_marked());
        assert!(again == key);
    }

    #[test]
    fn two_made_keys_differ() {
        assert!(PublicKey::generate().expect("made") != PublicKey::generate().expect("made"));
    }

    #[test]
    fn another_key_is_not_ours() {
        let pem = Rsa::generate(2048)
            .expect("made")
            .public_key_to_pem()
            .expect("text");
        assert!(!PublicKey::from_pem(&pem).expect("a key").is_marked());
        assert!(PublicKey::from_pem(b"no key").is_none());
    }
}

use proptest::prelude::*;

use super::*;

#[test]
fn key_strings_have_one_spelling() {
    let key = AesKey::generate().unwrap();
    let text = key.to_text();
    assert_eq!(text.len(), KEY_TEXT_LEN);
    assert_eq!(AesKey::parse(&text), Ok(key));
    assert_eq!(
        AesKey::parse(&format!("{} ", text.trim_end_matches('='))),
        Err(KeyTextError)
    );
    assert_eq!(AesKey::parse(&"A".repeat(KEY_TEXT_LEN)), Err(KeyTextError));
    assert_eq!(
        AesKey::parse(&"é".repeat(KEY_TEXT_LEN / 2)),
        Err(KeyTextError)
    );
    assert_eq!(AesKey::parse(""), Err(KeyTextError));
    // The last character but one carries two bits that no byte uses.
    let respelled = format!("{}B=", "A".repeat(KEY_TEXT_LEN - 2));
    assert_eq!(AesKey::parse(&respelled), Err(KeyTextError));
}

#[test]
fn every_changed_bit_is_noticed_before_anything_is_decrypted() {
    let key = AesKey::generate().unwrap();
    let blob = key.encrypt(b"data").unwrap();
    for at in 0..blob.len() {
        let mut changed = blob.clone();
        changed[at] ^= 1;
        assert!(
            key.decrypt(&changed).unwrap_err().is_wrong_key(),
            "byte {at}"
        );
    }
}

#[test]
fn lengths_that_no_container_has_are_refused() {
    let key = AesKey::generate().unwrap();
    for length in [0, 1, 32, 48, 63, 65, 79] {
        let error = key.decrypt(&vec![0; length]).unwrap_err();
        assert!(matches!(error, CrypticleError::Length { .. }), "{length}");
        assert!(!error.is_wrong_key());
    }
    assert!(key.decrypt(&[0; 64]).unwrap_err().is_wrong_key());
}

#[test]
fn authentic_plaintext_that_is_not_salts_is_told_apart_from_a_wrong_key() {
    let key = AesKey::generate().unwrap();
    let unprefixed = key.encrypt_under([0; BLOCK_LEN], &[b"no prefix"]).unwrap();
    assert!(matches!(
        key.decrypt(&unprefixed),
        Err(CrypticleError::NotSalt)
    ));
    let mut unpadded = vec![7; BLOCK_LEN * 2];
    unpadded.extend(key.mac(&unpadded).unwrap());
    assert!(matches!(
        key.decrypt(&unpadded),
        Err(CrypticleError::NotSalt)
    ));
}

#[test]
fn the_same_plaintext_is_never_enclosed_the_same_way() {
    let key = AesKey::generate().unwrap();
    assert_ne!(key.encrypt(b"data").unwrap(), key.encrypt(b"data").unwrap());
}

#[test]
fn debug_shows_no_key() {
    assert_eq!(format!("{:?}", AesKey::generate().unwrap()), "AesKey(..)");
}

proptest! {
    #[test]
    fn plaintext_survives(plaintext in proptest::collection::vec(any::<u8>(), 0..200)) {
        let key = AesKey::generate().unwrap();
        let nonce = Nonce::random().unwrap();
        let blob = key.encrypt(&plaintext).unwrap();
        prop_assert!(is_container_length(blob.len()));
        prop_assert_eq!(key.decrypt(&blob).unwrap(), plaintext.clone());
        let reply = key.encrypt_with_nonce(&nonce, &plaintext).unwrap();
        prop_assert_eq!(key.decrypt_with_nonce(&nonce, &reply).unwrap(), plaintext);
    }
}

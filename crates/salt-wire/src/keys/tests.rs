use super::*;

#[test]
fn keys_survive_their_pem_text() {
    let key = PrivateKey::generate(2048).unwrap();
    let pem = key.to_pem().unwrap();
    assert!(pem.starts_with("-----BEGIN RSA PRIVATE KEY-----\n"));
    let public = PrivateKey::from_pem(pem.as_bytes())
        .unwrap()
        .public_key()
        .unwrap();
    assert_eq!(public, key.public_key().unwrap());
    assert_eq!(public.to_pem().len(), 450);
    let crlf = public.to_pem().replace('\n', "\r\n") + "\r\n";
    assert_eq!(
        PublicKey::from_pem(crlf.as_bytes()).unwrap().to_pem(),
        public.to_pem()
    );
    assert!(public.is_canonical());
}

#[test]
fn both_algorithms_of_each_kind_work_and_exclude_each_other() {
    let key = PrivateKey::generate(2048).unwrap();
    let public = key.public_key().unwrap();
    let sealed = public.encrypt(EncAlgo::OaepSha224, b"secret").unwrap();
    assert_eq!(
        *key.decrypt(EncAlgo::OaepSha224, &sealed).unwrap(),
        b"secret"
    );
    assert!(key.decrypt(EncAlgo::OaepSha1, &sealed).is_err());
    let signature = key.sign(SigAlgo::Pkcs1v15Sha224, b"text").unwrap();
    assert!(public.verify(SigAlgo::Pkcs1v15Sha224, b"text", &signature));
    assert!(!public.verify(SigAlgo::Pkcs1v15Sha1, b"text", &signature));
    assert!(!public.verify(SigAlgo::Pkcs1v15Sha224, b"texT", &signature));
    assert!(!public.verify(SigAlgo::Pkcs1v15Sha224, b"text", b"short"));
}

#[test]
fn x931_recovers_messages_of_every_length_that_fits() {
    let key = PrivateKey::generate(2048).unwrap();
    let public = key.public_key().unwrap();
    for message in [&b"salt"[..], &[7; 64], &[0; 252], &[9; 254]] {
        let signature = key.x931_sign(message).unwrap();
        assert_eq!(signature.len(), 256);
        assert_eq!(
            signature,
            key.x931_sign(message).unwrap(),
            "it is deterministic"
        );
        assert_eq!(public.x931_recover(&signature).unwrap(), message);
    }
    assert!(key.x931_sign(&[1; 255]).is_err());
    let other = PrivateKey::generate(2048).unwrap().public_key().unwrap();
    assert!(other.x931_recover(&key.tok().unwrap()).is_err());
}

#[test]
fn what_is_no_usable_key_is_refused() {
    assert!(matches!(
        PublicKey::from_pem(b"nonsense"),
        Err(KeyError::Pem(_))
    ));
    assert!(matches!(
        PublicKey::from_pem(&[0xff; 10]),
        Err(KeyError::Pem(_))
    ));
    assert!(matches!(
        PublicKey::from_pem(&vec![b'x'; PEM_LEN_MAX + 1]),
        Err(KeyError::Pem(None))
    ));
    assert!(matches!(
        PrivateKey::generate(512),
        Err(KeyError::Size { bits: 512 })
    ));
    let small = Rsa::generate(512).unwrap().public_key_to_pem().unwrap();
    assert!(matches!(
        PublicKey::from_pem(&small),
        Err(KeyError::Size { bits: 512 })
    ));
    let locked = Rsa::generate(2048)
        .unwrap()
        .private_key_to_pem_passphrase(openssl::symm::Cipher::aes_128_cbc(), b"open sesame")
        .unwrap();
    assert!(
        matches!(PrivateKey::from_pem(&locked), Err(KeyError::Pem(_))),
        "and nobody is asked"
    );
}

#[test]
fn fingerprints_cover_the_lines_between_first_and_last() {
    let public = PrivateKey::generate(2048).unwrap().public_key().unwrap();
    let body: Vec<&str> = public.to_pem().lines().collect();
    let body = body[1..body.len() - 1]
        .iter()
        .map(|line| format!("{line}\n"))
        .collect::<String>();
    let sum = openssl::sha::sha256(body.as_bytes());
    let expected: Vec<String> = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(public.fingerprint("sha256").unwrap(), expected.join(":"));
    assert_eq!(public.fingerprint("md5").unwrap().len(), 16 * 3 - 1);
    assert!(matches!(
        public.fingerprint("sha257"),
        Err(KeyError::UnknownHash { .. })
    ));
}

#[test]
fn debug_shows_no_private_key() {
    let key = PrivateKey::generate(2048).unwrap();
    assert_eq!(format!("{key:?}"), "PrivateKey(2048 bits)");
    assert!(format!("{:?}", key.public_key().unwrap()).starts_with("PublicKey(2048 bits, "));
}

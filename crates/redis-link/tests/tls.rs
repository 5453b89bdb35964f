//! TLS to Redis, with the authority's certificate from a file.

mod common;

use std::path::Path;

use common::{Server, free_addr, keys, open};
use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509NameBuilder};
use redis_link::{Primary, RedisConfig, RedisError, Role};

/// Writes a self-signed certificate for 127.0.0.1 and its key.
fn certificate(cert: &Path, key: &Path) {
    let pkey = PKey::from_rsa(Rsa::generate(2048).expect("a key")).expect("a key");
    let build = || -> Result<X509, openssl::error::ErrorStack> {
        let mut name = X509NameBuilder::new()?;
        name.append_entry_by_text("CN", "saltway test")?;
        let name = name.build();
        let mut builder = X509Builder::new()?;
        builder.set_version(2)?;
        builder.set_subject_name(&name)?;
        builder.set_issuer_name(&name)?;
        builder.set_not_before(&*Asn1Time::days_from_now(0)?)?;
        builder.set_not_after(&*Asn1Time::days_from_now(2)?)?;
        builder.set_pubkey(&pkey)?;
        builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        let context = builder.x509v3_context(None, None);
        let names = SubjectAlternativeName::new()
            .ip("127.0.0.1")
            .build(&context)?;
        builder.append_extension(names)?;
        builder.sign(&pkey, MessageDigest::sha256())?;
        Ok(builder.build())
    };
    let certificate = build().expect("a certificate");
    std::fs::write(cert, certificate.to_pem().expect("PEM")).expect("written");
    std::fs::write(key, pkey.private_key_to_pem_pkcs8().expect("PEM")).expect("written");
}

#[tokio::test]
async fn the_authority_in_the_file_is_trusted_and_no_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    certificate(&cert, &key);
    let (other, other_key) = (dir.path().join("other.pem"), dir.path().join("other.key"));
    certificate(&other, &other_key);
    let port = free_addr().port();
    let lines = format!(
        "tls-port {port}\ntls-cert-file {}\ntls-key-file {}\ntls-auth-clients no\n",
        cert.display(),
        key.display(),
    );
    let server = Server::start_with(&lines);
    let config = |ca: Option<&Path>| RedisConfig {
        primary: Primary::Url(format!("rediss://127.0.0.1:{port}")),
        ca_file: ca.map(Path::to_owned),
        ..server.config("bridge")
    };
    open(&config(Some(&cert)))
        .check(&keys(), Role::Bridge)
        .await
        .expect("trusted");
    for ca in [None, Some(other.as_path())] {
        let error = open(&config(ca))
            .check(&keys(), Role::Bridge)
            .await
            .expect_err("not trusted");
        assert!(matches!(error, RedisError::Connect { .. }), "{error:?}");
    }
}

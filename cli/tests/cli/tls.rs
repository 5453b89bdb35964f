//! A bridge that is asked over https: whom the command trusts, and by which name.

use std::fs;

use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{SslAcceptor, SslMethod};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};

use crate::common::{Bridge, run};

/// A certificate for `name`, which nobody has signed but its own key.
fn certificate(name: &str) -> (X509, PKey<Private>) {
    let key = PKey::from_rsa(Rsa::generate(2048).expect("made")).expect("a key");
    let mut subject = X509NameBuilder::new().expect("a name");
    subject.append_entry_by_text("CN", "mom").expect("appended");
    let subject = subject.build();
    let mut cert = X509::builder().expect("a builder");
    cert.set_version(2).expect("set");
    cert.set_subject_name(&subject).expect("set");
    cert.set_issuer_name(&subject).expect("set");
    cert.set_pubkey(&key).expect("set");
    let (from, to) = (Asn1Time::days_from_now(0), Asn1Time::days_from_now(2));
    cert.set_not_before(&from.expect("a day")).expect("set");
    cert.set_not_after(&to.expect("a day")).expect("set");
    let context = cert.x509v3_context(None, None);
    let names = SubjectAlternativeName::new().dns(name).build(&context);
    cert.append_extension(names.expect("names"))
        .expect("appended");
    let authority = BasicConstraints::new().ca().build().expect("an extension");
    cert.append_extension(authority).expect("appended");
    cert.sign(&key, MessageDigest::sha256()).expect("signed");
    (cert.build(), key)
}

#[test]
fn the_bridge_s_own_certificate_is_trusted_from_its_file_and_no_other() {
    let (cert, key) = certificate("localhost");
    let mut acceptor = SslAcceptor::mozilla_intermediate(SslMethod::tls_server()).expect("TLS");
    acceptor.set_private_key(&key).expect("set");
    acceptor.set_certificate(&cert).expect("set");
    let bridge = Bridge::secured(acceptor.build());
    let port = bridge.url.rsplit(':').next().expect("a port");

    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, cert: &X509| {
        let path = dir.path().join(name);
        fs::write(&path, cert.to_pem().expect("PEM")).expect("written");
        path.display().to_string()
    };
    let (own, other) = (
        file("own.pem", &cert),
        file("other.pem", &certificate("localhost").0),
    );
    let config = dir.path().join("saltway.yaml");
    let listen = format!("http: {{listen: '127.0.0.1:{port}', tls_cert: {own}}}\n");
    fs::write(&config, listen).expect("written");
    let config = config.display().to_string();

    // The file names the certificate, the certificate names the host.
    let ran = run(&["--config", &config, "status"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.out.contains(&format!("https://localhost:{port}")),
        "{ran:?}"
    );

    let named = format!("https://localhost:{port}");
    assert_eq!(run(&["--url", &named, "--ca-file", &own, "status"]).code, 1);
    for wrong in [
        vec!["--url", &named, "--ca-file", &other],
        vec!["--url", &named, "--config", "/nonexistent"],
    ] {
        let ran = run(&[wrong.as_slice(), &["status"]].concat());
        assert_eq!(ran.code, 2, "{wrong:?}: {ran:?}");
        assert!(ran.err.contains("certificate"), "{wrong:?}: {ran:?}");
    }
    let by_address = format!("https://127.0.0.1:{port}");
    assert_eq!(
        run(&["--url", &by_address, "--ca-file", &own, "status"]).code,
        2
    );
}

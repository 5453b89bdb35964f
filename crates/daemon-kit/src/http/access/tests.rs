//! Who reads what, from where, with and without TLS and token.

use std::{fs, net::Ipv4Addr, path::Path, pin::Pin};

use axum::routing::get;
use openssl::{
    asn1::Asn1Time,
    hash::MessageDigest,
    pkey::PKey,
    rsa::Rsa,
    ssl::{SslConnector, SslMethod, SslVerifyMode},
    x509::{X509Builder, X509NameBuilder},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use super::*;
use crate::{
    CancellationToken,
    http::{HttpServer, Readiness},
    metrics::Metrics,
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Writes a self-signed certificate and its key, as PEM.
fn certificate(dir: &Path) {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "saltway test").unwrap();
    let name = name.build();
    let mut cert = X509Builder::new().unwrap();
    cert.set_subject_name(&name).unwrap();
    cert.set_issuer_name(&name).unwrap();
    let day = |days| Asn1Time::days_from_now(days).unwrap();
    cert.set_not_before(&day(0)).unwrap();
    cert.set_not_after(&day(2)).unwrap();
    cert.set_pubkey(&key).unwrap();
    cert.sign(&key, MessageDigest::sha256()).unwrap();
    fs::write(dir.join("cert.pem"), cert.build().to_pem().unwrap()).unwrap();
    let key = key.private_key_to_pem_pkcs8().unwrap();
    fs::write(dir.join("key.pem"), key).unwrap();
}

/// What the section says, or its mistakes; `DIR` stands for a directory with a certificate, a key and a token.
fn read(dir: &Path, section: &str) -> Result<HttpConfig, String> {
    certificate(dir);
    fs::write(dir.join("token"), format!("{TOKEN}\n")).unwrap();
    fs::write(dir.join("short"), "secret\n").unwrap();
    let file = dir.join("saltway.yaml");
    let section = section.replace("DIR", &dir.display().to_string());
    fs::write(&file, format!("http: {section}\n")).unwrap();
    crate::config::load(&file, HttpConfig::read).map_err(|mistakes| mistakes.to_string())
}

struct Running {
    port: u16,
    _dir: tempfile::TempDir,
    _server: JoinSet<()>,
}

async fn start(section: &str) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let config = read(dir.path(), section).unwrap();
    let pages = Router::new()
        .route("/", get(|| async { "the page" }))
        .route("/api", get(|| async { "data" }));
    let metrics = Metrics::new("saltway-test", "1");
    let token = CancellationToken::new();
    let server =
        HttpServer::bind_guarded(&config, metrics, Readiness::default(), token.clone(), pages);
    let server = server.await.unwrap();
    let port = server.local_addr().unwrap().port();
    let mut set = JoinSet::new();
    set.spawn(server.serve(token));
    Running {
        port,
        _dir: dir,
        _server: set,
    }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        let address = (Ipv4Addr::LOCALHOST, self.port);
        TcpStream::connect(address).await.unwrap()
    }

    async fn status(&self, path: &str, header: &str) -> u16 {
        ask(self.connect().await, path, header).await
    }

    async fn tls_status(&self, path: &str, header: &str) -> u16 {
        let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
        connector.set_verify(SslVerifyMode::NONE);
        let ssl = connector.build().configure().unwrap();
        let ssl = ssl.into_ssl("localhost").unwrap();
        let mut stream = tokio_openssl::SslStream::new(ssl, self.connect().await).unwrap();
        Pin::new(&mut stream).connect().await.unwrap();
        ask(stream, path, header).await
    }
}

/// The status of the answer; 0 for none.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str, header: &str) -> u16 {
    let header = match header {
        "" => "Host: localhost".to_owned(),
        header => header.to_owned(),
    };
    let request = format!("GET {path} HTTP/1.1\r\n{header}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    drop(stream.read_to_end(&mut reply).await);
    let reply = String::from_utf8_lossy(&reply).into_owned();
    let status = reply.split(' ').nth(1);
    status.and_then(|status| status.parse().ok()).unwrap_or(0)
}

const ANYWHERE: &str =
    "{listen: '0.0.0.0:0', tls_cert: DIR/cert.pem, tls_key: DIR/key.pem, token_file: DIR/token}";

#[tokio::test]
async fn loopback_serves_everything_to_those_who_name_it() {
    let running = start("{listen: '127.0.0.1:0'}").await;
    for host in ["localhost:9464", "127.0.0.1", "[::1]:1", "127.8.9.1:80"] {
        let host = format!("Host: {host}");
        assert_eq!(running.status("/api", &host).await, 200, "{host}");
    }
    for host in ["evil.example.com", "127.0.0.1.example.com:9464", "10.0.0.1"] {
        let host = format!("Host: {host}");
        assert_eq!(running.status("/api", &host).await, 403, "{host}");
        assert_eq!(running.status("/", &host).await, 403, "{host}");
        assert_eq!(running.status("/metrics", &host).await, 200, "{host}");
    }
}

#[tokio::test]
async fn elsewhere_without_tls_and_token_only_metrics_and_health_are_served() {
    let running = start("{listen: '0.0.0.0:0'}").await;
    for (path, status) in [
        ("/", 404),
        ("/api", 404),
        ("/metrics", 200),
        ("/healthz", 200),
    ] {
        assert_eq!(running.status(path, "").await, status, "{path}");
    }
}

#[tokio::test]
async fn elsewhere_all_but_health_and_the_empty_page_needs_the_token() {
    let running = start(ANYWHERE).await;
    let right = format!("Authorization: Bearer {TOKEN}\r\nHost: saltway.example.com");
    let basic = format!("Authorization: Basic {TOKEN}");
    let longer = format!("Authorization: Bearer {TOKEN}0");
    let wrong = format!("Authorization: Bearer {}", TOKEN.replace('0', "1"));
    for path in ["/api", "/metrics"] {
        assert_eq!(running.tls_status(path, &right).await, 200, "{path}");
        for header in ["", &basic, &longer, &wrong, "Authorization: Bearer "] {
            let status = running.tls_status(path, header).await;
            assert_eq!(status, 401, "{path} {header}");
        }
    }
    for path in ["/", "/healthz", "/readyz"] {
        assert_eq!(running.tls_status(path, "").await, 200, "{path}");
    }
    assert_eq!(running.status("/healthz", "").await, 0, "not without TLS");
    assert_eq!(running.tls_status("/api", &right).await, 200, "it goes on");
}

#[test]
fn mistakes_are_told_with_their_key() {
    let check = |section: &str, expected: &str| {
        let dir = tempfile::tempdir().unwrap();
        let told = read(dir.path(), section).unwrap_err();
        assert!(told.contains(expected), "{section}: {told}");
    };
    check("{tls_cert: DIR/cert.pem}", "http.tls_key: missing");
    check("{tls_key: DIR/key.pem}", "http.tls_cert: missing");
    check(
        "{tls_cert: DIR/key.pem, tls_key: DIR/key.pem}",
        "http.tls_cert",
    );
    check(
        "{tls_cert: DIR/cert.pem, tls_key: DIR/token}",
        "http.tls_key",
    );
    check("{tls_cert: DIR/none, tls_key: DIR/key.pem}", "No such file");
    check("{token_file: DIR/short}", "fewer than 16");
    check(
        "{listen: '0.0.0.0:1', token_file: DIR/token}",
        "a token without TLS",
    );
    let dir = tempfile::tempdir().unwrap();
    let config = read(dir.path(), ANYWHERE).unwrap();
    assert!(!format!("{config:?}").contains(TOKEN), "{config:?}");
}

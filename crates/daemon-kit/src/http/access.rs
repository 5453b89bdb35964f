//! Who may read the port: the section `http`, TLS, the token, and whether the daemon's pages are served at all.
//!
//! | `http.listen` | TLS and token | what is served |
//! |---|---|---|
//! | loopback | none | everything, to requests that name the loopback as their host |
//! | anywhere | both | everything over TLS; all but the health pages and the page at `/` needs the token |
//! | elsewhere | none, or TLS only | metrics and health only |
//!
//! - The token is compared in constant time, and never shown.
//! - A web page of somebody else's that has its name resolve to the loopback reads nothing: its requests name its own host.

#[cfg(test)]
mod tests;

use std::{fmt, net::SocketAddr, path::Path};

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod};

use crate::config::{Secret, Section};

/// Keys of the section that only a daemon with pages reads.
pub(super) const PAGES_KEYS: &[&str] = &["tls_cert", "tls_key", "token_file"];

/// A shorter token can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// The section `http` of a daemon with pages of its own.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The certificate and its key, when both are given.
    pub tls: Option<Tls>,
    /// What a client must show.
    pub token: Option<Secret>,
}

/// A certificate with its key, ready for use.
#[derive(Clone)]
pub struct Tls(pub(super) SslAcceptor);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(..)")
    }
}

impl HttpConfig {
    /// Reads the section; mistakes are noted there.
    #[must_use]
    pub fn read(root: &Section<'_>) -> Self {
        let default = super::listen_default();
        let section = root.section("http");
        let listen = section.socket_addr("listen", default);
        let tls = read_tls(&section);
        let token = section.secret_file("token_file");
        if token
            .as_ref()
            .is_some_and(|token| token.expose().len() < TOKEN_BYTES_MIN)
        {
            section.mistake(
                "token_file",
                format!("holds fewer than {TOKEN_BYTES_MIN} characters"),
                "make one by `openssl rand -hex 32`",
            );
        }
        let is_loopback = listen.ip().is_loopback();
        if section.has("token_file") && !section.has("tls_cert") && !is_loopback {
            section.mistake(
                "token_file",
                "a token without TLS can be read on its way",
                "give tls_cert and tls_key, too, or listen on the loopback",
            );
        }
        Self { listen, tls, token }
    }

    /// Whether the daemon's own pages may be served.
    #[must_use]
    pub fn serves_pages(&self) -> bool {
        self.listen.ip().is_loopback() || (self.tls.is_some() && self.token.is_some())
    }
}

fn read_tls(section: &Section<'_>) -> Option<Tls> {
    let cert = section.optional_path("tls_cert");
    let key = section.optional_path("tls_key");
    match (cert, key) {
        (Some(cert), Some(key)) => acceptor(&cert, &key)
            .map_err(|(wrong, problem)| {
                let remedy = "name PEM files that the daemon's user can read";
                section.mistake(wrong, problem, remedy);
            })
            .ok(),
        (Some(_), None) if !section.has("tls_key") => {
            section.mistake("tls_key", "missing", "name the key of tls_cert");
            None
        }
        (None, Some(_)) if !section.has("tls_cert") => {
            section.mistake("tls_cert", "missing", "name the certificate of tls_key");
            None
        }
        _ => None,
    }
}

fn acceptor(cert: &Path, key: &Path) -> Result<Tls, (&'static str, String)> {
    let wrong = |what: &'static str, path: &Path| {
        let path = path.display().to_string();
        move |err: openssl::error::ErrorStack| {
            let reason = err.errors().first().and_then(|err| err.reason());
            (
                what,
                format!("{path}: {}", reason.unwrap_or("cannot be used")),
            )
        }
    };
    for (what, path) in [("tls_cert", cert), ("tls_key", key)] {
        std::fs::File::open(path).map_err(|err| (what, format!("{}: {err}", path.display())))?;
    }
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())
        .map_err(wrong("tls_cert", cert))?;
    builder
        .set_certificate_chain_file(cert)
        .map_err(wrong("tls_cert", cert))?;
    builder
        .set_private_key_file(key, SslFiletype::PEM)
        .map_err(wrong("tls_key", key))?;
    builder.check_private_key().map_err(wrong("tls_key", key))?;
    Ok(Tls(builder.build()))
}

/// Puts the token, or the look at the host, before every page of `router`.
pub(super) fn guard(router: Router, listen: SocketAddr, token: Option<Secret>) -> Router {
    match token {
        Some(token) => router.layer(middleware::from_fn(move |request: Request, next: Next| {
            // A browser shows no token when it opens a page, which says nothing by itself; what it then asks for does.
            let shown = request.uri().path() == "/" || shows(request.headers(), token.expose());
            async move {
                if shown {
                    next.run(request).await
                } else {
                    refuse_token()
                }
            }
        })),
        None if listen.ip().is_loopback() => {
            router.layer(middleware::from_fn(move |request: Request, next: Next| {
                let names = names_loopback(&request);
                async move {
                    if names {
                        next.run(request).await
                    } else {
                        refuse_host()
                    }
                }
            }))
        }
        None => router,
    }
}

fn refuse_token() -> Response {
    let told = r#"{"error":"no valid token","hint":"send the header `Authorization: Bearer TOKEN` with what is in http.token_file"}"#;
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::WWW_AUTHENTICATE, "Bearer"),
    ];
    (StatusCode::UNAUTHORIZED, headers, told).into_response()
}

fn refuse_host() -> Response {
    let told = r#"{"error":"the request names another host than the loopback","hint":"ask 127.0.0.1 or localhost, or set http.tls_cert, http.tls_key and http.token_file"}"#;
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::FORBIDDEN, headers, told).into_response()
}

fn shows(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION);
    let Some((scheme, given)) = given.and_then(|value| value.to_str().ok()?.split_once(' ')) else {
        return false;
    };
    let (given, token) = (given.trim().as_bytes(), token.as_bytes());
    scheme.eq_ignore_ascii_case("bearer")
        && given.len() == token.len()
        && openssl::memcmp::eq(given, token)
}

/// Whether the `Host` is a name or address of the loopback. A request without one comes from no browser.
fn names_loopback(request: &Request) -> bool {
    let host = request.headers().get(header::HOST);
    let host = host.map(|value| value.to_str().unwrap_or_default());
    let Some(host) = host.or_else(|| request.uri().host()) else {
        return true;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

//! Asks the bridge: one GET, one JSON answer.
//!
//! - An answer is at most [`ANSWER_BYTES_MAX`] large and comes within [`ANSWER_TIMEOUT`].
//! - The token goes into a header only, never into an address or an error's text.
//! - No proxy of the environment is used: the bridge is on this host, or named by --url.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use crate::field::Field;

/// Time for the connection; the bridge is near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for a whole answer: the bridge gives a connection as long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest answer: a roster of two million ids has some 100 MB.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Most of an answer that is no JSON that is repeated in an error.
const SHOWN_BYTES_MAX: usize = 120;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody answers.
    #[error(
        "no bridge answers at {url}; does saltway-bridge run there (systemctl status saltway-bridge), and is that its `http.listen`? Another one is named by --url"
    )]
    Unreachable {
        /// What was asked.
        url: String,
        /// What went wrong.
        #[source]
        source: Box<ureq::Error>,
    },
    /// It wants a token, or another one.
    #[error(
        "the bridge at {url} does not let this user in: {said}; name the file with its token by --token-file, or by `http.token_file` in saltway.yaml"
    )]
    NotPermitted {
        /// What was asked.
        url: String,
        /// The bridge's words.
        said: String,
    },
    /// Something answers that is no bridge, or keeps no ledger.
    #[error(
        "{url} has no Saltway API ({status}); is that a master-shim or an older bridge? `http.listen` of the bridge is wanted, or --url"
    )]
    NoApi {
        /// What was asked.
        url: String,
        /// Its status.
        status: u16,
    },
    /// The bridge does not know what was asked for.
    #[error("{said}")]
    NotFound {
        /// The bridge's words, with its advice.
        said: String,
    },
    /// The bridge says no.
    #[error("{said}")]
    Refused {
        /// The bridge's words, with its advice.
        said: String,
    },
    /// The answer is no JSON.
    #[error("the answer of {url} is no JSON: {start}")]
    NotJson {
        /// What was asked.
        url: String,
        /// How the answer begins.
        start: String,
    },
}

/// A bridge's HTTP API.
#[derive(Debug)]
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
    authorization: Option<String>,
}

impl Client {
    /// The bridge at `base`, trusting the authorities of the PEM text `ca` alone, if given.
    pub(crate) fn new(
        base: &str,
        token: Option<String>,
        ca: Option<&[u8]>,
    ) -> anyhow::Result<Self> {
        anyhow::ensure!(
            base.starts_with("http://") || base.starts_with("https://"),
            "{base} is no address of a bridge; write it as http://127.0.0.1:9464"
        );
        let tls = TlsConfig::builder().provider(TlsProvider::NativeTls);
        let tls = match ca {
            Some(pem) => tls.root_certs(RootCerts::Specific(Arc::new(certificates(pem)?))),
            None => tls.root_certs(RootCerts::PlatformVerifier),
        };
        let config = ureq::Agent::config_builder()
            .tls_config(tls.build())
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(ANSWER_TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("saltway/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent: config.into(),
            base: base.to_owned(),
            authorization: token.map(|token| format!("Bearer {token}")),
        })
    }

    /// Where it is.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// The JSON of `/api/v1/<path>`.
    pub(crate) fn get(&self, path: &str) -> Result<Value, AskError> {
        let url = format!("{}/api/v1/{path}", self.base);
        let (status, body) = self.fetch(&url)?;
        let json = serde_json::from_slice::<Value>(&body).ok();
        match (status, json) {
            (200, Some(json)) => Ok(json),
            (200, None) => Err(AskError::NotJson {
                start: start(&body),
                url,
            }),
            (401 | 403, json) => Err(AskError::NotPermitted {
                said: json.map_or_else(|| format!("status {status}"), |json| said(&json)),
                url,
            }),
            (404, Some(json)) if !json.text("error").is_empty() => {
                Err(AskError::NotFound { said: said(&json) })
            }
            (_, Some(json)) if !json.text("error").is_empty() => {
                Err(AskError::Refused { said: said(&json) })
            }
            (status, _) => Err(AskError::NoApi { url, status }),
        }
    }

    /// The text of a page beside the API, and its status.
    pub(crate) fn page(&self, path: &str) -> Result<(u16, String), AskError> {
        let (status, body) = self.fetch(&format!("{}{path}", self.base))?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn fetch(&self, url: &str) -> Result<(u16, Vec<u8>), AskError> {
        let failed = |source| AskError::Unreachable {
            url: url.to_owned(),
            source: Box::new(source),
        };
        let mut request = self.agent.get(url);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let mut response = request.call().map_err(failed)?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX);
        Ok((status, body.read_to_vec().map_err(failed)?))
    }
}

/// `text` as one part of a path or query.
pub(crate) fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<Certificate<'static>>> {
    let mut found = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item? {
            found.push(certificate);
        }
    }
    anyhow::ensure!(
        !found.is_empty(),
        "the authority file has no certificate; it must be PEM"
    );
    Ok(found)
}

fn said(json: &Value) -> String {
    let (error, hint) = (json.text("error"), json.text("hint"));
    let text = if hint.is_empty() {
        error.to_owned()
    } else {
        format!("{error}; {hint}")
    };
    crate::paint::clean(&text)
}

fn start(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..SHOWN_BYTES_MAX).unwrap_or(body));
    crate::paint::clean(text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_plain_is_escaped() {
        assert_eq!(escaped("dc1.example-a_b~c"), "dc1.example-a_b~c");
        assert_eq!(escaped("a/b?c=d&ä"), "a%2Fb%3Fc%3Dd%26%C3%A4");
    }

    #[test]
    fn an_address_without_scheme_is_refused() {
        Client::new("127.0.0.1:9464", None, None).expect_err("no scheme");
    }
}

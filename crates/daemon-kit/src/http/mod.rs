//! The daemon's own port: `/metrics`, `/healthz`, `/readyz`, and what the daemon adds.
//!
//! One task; each connection runs inside it.
//! - At most [`CONNECTIONS_MAX`] connections are open; further ones wait in the system's queue.
//! - A connection serves one request and ends within [`CONNECTION_TIMEOUT`], its headers within
//!   [`HEADER_TIMEOUT`]; a client that is slow or sends nonsense costs nobody else anything.
//! - Who may read the daemon's own pages: [`HttpConfig`]; the health pages are for everybody.

mod access;
mod readiness;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use openssl::ssl::Ssl;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_openssl::SslStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use access::{HttpConfig, Tls};
pub use axum;
pub use readiness::{Condition, Readiness};

use crate::config::Section;
use crate::metrics::Metrics;

/// Where the port listens unless `http.listen` says otherwise.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:9464";

/// Connections served at a time: a few scrapers and probes, with room.
pub const CONNECTIONS_MAX: usize = 64;

/// Time for a request's headers to arrive.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a whole connection, its reply included.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause after the system refuses a connection (out of descriptors), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The port cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on {listen}; free that address or set another `http.listen`")]
pub struct BindError {
    /// The address of `http.listen`.
    pub listen: SocketAddr,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Reads `http.listen` of the file's root, for a daemon without pages of its own.
pub fn read_listen(root: &Section<'_>) -> SocketAddr {
    let section = root.section("http");
    section.ignore(access::PAGES_KEYS);
    section.socket_addr("listen", listen_default())
}

fn listen_default() -> SocketAddr {
    LISTEN_DEFAULT
        .parse()
        .expect("the default is an address and a port")
}

/// A bound port that does not answer yet.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    router: Router,
    tls: Option<Tls>,
}

impl HttpServer {
    /// Binds `listen`; serves the metrics, the readiness, and the pages of `pages` beside them, to everybody.
    ///
    /// # Errors
    /// When the address is in use or not the host's.
    pub async fn bind(
        listen: SocketAddr,
        metrics: Metrics,
        readiness: Readiness,
        shutdown: CancellationToken,
        pages: Router,
    ) -> Result<Self, BindError> {
        let router = metrics_router(metrics).merge(pages);
        Self::listen(listen, None, router, readiness, shutdown).await
    }

    /// Binds as `config` says; `pages` are served only where [`HttpConfig::serves_pages`].
    ///
    /// # Errors
    /// When the address is in use or not the host's.
    pub async fn bind_guarded(
        config: &HttpConfig,
        metrics: Metrics,
        readiness: Readiness,
        shutdown: CancellationToken,
        pages: Router,
    ) -> Result<Self, BindError> {
        let token = config.token.clone();
        let mut router = metrics_router(metrics);
        if token.is_some() {
            router = access::guard(router, config.listen, token.clone());
        }
        if config.serves_pages() {
            router = router.merge(access::guard(pages, config.listen, token));
        }
        Self::listen(
            config.listen,
            config.tls.clone(),
            router,
            readiness,
            shutdown,
        )
        .await
    }

    async fn listen(
        listen: SocketAddr,
        tls: Option<Tls>,
        router: Router,
        readiness: Readiness,
        shutdown: CancellationToken,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        info!(listen = %bound, tls = tls.is_some(), "the HTTP port is open");
        let router = router
            .route(
                "/healthz",
                get(move || std::future::ready(health_page(&shutdown))),
            )
            .route(
                "/readyz",
                get(move || std::future::ready(readiness_page(&readiness))),
            );
        Ok(Self {
            listener,
            router,
            tls,
        })
    }

    /// The address bound, for a `listen` with port 0.
    ///
    /// # Errors
    /// What the system said.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`; open connections are then cut.
    pub async fn serve(self, shutdown: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            let room = connections.len() < CONNECTIONS_MAX;
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept(), if room => match accepted {
                    Ok((stream, peer)) => {
                        connections.spawn(answer(stream, peer, self.tls.clone(), self.router.clone()));
                    }
                    Err(err) => {
                        warn!(error = %err, "connection to the metrics port not accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }
}

async fn answer(stream: TcpStream, peer: SocketAddr, tls: Option<Tls>, router: Router) {
    let answered = async {
        match tls {
            None => serve_one(stream, peer, router).await,
            Some(tls) => match handshake(&tls, stream).await {
                Ok(stream) => serve_one(stream, peer, router).await,
                Err(reason) => debug!(reason, %peer, "TLS not agreed on"),
            },
        }
    };
    if tokio::time::timeout(CONNECTION_TIMEOUT, answered)
        .await
        .is_err()
    {
        debug!(%peer, "request not served in time");
    }
}

/// The server's side of TLS, within the time of the headers.
async fn handshake(tls: &Tls, stream: TcpStream) -> Result<SslStream<TcpStream>, String> {
    let unmade = |err: openssl::error::ErrorStack| crate::chain(&err).to_string();
    let ssl = Ssl::new(tls.0.context()).map_err(unmade)?;
    let mut stream = SslStream::new(ssl, stream).map_err(unmade)?;
    let accepted = tokio::time::timeout(HEADER_TIMEOUT, Pin::new(&mut stream).accept()).await;
    accepted
        .map_err(|_| "not in time".to_owned())?
        .map_err(|err| crate::chain(&err).to_string())?;
    Ok(stream)
}

async fn serve_one<S>(stream: S, peer: SocketAddr, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        // The smallest that hyper takes; it bounds the memory that one client can hold.
        .max_buf_size(8192)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(err) = connection.await {
        debug!(error = %crate::chain(&err), %peer, "request not served");
    }
}

fn metrics_router(metrics: Metrics) -> Router {
    Router::new().route(
        "/metrics",
        get(move || std::future::ready(metrics_page(&metrics))),
    )
}

fn metrics_page(metrics: &Metrics) -> axum::response::Response {
    match metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(err) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{err}\n")).into_response(),
    }
}

/// Every task lives as long as nobody cancelled the token: see [`crate::tasks`].
fn health_page(shutdown: &CancellationToken) -> (StatusCode, &'static str) {
    if shutdown.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "ending\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

fn readiness_page(readiness: &Readiness) -> (StatusCode, String) {
    let status = if readiness.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, readiness.to_string())
}

//! The daemon's own port: `/metrics`, `/healthz`, `/readyz`, and what the daemon adds.
//!
//! One task; each connection runs inside it.
//! - At most [`CONNECTIONS_MAX`] connections are open; further ones wait in the system's queue.
//! - A connection serves one request and ends within [`CONNECTION_TIMEOUT`], its headers within
//!   [`HEADER_TIMEOUT`]; a client that is slow or sends nonsense costs nobody else anything.

mod readiness;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

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

/// Reads `http.listen` of the file's root.
pub fn read_listen(root: &Section<'_>) -> SocketAddr {
    let default = LISTEN_DEFAULT
        .parse()
        .expect("the default is an address and a port");
    root.section("http").socket_addr("listen", default)
}

/// A bound port that does not answer yet.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    router: Router,
}

impl HttpServer {
    /// Binds `listen`; serves the metrics, the readiness, and the pages of `pages` beside them.
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
        let failed = |source| BindError { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let router = Router::new()
            .route(
                "/metrics",
                get(move || std::future::ready(metrics_page(&metrics))),
            )
            .route(
                "/healthz",
                get(move || std::future::ready(health_page(&shutdown))),
            )
            .route(
                "/readyz",
                get(move || std::future::ready(readiness_page(&readiness))),
            )
            .merge(pages);
        Ok(Self { listener, router })
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
                        connections.spawn(answer(stream, peer, self.router.clone()));
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

async fn answer(stream: TcpStream, peer: SocketAddr, router: Router) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        // The smallest that hyper takes; it bounds the memory that one client can hold.
        .max_buf_size(8192)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(err)) => debug!(error = %crate::chain(&err), %peer, "request not served"),
        Err(_) => debug!(%peer, "request not served in time"),
    }
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

//! Carries the sites' requests to the MoM's request port, and the replies back: the request tunnel and its gate.
//!
//! One task per bridge. All bridges share the requests stream; each takes what it can carry.
//!
//! ```text
//! requests stream ──► RequestsTask ──gate──► request pool ──► MoM 4506
//!       ▲                                         │
//!       └── PUBLISH reply, XACK, XDEL ◄───────────┘
//! ```
//! - The gate passes `enc: aes` and of `enc: clear` a well-formed `_auth` only. No request is opened.
//! - A request without a reply of the MoM is told so to its site, which sends it again; nothing is kept here.
//! - Many requests are under way at once, bounded by the consumer; a slow one holds up only itself.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use daemon_kit::{CancellationToken, http::Condition};
use redis_link::{Outcome, Replier, Request, RequestEvent};
use salt_link::requester::RequestPool;
use salt_wire::gate;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use crate::telemetry::Telemetry;

/// How long the MoM may take for a small request: less than the site waits, so that it learns why.
const REPLY_TIMEOUT: Duration = Duration::from_secs(9);

/// A master takes a large return at about this pace: msgpack, AES and the job cache in Python, on a busy host.
const SLOWEST_MASTER_BYTES_PER_SECOND: usize = 1 << 20;

/// The task; see the module's head.
pub(crate) struct RequestsTask {
    events: mpsc::Receiver<RequestEvent>,
    carrier: Arc<Carrier>,
    redis: Condition,
    telemetry: Telemetry,
}

/// What each request needs.
struct Carrier {
    pool: RequestPool,
    replier: Replier,
    telemetry: Telemetry,
}

impl RequestsTask {
    /// `redis` tells whether requests can be taken.
    pub(crate) fn new(
        events: mpsc::Receiver<RequestEvent>,
        pool: RequestPool,
        replier: Replier,
        redis: Condition,
        telemetry: Telemetry,
    ) -> Self {
        let carrier = Arc::new(Carrier {
            pool,
            replier,
            telemetry: telemetry.clone(),
        });
        Self {
            events,
            carrier,
            redis,
            telemetry,
        }
    }

    /// Runs until `shutdown`, then sees the requests under way answered.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut under_way = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(carried) = under_way.join_next() => {
                    carried.expect("carrying a request does not panic");
                    self.report(under_way.len());
                }
                event = self.events.recv() => match event {
                    Some(RequestEvent::Request(request)) => {
                        let carrier = Arc::clone(&self.carrier);
                        under_way.spawn(async move { carrier.carry(request).await });
                        self.report(under_way.len());
                    }
                    Some(event) => self.note(event),
                    None => break,
                },
            }
        }
        self.events.close();
        while under_way.join_next().await.is_some() {}
    }

    fn report(&self, under_way: usize) {
        let bytes = self.carrier.pool.state().queued_bytes;
        self.telemetry.queue("requests", under_way, bytes);
    }

    fn note(&self, event: RequestEvent) {
        match event {
            RequestEvent::Up => {
                self.redis.holds();
            }
            RequestEvent::Down { class, reason } => {
                self.telemetry.redis_failed(class);
                self.redis.fails(reason);
            }
            RequestEvent::Malformed { reason, .. } => self.telemetry.request_malformed(&reason),
            RequestEvent::Request(_) => {}
        }
    }
}

impl Carrier {
    async fn carry(&self, request: Request) {
        let outcome = self.outcome(&request.site, &request.frame).await;
        if let Err(err) = self.replier.reply(&request, &outcome).await {
            self.telemetry.reply_failed(request.site.as_str(), &err);
        }
    }

    async fn outcome(&self, site: &redis_link::SiteName, frame: &Bytes) -> Outcome {
        if let Err(refusal) = gate::inspect(frame) {
            self.telemetry.request_refused(site.as_str(), &refusal);
            return Outcome::Refused(refusal.as_str().to_owned());
        }
        let sent_at = Instant::now();
        match self
            .pool
            .request(frame.clone(), reply_timeout(frame.len()))
            .await
        {
            Ok(reply) => {
                self.telemetry
                    .request_answered(site.as_str(), sent_at.elapsed());
                Outcome::Reply(reply)
            }
            Err(err) => {
                self.telemetry.request_timed_out(site.as_str(), &err);
                Outcome::TimedOut("mom".to_owned())
            }
        }
    }
}

fn reply_timeout(bytes: usize) -> Duration {
    let seconds = bytes / SLOWEST_MASTER_BYTES_PER_SECOND;
    REPLY_TIMEOUT + Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX))
}

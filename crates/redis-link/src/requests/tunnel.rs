//! Requests with their replies, as one call: the site's way to the top master.
//!
//! [`Tunnel`] is the handle, cheap to clone; [`TunnelTask`] hears the replies and has to run.
//!
//! - A call returns the reply, a refusal, or an error at its deadline; it never hangs.
//! - Without a reply the request is sent again under the same id: after `resend_after`, and as soon
//!   as replies are heard again after an interruption, because one may have been missed.
//! - At most `in_flight_max` requests are under way; further calls wait for a place, until their
//!   deadline.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::debug;

use super::client::{ReplyEvent, RequestsClient};
use super::{Outcome, RequestId, RequestsConfig};
use crate::backoff::Backoff;
use crate::connection::{Purpose, Redis};
use crate::error::{Downfall, RedisError, chain};
use crate::keys::{RelayKeys, SiteName};
use crate::listener::{Heard, Listener, Told};

/// How requests are repeated and bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelConfig {
    /// Most requests under way; further ones wait for their turn.
    pub in_flight_max: usize,
    /// How long a reply may take before the request is sent again. Large frames get more, as much
    /// as they get for being sent.
    pub resend_after: Duration,
}

impl Default for TunnelConfig {
    /// 256 requests. 10 s: Salt's own clients repeat a request after 5 to 10 s.
    fn default() -> Self {
        Self {
            in_flight_max: 256,
            resend_after: Duration::from_secs(10),
        }
    }
}

/// Why a request has no reply.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The bridge refuses such a request; sending it again is of no use.
    #[error("the bridge refused request {rid}: {reason}")]
    Refused {
        /// The request.
        rid: RequestId,
        /// A word for the reason.
        reason: String,
    },
    /// The bridge has the request, but the top master did not reply to it.
    #[error("the top master did not reply to request {rid}: {reason}")]
    MasterTimedOut {
        /// The request.
        rid: RequestId,
        /// A word for the reason.
        reason: String,
    },
    /// No reply within the call's deadline.
    #[error("no reply to request {rid} within {after:?}, sent {sends} times ({state})")]
    DeadlineExceeded {
        /// The request.
        rid: RequestId,
        /// The call's time-out.
        after: Duration,
        /// How often it was sent.
        sends: u32,
        /// What the link looked like at the end.
        state: String,
    },
    /// Redis refuses the request for good.
    #[error("failed to send request {rid}")]
    Send {
        /// The request.
        rid: RequestId,
        /// Why.
        #[source]
        source: RedisError,
    },
    /// The task that hears the replies has ended.
    #[error("the tunnel is closed")]
    Closed,
}

impl TunnelError {
    /// Whether the same request may succeed later without anybody doing something about it.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::MasterTimedOut { .. } | Self::DeadlineExceeded { .. } => true,
            Self::Send { source, .. } => source.is_transient(),
            Self::Refused { .. } | Self::Closed => false,
        }
    }
}

/// The state of the replies' channel: counts the times that it came up.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hearing {
    Up(u64),
    Down(String),
}

type Waiters = Arc<Mutex<HashMap<RequestId, oneshot::Sender<Outcome>>>>;

/// The handle; see the module's head.
#[derive(Clone)]
pub struct Tunnel {
    client: RequestsClient,
    waiters: Waiters,
    places: Arc<Semaphore>,
    hearing: watch::Receiver<Hearing>,
    config: TunnelConfig,
    op_timeout: Duration,
    frame_allowance: Arc<dyn Fn(usize) -> Duration + Send + Sync>,
}

/// Hears the replies; has to run for [`Tunnel::request`] to succeed.
pub struct TunnelTask {
    listener: Listener,
    waiters: Waiters,
    hearing: watch::Sender<Hearing>,
}

impl Tunnel {
    /// A tunnel for the site of this name, and the task that the daemon has to run for it.
    #[must_use]
    pub fn new(
        redis: &Redis,
        keys: &RelayKeys,
        site: &SiteName,
        requests: RequestsConfig,
        config: TunnelConfig,
    ) -> (Self, TunnelTask) {
        let waiters = Waiters::default();
        let (hearing, heard) = watch::channel(Hearing::Down("not connected yet".to_owned()));
        let endpoint = Arc::clone(&redis.primary);
        let tunnel = Self {
            client: RequestsClient::new(redis, keys, site.clone(), requests),
            waiters: Arc::clone(&waiters),
            places: Arc::new(Semaphore::new(
                config.in_flight_max.clamp(1, Semaphore::MAX_PERMITS),
            )),
            hearing: heard,
            config,
            op_timeout: redis.primary.op_timeout,
            frame_allowance: Arc::new(move |bytes| endpoint.timeout_for(bytes)),
        };
        let listener = Listener::new(redis, Purpose::Replies, keys.replies(site));
        (
            tunnel,
            TunnelTask {
                listener,
                waiters,
                hearing,
            },
        )
    }

    /// How many requests are under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.waiters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Sends a request frame and waits for the top master's reply frame, at most `timeout`.
    ///
    /// # Errors
    /// See [`TunnelError`]; after one the request may nevertheless have reached the top master.
    pub async fn request(
        &self,
        frame: Bytes,
        sent_at_ms: u64,
        timeout: Duration,
    ) -> Result<Bytes, TunnelError> {
        let deadline = Instant::now() + timeout;
        let rid = RequestId::random();
        let mut progress = Progress {
            sends: 0,
            state: "waiting for a place".to_owned(),
        };
        let result = timeout_at(deadline, async {
            let _place = self
                .places
                .acquire()
                .await
                .map_err(|_closed| TunnelError::Closed)?;
            let (waiter, reply) = Waiter::register(&self.waiters, rid.clone());
            let outcome =
                Box::pin(self.exchange(&rid, &frame, sent_at_ms, reply, &mut progress)).await;
            drop(waiter);
            outcome
        });
        let outcome = Box::pin(result).await;
        match outcome {
            Ok(Ok(Outcome::Reply(frame))) => Ok(frame),
            Ok(Ok(Outcome::Refused(reason))) => Err(TunnelError::Refused { rid, reason }),
            Ok(Ok(Outcome::TimedOut(reason))) => Err(TunnelError::MasterTimedOut { rid, reason }),
            Ok(Err(error)) => Err(error),
            Err(_elapsed) => {
                let Progress { sends, state } = progress;
                Err(TunnelError::DeadlineExceeded {
                    rid,
                    after: timeout,
                    sends,
                    state,
                })
            }
        }
    }

    /// Sends until the reply is there.
    async fn exchange(
        &self,
        rid: &RequestId,
        frame: &Bytes,
        sent_at_ms: u64,
        mut reply: oneshot::Receiver<Outcome>,
        progress: &mut Progress,
    ) -> Result<Outcome, TunnelError> {
        let mut hearing = self.hearing.clone();
        let mut backoff = Backoff::default();
        let allowance = (self.frame_allowance)(frame.len()).saturating_sub(self.op_timeout);
        loop {
            // A reply that nobody hears would be lost.
            loop {
                match &*hearing.borrow_and_update() {
                    Hearing::Up(_) => break,
                    Hearing::Down(reason) => {
                        progress.state = format!("replies cannot be heard: {reason}");
                    }
                }
                tokio::select! {
                    changed = hearing.changed() => changed.map_err(|_gone| TunnelError::Closed)?,
                    outcome = &mut reply => return outcome.map_err(|_gone| TunnelError::Closed),
                }
            }
            "sending".clone_into(&mut progress.state);
            progress.sends += 1;
            let sent = tokio::select! {
                sent = Box::pin(self.client.send(rid, frame, sent_at_ms)) => sent,
                outcome = &mut reply => return outcome.map_err(|_gone| TunnelError::Closed),
            };
            let again_at = match sent {
                Ok(_) => {
                    backoff.reset();
                    "sent, no reply from a bridge".clone_into(&mut progress.state);
                    Instant::now() + self.config.resend_after + allowance
                }
                Err(source) if source.is_transient() => {
                    progress.state = chain(&source);
                    debug!(error = %progress.state, %rid, "request not sent, trying again");
                    Instant::now() + backoff.next()
                }
                Err(source) => {
                    return Err(TunnelError::Send {
                        rid: rid.clone(),
                        source,
                    });
                }
            };
            tokio::select! {
                biased;
                outcome = &mut reply => return outcome.map_err(|_gone| TunnelError::Closed),
                changed = hearing.changed() => changed.map_err(|_gone| TunnelError::Closed)?,
                () = sleep_until(again_at) => {}
            }
        }
    }
}

/// How far a request got, for the error at its deadline.
struct Progress {
    sends: u32,
    state: String,
}

/// Registers a request and forgets it when dropped, also when the call is cancelled.
struct Waiter {
    waiters: Waiters,
    rid: RequestId,
}

impl Waiter {
    fn register(waiters: &Waiters, rid: RequestId) -> (Self, oneshot::Receiver<Outcome>) {
        let (sender, receiver) = oneshot::channel();
        let mut map = waiters.lock().unwrap_or_else(PoisonError::into_inner);
        map.insert(rid.clone(), sender);
        drop(map);
        (
            Self {
                waiters: Arc::clone(waiters),
                rid,
            },
            receiver,
        )
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waiters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.rid);
    }
}

impl TunnelTask {
    /// Runs until every handle of the tunnel is dropped. `events` gets `Up`, `Down` and
    /// `Malformed`, for logs and metrics, and is not waited for: what does not fit is dropped.
    pub async fn run(mut self, events: mpsc::Sender<ReplyEvent>) {
        let mut told = Told::Nothing;
        let mut ups = 0;
        loop {
            let connected = tokio::select! {
                connected = self.listener.connect() => connected,
                () = self.hearing.closed() => return,
            };
            let why = match connected {
                Ok(mut connection) => {
                    ups += 1;
                    self.hearing.send_replace(Hearing::Up(ups));
                    drop(events.try_send(ReplyEvent::Up));
                    told = Told::Up;
                    loop {
                        let heard = tokio::select! {
                            heard = connection.next(self.listener.endpoint.op_timeout) => heard,
                            () = self.hearing.closed() => return,
                        };
                        match heard {
                            Heard::Message(message) => {
                                self.dispatch(message.get_payload_bytes(), &events);
                            }
                            Heard::End(why) => break why,
                        }
                    }
                }
                Err(error) => {
                    if !error.is_transient() {
                        // Nothing changes until somebody does something.
                        sleep(self.listener.endpoint.op_timeout).await;
                    }
                    Downfall::from(&error)
                }
            };
            if !told.is_down(&why) {
                let (class, reason) = (why.class, why.text.clone());
                self.hearing.send_replace(Hearing::Down(reason.clone()));
                drop(events.try_send(ReplyEvent::Down { class, reason }));
                told = Told::Down(why);
            }
        }
    }

    /// Hands a reply to the call that waits for it. Replies that nobody waits for are second
    /// copies or late ones.
    fn dispatch(&self, message: &[u8], events: &mpsc::Sender<ReplyEvent>) {
        let (rid, outcome) = match ReplyEvent::parse(message) {
            ReplyEvent::Reply { rid, frame } => (rid, Outcome::Reply(frame)),
            ReplyEvent::Refused { rid, reason } => (rid, Outcome::Refused(reason)),
            ReplyEvent::TimedOut { rid, reason } => (rid, Outcome::TimedOut(reason)),
            other @ (ReplyEvent::Malformed { .. } | ReplyEvent::Up | ReplyEvent::Down { .. }) => {
                drop(events.try_send(other));
                return;
            }
        };
        let waiter = self
            .waiters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&rid);
        match waiter.map(|waiter| waiter.send(outcome)) {
            Some(Ok(())) => {}
            Some(Err(_)) | None => debug!(%rid, "reply to a request that nobody waits for"),
        }
    }
}

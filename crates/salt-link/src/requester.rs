//! Sends requests to a master's request port (4506) and gets the replies.
//!
//! [`Requester`] is what the rest of the crate needs of such a way; [`RequestPool`] is the direct
//! one. One thread owns all sockets of a pool: DEALERs that send the empty delimiter and so look
//! like REQ to the master, each with one request at a time and without an identity of its own.
//!
//! ```text
//! request() ──► queue (entries, bytes) ──► thread ──► slot 0..n: DEALER ──► master ROUTER
//!     ▲                                      │
//!     └────────────── reply ◄────────────────┘
//! ```
//! - A reply goes to the request that it answers: a slot whose caller timed out or went away is
//!   closed together with its socket, and opened anew when needed, so that a late reply has
//!   nowhere to arrive.
//! - At most `sockets` requests are under way; more wait in the queue; when that is full
//!   [`RequestError::QueueFull`] is returned at once. Time in the queue counts to the time-out.
//! - Sockets are opened when first needed, and the last used is used first.
//! - A request may have been processed although its reply was not seen: callers repeat only what
//!   may be repeated.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::queue::QueueBounds;
use crate::socket::{self, Endpoint, SocketError, SocketOptions, Waker};

mod thread;

/// Why a request has no reply.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No reply in time; whether the request was processed is not known.
    #[error("no reply within {after:?}")]
    TimedOut {
        /// The time-out that was given.
        after: Duration,
    },
    /// The way to the master was shut down.
    #[error("the way to the master is closed")]
    Closed,
    /// Too much is waiting already; nothing was sent.
    #[error("too many requests are waiting, this one was not sent")]
    QueueFull,
    /// Somebody between us and the master would not pass the request on.
    #[error("the request was refused on its way: {reason}")]
    Refused {
        /// What was said.
        reason: String,
    },
    /// libzmq failed; the socket was replaced.
    #[error("the request socket failed")]
    Socket(#[source] zmq::Error),
}

impl RequestError {
    /// Whether the same request may succeed a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::QueueFull | Self::Socket(_) => true,
            Self::Closed | Self::Refused { .. } => false,
        }
    }
}

/// Asked after each reply of a sequence: whether to send the next request.
pub type GoOn = Box<dyn Fn(&Bytes) -> bool + Send>;

/// The replies of a sequence, in their order. It ends early when a reply was the last by the caller's [`GoOn`], or
/// when the socket failed; dropping it gives the request under way up.
pub struct Replies {
    replies: mpsc::Receiver<Bytes>,
    _give_up: WakeOnDrop,
}

impl Replies {
    /// The next reply.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.replies.recv().await
    }
}

/// The reply to come.
pub type RequestFuture<'a> = Pin<Box<dyn Future<Output = Result<Bytes, RequestError>> + Send + 'a>>;

/// A way to send a request to a master: the request port itself, or a tunnel to it.
pub trait Requester: Send + Sync {
    /// Sends one payload frame and waits for the payload frame of the reply.
    ///
    /// Dropping the future gives the request up; it may be processed all the same.
    fn request(&self, frame: Bytes, timeout: Duration) -> RequestFuture<'_>;

    /// Sends several requests, each as soon as the one before was answered and `go_on` has approved of the reply: the
    /// master takes them in their order, and no thread has to be woken in between. `None` where there is no such way.
    ///
    /// # Errors
    /// As [`RequestPool::request`]; after an error nothing was sent.
    fn request_all(
        &self,
        _frames: Vec<Bytes>,
        _go_on: GoOn,
    ) -> Option<Result<Replies, RequestError>> {
        None
    }
}

/// Where to send requests and how much to hold.
#[derive(Debug, Clone)]
pub struct RequestPoolConfig {
    /// The master's request port.
    pub endpoint: Endpoint,
    /// Most requests under way at the same time; each needs a socket of its own.
    pub sockets: usize,
    /// Bounds of what waits for a socket.
    pub queue: QueueBounds,
    /// Options of the sockets.
    pub options: SocketOptions,
}

impl RequestPoolConfig {
    /// The defaults: 16 sockets (a master has 5 workers unless told otherwise), 1024 waiting
    /// requests or 128 MiB of them.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        let queue = QueueBounds {
            entries: 1024,
            bytes: 128 << 20,
        };
        Self {
            endpoint,
            sockets: 16,
            queue,
            options: SocketOptions::default(),
        }
    }
}

/// How busy a pool is, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolState {
    /// Requests waiting for a socket.
    pub queued: usize,
    /// Bytes of these requests.
    pub queued_bytes: usize,
    /// Requests sent and not yet answered.
    pub in_flight: usize,
    /// Sockets opened since the start; grows with every request that was given up.
    pub sockets_opened: u64,
}

#[derive(Debug, Default)]
struct Counters {
    queued: AtomicUsize,
    queued_bytes: AtomicUsize,
    in_flight: AtomicUsize,
    sockets_opened: AtomicU64,
}

/// One request on its way through the queue. Its share of the queue is given back when it is
/// taken or dropped.
struct Job {
    frame: Bytes,
    reply: ReplyTo,
    _share: Share,
}

/// Who waits for the reply.
enum ReplyTo {
    One(oneshot::Sender<Result<Bytes, RequestError>>),
    /// A sequence: the requests that follow.
    Several {
        rest: VecDeque<Bytes>,
        go_on: GoOn,
        replies: mpsc::Sender<Bytes>,
    },
}

impl ReplyTo {
    /// Nobody waits any more.
    fn is_closed(&self) -> bool {
        match self {
            Self::One(reply) => reply.is_closed(),
            Self::Several { replies, .. } => replies.is_closed(),
        }
    }
}

struct Share {
    counters: Arc<Counters>,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.counters.queued.fetch_sub(1, Ordering::Relaxed);
        self.counters
            .queued_bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Sends requests to one master. Clones share the sockets; the last one dropped ends the thread.
#[derive(Clone)]
pub struct RequestPool(Arc<Shared>);

struct Shared {
    /// Taken away when the pool is dropped, before the thread is called to see it.
    jobs: Option<mpsc::Sender<Job>>,
    waker: Waker,
    counters: Arc<Counters>,
    queue_bytes: usize,
    endpoint: Endpoint,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.jobs = None;
        self.waker.wake();
    }
}

impl std::fmt::Debug for RequestPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestPool")
            .field("endpoint", &self.0.endpoint)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// Calls the thread when the replies of a sequence are no longer waited for.
struct WakeOnDrop(Arc<Shared>);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.waker.wake();
    }
}

/// Calls the thread when a caller goes away, so that it closes the socket of the request.
struct GiveUp<'a> {
    waker: &'a Waker,
    answered: bool,
}

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.waker.wake();
        }
    }
}

impl RequestPool {
    /// Starts the thread. No socket is opened before the first request.
    ///
    /// # Errors
    /// When the system refuses a thread or a pipe.
    pub fn spawn(config: RequestPoolConfig) -> Result<Self, SocketError> {
        let thread_error = |source| SocketError::Thread {
            endpoint: config.endpoint.clone(),
            source,
        };
        let (waker, wake) = socket::waker().map_err(thread_error)?;
        // Full: `request` returns QueueFull at once.
        let (jobs, queue) = mpsc::channel(config.queue.entries.max(1));
        let counters = Arc::new(Counters::default());
        let thread = thread::Thread::new(&config, queue, wake, Arc::clone(&counters));
        std::thread::Builder::new()
            .name("zmq-requester".to_owned())
            .spawn(move || thread.run())
            .map_err(thread_error)?;
        Ok(Self(Arc::new(Shared {
            jobs: Some(jobs),
            waker,
            counters,
            queue_bytes: config.queue.bytes,
            endpoint: config.endpoint,
        })))
    }

    /// The address that requests go to.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// How busy the pool is.
    #[must_use]
    pub fn state(&self) -> PoolState {
        let counters = &self.0.counters;
        PoolState {
            queued: counters.queued.load(Ordering::Relaxed),
            queued_bytes: counters.queued_bytes.load(Ordering::Relaxed),
            in_flight: counters.in_flight.load(Ordering::Relaxed),
            sockets_opened: counters.sockets_opened.load(Ordering::Relaxed),
        }
    }

    /// Sends one payload frame and waits for the payload frame of the reply.
    ///
    /// # Errors
    /// See [`RequestError`]; after `QueueFull` nothing was sent.
    pub async fn request(&self, frame: Bytes, timeout: Duration) -> Result<Bytes, RequestError> {
        let share = self.share(frame.len())?;
        let (reply, answer) = oneshot::channel();
        self.queue(Job {
            frame,
            reply: ReplyTo::One(reply),
            _share: share,
        })?;
        // Declared before the wait, hence dropped after the answer's end: the thread, once called,
        // finds that nobody waits any more.
        let mut give_up = GiveUp {
            waker: &self.0.waker,
            answered: false,
        };
        let answered = tokio::time::timeout(timeout, answer).await;
        match answered {
            Ok(Ok(reply)) => {
                give_up.answered = true;
                reply
            }
            Ok(Err(_)) => Err(RequestError::Closed),
            Err(_) => Err(RequestError::TimedOut { after: timeout }),
        }
    }

    fn queue(&self, job: Job) -> Result<(), RequestError> {
        let jobs = self.0.jobs.as_ref().ok_or(RequestError::Closed)?;
        jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RequestError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => RequestError::Closed,
        })?;
        self.0.waker.wake();
        Ok(())
    }

    /// See [`Requester::request_all`].
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn request_all(&self, frames: Vec<Bytes>, go_on: GoOn) -> Result<Replies, RequestError> {
        let share = self.share(frames.iter().map(Bytes::len).sum())?;
        // Room for every reply: the thread never waits.
        let (sender, replies) = mpsc::channel(frames.len().max(1));
        let mut rest = VecDeque::from(frames);
        if let Some(frame) = rest.pop_front() {
            self.queue(Job {
                frame,
                reply: ReplyTo::Several {
                    rest,
                    go_on,
                    replies: sender,
                },
                _share: share,
            })?;
        }
        Ok(Replies {
            replies,
            _give_up: WakeOnDrop(Arc::clone(&self.0)),
        })
    }

    /// Takes room in the queue for this many bytes.
    fn share(&self, bytes: usize) -> Result<Share, RequestError> {
        let counters = &self.0.counters;
        counters.queued.fetch_add(1, Ordering::Relaxed);
        let before = counters.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let share = Share {
            counters: Arc::clone(counters),
            bytes,
        };
        // As in every queue here, one larger than the bound passes when nothing else waits.
        if before > 0 && before.saturating_add(bytes) > self.0.queue_bytes {
            return Err(RequestError::QueueFull);
        }
        Ok(share)
    }
}

impl Requester for RequestPool {
    fn request(&self, frame: Bytes, timeout: Duration) -> RequestFuture<'_> {
        Box::pin(Self::request(self, frame, timeout))
    }

    fn request_all(
        &self,
        frames: Vec<Bytes>,
        go_on: GoOn,
    ) -> Option<Result<Replies, RequestError>> {
        Some(Self::request_all(self, frames, go_on))
    }
}

/// Asks whether anybody serves the master's request port, with a clear `ping`. The master answers
/// it without authentication and without a worker having to look anything up.
///
/// # Errors
/// As [`RequestPool::request`]. Any reply counts: even one that refuses shows a living master.
pub async fn alive(requester: &dyn Requester, timeout: Duration) -> Result<(), RequestError> {
    let ping = salt_wire::request::encode_ping();
    requester.request(ping, timeout).await.map(|_| ())
}

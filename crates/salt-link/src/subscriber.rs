//! Hears a master's publish port (4505).
//!
//! One thread owns the SUB socket and its monitor; what it reads goes through one bounded queue
//! to one consumer on tokio. Everything is subscribed to (the empty prefix): what is not wanted
//! is the consumer's to pass over.
//!
//! ```text
//! master PUB ──► libzmq (high_water_mark) ──► thread ──► queue (entries, bytes) ──► Receiver
//! ```
//! - Nothing that was read is dropped. When the consumer is slow the queue fills, the thread stops
//!   reading and says so, then libzmq's high-water mark fills, then TCP, then the master's
//!   `pub_hwm`; only the master drops, in silence, so a stall must end long before.
//! - libzmq reconnects by itself after every failure but one: a peer that breaks the protocol
//!   (an oversized frame, a foreign service on the port) is given up for good. So a socket that
//!   is neither connected nor trying is replaced. [`SubscriberEvent::Connected`] after `Disconnected` means that
//!   publications in between are lost on this socket.
//! - The thread ends when the handle or the receiver is dropped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::queue::{self, QueueBounds, QueueGauge, Receiver, Refused};
use crate::socket::{
    self, Endpoint, FRAMES_MAX, Monitored, SocketError, SocketOptions, WakeSource, Waker, receive,
};

/// Messages read before the monitor and the calls of the tokio side are looked at again.
const BATCH: usize = 256;

/// A stall shorter than this is a burst, not worth a person's attention.
const STALL_WARN_MS: i64 = 1000;

/// libzmq reports its next attempt at once after a disconnection; when it has not done so by then
/// it never will.
const GIVEN_UP_AFTER: Duration = Duration::from_millis(500);

/// How often a socket without connection is looked at.
const UNCONNECTED_POLL_MS: i64 = 250;

/// What to subscribe to and how much to hold.
#[derive(Debug, Clone)]
pub struct SubscriberConfig {
    /// The master's publish port.
    pub endpoint: Endpoint,
    /// Bounds between the thread and the consumer. When full the thread stops reading.
    pub queue: QueueBounds,
    /// Options of the socket.
    pub options: SocketOptions,
}

impl SubscriberConfig {
    /// The defaults: 10,000 entries or 64 MiB, whichever is reached first.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        let queue = QueueBounds {
            entries: 10_000,
            bytes: 64 << 20,
        };
        Self {
            endpoint,
            queue,
            options: SocketOptions::default(),
        }
    }
}

/// What happened on the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscriberEvent {
    /// The handshake with the master is done; publications from here on arrive.
    Connected,
    /// The connection is gone; libzmq tries again by itself.
    Disconnected,
    /// One message.
    Frames {
        /// When the thread took it off the socket, by the process's clock that never steps.
        received_at_ms: u64,
        /// Its frames, at least one: `[payload]` or `[topic, payload]` from Salt.
        frames: Vec<Bytes>,
    },
    /// A message that no master sends; it was dropped.
    Malformed {
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl SubscriberEvent {
    fn bytes(&self) -> usize {
        match self {
            Self::Frames { frames, .. } => frames.iter().map(Bytes::len).sum(),
            Self::Connected | Self::Disconnected | Self::Malformed { .. } => 0,
        }
    }
}

/// Opens subscriptions.
#[derive(Debug)]
pub struct Subscriber;

/// Keeps a subscription open; dropping it ends the thread and, after what was queued, the receiver.
pub struct SubscriberHandle {
    stop: Arc<AtomicBool>,
    waker: Waker,
    gauge: QueueGauge<SubscriberEvent>,
}

impl std::fmt::Debug for SubscriberHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SubscriberHandle")
            .field("queue", &self.gauge)
            .finish_non_exhaustive()
    }
}

impl SubscriberHandle {
    /// How full the queue is, and whether the thread is stalled.
    #[must_use]
    pub fn queue(&self) -> &QueueGauge<SubscriberEvent> {
        &self.gauge
    }
}

impl Drop for SubscriberHandle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.waker.wake();
    }
}

impl Subscriber {
    /// Opens the socket and starts its thread. Connecting goes on in the background, for ever.
    ///
    /// # Errors
    /// When libzmq refuses the socket or the system refuses a thread.
    pub fn spawn(
        config: SubscriberConfig,
    ) -> Result<(SubscriberHandle, Receiver<SubscriberEvent>), SocketError> {
        let SubscriberConfig {
            endpoint,
            queue,
            options,
        } = config;
        let monitored = open(&endpoint, &options).map_err(|source| SocketError::Open {
            endpoint: endpoint.clone(),
            source,
        })?;
        let thread_error = {
            let endpoint = endpoint.clone();
            |source| SocketError::Thread { endpoint, source }
        };
        let (waker, wake) = match socket::waker() {
            Ok(pair) => pair,
            Err(source) => return Err(thread_error(source)),
        };
        let (sender, receiver) = queue::from_thread(queue, waker.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let thread = Thread {
            endpoint,
            options,
            monitored,
            wake,
            stop: Arc::clone(&stop),
            sender,
            connected: false,
            retrying: true,
            quiet_since: Instant::now(),
            transitions: VecDeque::new(),
            held: None,
        };
        std::thread::Builder::new()
            .name("zmq-subscriber".to_owned())
            .spawn(move || thread.run())
            .map_err(thread_error)?;
        let gauge = receiver.gauge();
        Ok((SubscriberHandle { stop, waker, gauge }, receiver))
    }
}

fn open(endpoint: &Endpoint, options: &SocketOptions) -> Result<Monitored, zmq::Error> {
    let socket = options.open(zmq::SUB, endpoint)?;
    socket.set_subscribe(b"")?;
    // Connections made, lost, failed and tried again.
    let events = [
        zmq::SocketEvent::CONNECTED,
        zmq::SocketEvent::CONNECT_DELAYED,
        zmq::SocketEvent::CONNECT_RETRIED,
        zmq::SocketEvent::DISCONNECTED,
        zmq::SocketEvent::HANDSHAKE_SUCCEEDED,
        zmq::SocketEvent::HANDSHAKE_FAILED_NO_DETAIL,
        zmq::SocketEvent::HANDSHAKE_FAILED_PROTOCOL,
        zmq::SocketEvent::HANDSHAKE_FAILED_AUTH,
    ];
    let events = events
        .into_iter()
        .fold(0, |mask, event| mask | i32::from(event.to_raw()));
    let monitored = Monitored::new(socket, events)?;
    monitored.socket.connect(endpoint.as_str())?;
    Ok(monitored)
}

struct Thread {
    endpoint: Endpoint,
    options: SocketOptions,
    monitored: Monitored,
    wake: WakeSource,
    stop: Arc<AtomicBool>,
    sender: queue::Sender<SubscriberEvent>,
    connected: bool,
    /// libzmq has said that it tries again since the connection was lost.
    retrying: bool,
    /// When the monitor last said anything.
    quiet_since: Instant,
    /// Connections made and lost that the queue had no room for yet; at most two, see `note`.
    transitions: VecDeque<SubscriberEvent>,
    /// A message that the queue had no room for.
    held: Option<SubscriberEvent>,
}

/// What to wait for next.
enum Next {
    /// More may be there: do not wait.
    Go,
    /// All was read.
    Wait,
    /// The queue is full: wait for room only.
    Room,
    /// Nobody wants more.
    End,
}

impl Thread {
    fn run(mut self) {
        info!(endpoint = %self.endpoint, "subscribing");
        if let Err(error) = self.serve() {
            // The receiver sees the end, and the daemon ends with it.
            error!(endpoint = %self.endpoint, %error, "the publish socket failed");
        }
        debug!(endpoint = %self.endpoint, "subscription closed");
    }

    fn serve(&mut self) -> Result<(), zmq::Error> {
        let mut warned = false;
        loop {
            self.wake.clear();
            if self.stop.load(Ordering::SeqCst) || self.sender.is_closed() {
                return Ok(());
            }
            self.read_monitor()?;
            self.replace_given_up()?;
            let next = self.read()?;
            let (events, timeout_ms) = match next {
                Next::End => return Ok(()),
                Next::Go => continue,
                Next::Wait if !self.connected => (zmq::POLLIN, UNCONNECTED_POLL_MS),
                Next::Wait => (zmq::POLLIN, -1),
                Next::Room if warned => (zmq::PollEvents::empty(), -1),
                Next::Room => (zmq::PollEvents::empty(), STALL_WARN_MS),
            };
            let stalled = matches!(next, Next::Room);
            if !stalled && warned {
                info!(endpoint = %self.endpoint, "the subscription goes on");
                warned = false;
            }
            let mut items = [
                zmq::PollItem::from_fd(self.wake.fd(), zmq::POLLIN),
                self.monitored.monitor.as_poll_item(zmq::POLLIN),
                self.monitored.socket.as_poll_item(events),
            ];
            // While stalled the socket itself is left alone, or the poll would never wait.
            let polled = if stalled {
                items.get_mut(..2).unwrap_or_default()
            } else {
                &mut items
            };
            socket::poll(polled, timeout_ms)?;
            let idle = !items.iter().any(|item| item.is_readable());
            if stalled && idle && !warned {
                warned = true;
                warn!(
                    endpoint = %self.endpoint,
                    stalled_ms = STALL_WARN_MS,
                    "publications are not taken as fast as they come; the master drops them \
                     beyond its pub_hwm"
                );
            }
        }
    }

    /// Moves what is there into the queue, up to one batch.
    fn read(&mut self) -> Result<Next, zmq::Error> {
        while let Some(event) = self.held.take().or_else(|| self.transitions.pop_front()) {
            if let Some(next) = self.pass_on(event) {
                return Ok(next);
            }
        }
        for _ in 0..BATCH {
            let Some(frames) = receive(&self.monitored.socket)? else {
                return Ok(Next::Wait);
            };
            let event = if frames.len() > FRAMES_MAX {
                SubscriberEvent::Malformed {
                    reason: "the message has more than 8 frames",
                }
            } else {
                SubscriberEvent::Frames {
                    received_at_ms: daemon_kit::steady_millis(),
                    frames,
                }
            };
            if let Some(next) = self.pass_on(event) {
                return Ok(next);
            }
        }
        Ok(Next::Go)
    }

    /// Nothing when it went; otherwise the event is kept.
    fn pass_on(&mut self, event: SubscriberEvent) -> Option<Next> {
        let bytes = event.bytes();
        match self.sender.try_send(event, bytes) {
            Ok(()) => None,
            Err(Refused::Closed) => Some(Next::End),
            Err(Refused::Full(event)) => {
                match event {
                    SubscriberEvent::Connected | SubscriberEvent::Disconnected => {
                        self.transitions.push_front(event);
                    }
                    SubscriberEvent::Frames { .. } | SubscriberEvent::Malformed { .. } => {
                        self.held = Some(event);
                    }
                }
                Some(Next::Room)
            }
        }
    }

    /// Reads the monitor even while stalled: libzmq's I/O thread would wait for us otherwise.
    fn read_monitor(&mut self) -> Result<(), zmq::Error> {
        while let Some(frames) = receive(&self.monitored.monitor)? {
            let kind = frames.first().and_then(|frame| frame.first_chunk::<2>());
            let Some(kind) = kind.map(|kind| u16::from_ne_bytes(*kind)) else {
                continue;
            };
            self.quiet_since = Instant::now();
            if kind == zmq::SocketEvent::HANDSHAKE_SUCCEEDED.to_raw() {
                self.connected = true;
                info!(endpoint = %self.endpoint, "publish socket connected");
                self.note(SubscriberEvent::Connected);
            } else if kind == zmq::SocketEvent::DISCONNECTED.to_raw() {
                self.retrying = false;
                // A handshake that failed ends with a disconnection too, which says nothing new.
                if std::mem::take(&mut self.connected) {
                    warn!(endpoint = %self.endpoint, "publish socket disconnected");
                    self.note(SubscriberEvent::Disconnected);
                }
            } else if kind == zmq::SocketEvent::CONNECT_RETRIED.to_raw()
                || kind == zmq::SocketEvent::CONNECT_DELAYED.to_raw()
            {
                self.retrying = true;
            } else if kind != zmq::SocketEvent::CONNECTED.to_raw() {
                self.retrying = false;
                debug!(endpoint = %self.endpoint, kind, "the handshake failed");
            }
        }
        Ok(())
    }

    /// Opens a new socket in place of one that libzmq has given up.
    fn replace_given_up(&mut self) -> Result<(), zmq::Error> {
        let options = &self.options;
        let patience = if self.retrying {
            options.connect_timeout + options.handshake_timeout + options.reconnect_max
        } else {
            GIVEN_UP_AFTER
        };
        if self.connected || self.quiet_since.elapsed() < patience {
            return Ok(());
        }
        warn!(endpoint = %self.endpoint, "the peer broke the protocol, opening a new socket");
        self.monitored = open(&self.endpoint, &self.options)?;
        self.retrying = true;
        self.quiet_since = Instant::now();
        Ok(())
    }

    /// Keeps a transition for the queue. They alternate, so two that wait tell all that matters: that
    /// the state was left and what it is now. A third takes the second back.
    fn note(&mut self, event: SubscriberEvent) {
        if self.transitions.len() >= 2 {
            self.transitions.pop_back();
        } else {
            self.transitions.push_back(event);
        }
    }
}

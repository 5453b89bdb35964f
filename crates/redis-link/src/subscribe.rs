//! Listens to the publications channel and says what came and whether the link stands.
//!
//! One task per site, a future that the daemon runs. Below it a [`Listener`], which also the
//! replies use, keeps one pub/sub connection.
//!
//! - The connection is always read, however slow the owner is: the client library queues without
//!   bound what is not taken. When the owner's channel is full a publication or heart-beat is
//!   dropped; the numbers tell, and the stream holds it.
//! - Silence is noticed: heart-beats come every 500 ms. Without any for `silence_max` the link is
//!   `Down`; a PING tells a dead connection, which is replaced, from bridges that are away.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use redis::aio::{PubSubSink, PubSubStream};
use relay_core::{EntryId, Publication};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::connection::{Purpose, Redis};
use crate::endpoint::Endpoint;
use crate::error::{RedisError, chain};
use crate::header::Header;
use crate::keys::RelayKeys;
use crate::value;

/// What happened on the link to Redis, in the order in which it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// The subscription stands: from now on publications are heard. What came before has to be
    /// read from the stream.
    Up,
    /// A publication.
    Publication(Publication),
    /// A bridge lives.
    Beat {
        /// The bridge's name.
        bridge: String,
        /// The newest entry id of the stream; `0-0` for none.
        newest: EntryId,
        /// The bridge's clock when it beat, unix milliseconds.
        sent_at_ms: u64,
        /// The name of that clock, see [`Publication::clock`].
        clock: Option<Box<str>>,
    },
    /// Nothing is heard any more. The task goes on trying; `Up` follows.
    Down {
        /// Why, for people.
        reason: String,
    },
    /// A message that is not of our form was skipped.
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
}

/// How the link is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionConfig {
    /// Silence after which the link is down. Bridges beat every 500 ms.
    pub silence_max: Duration,
    /// Larger frames are not taken from pub/sub but read from the stream.
    pub frame_bytes_max: usize,
}

impl Default for SubscriptionConfig {
    /// Six heart-beats; four times what a bridge sends by pub/sub.
    fn default() -> Self {
        Self {
            silence_max: Duration::from_secs(3),
            frame_bytes_max: 1 << 20,
        }
    }
}

/// Listens to the publications of one relay.
pub struct Subscription {
    redis: Redis,
    channel: String,
    config: SubscriptionConfig,
}

impl Subscription {
    /// A subscription at the nearest server.
    #[must_use]
    pub fn new(redis: &Redis, keys: &RelayKeys, config: SubscriptionConfig) -> Self {
        Self {
            redis: redis.clone(),
            channel: keys.publications(),
            config,
        }
    }

    /// Runs until the receiver is dropped. Publications, heart-beats and `Malformed` are dropped
    /// when the channel is full; `Up` and `Down` wait for room.
    pub async fn run(self, sender: mpsc::Sender<LinkEvent>) {
        let mut listener = Listener::new(&self.redis, Purpose::Subscribe, self.channel.clone());
        let mut told = Told::Nothing;
        loop {
            // Room first: once subscribed, nothing may wait.
            let Ok(permit) = sender.reserve().await else {
                return;
            };
            let connected = tokio::select! {
                connected = listener.connect() => connected,
                () = sender.closed() => return,
            };
            let mut connection = match connected {
                Ok(connection) => connection,
                Err(error) => {
                    let reason = chain(&error);
                    if !told.is_down(&reason) {
                        told = Told::Down(reason.clone());
                        permit.send(LinkEvent::Down { reason });
                    }
                    continue;
                }
            };
            permit.send(LinkEvent::Up);
            told = Told::Up;
            let Some(reason) = self.listen(&mut connection, &sender, &mut told).await else {
                return;
            };
            drop(connection);
            if !told.is_down(&reason) {
                told = Told::Down(reason.clone());
                if sender.send(LinkEvent::Down { reason }).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Hears one connection to its end and says why it ended; `None` when the owner is gone.
    async fn listen(
        &self,
        connection: &mut ListenerConnection,
        sender: &mpsc::Sender<LinkEvent>,
        told: &mut Told,
    ) -> Option<String> {
        let op_timeout = self.redis.nearest.op_timeout;
        let mut quiet_since = Instant::now();
        loop {
            let deadline = quiet_since + self.config.silence_max;
            let message = tokio::select! {
                heard = connection.next(op_timeout) => match heard {
                    Heard::Message(message) => message,
                    Heard::End(reason) => return Some(reason),
                },
                () = sleep_until(deadline) => {
                    quiet_since = Instant::now();
                    self.silent(sender, told).await;
                    continue;
                }
                () = sender.closed() => return None,
            };
            let event = self.event(message.get_payload_bytes());
            if !matches!(event, LinkEvent::Malformed { .. }) {
                quiet_since = Instant::now();
                if *told != Told::Up {
                    // Without room the next sign of life says it.
                    let Ok(permit) = sender.try_reserve() else {
                        continue;
                    };
                    permit.send(LinkEvent::Up);
                    *told = Told::Up;
                }
            }
            // Dropped when there is no room: see the module's head.
            drop(sender.try_send(event));
        }
    }

    /// Nothing was heard for a while, although the connection stands.
    async fn silent(&self, sender: &mpsc::Sender<LinkEvent>, told: &mut Told) {
        // The server may live on where no bridge beats any more.
        self.redis.nearest.confirm().await;
        if *told == Told::Up {
            let reason = format!("no heart-beat for {:?}", self.config.silence_max);
            let event = LinkEvent::Down {
                reason: reason.clone(),
            };
            if sender.try_send(event).is_ok() {
                *told = Told::Down(reason);
            }
        }
    }

    fn event(&self, message: &[u8]) -> LinkEvent {
        self.parse(message)
            .unwrap_or_else(|reason| LinkEvent::Malformed { reason })
    }

    fn parse(&self, message: &[u8]) -> Result<LinkEvent, String> {
        let header = Header::parse(message)?;
        let id = header.field("id", value::entry_id)?;
        let at_ms = header.field("t", value::digits)?;
        let clock = header.get("c").and_then(value::clock);
        if let Some(bridge) = header.get("beat") {
            return Ok(LinkEvent::Beat {
                bridge: bridge.to_owned(),
                newest: id,
                sent_at_ms: at_ms,
                clock,
            });
        }
        if id.number == 0 {
            return Err(format!("{id} is no publication's id"));
        }
        let frame = message.get(header.frame_at..).unwrap_or_default();
        if frame.len() > self.config.frame_bytes_max {
            // Says what there is, but nothing about time: it was not sent when it was received.
            let bridge = String::new();
            return Ok(LinkEvent::Beat {
                bridge,
                newest: id,
                sent_at_ms: at_ms,
                clock: None,
            });
        }
        let frame = Bytes::copy_from_slice(frame);
        Ok(LinkEvent::Publication(Publication {
            entry_id: id,
            received_at_ms: at_ms,
            clock,
            frame,
        }))
    }
}

/// What the owner was told last.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Nothing,
    Up,
    Down(String),
}

impl Told {
    /// Whether this very reason was told already.
    pub(crate) fn is_down(&self, reason: &str) -> bool {
        matches!(self, Self::Down(told) if told == reason)
    }
}

/// Makes pub/sub connections to one channel, with backoff.
pub(crate) struct Listener {
    pub(crate) endpoint: Arc<Endpoint>,
    redis: Redis,
    purpose: Purpose,
    channel: String,
    backoff: Backoff,
    connected_before: bool,
    first: bool,
}

impl Listener {
    pub(crate) fn new(redis: &Redis, purpose: Purpose, channel: String) -> Self {
        Self {
            endpoint: Arc::clone(&redis.nearest),
            redis: redis.clone(),
            purpose,
            channel,
            backoff: Backoff::default(),
            connected_before: false,
            first: true,
        }
    }

    /// One attempt to connect and subscribe, after the backoff's wait.
    pub(crate) async fn connect(&mut self) -> Result<ListenerConnection, RedisError> {
        if !std::mem::take(&mut self.first) {
            sleep(self.backoff.next()).await;
        }
        let endpoint = &self.endpoint;
        let (connection, moves) = Box::pin(endpoint.connect_pubsub()).await?;
        let (mut sink, stream) = connection.split();
        match timeout(endpoint.op_timeout, sink.subscribe(&self.channel)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(RedisError::sort("subscribe", &endpoint.url(), error)),
            Err(_elapsed) => return Err(endpoint.timed_out("subscribe", endpoint.op_timeout)),
        }
        self.backoff.reset();
        if std::mem::replace(&mut self.connected_before, true) {
            self.redis.reconnected(self.purpose);
        }
        let now = Instant::now();
        Ok(ListenerConnection {
            endpoint: Arc::clone(endpoint),
            moves,
            sink,
            stream,
            ping: None,
            heard_at: now,
        })
    }
}

/// What a pub/sub connection brought.
pub(crate) enum Heard {
    Message(redis::Msg),
    End(String),
}

/// Quiet time after which a connection is asked whether it lives.
const PING_AFTER: Duration = Duration::from_secs(1);

/// One pub/sub connection, watched by PINGs while it is quiet.
pub(crate) struct ListenerConnection {
    endpoint: Arc<Endpoint>,
    /// See [`Endpoint::moves`].
    moves: u64,
    sink: PubSubSink,
    stream: PubSubStream,
    ping: Option<BoxFuture<'static, Result<(), String>>>,
    heard_at: Instant,
}

impl ListenerConnection {
    /// The next message, or the connection's end. Cancel-safe.
    pub(crate) async fn next(&mut self, op_timeout: Duration) -> Heard {
        loop {
            let ping_at = self.heard_at + PING_AFTER;
            let pinging = self.ping.is_some();
            let pong = async {
                match &mut self.ping {
                    Some(ping) => ping.await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                message = self.stream.next() => {
                    self.heard_at = Instant::now();
                    return match message {
                        Some(message) => Heard::Message(message),
                        None => Heard::End("the server closed the connection".to_owned()),
                    };
                }
                answer = pong => {
                    self.ping = None;
                    self.heard_at = Instant::now();
                    if let Err(reason) = answer {
                        return Heard::End(reason);
                    }
                }
                () = sleep_until(ping_at), if !pinging => {
                    if self.endpoint.moves() != self.moves {
                        return Heard::End("the sentinels name another primary".to_owned());
                    }
                    let mut sink = self.sink.clone();
                    self.ping = Some(Box::pin(async move {
                        match timeout(op_timeout, sink.ping::<redis::Value>()).await {
                            Ok(Ok(_)) => Ok(()),
                            Ok(Err(error)) => Err(error.to_string()),
                            Err(_elapsed) => Err(format!("no answer to PING within {op_timeout:?}")),
                        }
                    }));
                }
            }
        }
    }
}

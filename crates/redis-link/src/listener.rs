//! A pub/sub connection to one channel: made with backoff, watched by PINGs while it is quiet.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::connection::{Purpose, Redis};
use crate::endpoint::Endpoint;
use crate::error::{Downfall, RedisError};

/// What the owner was told last.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Nothing,
    Up,
    Down(Downfall),
}

impl Told {
    /// Whether this very reason was told already.
    pub(crate) fn is_down(&self, why: &Downfall) -> bool {
        matches!(self, Self::Down(told) if told == why)
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
    End(Downfall),
}

/// Quiet time after which a connection is asked whether it lives.
const PING_AFTER: Duration = Duration::from_millis(500);

/// One pub/sub connection, watched by PINGs while it is quiet.
pub(crate) struct ListenerConnection {
    endpoint: Arc<Endpoint>,
    /// See [`Endpoint::moves`].
    moves: u64,
    sink: PubSubSink,
    stream: PubSubStream,
    ping: Option<BoxFuture<'static, Result<(), RedisError>>>,
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
                        None => Heard::End(self.closed()),
                    };
                }
                answer = pong => {
                    self.ping = None;
                    self.heard_at = Instant::now();
                    if let Err(error) = answer {
                        self.endpoint.lost();
                        return Heard::End(Downfall::from(&error));
                    }
                }
                () = sleep_until(ping_at), if !pinging => {
                    if self.endpoint.moves() != self.moves {
                        let text = "the sentinels name another primary";
                        return Heard::End(Downfall::new("moved", text));
                    }
                    let mut sink = self.sink.clone();
                    let endpoint = Arc::clone(&self.endpoint);
                    self.ping = Some(Box::pin(async move {
                        match timeout(op_timeout, sink.ping::<redis::Value>()).await {
                            Ok(Ok(_)) => Ok(()),
                            Ok(Err(error)) => {
                                Err(RedisError::sort("PING", &endpoint.url(), error))
                            }
                            Err(_elapsed) => Err(endpoint.timed_out("PING", op_timeout)),
                        }
                    }));
                }
            }
        }
    }

    /// Redis says nothing when it closes a connection.
    fn closed(&self) -> Downfall {
        let url = self.endpoint.url();
        let text = format!(
            "Redis at {url} closed the connection: it was stopped, an administrator did it, or what it had to send was more than its client-output-buffer-limit for pubsub"
        );
        Downfall::new("disconnected", text)
    }
}

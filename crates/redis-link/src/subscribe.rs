//! Listens to the publications channel and says what came and whether the link stands.
//!
//! One task per site, a future that the daemon runs. Below it a [`Listener`], which also the
//! replies use, keeps one pub/sub connection.
//!
//! - The connection is always read, however slow the owner is: the client library queues without
//!   bound what is not taken. When the owner's channel is full a publication or heart-beat is
//!   dropped; the numbers tell, and the stream holds it. It is read to its end each time (`unconstrained`): tokio stops
//!   a task after 128 messages, and one turn of the client library parses far more.
//! - Silence is noticed: heart-beats come every 500 ms. Without any for `silence_max` the link is
//!   `Down`; a PING tells a dead connection, which is replaced, from bridges that are away.

use std::time::Duration;

use bytes::Bytes;
use relay_core::{EntryId, Publication};
use tokio::sync::mpsc;
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep_until};

use crate::connection::{Purpose, Redis};
use crate::error::Downfall;
use crate::header::Header;
use crate::info::Info;
use crate::keys::RelayKeys;
use crate::lane::Lane;
use crate::listener::{Heard, Listener, ListenerConnection, Told};
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
        /// Why, in a word out of [`crate::REASONS`].
        class: &'static str,
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
    /// Asks the server when nothing is heard.
    asks: Lane,
    channel: String,
    config: SubscriptionConfig,
}

impl Subscription {
    /// A subscription at the nearest server.
    #[must_use]
    pub fn new(redis: &Redis, keys: &RelayKeys, config: SubscriptionConfig) -> Self {
        Self {
            redis: redis.clone(),
            asks: redis.read_lane(Purpose::Check),
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
                    let why = Downfall::from(&error);
                    if !told.is_down(&why) {
                        permit.send(down(&why));
                        told = Told::Down(why);
                    }
                    continue;
                }
            };
            permit.send(LinkEvent::Up);
            told = Told::Up;
            let heard = unconstrained(self.listen(&mut connection, &sender, &mut told));
            let Some(why) = heard.await else {
                return;
            };
            drop(connection);
            if !told.is_down(&why) {
                let event = down(&why);
                told = Told::Down(why);
                if sender.send(event).await.is_err() {
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
    ) -> Option<Downfall> {
        let op_timeout = self.redis.nearest.op_timeout;
        let mut quiet_since = Instant::now();
        loop {
            let deadline = quiet_since + self.config.silence_max;
            let message = tokio::select! {
                heard = connection.next(op_timeout) => match heard {
                    Heard::Message(message) => message,
                    Heard::End(why) => return Some(why),
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
        if *told != Told::Up {
            return;
        }
        let why = Box::pin(self.diagnosis()).await;
        if sender.try_send(down(&why)).is_ok() {
            *told = Told::Down(why);
        }
    }

    /// Why a server that answers has nothing to say.
    async fn diagnosis(&self) -> Downfall {
        let (url, silence) = (self.redis.nearest.url(), self.config.silence_max);
        let limit = self.redis.nearest.op_timeout / 2;
        let asked = self.asks.command("INFO", &redis::cmd("INFO"), limit).await;
        let info = match asked {
            Ok(reply) => Info::new(reply),
            Err(error) => {
                let why = Downfall::from(&error);
                return Downfall::new(
                    why.class,
                    format!("no heart-beat for {silence:?}: {}", why.text),
                );
            }
        };
        let quiet = value::digits(info.field("master_last_io_seconds_ago"));
        let lost = info.field("master_link_status") != "up";
        if info.is_replica() && (lost || quiet.is_none_or(|seconds| seconds >= 2)) {
            let primary = format!(
                "{}:{}",
                info.field("master_host"),
                info.field("master_port")
            );
            return Downfall::new(
                "primary_lost",
                format!(
                    "no heart-beat for {silence:?}: the replica at {url} hears nothing from its primary {primary}: mend its replication, or set redis.read_url to another server"
                ),
            );
        }
        Downfall::new(
            "silent",
            format!("no heart-beat for {silence:?}: no bridge reaches Redis (asked at {url})"),
        )
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

fn down(why: &Downfall) -> LinkEvent {
    let (class, reason) = (why.class, why.text.clone());
    LinkEvent::Down { class, reason }
}

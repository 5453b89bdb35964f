//! Reads every event of a master, for ever, through restarts of the master.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use salt_wire::bus::{BusDecoder, Decoded, Event, FRAME_BYTES_MAX, FramingError};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tracing::{debug, info, warn};

use super::PROBE_TAG_PREFIX;
use crate::queue::{self, QueueBounds, Receiver};

/// Read from the socket at once: what a unix socket holds by default is about 200 KiB.
const READ_BYTES: usize = 64 << 10;

/// Where to read and how much to hold.
#[derive(Debug, Clone)]
pub struct EventReaderConfig {
    /// `<sock_dir>/master_event_pub.ipc`.
    pub socket: PathBuf,
    /// Bounds between the reader and the consumer. When full the reader stops reading.
    pub queue: QueueBounds,
    /// A longer frame ends the connection.
    pub frame_bytes_max: usize,
    /// First pause before connecting again; doubles up to the next.
    pub reconnect_min: Duration,
    /// Longest pause before connecting again.
    pub reconnect_max: Duration,
}

impl EventReaderConfig {
    /// The defaults for the sockets in Salt's `sock_dir`: 10,000 events or 64 MiB, frames up to
    /// 256 MiB, pauses from 50 ms (a restarting master is missed no longer than needed) to 1 s.
    #[must_use]
    pub fn new(sock_dir: &Path) -> Self {
        Self {
            socket: sock_dir.join("master_event_pub.ipc"),
            queue: QueueBounds {
                entries: 10_000,
                bytes: 64 << 20,
            },
            frame_bytes_max: FRAME_BYTES_MAX,
            reconnect_min: Duration::from_millis(50),
            reconnect_max: Duration::from_secs(1),
        }
    }
}

/// What happened on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusEvent {
    /// Connected: events from here on arrive.
    Connected,
    /// An event whose tag the filter wants.
    Event(Event),
    /// A frame that is no event; it was skipped and the bus is read on.
    Malformed {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The connection is gone, or could not be made at the start. Told once until the next
    /// `Connected`; events in between are not seen.
    Disconnected {
        /// Why, for logs and health pages.
        reason: String,
    },
}

/// Why one connection ended.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("failed to connect to {path}")]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("failed to read")]
    Read(#[source] io::Error),
    #[error("the master closed the event bus")]
    Closed,
    #[error(transparent)]
    Framing(#[from] FramingError),
}

/// The consumer is gone.
struct NobodyListens;

/// The reading end of the bus; [`EventReader::run`] does the reading.
pub struct EventReader<F> {
    config: EventReaderConfig,
    wanted: F,
    sender: queue::Sender<BusEvent>,
}

impl<F> std::fmt::Debug for EventReader<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventReader")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl<F: Fn(&str) -> bool + Send + Sync> EventReader<F> {
    /// A reader, and where its events come out. `wanted` decides by the tag; what it does not want
    /// costs neither a copy nor a decoding.
    pub fn new(config: EventReaderConfig, wanted: F) -> (Self, Receiver<BusEvent>) {
        let (sender, receiver) = queue::from_task(config.queue);
        (
            Self {
                config,
                wanted,
                sender,
            },
            receiver,
        )
    }

    /// Reads until the receiver is dropped. May be dropped at any time.
    pub async fn run(self) {
        let mut pause = self.config.reconnect_min;
        let mut told = false;
        loop {
            let mut progress = false;
            let ended = tokio::select! {
                ended = self.connection(&mut progress, &mut told) => ended,
                () = self.sender.closed() => return,
            };
            let error = match ended {
                Ok(NobodyListens) => return,
                Err(error) => error,
            };
            let reason = crate::chain(&error);
            if told {
                debug!(reason, "the event bus is still away");
            } else {
                warn!(socket = %self.config.socket.display(), reason, "event bus disconnected");
                let bytes = reason.len();
                if !self
                    .sender
                    .send(BusEvent::Disconnected { reason }, bytes)
                    .await
                {
                    return;
                }
                told = true;
            }
            // Only events prove a working bus: one that breaks on its first byte is not hurried.
            pause = if progress {
                self.config.reconnect_min
            } else {
                (pause * 2).min(self.config.reconnect_max)
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.sender.closed() => return,
            }
        }
    }

    /// One connection from its opening to its end.
    async fn connection(
        &self,
        progress: &mut bool,
        told: &mut bool,
    ) -> Result<NobodyListens, ConnectionError> {
        let path = &self.config.socket;
        let mut stream =
            UnixStream::connect(path)
                .await
                .map_err(|source| ConnectionError::Connect {
                    path: path.clone(),
                    source,
                })?;
        info!(socket = %path.display(), "event bus connected");
        *told = false;
        if !self.sender.send(BusEvent::Connected, 0).await {
            return Ok(NobodyListens);
        }
        let mut decoder = BusDecoder::new(self.config.frame_bytes_max);
        let wanted = |tag: &str| !tag.starts_with(PROBE_TAG_PREFIX) && (self.wanted)(tag);
        loop {
            let buffer: &mut BytesMut = decoder.read_buffer();
            buffer.reserve(READ_BYTES);
            match stream.read_buf(buffer).await {
                Ok(0) => return Err(ConnectionError::Closed),
                Ok(_) => {}
                Err(error) => return Err(ConnectionError::Read(error)),
            }
            while let Some(decoded) = decoder.next_event(wanted)? {
                *progress = true;
                let (event, bytes) = match decoded {
                    Decoded::Event(event) => {
                        let bytes = event.tag.len() + event.data.len();
                        (BusEvent::Event(event), bytes)
                    }
                    Decoded::Malformed { reason } => (BusEvent::Malformed { reason }, 0),
                };
                if !self.sender.send(event, bytes).await {
                    return Ok(NobodyListens);
                }
            }
        }
    }
}

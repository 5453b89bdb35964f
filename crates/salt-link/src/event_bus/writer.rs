//! Fires events on a master's bus.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use salt_wire::bus::{
    BusDecoder, Decoded, EncodeError, FRAME_BYTES_MAX, Framing, FramingError, encode_event,
};
use salt_wire::msgpack::{Dialect, Value, encode};
use salt_wire::request::Nonce;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tracing::{debug, info};

use super::{PROBE_TAG_PREFIX, stamp};

/// Where to fire and how long to wait.
#[derive(Debug, Clone)]
pub struct EventWriterConfig {
    /// `<sock_dir>/master_event_pull.ipc`.
    pub pull_socket: PathBuf,
    /// `<sock_dir>/master_event_pub.ipc`, where a probe must come back.
    pub pub_socket: PathBuf,
    /// How long one probe may take to come back.
    pub probe_timeout: Duration,
    /// How long a write may take; a master that does not read for so long is stuck.
    pub write_timeout: Duration,
}

impl EventWriterConfig {
    /// The defaults for the sockets in Salt's `sock_dir`: 2 s for a probe (an idle master takes a
    /// few milliseconds), 10 s for a write.
    #[must_use]
    pub fn new(sock_dir: &Path) -> Self {
        Self {
            pull_socket: sock_dir.join("master_event_pull.ipc"),
            pub_socket: sock_dir.join("master_event_pub.ipc"),
            probe_timeout: Duration::from_secs(2),
            write_timeout: Duration::from_secs(10),
        }
    }
}

/// How long the first probe of each framing is waited for: it is fired in vain when the master takes our writing
/// connection before our reading one.
const PROBE_BRIEFLY: Duration = Duration::from_millis(250);

/// Why an event was not fired.
#[derive(Debug, thiserror::Error)]
pub enum FireError {
    /// The data is not a map; Salt accepts nothing else.
    #[error("the data of event {tag:?} is not a map")]
    NotAMap {
        /// The tag of the event.
        tag: String,
    },
    /// The event cannot be a frame.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A socket of the master cannot be opened: the master is not running, or this user may not.
    #[error("failed to connect to the event bus at {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The master does not take the event.
    #[error("failed to write to the event bus at {path}")]
    Write {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The events of the master cannot be read, so that no probe is seen.
    #[error("failed to read the event bus at {path}")]
    Read {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The events of the master make no sense.
    #[error("the event bus cannot be followed")]
    Framing(#[from] FramingError),
    /// No probe came back in any framing.
    #[error(
        "no probe came back from the event bus within {after:?}: the master is stuck or starting"
    )]
    NoProbe {
        /// How long each framing was waited for.
        after: Duration,
    },
    /// The random number generator failed.
    #[error("failed to make a random tag for a probe")]
    Random,
}

impl FireError {
    /// Whether the same event may be fired a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        !matches!(self, Self::NotAMap { .. } | Self::Encode(_))
    }
}

/// The writing end of a master's bus.
///
/// A master that is given the wrong framing drops the event in silence, and which one is right
/// depends on its version. So a fresh connection first fires `saltway/probe/<random>/<number>` in one
/// framing, then in the other, until such an event is seen on the bus; the framing that its number
/// stands for is kept for as long as the connection lives.
///
/// - There is no acknowledgement: an event that was written when the master died is lost.
/// - Calls from several tasks take turns.
#[derive(Debug)]
pub struct EventWriter {
    config: EventWriterConfig,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Taken out while a write is under way, so that one given up in the middle leaves no half
    /// frame before the next event.
    connection: Option<Connection>,
    /// What the last connection used, to be tried first.
    last: Option<Framing>,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    framing: Framing,
}

impl EventWriter {
    /// A writer; nothing is opened before the first event.
    #[must_use]
    pub fn new(config: EventWriterConfig) -> Self {
        Self {
            config,
            state: Mutex::new(State::default()),
        }
    }

    /// Connects anew and finds out the framing, so that the next event need not wait for that.
    ///
    /// # Errors
    /// When the master does not take events now; the next event tries again.
    pub async fn reconnect(&self) -> Result<(), FireError> {
        let mut state = self.state.lock().await;
        state.connection = None;
        let connection = self.connect(state.last).await?;
        state.last = Some(connection.framing);
        state.connection = Some(connection);
        Ok(())
    }

    /// Fires one event. `data` must be a map; `_stamp` is set in it when it has none.
    ///
    /// # Errors
    /// When the event is none, or the master does not take it. Then it was not fired, or at worst
    /// cut off by the master's end.
    pub async fn fire(&self, tag: &str, data: Value) -> Result<(), FireError> {
        let mut data = data;
        if data.as_map().is_none() {
            return Err(FireError::NotAMap {
                tag: tag.to_owned(),
            });
        }
        if data.get("_stamp").is_none() {
            data.set("_stamp", stamp::now().as_str());
        }
        let data = encode(&data, Dialect::New);
        // What can be wrong with the event is told before the master is bothered.
        encode_event(tag, &data, Framing::Streaming)?;

        let mut state = self.state.lock().await;
        let known = state.connection.is_some();
        match self.fire_once(&mut state, tag, &data).await {
            // The master was restarted since the last event: its old socket shows it on writing.
            Err(FireError::Write { .. }) if known => self.fire_once(&mut state, tag, &data).await,
            result => result,
        }
    }

    async fn fire_once(&self, state: &mut State, tag: &str, data: &Bytes) -> Result<(), FireError> {
        let mut connection = match state.connection.take() {
            Some(connection) => connection,
            None => self.connect(state.last).await?,
        };
        let frame = encode_event(tag, data, connection.framing)?;
        self.write(&mut connection.stream, &frame).await?;
        state.last = Some(connection.framing);
        state.connection = Some(connection);
        Ok(())
    }

    async fn write(&self, stream: &mut UnixStream, frame: &[u8]) -> Result<(), FireError> {
        let written =
            tokio::time::timeout(self.config.write_timeout, stream.write_all(frame)).await;
        let failed = |source| FireError::Write {
            path: self.config.pull_socket.clone(),
            source,
        };
        written
            .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
            .map_err(failed)
    }

    /// Finds out the framing with probes and returns the connection that worked.
    async fn connect(&self, last: Option<Framing>) -> Result<Connection, FireError> {
        let mut bus = open(&self.config.pub_socket).await?;
        let mut decoder = BusDecoder::new(FRAME_BYTES_MAX);
        let nonce = Nonce::random().map_err(|_| FireError::Random)?;
        let prefix = format!("{PROBE_TAG_PREFIX}{}/", nonce.as_str());
        let data = encode(
            &Value::map([("_stamp", stamp::now().as_str().into())]),
            Dialect::New,
        );
        // Two of the three versions of Salt read length prefixes.
        let first = last.unwrap_or(Framing::LengthPrefix);
        let second = match first {
            Framing::LengthPrefix => Framing::Streaming,
            Framing::Streaming => Framing::LengthPrefix,
        };
        let whole = self.config.probe_timeout;
        let brief = PROBE_BRIEFLY.min(whole);
        let tries = [
            (first, brief),
            (second, brief),
            (first, whole),
            (second, whole),
        ];
        // Each try has its own connection: a master that misread the last one may be waiting for the rest of a frame that
        // never comes. And each has its own tag: what comes late tells of the try that it belongs to.
        let mut tried = Vec::new();
        for (framing, patience) in tries {
            let mut stream = open(&self.config.pull_socket).await?;
            let probe = encode_event(&format!("{prefix}{}", tried.len()), &data, framing)?;
            let written = self.write(&mut stream, &probe).await;
            tried.push(Some(Connection { stream, framing }));
            if let Err(error) = written {
                // Closed by a master that could not read it.
                debug!(?framing, %error, "probe not taken");
                continue;
            }
            let wait = self.see(&mut bus, &mut decoder, &prefix);
            let Ok(seen) = tokio::time::timeout(patience, wait).await else {
                continue;
            };
            let number = seen?;
            if let Some(connection) = tried.get_mut(number).and_then(Option::take) {
                let framing = connection.framing;
                info!(socket = %self.config.pull_socket.display(), ?framing, "event bus takes events");
                return Ok(connection);
            }
        }
        Err(FireError::NoProbe { after: whole })
    }

    /// Reads the bus until an event with a tag of this prefix and a number comes by; the number. Cancel-safe.
    async fn see(
        &self,
        bus: &mut UnixStream,
        decoder: &mut BusDecoder,
        prefix: &str,
    ) -> Result<usize, FireError> {
        loop {
            while let Some(decoded) = decoder.next_event(|seen| seen.starts_with(prefix))? {
                if let Decoded::Event(event) = decoded
                    && let Some(number) = event.tag.strip_prefix(prefix)
                    && let Ok(number) = number.parse()
                {
                    return Ok(number);
                }
            }
            let failed = |source| FireError::Read {
                path: self.config.pub_socket.clone(),
                source,
            };
            let read = bus.read_buf(decoder.read_buffer()).await.map_err(failed)?;
            if read == 0 {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

async fn open(path: &Path) -> Result<UnixStream, FireError> {
    UnixStream::connect(path)
        .await
        .map_err(|source| FireError::Connect {
            path: path.to_owned(),
            source,
        })
}

//! Hands a publication to a master's publisher process: past its request port, its job cache and its event bus.
//!
//! The publisher listens on a ZeroMQ PULL socket beside the event bus. What it gets there it numbers, encrypts, signs and
//! sends to its subscribers, and does nothing else: the job cache keeps the original targets and minions, no `new` event
//! is fired, no worker is asked. The socket is the same in Salt 3006, 3007 and 3008; the master's user alone may use it.
//!
//! - A load without a field that the publisher or a minion relies on is never sent: the publisher would log an exception.
//! - Nothing waits for a master that is not there longer than [`PATIENCE`]; what it did not take is not sent later.

use std::{path::Path, sync::Mutex, sync::PoisonError, time::Duration};

use salt_wire::{
    ids::Jid,
    msgpack::{Dialect, Value, encode},
    publication::PublicationLoad,
};

use crate::salt_config::{IpcMode, MasterConfig};

/// The socket's name in `sock_dir`.
const SOCKET: &str = "publish_pull.ipc";

/// How long the publisher may take to accept a connection: it is on this host.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How often a send is tried until then.
const TRY_INTERVAL: Duration = Duration::from_millis(5);

/// Publications that may wait in a pipe to a publisher that does not read; then sends fail.
const PIPE_MAX: i32 = 64;

/// What every publication of a master has; a publisher that matches targets itself reads `tgt_type` unasked.
const FIELDS: [&str; 7] = ["fun", "arg", "tgt", "jid", "ret", "tgt_type", "user"];

/// Why a publication was not handed over.
#[derive(Debug, thiserror::Error)]
pub enum DirectPublishError {
    /// The load lacks what every publication has.
    #[error("job {jid} has no {field:?} and cannot be handed to the publisher")]
    Incomplete {
        /// The job.
        jid: Jid,
        /// What is missing.
        field: &'static str,
    },
    /// libzmq refused to open or use the socket.
    #[error("failed to use the ZeroMQ socket to the publisher at {endpoint}")]
    Socket {
        /// Where it is.
        endpoint: String,
        /// libzmq's reason.
        #[source]
        source: zmq::Error,
    },
    /// Nobody accepted the connection, or the publisher does not read.
    #[error(
        "no publisher takes job {jid} at {endpoint} within {PATIENCE:?}: does the master run, and as a user whose socket this one may use?"
    )]
    NobodyListens {
        /// The job.
        jid: Jid,
        /// Where it was to listen.
        endpoint: String,
    },
}

/// The way to the publisher of the master on this host. One connection, made when first needed.
pub struct DirectPublisher {
    endpoint: String,
    /// Before the context, whose end waits for the socket's.
    socket: Mutex<Option<zmq::Socket>>,
    /// Its own: its end waits (a second at most) until everything is with the publisher, so that a command may end at once.
    context: zmq::Context,
}

impl std::fmt::Debug for DirectPublisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectPublisher")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl DirectPublisher {
    /// The publisher of a master with unix sockets in `sock_dir`.
    #[must_use]
    pub fn new(sock_dir: &Path) -> Self {
        Self::at(format!("ipc://{}", sock_dir.join(SOCKET).display()))
    }

    /// The publisher of the master with this configuration.
    #[must_use]
    pub fn of_master(master: &MasterConfig) -> Self {
        match master.ipc_mode {
            IpcMode::Ipc => Self::new(&master.sock_dir),
            IpcMode::Tcp { publish_pull, .. } => {
                Self::at(format!("tcp://127.0.0.1:{publish_pull}"))
            }
        }
    }

    fn at(endpoint: String) -> Self {
        Self {
            endpoint,
            socket: Mutex::default(),
            context: zmq::Context::new(),
        }
    }

    /// Where the publisher listens.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Hands the publication over. Its `serial` is left out: the publisher gives its own.
    ///
    /// # Errors
    /// See [`DirectPublishError`]; after an error nothing was handed over.
    pub async fn publish(&self, load: &PublicationLoad) -> Result<(), DirectPublishError> {
        let frame = frame(load)?;
        let until = tokio::time::Instant::now() + PATIENCE;
        while !self.try_send(&frame)? {
            if tokio::time::Instant::now() >= until {
                return Err(self.nobody_listens(load));
            }
            tokio::time::sleep(TRY_INTERVAL).await;
        }
        Ok(())
    }

    /// As [`Self::publish`], for a caller without tokio: blocks this thread.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn publish_blocking(&self, load: &PublicationLoad) -> Result<(), DirectPublishError> {
        let frame = frame(load)?;
        for _ in 0..PATIENCE.as_millis() / TRY_INTERVAL.as_millis() {
            if self.try_send(&frame)? {
                return Ok(());
            }
            std::thread::sleep(TRY_INTERVAL);
        }
        Err(self.nobody_listens(load))
    }

    fn try_send(&self, frame: &[u8]) -> Result<bool, DirectPublishError> {
        let failed = |source| DirectPublishError::Socket {
            endpoint: self.endpoint.clone(),
            source,
        };
        let mut slot = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = match slot.take() {
            Some(socket) => socket,
            None => self.open().map_err(failed)?,
        };
        let sent = socket.send(frame, zmq::DONTWAIT);
        match sent {
            Ok(()) => *slot = Some(socket),
            Err(zmq::Error::EAGAIN | zmq::Error::EINTR) => {
                *slot = Some(socket);
                return Ok(false);
            }
            // A socket that cannot be used is made anew the next time.
            Err(source) => return Err(failed(source)),
        }
        Ok(true)
    }

    fn open(&self) -> Result<zmq::Socket, zmq::Error> {
        let socket = self.context.socket(zmq::PUSH)?;
        // Without it a publication would wait here for a master that may come when the job has long expired.
        socket.set_immediate(true)?;
        socket.set_linger(1_000)?;
        socket.set_sndhwm(PIPE_MAX)?;
        socket.set_handshake_ivl(1_000)?;
        socket.set_reconnect_ivl(50)?;
        socket.set_reconnect_ivl_max(500)?;
        socket.connect(&self.endpoint)?;
        Ok(socket)
    }

    fn nobody_listens(&self, load: &PublicationLoad) -> DirectPublishError {
        DirectPublishError::NobodyListens {
            jid: load.jid().clone(),
            endpoint: self.endpoint.clone(),
        }
    }
}

/// As the master's own worker writes it.
fn frame(load: &PublicationLoad) -> Result<bytes::Bytes, DirectPublishError> {
    let mut fields: Value = load.fields().clone();
    fields.remove("serial");
    for field in FIELDS {
        if fields.get(field).is_none_or(Value::is_nil) {
            let jid = load.jid().clone();
            return Err(DirectPublishError::Incomplete { jid, field });
        }
    }
    Ok(encode(&fields, Dialect::New))
}

#[cfg(test)]
mod tests;

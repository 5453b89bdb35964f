//! What every ZeroMQ socket of ours has in common: the context, the options, the way to wake its
//! thread, and frames that become `Bytes`.
//!
//! libzmq sockets are not tokio's: each lives on a std thread that polls it together with the
//! `WakeSource` through which the tokio side calls the thread.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;

/// One context per process, with libzmq's default of one I/O thread: one core's worth of socket
/// work carries over 500,000 messages of 1 KiB a second (docs/decisions/0001-libzmq.md), and a
/// second thread would only cost memory.
static CONTEXT: LazyLock<zmq::Context> = LazyLock::new(zmq::Context::new);

/// From this size on a received frame keeps libzmq's own buffer instead of being copied. Below it
/// libzmq shares one 8 KiB read buffer among messages, which a kept message would keep alive.
const ADOPT_BYTES_MIN: usize = 64 << 10;

/// Why a socket could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The address is none that ZeroMQ can connect to.
    #[error("{endpoint:?} is no ZeroMQ address: {detail}")]
    Endpoint {
        /// The address as given.
        endpoint: String,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// libzmq refused to open, set up or connect the socket.
    #[error("failed to open a ZeroMQ socket to {endpoint}")]
    Open {
        /// Where it was to connect.
        endpoint: Endpoint,
        /// libzmq's reason.
        #[source]
        source: zmq::Error,
    },
    /// The thread for the socket or the pipe to wake it could not be made.
    #[error("failed to start the thread of the ZeroMQ socket to {endpoint}")]
    Thread {
        /// Where it was to connect.
        endpoint: Endpoint,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

/// An address to connect to, such as `tcp://127.0.0.1:4505` or `tcp://[::1]:4505`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    text: String,
    /// Off for IPv4 literals, so that a host without IPv6 is never asked for it.
    ipv6: bool,
}

impl Endpoint {
    /// Host (name, IPv4 or IPv6 literal, with or without brackets) and port.
    ///
    /// # Errors
    /// When the host is empty or holds characters that no host has.
    pub fn tcp(host: &str, port: u16) -> Result<Self, SocketError> {
        let bare = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        let refuse = |detail| SocketError::Endpoint {
            endpoint: format!("{host}:{port}"),
            detail,
        };
        if bare.is_empty() {
            return Err(refuse("the host is empty"));
        }
        // '%' stands before the zone of a link-local IPv6 address.
        let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if !bare.chars().all(allowed) {
            return Err(refuse(
                "a host has only letters, digits, '.', '-', '_' and ':'",
            ));
        }
        if port == 0 {
            return Err(refuse("the port is 0"));
        }
        let text = if bare.contains(':') {
            format!("tcp://[{bare}]:{port}")
        } else {
            format!("tcp://{bare}:{port}")
        };
        Ok(Self {
            text,
            ipv6: bare.parse::<Ipv4Addr>().is_err(),
        })
    }

    /// The address as libzmq reads it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a connection may cost and how fast a dead one is noticed. The default suits a master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOptions {
    /// A peer that announces a longer frame is disconnected. Default 256 MiB, as the event bus.
    pub frame_bytes_max: u32,
    /// A PING is sent this often. Salt 3008 masters themselves send one every 10 s; older ones
    /// answer. Default 2 s.
    pub heartbeat_interval: Duration,
    /// A peer silent for this long after a PING is disconnected. Default 5 s: a WAN that stalls
    /// longer is better noticed than waited for.
    pub heartbeat_timeout: Duration,
    /// A peer that has not finished the ZMTP handshake by then is disconnected. libzmq's own
    /// default of 30 s is what a reconnect to a half-dead host costs. Default 5 s.
    pub handshake_timeout: Duration,
    /// A TCP connection that is not made by then is tried again. Default 5 s; the kernel's own
    /// limit is two minutes.
    pub connect_timeout: Duration,
    /// First pause between attempts to connect; doubles up to the next. Default 100 ms.
    pub reconnect_min: Duration,
    /// Longest pause between attempts to connect. Default 1 s.
    pub reconnect_max: Duration,
    /// Messages that libzmq holds for us, and for the peer. Default 1000, libzmq's own.
    pub high_water_mark: u16,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            frame_bytes_max: 256 << 20,
            heartbeat_interval: Duration::from_secs(2),
            heartbeat_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            reconnect_min: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(1),
            high_water_mark: 1000,
        }
    }
}

impl SocketOptions {
    /// Opens a socket with these options; it is not connected yet.
    pub(crate) fn open(
        &self,
        kind: zmq::SocketType,
        endpoint: &Endpoint,
    ) -> Result<zmq::Socket, zmq::Error> {
        let socket = CONTEXT.socket(kind)?;
        socket.set_ipv6(endpoint.ipv6)?;
        socket.set_linger(0)?;
        socket.set_maxmsgsize(i64::from(self.frame_bytes_max))?;
        socket.set_handshake_ivl(millis(self.handshake_timeout))?;
        socket.set_connect_timeout(millis(self.connect_timeout))?;
        socket.set_heartbeat_ivl(millis(self.heartbeat_interval))?;
        socket.set_heartbeat_timeout(millis(self.heartbeat_timeout))?;
        if kind == zmq::SUB {
            // A publisher is asked to give us up when it hears nothing for the same time. A request port is not: a master that
            // was stopped would look at its timers first and close the connection with our request in it, unread.
            let ttl = self.heartbeat_interval + self.heartbeat_timeout;
            socket.set_heartbeat_ttl(millis(ttl).min(6_553_500))?;
        }
        socket.set_reconnect_ivl(millis(self.reconnect_min))?;
        socket.set_reconnect_ivl_max(millis(self.reconnect_max))?;
        socket.set_rcvhwm(i32::from(self.high_water_mark))?;
        socket.set_sndhwm(i32::from(self.high_water_mark))?;
        // Keep-alive is the second line behind heart-beats, for a kernel that still answers for a
        // stopped process's host: 10 s idle, then 3 probes 5 s apart.
        socket.set_tcp_keepalive(1)?;
        socket.set_tcp_keepalive_idle(10)?;
        socket.set_tcp_keepalive_intvl(5)?;
        socket.set_tcp_keepalive_cnt(3)?;
        Ok(socket)
    }
}

/// Tells the monitors of this process apart.
static MONITORS: AtomicU64 = AtomicU64::new(0);

/// A socket together with the PAIR through which its monitor speaks.
///
/// libzmq sends monitor events from its I/O thread and **waits** when they cannot be taken: one
/// monitor that is full, or closed before its socket, stops every socket of the process. So it is
/// read at every turn, and silenced before either end is closed.
pub(crate) struct Monitored {
    pub(crate) socket: zmq::Socket,
    pub(crate) monitor: zmq::Socket,
}

impl Monitored {
    pub(crate) fn new(socket: zmq::Socket, events: i32) -> Result<Self, zmq::Error> {
        let address = monitor_address();
        socket.monitor(&address, events)?;
        let monitor = CONTEXT.socket(zmq::PAIR)?;
        monitor.set_linger(0)?;
        monitor.connect(&address)?;
        Ok(Self { socket, monitor })
    }
}

impl Drop for Monitored {
    fn drop(&mut self) {
        // Another monitor without any event takes the place of the one that could wait.
        if let Err(error) = self.socket.monitor(&monitor_address(), 0) {
            tracing::warn!(%error, "failed to silence the monitor of a socket");
        }
    }
}

fn monitor_address() -> String {
    format!(
        "inproc://saltway-monitor-{}",
        MONITORS.fetch_add(1, Ordering::Relaxed)
    )
}

fn millis(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}

struct Received(zmq::Message);

impl AsRef<[u8]> for Received {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A received frame as shared bytes, copied only when small.
pub(crate) fn frame_bytes(message: zmq::Message) -> Bytes {
    if message.len() < ADOPT_BYTES_MIN {
        Bytes::copy_from_slice(&message)
    } else {
        Bytes::from_owner(Received(message))
    }
}

/// A frame to send, without a copy when nobody else holds the bytes.
pub(crate) fn frame_message(frame: Bytes) -> zmq::Message {
    zmq::Message::from(Vec::from(frame))
}

/// Most frames of one message that are kept; Salt sends at most two.
pub(crate) const FRAMES_MAX: usize = 8;

/// Receives one whole message, or nothing when none is there. A message of more than
/// [`FRAMES_MAX`] frames is consumed, and its first frames are returned with one more than allowed.
pub(crate) fn receive(socket: &zmq::Socket) -> Result<Option<Vec<Bytes>>, zmq::Error> {
    let mut frames = Vec::with_capacity(2);
    loop {
        let message = match socket.recv_msg(zmq::DONTWAIT) {
            Ok(message) => message,
            // The frames of one message arrive together, so only the first can be missing.
            Err(zmq::Error::EAGAIN) => return Ok(None),
            Err(zmq::Error::EINTR) => continue,
            Err(error) => return Err(error),
        };
        let more = message.get_more();
        if frames.len() <= FRAMES_MAX {
            frames.push(frame_bytes(message));
        }
        if !more {
            return Ok(Some(frames));
        }
    }
}

/// Calls a thread out of its poll. Cheap when the thread has not yet answered the last call.
#[derive(Clone)]
pub(crate) struct Waker(Arc<WakerShared>);

struct WakerShared {
    write: UnixStream,
    /// Set while a byte is on its way, so that a thousand calls cost one system call.
    called: AtomicBool,
}

/// The end that the thread polls.
pub(crate) struct WakeSource {
    read: UnixStream,
    shared: Arc<WakerShared>,
}

pub(crate) fn waker() -> Result<(Waker, WakeSource), std::io::Error> {
    let (write, read) = UnixStream::pair()?;
    write.set_nonblocking(true)?;
    read.set_nonblocking(true)?;
    let shared = Arc::new(WakerShared {
        write,
        called: AtomicBool::new(false),
    });
    Ok((Waker(Arc::clone(&shared)), WakeSource { read, shared }))
}

impl Waker {
    pub(crate) fn wake(&self) {
        if self.0.called.swap(true, Ordering::SeqCst) {
            return;
        }
        // A full pipe wakes the thread as well, and a closed one has no thread to wake.
        if let Err(error) = (&self.0.write).write(&[1]) {
            tracing::trace!(%error, "nobody to wake");
        }
    }
}

impl WakeSource {
    /// Takes back all calls so far. What the caller wants must be looked at after this.
    pub(crate) fn clear(&self) {
        let mut bytes = [0; 16];
        while matches!((&self.read).read(&mut bytes), Ok(1..)) {}
        // Only after the reading: a call between the two would otherwise lose its byte and all
        // later calls would trust in it.
        self.shared.called.store(false, Ordering::SeqCst);
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.read.as_raw_fd()
    }
}

/// Polls, passing over signals. Errors other than that do not happen with sockets that are ours.
pub(crate) fn poll(items: &mut [zmq::PollItem<'_>], timeout_ms: i64) -> Result<(), zmq::Error> {
    match zmq::poll(items, timeout_ms) {
        Ok(_) | Err(zmq::Error::EINTR) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_endpoints() {
        let check = |host: &str, port, expected: Option<(&str, bool)>| {
            let endpoint = Endpoint::tcp(host, port).ok();
            let found = endpoint.as_ref().map(|e| (e.as_str(), e.ipv6));
            assert_eq!(found, expected, "{host} {port}");
        };
        check("127.0.0.1", 4505, Some(("tcp://127.0.0.1:4505", false)));
        check("::1", 4505, Some(("tcp://[::1]:4505", true)));
        check("[::1]", 4505, Some(("tcp://[::1]:4505", true)));
        check(
            "master.example",
            4506,
            Some(("tcp://master.example:4506", true)),
        );
        check("", 4506, None);
        check("a b", 4506, None);
        check("a\0b", 4506, None);
        check("127.0.0.1;127.0.0.2", 4506, None);
        check("127.0.0.1", 0, None);
    }

    #[test]
    fn the_linked_libzmq_is_the_one_the_decision_page_names() {
        assert_eq!(zmq::version(), (4, 3, 4));
    }
}

//! The event bus of one minion: its two sockets.
//!
//! - Connecting, reading and writing never wait: a minion that hangs holds up nobody.
//! - What cannot be written at once waits in a buffer of [`WAITING_BYTES_MAX`]; beyond that events are dropped and counted.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use salt_wire::bus::{Framing, FramingError, Skimmed, Skimmer, Wanted};

/// What may wait for a minion that does not read: a return and some receipts.
const WAITING_BYTES_MAX: usize = 2 << 20;

/// Why a bus is no longer of use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BusError {
    /// The minion closed it.
    #[error("the minion closed its event bus")]
    Closed,
    /// What it says makes no sense.
    #[error("the minion's event bus cannot be read")]
    Framing(#[from] FramingError),
    /// The system refused.
    #[error("the minion's event bus cannot be used")]
    System(#[from] Errno),
}

/// The keys that are read of events, and their places in [`Skimmed`].
const KEYS: &[&str] = &["cmd", "jid", "ret", "error"];
pub(crate) const CMD: usize = 0;
pub(crate) const JID: usize = 1;
pub(crate) const RET: usize = 2;
pub(crate) const ERROR: usize = 3;

/// A connection to the socket on which events are told.
#[derive(Debug)]
pub(crate) struct Events {
    socket: OwnedFd,
    skimmer: Skimmer,
}

impl Events {
    pub(crate) fn connect(path: &Path) -> Result<Self, Errno> {
        Ok(Self {
            socket: connect(path)?,
            skimmer: Skimmer::new(KEYS),
        })
    }

    /// The process that made the socket.
    pub(crate) fn maker(&self) -> Option<u32> {
        let peer = rustix::net::sockopt::socket_peercred(&self.socket).ok()?;
        u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
    }

    /// The framing in which the bus writes, once it wrote.
    pub(crate) fn framing(&self) -> Option<Framing> {
        self.skimmer.framing()
    }

    /// Reads what is there.
    pub(crate) fn read(
        &mut self,
        buffer: &mut [u8],
        wanted: &mut dyn FnMut(&str) -> Wanted,
        found: &mut dyn FnMut(Skimmed),
    ) -> Result<(), BusError> {
        loop {
            let read = match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => return Err(BusError::Closed),
                Ok((read, _)) => read,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(err) => return Err(err.into()),
            };
            let bytes = buffer.get(..read).unwrap_or_default();
            self.skimmer.feed(bytes, wanted, found)?;
            if read < buffer.len() {
                return Ok(());
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A connection to the socket that takes events.
#[derive(Debug)]
pub(crate) struct Inbox {
    socket: OwnedFd,
    waiting: VecDeque<u8>,
    dropped: u64,
}

impl Inbox {
    pub(crate) fn connect(path: &Path) -> Result<Self, Errno> {
        Ok(Self {
            socket: connect(path)?,
            waiting: VecDeque::new(),
            dropped: 0,
        })
    }

    /// Writes a frame. False when it was dropped, because too much waits.
    pub(crate) fn write(&mut self, frame: &[u8]) -> Result<bool, BusError> {
        if self.waiting.len() + frame.len() > WAITING_BYTES_MAX {
            self.dropped += 1;
            return Ok(false);
        }
        self.waiting.extend(frame);
        self.flush()?;
        Ok(true)
    }

    /// Writes what waits. True when nothing does any more.
    pub(crate) fn flush(&mut self) -> Result<bool, BusError> {
        while !self.waiting.is_empty() {
            let (bytes, _) = self.waiting.as_slices();
            match rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(false),
                Ok(sent) => drop(self.waiting.drain(..sent)),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(BusError::Closed),
                Err(err) => return Err(err.into()),
            }
        }
        self.waiting.shrink_to(8 << 10);
        Ok(true)
    }

    /// Whether something waits.
    pub(crate) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }
}

fn connect(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_bus_that_does_not_read_costs_events_and_no_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pull");
        let listener = UnixListener::bind(&path).unwrap();
        let mut inbox = Inbox::connect(&path).unwrap();
        let frame = vec![7; 64 << 10];
        let taken = (0..1000).filter(|_| inbox.write(&frame).unwrap()).count();
        assert!((32..200).contains(&taken), "{taken}");
        assert!(inbox.waits() && inbox.dropped == 1000 - taken as u64);
        let (mut reader, _) = listener.accept().unwrap();
        let mut got = 0;
        let mut buffer = vec![0; 1 << 20];
        while got < taken * frame.len() {
            got += reader.read(&mut buffer).unwrap();
            inbox.flush().unwrap();
        }
        assert!(inbox.flush().unwrap());
        drop(reader);
        assert!(matches!(inbox.write(&frame), Err(BusError::Closed)));
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pub");
        Events::connect(&path).unwrap_err();
        drop(UnixListener::bind(&path).unwrap());
        Events::connect(&path).unwrap_err();
    }
}

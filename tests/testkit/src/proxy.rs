//! A TCP proxy that misbehaves on request: cut, silent, stalled, slow.
//!
//! Threads only, two per direction of a connection: a reader takes bytes in and stamps them with the time they are due, a writer
//! hands them on when that has come. Between them is a channel of 64 chunks; a full one stops the reader, so that TCP's own
//! back-pressure reaches the sender.
//!
//! | fault | open connections | new connections | after [`Proxy::heal`] |
//! |---|---|---|---|
//! | [`Proxy::cut`] | reset | refused | may connect again |
//! | [`Proxy::silence`] | bytes are swallowed | accepted, and swallowed | those that lost bytes stay silent: half-open |
//! | [`Proxy::stall`] | bytes wait | accepted, and wait | everything arrives, late |
//! | [`Proxy::half_open`] | closed at the server's end, silent at the client's | welcome | stay silent |

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::wait::{now, wait_until};

/// How often a thread looks whether it shall go on; also the precision of [`Proxy::cut`].
const TICK: Duration = Duration::from_millis(20);
const CHUNK: usize = 64 * 1024;
const CHUNKS_MAX: usize = 64;

/// Which way bytes flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// From the client that connected to the server behind.
    Up,
    /// From the server to the client.
    Down,
    /// Either.
    Both,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Flow {
    #[default]
    Open,
    Silent,
    Stalled,
}

#[derive(Debug, Default)]
struct State {
    up: Flow,
    down: Flow,
    latency: Duration,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
    listener: Mutex<Option<TcpListener>>,
    ended: AtomicBool,
    /// Connections of an older generation are over, or half-open.
    generation: AtomicU64,
    /// Connections of a generation below this one reset themselves.
    oldest: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    accepted: AtomicU64,
}

/// A proxy between `listen` and `upstream`; dropping it resets its connections.
#[derive(Debug)]
pub struct Proxy {
    listen: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Listens on `listen` and forwards each connection to `upstream` (which need not be there yet).
    ///
    /// # Errors
    /// When `listen` cannot be bound.
    pub fn start(listen: SocketAddr, upstream: SocketAddr) -> Result<Self> {
        let shared = Arc::new(Shared {
            upstream,
            state: Mutex::default(),
            listener: Mutex::new(Some(bind(listen)?)),
            ended: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            oldest: AtomicU64::new(0),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
        });
        let acceptor = Arc::clone(&shared);
        thread::spawn(move || accept_all(&acceptor));
        Ok(Self { listen, shared })
    }

    /// Where clients connect.
    #[must_use]
    pub fn socket(&self) -> SocketAddr {
        self.listen
    }

    /// Resets every connection and refuses new ones.
    pub fn cut(&self) {
        *lock(&self.shared.listener) = None;
        self.reset_all();
    }

    /// Swallows what is sent in this direction. A connection that lost bytes stays silent for good, also after [`heal`](Self::heal), as
    /// behind a firewall that forgot it.
    pub fn silence(&self, direction: Direction) {
        self.set(direction, Flow::Silent);
    }

    /// Holds back what is sent in this direction; it arrives after [`heal`](Self::heal), as TCP repeats it after an outage.
    pub fn stall(&self, direction: Direction) {
        self.set(direction, Flow::Stalled);
    }

    /// Delays every byte by this much, in each direction.
    pub fn latency(&self, latency: Duration) {
        lock(&self.shared.state).latency = latency;
    }

    /// Ends [`cut`](Self::cut), [`silence`](Self::silence) and [`stall`](Self::stall). The latency stays.
    ///
    /// # Errors
    /// When the address cannot be bound again.
    pub fn heal(&self) -> Result<()> {
        self.set(Direction::Both, Flow::Open);
        let mut listener = lock(&self.shared.listener);
        if listener.is_none() {
            let again = wait_until("the proxy's address", Duration::from_secs(5), || {
                bind(self.listen).map_err(|error| format!("{error:#}"))
            })?;
            *listener = Some(again);
        }
        Ok(())
    }

    /// Resets every open connection (RST); new ones are welcome.
    pub fn reset_all(&self) {
        let next = self.shared.generation.fetch_add(1, Ordering::SeqCst) + 1;
        self.shared.oldest.store(next, Ordering::SeqCst);
    }

    /// Resets every open connection at the server's end, and tells the clients nothing: what they send is swallowed, nothing comes back. New
    /// connections are welcome. So does a host that was replaced, or a firewall that forgot its connections.
    pub fn half_open(&self) {
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Bytes handed on from clients to the server.
    #[must_use]
    pub fn bytes_up(&self) -> u64 {
        self.shared.bytes_up.load(Ordering::Relaxed)
    }

    /// Bytes handed on from the server to clients.
    #[must_use]
    pub fn bytes_down(&self) -> u64 {
        self.shared.bytes_down.load(Ordering::Relaxed)
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    fn set(&self, direction: Direction, flow: Flow) {
        let mut state = lock(&self.shared.state);
        if direction != Direction::Down {
            state.up = flow;
        }
        if direction != Direction::Up {
            state.down = flow;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.cut();
    }
}

impl Shared {
    fn flow(&self, direction: Direction) -> (Flow, Duration) {
        let state = lock(&self.state);
        (
            if direction == Direction::Up {
                state.up
            } else {
                state.down
            },
            state.latency,
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn bind(listen: SocketAddr) -> Result<TcpListener> {
    let listener =
        TcpListener::bind(listen).with_context(|| format!("failed to listen on {listen}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn accept_all(shared: &Arc<Shared>) {
    while !shared.ended.load(Ordering::SeqCst) {
        let accepted = lock(&shared.listener).as_ref().map(TcpListener::accept);
        if let Some(Ok((client, _))) = accepted {
            shared.accepted.fetch_add(1, Ordering::Relaxed);
            let generation = shared.generation.load(Ordering::SeqCst);
            let shared = Arc::clone(shared);
            thread::spawn(move || connect(&shared, client, generation));
        } else {
            thread::sleep(TICK);
        }
    }
}

/// Serves one connection. It ends when either side closes both ways, or its generation is over.
fn connect(shared: &Arc<Shared>, client: TcpStream, generation: u64) {
    // A dead link answers nothing: the server must not even see that somebody connected.
    while shared.flow(Direction::Up).0 != Flow::Open && is_current(shared, generation) {
        thread::sleep(TICK);
    }
    let Ok(server) = TcpStream::connect_timeout(&shared.upstream, Duration::from_secs(2)) else {
        reset_on_close(&client);
        return;
    };
    if [&client, &server]
        .into_iter()
        .any(|stream| prepare(stream).is_err())
    {
        return;
    }
    let (client, server) = (Arc::new(client), Arc::new(server));
    for (from, to, direction) in [
        (Arc::clone(&client), Arc::clone(&server), Direction::Up),
        (server, client, Direction::Down),
    ] {
        let (sender, receiver) = sync_channel(CHUNKS_MAX);
        let (reader, writer) = (Arc::clone(shared), Arc::clone(shared));
        let half = Half {
            direction,
            generation,
            mute: Arc::default(),
        };
        let other = half.clone();
        thread::spawn(move || read_all(&reader, &from, &sender, &half));
        thread::spawn(move || write_all(&writer, &to, &receiver, &other));
    }
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TICK))?;
    stream.set_write_timeout(Some(TICK))
}

/// Makes the last close send RST instead of FIN.
fn reset_on_close(stream: &TcpStream) {
    // An error means that the connection is gone already.
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).ok();
}

fn is_current(shared: &Shared, generation: u64) -> bool {
    shared.generation.load(Ordering::SeqCst) == generation
}

/// The server's end is reset, the client's end does not know.
fn is_half_open(shared: &Shared, generation: u64) -> bool {
    !is_current(shared, generation) && generation >= shared.oldest.load(Ordering::SeqCst)
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

type Chunk = (Instant, Vec<u8>);

/// One direction of one connection, shared by its reader and its writer.
#[derive(Clone, Debug)]
struct Half {
    direction: Direction,
    generation: u64,
    /// Bytes were lost: nothing may follow them.
    mute: Arc<AtomicBool>,
}

impl Half {
    fn swallows(&self, shared: &Shared) -> bool {
        if shared.flow(self.direction).0 == Flow::Silent {
            self.mute.store(true, Ordering::SeqCst);
        }
        self.mute.load(Ordering::SeqCst)
    }
}

fn read_all(shared: &Shared, mut from: &TcpStream, sender: &SyncSender<Chunk>, half: &Half) {
    let mut buffer = vec![0; CHUNK];
    while is_current(shared, half.generation) {
        let (flow, latency) = shared.flow(half.direction);
        if flow == Flow::Stalled {
            thread::sleep(TICK);
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            // The flow may have changed while the read waited; the bytes came after that.
            Ok(_) if half.swallows(shared) => {}
            Ok(count) => {
                let bytes = buffer.iter().take(count).copied().collect();
                if sender.send((now() + latency, bytes)).is_err() {
                    break;
                }
            }
            Err(error) if is_timeout(error.kind()) => {}
            Err(_) => {
                reset_on_close(from);
                break;
            }
        }
    }
    if half.direction == Direction::Up {
        swallow_rest(shared, from, half);
    }
    if !is_current(shared, half.generation) {
        reset_on_close(from);
    }
}

/// Keeps the client of a half-open connection in the belief that somebody is there.
fn swallow_rest(shared: &Shared, mut client: &TcpStream, half: &Half) {
    let mut buffer = vec![0; CHUNK];
    while is_half_open(shared, half.generation) && !shared.ended.load(Ordering::SeqCst) {
        match client.read(&mut buffer) {
            Ok(0) => return,
            Err(error) if !is_timeout(error.kind()) => return,
            Ok(_) | Err(_) => {}
        }
    }
}

fn write_all(shared: &Shared, to: &TcpStream, receiver: &Receiver<Chunk>, half: &Half) {
    loop {
        if !is_current(shared, half.generation) {
            end(shared, to, half);
            return;
        }
        let (due, bytes) = match receiver.recv_timeout(TICK) {
            Ok(chunk) => chunk,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        thread::sleep(due.saturating_duration_since(now()));
        if !hand_on(shared, to, &bytes, half) {
            end(shared, to, half);
            return;
        }
    }
    // The reader saw the end of its side; the other direction may go on. A close during a fault is not seen over there.
    while shared.flow(half.direction).0 != Flow::Open && is_current(shared, half.generation) {
        thread::sleep(TICK);
    }
    if is_current(shared, half.generation) {
        to.shutdown(Shutdown::Write).ok();
    } else {
        end(shared, to, half);
    }
}

/// Ends one direction of a connection that is over; the client of a half-open one is told nothing.
fn end(shared: &Shared, to: &TcpStream, half: &Half) {
    if half.direction == Direction::Up || !is_half_open(shared, half.generation) {
        reset_on_close(to);
    }
}

/// Writes one chunk, however slowly the receiver takes it; false when the connection is over.
fn hand_on(shared: &Shared, mut to: &TcpStream, bytes: &[u8], half: &Half) -> bool {
    let counter = if half.direction == Direction::Up {
        &shared.bytes_up
    } else {
        &shared.bytes_down
    };
    let mut left = bytes;
    while !left.is_empty() {
        if !is_current(shared, half.generation) {
            return false;
        }
        // Bytes on their way when the link died are lost too.
        if half.swallows(shared) {
            return true;
        }
        if shared.flow(half.direction).0 == Flow::Stalled {
            thread::sleep(TICK);
            continue;
        }
        match to.write(left) {
            Ok(count) => {
                counter.fetch_add(u64::try_from(count).unwrap_or_default(), Ordering::Relaxed);
                left = left.get(count..).unwrap_or_default();
            }
            Err(error) if is_timeout(error.kind()) => {}
            Err(_) => return false,
        }
    }
    true
}

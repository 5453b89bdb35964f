//! The publish side of the simulated minions: a SUB socket, and so a connection, for each of them.
//!
//! A few threads poll them. What a deaf minion is sent is thrown away here. When it hears again its socket connects anew.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use salt_wire::{
    crypticle::AesKey,
    publication::{Publication, PublicationLoad},
};
use testkit::wait_until;
use tokio::sync::mpsc;

/// Below libzmq's limit of 1,023 sockets in a context.
const SOCKETS_PER_THREAD: usize = 500;
/// How often a thread looks whether it shall do something else.
const LOOK_MS: i64 = 50;
const CONNECTED_WITHIN: Duration = Duration::from_secs(60);

/// Something came.
pub(super) enum Heard {
    /// A job, at this minion.
    Publication {
        minion: usize,
        load: Arc<PublicationLoad>,
    },
    /// This minion has a new connection.
    Reconnected { minion: usize },
}

#[derive(Default)]
struct State {
    deaf: Mutex<BTreeSet<usize>>,
    /// To connect anew.
    anew: Mutex<BTreeSet<usize>>,
    ended: AtomicBool,
}

/// All sockets; dropping them closes them.
pub(super) struct Ears {
    state: Arc<State>,
}

impl Ears {
    /// Connects `count` sockets. That the master has taken them shows by what they hear.
    pub(super) fn start(
        publish: SocketAddr,
        count: usize,
        aes: &AesKey,
        heard: &mpsc::Sender<Heard>,
    ) -> Result<Self> {
        let state = Arc::new(State::default());
        let minions: Vec<usize> = (0..count).collect();
        for part in minions.chunks(SOCKETS_PER_THREAD) {
            let context = zmq::Context::new();
            let mut sockets = Vec::with_capacity(part.len());
            for minion in part {
                sockets.push((*minion, connect(&context, publish)?));
            }
            let ear = Ear {
                publish,
                context,
                sockets,
                aes: aes.clone(),
                heard: heard.clone(),
                state: Arc::clone(&state),
                last: None,
            };
            thread::Builder::new()
                .name("ears".to_owned())
                .spawn(move || ear.listen())?;
        }
        Ok(Self { state })
    }

    pub(super) fn deafen(&self, minions: &[usize]) {
        lock(&self.state.deaf).extend(minions);
    }

    /// Connects the deaf ones anew, and returns who they were.
    pub(super) fn hear_again(&self) -> Vec<usize> {
        let deaf: Vec<usize> = std::mem::take(&mut *lock(&self.state.deaf))
            .into_iter()
            .collect();
        lock(&self.state.anew).extend(&deaf);
        let anew = || match lock(&self.state.anew).len() {
            0 => Ok(()),
            left => Err(format!("{left} are not connected anew")),
        };
        // A thread that has died is told by the runs that are missing.
        drop(wait_until("the deaf to connect", CONNECTED_WITHIN, anew));
        deaf
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
    }
}

fn connect(context: &zmq::Context, publish: SocketAddr) -> Result<zmq::Socket> {
    let socket = context.socket(zmq::SUB).context("no SUB socket")?;
    socket.set_linger(0)?;
    socket.set_rcvhwm(100_000)?;
    socket.set_subscribe(b"")?;
    socket.connect(&format!("tcp://{publish}"))?;
    Ok(socket)
}

struct Ear {
    publish: SocketAddr,
    context: zmq::Context,
    sockets: Vec<(usize, zmq::Socket)>,
    aes: AesKey,
    heard: mpsc::Sender<Heard>,
    state: Arc<State>,
    /// The frame that was opened last: all minions are sent the same one.
    last: Option<(Bytes, Arc<PublicationLoad>)>,
}

impl Ear {
    fn listen(mut self) {
        while !self.state.ended.load(Ordering::Relaxed) {
            self.connect_anew();
            let mut items: Vec<zmq::PollItem<'_>> = self
                .sockets
                .iter()
                .map(|(_, socket)| socket.as_poll_item(zmq::POLLIN))
                .collect();
            if zmq::poll(&mut items, LOOK_MS).is_err() {
                continue;
            }
            let readable: Vec<usize> = (0_usize..)
                .zip(&items)
                .filter(|(_, item)| item.is_readable())
                .map(|(at, _)| at)
                .collect();
            for at in readable {
                self.drain(at);
            }
        }
    }

    fn connect_anew(&mut self) {
        let anew: Vec<usize> = lock(&self.state.anew).iter().copied().collect();
        for minion in anew {
            let Some(place) = self.sockets.iter_mut().find(|(other, _)| *other == minion) else {
                continue;
            };
            if let Ok(socket) = connect(&self.context, self.publish) {
                place.1 = socket;
                lock(&self.state.anew).remove(&minion);
            }
        }
    }

    fn drain(&mut self, at: usize) {
        while let Ok(frame) = self.sockets[at].1.recv_bytes(zmq::DONTWAIT) {
            let minion = self.sockets[at].0;
            if lock(&self.state.deaf).contains(&minion) {
                continue;
            }
            let Some(load) = self.open(Bytes::from(frame)) else {
                continue;
            };
            if self
                .heard
                .blocking_send(Heard::Publication { minion, load })
                .is_err()
            {
                return;
            }
        }
    }

    fn open(&mut self, frame: Bytes) -> Option<Arc<PublicationLoad>> {
        if let Some((last, load)) = &self.last
            && *last == frame
        {
            return Some(Arc::clone(load));
        }
        let load = Publication::parse(&frame).ok()?.decrypt(&self.aes).ok()?;
        let load = Arc::new(load);
        self.last = Some((frame, Arc::clone(&load)));
        Some(load)
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

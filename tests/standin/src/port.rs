//! A request port: one thread with a ROUTER socket that answers each request with what a function makes of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;

/// How long the thread waits for a request before it looks whether it is to end.
const LOOK_MS: i32 = 20;
const LOOK: Duration = Duration::from_millis(20);

/// Serves until it is dropped.
pub(crate) struct RequestPort {
    stop: Arc<AtomicBool>,
    paused: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RequestPort {
    /// Binds `address`; `answer` gets each payload frame and gives the reply, or nothing for a master that stays silent.
    pub(crate) fn bind(
        address: SocketAddr,
        mut answer: impl FnMut(Bytes) -> Option<Bytes> + Send + 'static,
    ) -> Result<Self> {
        let context = zmq::Context::new();
        let socket = context.socket(zmq::ROUTER)?;
        socket.set_linger(0)?;
        socket.set_sndhwm(0)?;
        socket.set_rcvhwm(0)?;
        socket.set_rcvtimeo(LOOK_MS)?;
        socket
            .bind(&format!("tcp://{address}"))
            .with_context(|| format!("failed to listen on {address}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let paused = Arc::new(AtomicBool::new(false));
        let (stopped, pausing) = (Arc::clone(&stop), Arc::clone(&paused));
        let thread = std::thread::Builder::new()
            .name("standin-port".to_owned())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let Ok(mut frames) = socket.recv_multipart(0) else {
                        continue;
                    };
                    let Some(payload) = frames.pop() else {
                        continue;
                    };
                    while pausing.load(Ordering::Relaxed) && !stopped.load(Ordering::Relaxed) {
                        std::thread::sleep(LOOK);
                    }
                    if let Some(reply) = answer(payload.into()) {
                        frames.push(reply.into());
                        // A client that has gone away is nobody's loss.
                        socket.send_multipart(frames, 0).ok();
                    }
                }
                drop(socket);
            })?;
        Ok(Self {
            stop,
            paused,
            thread: Some(thread),
        })
    }

    /// While paused, requests wait in the socket.
    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }
}

impl Drop for RequestPort {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

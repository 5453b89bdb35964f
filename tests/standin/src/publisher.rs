//! A lower master's publisher process: takes publications past the request port, and keeps them.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use salt_wire::msgpack::{Limits, Value, decode};
use testkit::wait_until;

/// How often the thread looks whether it is to end.
const LOOK_MS: i32 = 50;

/// `<sock_dir>/publish_pull.ipc`.
pub struct PublishPull {
    loads: Arc<Mutex<Vec<Value>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PublishPull {
    /// Listens in `sock_dir`, which is there.
    ///
    /// # Errors
    /// When the socket cannot be made, such as for a path above 107 characters.
    pub fn listen(sock_dir: &Path) -> Result<Self> {
        let socket = zmq::Context::new().socket(zmq::PULL)?;
        socket.set_linger(0)?;
        socket.set_rcvtimeo(LOOK_MS)?;
        let endpoint = format!("ipc://{}", sock_dir.join("publish_pull.ipc").display());
        socket
            .bind(&endpoint)
            .with_context(|| format!("failed to listen on {endpoint}"))?;
        let loads = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (taken, stopped) = (Arc::clone(&loads), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("standin-publisher".to_owned())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let Ok(frame) = socket.recv_bytes(0) else {
                        continue;
                    };
                    // What is none shows as a job without fields.
                    let load = decode(&frame.into(), Limits::CONTENT).unwrap_or(Value::Nil);
                    lock(&taken).push(load);
                }
            })?;
        Ok(Self {
            loads,
            stop,
            thread: Some(thread),
        })
    }

    /// What was published here, in its order.
    #[must_use]
    pub fn loads(&self) -> Vec<Value> {
        lock(&self.loads).clone()
    }

    /// Waits until so many were published here.
    ///
    /// # Errors
    /// When they were not in time.
    pub fn await_loads(&self, count: usize, within: Duration) -> Result<Vec<Value>> {
        wait_until(&format!("{count} publications"), within, || {
            let loads = self.loads();
            if loads.len() >= count {
                Ok(loads)
            } else {
                Err(format!("{}", loads.len()))
            }
        })
    }
}

impl Drop for PublishPull {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn lock(loads: &Mutex<Vec<Value>>) -> MutexGuard<'_, Vec<Value>> {
    loads.lock().unwrap_or_else(PoisonError::into_inner)
}

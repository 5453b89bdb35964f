//! A master's event bus: the unix socket that event listeners connect to.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use salt_wire::bus::{Framing, encode_event};
use salt_wire::msgpack::{Dialect, Value, encode};
use testkit::wait_until;

use crate::jobs::return_data;

/// A listener that takes nothing for so long counts as hung, and the test fails.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// `<sock_dir>/master_event_pub.ipc`. Fires to whoever is connected; nobody's events are kept.
pub struct EventBus {
    path: PathBuf,
    framing: Framing,
    listeners: Arc<Mutex<Vec<UnixStream>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EventBus {
    /// Listens in `sock_dir`, which is made. 3006 has [`Framing::LengthPrefix`], 3007 and 3008 have [`Framing::Streaming`].
    ///
    /// # Errors
    /// When the directory or the socket cannot be made, such as for a path above 107 characters.
    pub fn listen(sock_dir: &Path, framing: Framing) -> Result<Self> {
        fs::create_dir_all(sock_dir)?;
        let path = sock_dir.join("master_event_pub.ipc");
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("failed to remove {}", path.display()));
        }
        let socket = UnixListener::bind(&path)
            .with_context(|| format!("failed to listen on {}", path.display()))?;
        let listeners = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (accepted, stopped) = (Arc::clone(&listeners), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("standin-bus".to_owned())
            .spawn(move || {
                for stream in socket.incoming() {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let Ok(stream) = stream else { continue };
                    if stream.set_write_timeout(Some(WRITE_TIMEOUT)).is_ok() {
                        lock(&accepted).push(stream);
                    }
                }
            })?;
        Ok(Self {
            path,
            framing,
            listeners,
            stop,
            thread: Some(thread),
        })
    }

    /// How many are connected, as far as writing to them has told.
    #[must_use]
    pub fn listeners(&self) -> usize {
        lock(&self.listeners).len()
    }

    /// Waits until somebody is connected.
    ///
    /// # Errors
    /// When nobody comes in time.
    pub fn await_listener(&self, within: Duration) -> Result<()> {
        wait_until("a listener on the event bus", within, || {
            match self.listeners() {
                0 => Err("nobody"),
                _ => Ok(()),
            }
        })
    }

    /// Fires an event.
    ///
    /// # Errors
    /// When the tag is none, or a listener has hung.
    pub fn fire(&self, tag: &str, data: &Value) -> Result<()> {
        self.fire_raw(&self.frame(tag, data)?)
    }

    /// One minion's return of a job.
    ///
    /// # Errors
    /// As [`fire`](Self::fire).
    pub fn fire_return(&self, jid: &str, minion: &str, fun: &str, ret: Value) -> Result<()> {
        let tag = format!("salt/job/{jid}/ret/{minion}");
        self.fire(&tag, &return_data(jid, minion, fun, ret))
    }

    /// The bytes of an event, to be fired later with others by [`fire_raw`](Self::fire_raw).
    ///
    /// # Errors
    /// When the tag is none.
    pub fn frame(&self, tag: &str, data: &Value) -> Result<Vec<u8>> {
        Ok(encode_event(tag, &encode(data, Dialect::New), self.framing)?.to_vec())
    }

    /// Writes bytes as they are to every listener; one that has gone is forgotten.
    ///
    /// # Errors
    /// When a listener takes nothing any more.
    pub fn fire_raw(&self, bytes: &[u8]) -> Result<()> {
        let mut hung = false;
        lock(&self.listeners).retain_mut(|stream| match stream.write_all(bytes) {
            Ok(()) => true,
            Err(error) => {
                hung |= matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                false
            }
        });
        if hung {
            bail!(
                "a listener of {} has taken nothing for {WRITE_TIMEOUT:?}",
                self.path.display()
            );
        }
        Ok(())
    }

    /// Closes every connection, as a master that restarts does; new ones are accepted.
    pub fn disconnect(&self) {
        lock(&self.listeners).clear();
    }
}

impl EventBus {
    /// As if the master had ended: every connection is closed, and nobody can connect.
    ///
    /// # Errors
    /// When the socket cannot be moved away.
    pub fn pause(&self) -> Result<()> {
        fs::rename(&self.path, self.path.with_extension("away"))?;
        self.disconnect();
        Ok(())
    }

    /// As if the master had started again.
    ///
    /// # Errors
    /// When the socket cannot be moved back.
    pub fn resume(&self) -> Result<()> {
        fs::rename(self.path.with_extension("away"), &self.path)?;
        Ok(())
    }
}

impl Drop for EventBus {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the accepting thread, paused or not.
        drop(self.resume());
        drop(UnixStream::connect(&self.path));
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
        fs::remove_file(&self.path).ok();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The event bus of a top master, both of its sockets: what is fired comes back to every listener, as on a real one.

use std::fs;
use std::io::Read as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use salt_wire::bus::{BusDecoder, Decoded, FRAME_BYTES_MAX, Framing};
use salt_wire::msgpack::Value;
use testkit::wait_until;

use crate::bus::EventBus;
use crate::mom::StandinMom;

/// `master_event_pub.ipc` and `master_event_pull.ipc` beside a [`StandinMom`], framed as those of 3008.
pub struct MomBus {
    bus: Arc<EventBus>,
    pull: PathBuf,
    fired: Arc<Mutex<Vec<(String, Value)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MomBus {
    /// Listens in the MoM's `sock_dir`; makes its `cachedir`, too, which a real master has.
    ///
    /// # Errors
    /// When a directory or socket cannot be made.
    pub fn listen(mom: &StandinMom) -> Result<Self> {
        let dir = mom
            .config_file()
            .parent()
            .context("a file in no directory")?;
        fs::create_dir_all(dir.join("cache"))?;
        let sock_dir = dir.join("run");
        let bus = Arc::new(EventBus::listen(&sock_dir, Framing::Streaming)?);
        let pull = sock_dir.join("master_event_pull.ipc");
        drop(fs::remove_file(&pull));
        let socket = UnixListener::bind(&pull)
            .with_context(|| format!("failed to listen on {}", pull.display()))?;
        let fired = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let writers = Writers {
            bus: Arc::clone(&bus),
            fired: Arc::clone(&fired),
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::Builder::new()
            .name("standin-pull".to_owned())
            .spawn(move || writers.serve(&socket))?;
        Ok(Self {
            bus,
            pull,
            fired,
            stop,
            thread: Some(thread),
        })
    }

    /// The half that listeners connect to.
    #[must_use]
    pub fn bus(&self) -> &EventBus {
        &self.bus
    }

    /// Fires an event of the master's own.
    ///
    /// # Errors
    /// As [`EventBus::fire`].
    pub fn fire(&self, tag: &str, data: &Value) -> Result<()> {
        self.bus.fire(tag, data)
    }

    /// What others have fired so far with a tag that begins so.
    #[must_use]
    pub fn fired(&self, tag: &str) -> Vec<(String, Value)> {
        let fired = self.fired.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = |event: &&(String, Value)| event.0.starts_with(tag);
        fired.iter().filter(wanted).cloned().collect()
    }

    /// Forgets what was fired.
    pub fn forget(&self) {
        self.fired
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Waits for an event with this tag that somebody fires.
    ///
    /// # Errors
    /// When it does not come in time; the error tells what did.
    pub fn await_fired(&self, tag: &str, within: Duration) -> Result<Value> {
        wait_until(tag, within, || {
            let found = self.fired(tag).into_iter().find(|(found, _)| found == tag);
            found.map(|(_, data)| data).ok_or_else(|| {
                let tags: Vec<String> = self.fired("").into_iter().map(|(tag, _)| tag).collect();
                format!("fired: {tags:?}")
            })
        })
    }
}

impl Drop for MomBus {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(UnixStream::connect(&self.pull));
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
        fs::remove_file(&self.pull).ok();
    }
}

struct Writers {
    bus: Arc<EventBus>,
    fired: Arc<Mutex<Vec<(String, Value)>>>,
    stop: Arc<AtomicBool>,
}

impl Writers {
    /// Takes one connection after the other; each has a thread until its writer goes.
    fn serve(&self, socket: &UnixListener) {
        std::thread::scope(|scope| {
            for stream in socket.incoming() {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(stream) = stream {
                    scope.spawn(move || self.read(stream));
                }
            }
        });
    }

    fn read(&self, mut stream: UnixStream) {
        let mut decoder = BusDecoder::new(FRAME_BYTES_MAX);
        let mut buffer = vec![0; 64 << 10];
        drop(stream.set_read_timeout(Some(Duration::from_millis(100))));
        while !self.stop.load(Ordering::Relaxed) {
            match stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => decoder.feed(buffer.get(..read).unwrap_or_default()),
                Err(_) => continue,
            }
            while let Ok(Some(Decoded::Event(event))) = decoder.next_event(|_| true) {
                // 3008 reads lengths here.
                if decoder.framing() != Some(Framing::LengthPrefix) {
                    return;
                }
                let Ok(data) = event.value() else { continue };
                if self.bus.fire(&event.tag, &data).is_err() {
                    return;
                }
                if !event.tag.starts_with("saltway/probe/") {
                    self.fired
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((event.tag, data));
                }
            }
        }
    }
}

/// The directory below which a stand-in MoM keeps its cache.
#[must_use]
pub fn cachedir(mom: &StandinMom) -> PathBuf {
    mom.config_file()
        .parent()
        .unwrap_or(Path::new("/"))
        .join("cache")
}

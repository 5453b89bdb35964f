//! A top master: publishes, lets sites in, and keeps what they send.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use salt_wire::crypticle::AesKey;
use salt_wire::gate;
use salt_wire::keys::{PrivateKey, SigAlgo};
use salt_wire::msgpack::Value;
use salt_wire::standin::{Master, bad_load};
use testkit::{Address, Workspace, wait_until};

use crate::port::RequestPort;

/// What the stand-in says to a sign-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Everybody is let in.
    Open,
    /// The key waits for acceptance.
    Pending,
    /// The key was rejected.
    Rejected,
    /// Nothing at all.
    Silent,
}

/// One minion's return as it arrived in a `_syndic_return`.
#[derive(Clone, Debug, PartialEq)]
pub struct ReturnSeen {
    /// The site that sent it.
    pub site: String,
    /// The job.
    pub jid: String,
    /// The minion.
    pub minion: String,
    /// Its fields: `return`, `retcode`, ...
    pub fields: Value,
    /// The load that came along for a job of the site's own; an empty map for others.
    pub load: Value,
}

/// One event as it arrived in a `_minion_event`.
#[derive(Clone, Debug, PartialEq)]
pub struct EventSeen {
    /// The site that sent it.
    pub site: String,
    /// Its tag.
    pub tag: String,
    /// Its data.
    pub data: Value,
}

/// What has arrived at the request port so far.
#[derive(Debug, Default)]
pub struct Seen {
    /// Every frame, whatever it was.
    pub requests: usize,
    /// Well-formed sign-ins.
    pub sign_ins: usize,
    /// `_syndic_return`s, each with any number of returns.
    pub batches: usize,
    /// Returns in their order of arrival.
    pub returns: Vec<ReturnSeen>,
    /// Events in their order of arrival.
    pub events: Vec<EventSeen>,
    /// Loads of any other command.
    pub others: Vec<Value>,
    /// Frames that are neither a sign-in nor open with the session's key.
    pub unreadable: Vec<Bytes>,
}

/// Why nothing can be sent.
const STOPPED: &str = "the stand-in MoM is stopped";

struct State {
    master: Master,
    door: Door,
    mute: bool,
    serial: u64,
    sign: Option<SigAlgo>,
    seen: Seen,
}

struct Publisher {
    socket: zmq::Socket,
    subscriptions: usize,
}

/// A top master on an address of its own: 4505 and 4506, as Salt has them.
pub struct StandinMom {
    address: Address,
    config_file: PathBuf,
    state: Arc<Mutex<State>>,
    /// `None` while stopped.
    publisher: Mutex<Option<Publisher>>,
    port: Option<RequestPort>,
}

impl StandinMom {
    /// Starts it as `name` (unique in the workspace); it signs its publications, and accepts every key.
    ///
    /// # Errors
    /// When no address is free or a file cannot be written.
    pub fn start(workspace: &Workspace, name: &str) -> Result<Self> {
        let address = Address::lease()?;
        let dir = workspace.path().join(name);
        fs::create_dir_all(&dir)?;
        let config_file = dir.join("master");
        let lines = [
            format!("interface: {}", address.ip()),
            format!("root_dir: {}", dir.display()),
            format!("cachedir: {}/cache", dir.display()),
            format!("sock_dir: {}/run", dir.display()),
            format!("pki_dir: {}/pki", dir.display()),
        ];
        fs::write(&config_file, lines.join("\n") + "\n")?;
        let master = Master {
            key: PrivateKey::generate(2048)?,
            aes: AesKey::generate()?,
            session: AesKey::generate()?,
            publish_port: 4505,
        };
        let state = State {
            master,
            door: Door::Open,
            mute: false,
            serial: 0,
            sign: Some(SigAlgo::default()),
            seen: Seen::default(),
        };
        let mut mom = Self {
            publisher: Mutex::new(Some(Publisher::bind(&address)?)),
            address,
            config_file,
            state: Arc::new(Mutex::new(state)),
            port: None,
        };
        mom.open_port()?;
        Ok(mom)
    }

    /// Its configuration file, for a bridge's `salt_config`.
    #[must_use]
    pub fn config_file(&self) -> &Path {
        &self.config_file
    }

    /// Its address, for a lower master's `syndic_master`.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Makes the frame of a publication with the next serial. Frames have to be sent in the order in which they were made.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn frame(&self, load: Value) -> Result<Bytes> {
        let mut state = self.lock();
        state.serial += 1;
        let (serial, sign) = (state.serial, state.sign);
        Ok(state.master.publish(load, serial, sign)?)
    }

    /// Sends one frame to all subscribers.
    ///
    /// # Errors
    /// When libzmq refuses it, or the master is stopped.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let publisher = self.publisher();
        let publisher = publisher.as_ref().context(STOPPED)?;
        Ok(publisher.socket.send(frame, 0)?)
    }

    /// Sends a message of several frames, which only masters with `zmq_filtering` do (two).
    ///
    /// # Errors
    /// When libzmq refuses it, or the master is stopped.
    pub fn send_parts(&self, frames: &[&[u8]]) -> Result<()> {
        let publisher = self.publisher();
        let publisher = publisher.as_ref().context(STOPPED)?;
        Ok(publisher.socket.send_multipart(frames.iter().copied(), 0)?)
    }

    /// Makes a publication and sends it.
    ///
    /// # Errors
    /// As [`frame`](Self::frame) and [`send`](Self::send).
    pub fn publish(&self, load: Value) -> Result<()> {
        let frame = self.frame(load)?;
        self.send(&frame)
    }

    /// Waits until a bridge has subscribed; what is published before is lost.
    ///
    /// # Errors
    /// When none does in time.
    pub fn await_subscriber(&self, within: Duration) -> Result<()> {
        wait_until("a subscriber of the publish port", within, || {
            let subscriptions = self.publisher().as_mut().map(Publisher::subscriptions);
            match subscriptions.unwrap_or(0) {
                0 => Err("nobody has subscribed"),
                _ => Ok(()),
            }
        })
    }

    /// Whether publications are signed from now on. An unsigned one costs a tenth.
    pub fn sign_publications(&self, sign: bool) {
        self.lock().sign = sign.then(SigAlgo::default);
    }

    /// What sign-ins are answered with from now on.
    pub fn set_door(&self, door: Door) {
        self.lock().door = door;
    }

    /// A mute master takes requests and answers none; it does not keep them either, as one that hangs would not.
    pub fn set_mute(&self, mute: bool) {
        self.lock().mute = mute;
    }

    /// A paused master lets requests wait and answers them when it goes on, as a busy one does.
    pub fn set_paused(&self, paused: bool) {
        if let Some(port) = &self.port {
            port.set_paused(paused);
        }
    }

    /// New AES and session keys, serials from 1: what a restart or a key rotation does.
    ///
    /// # Errors
    /// When the random number generator fails.
    pub fn rotate_keys(&self) -> Result<()> {
        let (aes, session) = (AesKey::generate()?, AesKey::generate()?);
        let mut state = self.lock();
        (state.master.aes, state.master.session, state.serial) = (aes, session, 0);
        Ok(())
    }

    /// The master's keys as they are, to forge with.
    #[must_use]
    pub fn master(&self) -> Master {
        self.lock().master.clone()
    }

    /// Looks at what has arrived.
    pub fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.lock().seen)
    }

    /// Forgets what has arrived.
    pub fn forget(&self) {
        self.lock().seen = Seen::default();
    }

    /// Waits until at least `count` returns have arrived.
    ///
    /// # Errors
    /// When they do not in time.
    pub fn await_returns(&self, count: usize, within: Duration) -> Result<()> {
        wait_until(&format!("{count} returns"), within, || {
            match self.seen(|seen| seen.returns.len()) {
                seen if seen >= count => Ok(()),
                seen => Err(format!("{seen} returns")),
            }
        })
    }

    /// Waits for an event with this tag, and gives it.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn await_event(&self, tag: &str, within: Duration) -> Result<EventSeen> {
        wait_until(&format!("an event {tag}"), within, || {
            self.seen(
                |seen| match seen.events.iter().find(|event| event.tag == tag) {
                    Some(event) => Ok(event.clone()),
                    None => Err(format!("{} other events", seen.events.len())),
                },
            )
        })
    }

    /// Closes both ports and every connection.
    pub fn stop(&mut self) {
        self.port = None;
        *self.publisher() = None;
    }

    /// Opens both ports again, with the same keys.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn start_again(&mut self) -> Result<()> {
        *self.publisher() = Some(Publisher::bind(&self.address)?);
        self.open_port()
    }

    fn open_port(&mut self) -> Result<()> {
        let state = Arc::clone(&self.state);
        let answer = move |frame: Bytes| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.answer(&frame)
        };
        self.port = Some(RequestPort::bind(self.address.socket(4506), answer)?);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publisher(&self) -> MutexGuard<'_, Option<Publisher>> {
        self.publisher
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn publish_endpoint(address: &Address) -> String {
    format!("tcp://{}", address.socket(4505))
}

impl Publisher {
    fn bind(address: &Address) -> Result<Self> {
        // XPUB behaves as PUB towards subscribers, and tells of them.
        let socket = zmq::Context::new().socket(zmq::XPUB)?;
        socket.set_linger(0)?;
        // A stand-in never drops: who measures losses wants to know whose they are.
        socket.set_sndhwm(0)?;
        let endpoint = publish_endpoint(address);
        socket
            .bind(&endpoint)
            .with_context(|| format!("failed to listen on {endpoint}"))?;
        Ok(Self {
            socket,
            subscriptions: 0,
        })
    }

    fn subscriptions(&mut self) -> usize {
        while let Ok(told) = self.socket.recv_bytes(zmq::DONTWAIT) {
            match told.first() {
                Some(1) => self.subscriptions += 1,
                Some(0) => self.subscriptions = self.subscriptions.saturating_sub(1),
                _ => {}
            }
        }
        self.subscriptions
    }
}

impl State {
    fn answer(&mut self, frame: &Bytes) -> Option<Bytes> {
        self.seen.requests += 1;
        if self.mute {
            return None;
        }
        if let Ok(request) = gate::read_auth(frame) {
            self.seen.sign_ins += 1;
            return match self.door {
                Door::Open => self.master.accept(&request).ok(),
                Door::Pending => self.master.answer(&request, true).ok(),
                Door::Rejected => self.master.answer(&request, false).ok(),
                Door::Silent => None,
            };
        }
        let Ok(request) = self.master.open(frame) else {
            self.seen.unreadable.push(frame.clone());
            return Some(bad_load());
        };
        if self.seen.take(request.id.as_str(), &request.load).is_err() {
            self.seen.others.push(request.load);
        }
        self.master.reply(&request.nonce, &Value::Nil).ok()
    }
}

impl Seen {
    fn take(&mut self, site: &str, load: &Value) -> Result<()> {
        match load.get_str("cmd") {
            Some("_syndic_return") => {
                let elements = load.get("load").and_then(Value::as_array);
                for element in elements.context("no elements")? {
                    self.take_element(site, element)?;
                }
                self.batches += 1;
            }
            Some("_minion_event") => {
                let whole = [load.clone()];
                let events = load.get("events").and_then(Value::as_array);
                for event in events.unwrap_or(&whole) {
                    let (tag, data) = (event.get_str("tag"), event.get("data"));
                    self.events.push(EventSeen {
                        site: site.to_owned(),
                        tag: tag.context("no tag")?.to_owned(),
                        data: data.context("no data")?.clone(),
                    });
                }
            }
            _ => bail!("another command"),
        }
        Ok(())
    }

    fn take_element(&mut self, site: &str, element: &Value) -> Result<()> {
        let jid = element.get_str("jid").context("no jid")?;
        let returns = element.get("return").and_then(Value::as_map);
        for (minion, fields) in returns.context("no returns")? {
            self.returns.push(ReturnSeen {
                site: site.to_owned(),
                jid: jid.to_owned(),
                minion: minion.as_str().context("no minion")?.to_owned(),
                fields: fields.clone(),
                load: element.get("load").cloned().unwrap_or(Value::Nil),
            });
        }
        Ok(())
    }
}

//! Whether the lower master runs, and whether its minions listen to it again after a restart.
//!
//! The event bus tells: it breaks when the master ends and comes back when the master has started. A master that has just
//! started publishes to nobody: its minions need up to some ten seconds to connect again (`recon_default`, `recon_max`),
//! and ZeroMQ's publish port keeps nothing for them. Their connections are counted in `/proc/net/tcp`.
//!
//! ```text
//!            bus connected, first time
//!   Away ────────────────────────────────► Up ──bus lost──► Away
//!     │                                    ▲
//!     └─bus connected again─► Settling ────┘ as many connections as before, or SETTLE_MAX
//! ```

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use daemon_kit::CancellationToken;
use salt_link::{local_master::LocalMaster, salt_config::MasterConfig};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use crate::telemetry::Telemetry;

/// How long minions are waited for. Salt's defaults let a minion try again after 1 to 11 s.
const SETTLE_MAX: Duration = Duration::from_secs(12);

/// How often connections are counted while they are waited for.
const SETTLE_INTERVAL: Duration = Duration::from_millis(100);

/// From a connection until the master has seen the subscription that comes with it.
const SUBSCRIBED_AFTER: Duration = Duration::from_millis(200);

/// How often connections are counted otherwise: with 50,000 minions the file has some megabytes.
const COUNT_INTERVAL: Duration = Duration::from_secs(30);

/// Minions whose start is remembered; above that every minion counts as started.
const STARTED_MAX: usize = 10_000;

/// How the lower master is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MasterState {
    /// Its event bus is not there.
    Away,
    /// It has started; its minions connect.
    Settling,
    /// It can be published on.
    Up,
}

/// Tells and hears how the lower master is; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LowerMaster {
    state: watch::Sender<MasterState>,
    /// When it was missed before its latest restart, once it is up again.
    died_at: watch::Sender<Option<Instant>>,
    missed_at: Arc<Mutex<Option<Instant>>>,
    /// Minions that started anew since then, by their start events.
    started: Arc<Mutex<HashSet<String>>>,
}

impl LowerMaster {
    /// Nothing is known yet.
    pub(crate) fn new() -> Self {
        Self {
            state: watch::Sender::new(MasterState::Away),
            died_at: watch::Sender::new(None),
            missed_at: Arc::default(),
            started: Arc::default(),
        }
    }

    /// Tells each restart, once the master is up again: the moment at which it was missed.
    pub(crate) fn restarts(&self) -> watch::Receiver<Option<Instant>> {
        self.died_at.subscribe()
    }

    /// A minion has started anew: it remembers no jids.
    pub(crate) fn minion_started(&self, minion: &str) {
        let mut started = lock(&self.started);
        if started.len() < STARTED_MAX {
            started.insert(minion.to_owned());
        }
    }

    /// Whether the minion may have started since the master was missed.
    pub(crate) fn has_started(&self, minion: &str) -> bool {
        let started = lock(&self.started);
        started.len() >= STARTED_MAX || started.contains(minion)
    }

    /// The event bus stands; `first` for the first time since the start of the shim.
    pub(crate) fn bus_connected(&self, first: bool) {
        let state = if first {
            MasterState::Up
        } else {
            MasterState::Settling
        };
        self.state.send_replace(state);
    }

    /// The event bus is gone.
    pub(crate) fn bus_disconnected(&self) {
        if self.state.send_replace(MasterState::Away) != MasterState::Away {
            *lock(&self.missed_at) = Some(Instant::now());
            lock(&self.started).clear();
        }
    }

    /// Its minions have connected again.
    fn settled(&self) {
        let up = self.state.send_if_modified(|state| {
            let settling = *state == MasterState::Settling;
            if settling {
                *state = MasterState::Up;
            }
            settling
        });
        if up {
            self.died_at.send_replace(*lock(&self.missed_at));
        }
    }

    /// Waits until the master can be published on.
    pub(crate) async fn up(&self) {
        self.until(|state| state == MasterState::Up).await;
    }

    /// Waits until the master is away.
    pub(crate) async fn away(&self) {
        self.until(|state| state == MasterState::Away).await;
    }

    async fn until(&self, is: impl Fn(MasterState) -> bool) {
        let mut state = self.state.subscribe();
        // The sender lives as long as `self`.
        drop(state.wait_for(|state| is(*state)).await);
    }
}

/// How long the lower master may be silent before it is asked whether it lives.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Asks the lower master for a sign of life whenever it has given none for a while, until `shutdown`.
pub(crate) async fn keep_asking(
    local: Arc<LocalMaster>,
    telemetry: Telemetry,
    shutdown: CancellationToken,
) {
    let ask = async {
        loop {
            let silent = telemetry.lower_master_silent();
            if silent >= SILENCE_MAX && local.ping().await.is_ok() {
                telemetry.lower_master_lives();
            }
            // Never at once again: a master that is away answers by not answering.
            sleep(
                SILENCE_MAX
                    .saturating_sub(silent)
                    .max(Duration::from_secs(1)),
            )
            .await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = ask => {}
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts the minions' connections and ends [`MasterState::Settling`].
pub(crate) struct MinionsTask {
    master: LowerMaster,
    listener: Listener,
    telemetry: Telemetry,
    /// Connections at the last count while the master was up.
    before: usize,
}

impl MinionsTask {
    pub(crate) fn new(master: LowerMaster, config: &MasterConfig, telemetry: Telemetry) -> Self {
        Self {
            master,
            listener: Listener::new(&config.interface, config.publish_port),
            telemetry,
            before: 0,
        }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let watch = async {
            let mut state = self.master.state.subscribe();
            loop {
                let now = *state.borrow_and_update();
                match now {
                    MasterState::Up => {
                        let connections = self.listener.connections();
                        // Away in between: the connections went with it.
                        if !state.has_changed().unwrap_or(true) {
                            self.before = connections;
                        }
                        let next = Instant::now() + COUNT_INTERVAL;
                        drop(timeout_at(next, state.changed()).await);
                    }
                    MasterState::Settling => {
                        self.settle(&mut state).await;
                    }
                    MasterState::Away => drop(state.changed().await),
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = watch => {}
        }
    }

    /// Waits for the minions, unless the master goes away again.
    async fn settle(&self, state: &mut watch::Receiver<MasterState>) {
        let began = Instant::now();
        let waiting = async {
            while self.listener.connections() < self.before && began.elapsed() < SETTLE_MAX {
                sleep(SETTLE_INTERVAL).await;
            }
            sleep(SUBSCRIBED_AFTER).await;
        };
        tokio::select! {
            () = waiting => {}
            _ = state.changed() => return,
        }
        let connections = self.listener.connections();
        self.telemetry
            .minions_settled(connections, self.before, began.elapsed());
        self.master.settled();
    }
}

/// The lower master's publish port, as `/proc/net/tcp` writes it.
struct Listener {
    /// `None` for every address of the host.
    address: Option<String>,
    port: String,
}

impl Listener {
    fn new(interface: &str, port: u16) -> Self {
        let address = match interface.parse() {
            Ok(IpAddr::V4(address)) if address != Ipv4Addr::UNSPECIFIED => {
                Some(format!("{:08X}", u32::from_le_bytes(address.octets())))
            }
            Ok(IpAddr::V6(address)) if address != Ipv6Addr::UNSPECIFIED => Some(hex_v6(address)),
            // A host name may stand for several addresses.
            Ok(_) | Err(_) => None,
        };
        Self {
            address,
            port: format!("{port:04X}"),
        }
    }

    /// Established connections to the port.
    fn connections(&self) -> usize {
        let files = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
        let texts = files.map(|file| std::fs::read_to_string(file).unwrap_or_default());
        texts.iter().map(|text| self.count(text)).sum()
    }

    fn count(&self, text: &str) -> usize {
        let established = |line: &&str| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let (Some(local), _, Some("01")) = (fields.next(), fields.next(), fields.next()) else {
                return false;
            };
            let Some((address, port)) = local.split_once(':') else {
                return false;
            };
            port == self.port && self.address.as_ref().is_none_or(|own| own == address)
        };
        text.lines().filter(established).count()
    }
}

/// Four words in the host's byte order.
fn hex_v6(address: Ipv6Addr) -> String {
    let octets = address.octets();
    let words = octets.chunks_exact(4).filter_map(|word| {
        let word: [u8; 4] = word.try_into().ok()?;
        Some(format!("{:08X}", u32::from_le_bytes(word)))
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1199 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:1199 0200007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
   2: 0100007F:119A 0200007F:C351 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 20 4 30 10 -1
   3: 0300007F:1199 0200007F:C352 01 00000000:00000000 00:00000000 00000000     0        0 4 1 0 20 4 30 10 -1
   4: 0200007F:C350 0100007F:1199 01 00000000:00000000 00:00000000 00000000     0        0 5 1 0 20 4 30 10 -1
";

    #[test]
    fn only_established_connections_to_the_port_count() {
        let count = |interface: &str| Listener::new(interface, 4505).count(TCP);
        assert_eq!(count("127.0.0.1"), 1);
        assert_eq!(count("0.0.0.0"), 2);
        assert_eq!(count("127.0.0.9"), 0);
    }

    #[test]
    fn connections_of_this_very_host_are_read() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let port = Listener::new("127.0.0.1", address.port());
        assert_eq!(port.connections(), 0);
        let _client = std::net::TcpStream::connect(address).expect("connected");
        let _server = listener.accept().expect("accepted");
        assert_eq!(port.connections(), 1);
    }

    #[tokio::test]
    async fn restarted_master_is_not_up_before_its_minions() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let connect = || std::net::TcpStream::connect(address).expect("connected");
        let first = connect();
        let accepted = listener.accept().expect("accepted");
        let master = LowerMaster::new();
        let telemetry = Telemetry::new(&daemon_kit::metrics::Metrics::new("test", "0"), "site1");
        let task = MinionsTask {
            master: master.clone(),
            listener: Listener::new("127.0.0.1", address.port()),
            telemetry,
            before: 0,
        };
        let shutdown = CancellationToken::new();
        let checks = async {
            master.bus_connected(true);
            master.up().await;
            // The count of the connections while it was up.
            sleep(Duration::from_millis(50)).await;
            master.bus_disconnected();
            drop((first, accepted));
            master.bus_connected(false);
            let early = tokio::time::timeout(Duration::from_millis(600), master.up()).await;
            assert!(early.is_err(), "nobody listens yet");
            let _second = connect();
            let _accepted = listener.accept().expect("accepted");
            let up = tokio::time::timeout(Duration::from_secs(5), master.up()).await;
            assert!(up.is_ok(), "the minion is back");
            shutdown.cancel();
        };
        tokio::join!(task.run(shutdown.clone()), checks);
    }
}

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
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use daemon_kit::CancellationToken;
use salt_link::{local_master::LocalMaster, salt_config::MasterConfig};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use self::listener::{Connections, Listener};
use crate::telemetry::Telemetry;

mod listener;

/// How long minions are waited for. Salt's defaults let a minion try again after 1 to 11 s.
const SETTLE_MAX: Duration = Duration::from_secs(12);

/// How often connections are counted while they are waited for.
const SETTLE_INTERVAL: Duration = Duration::from_millis(100);

/// From a connection until the master has seen the subscription that comes with it.
const SUBSCRIBED_AFTER: Duration = Duration::from_millis(200);

/// How often connections are counted otherwise: with 50,000 minions the file has some megabytes.
const COUNT_INTERVAL: Duration = Duration::from_secs(30);

/// The same while somebody waits for minions to connect again; and the looks take at most this share of the time.
const CLOSE_INTERVAL: Duration = Duration::from_millis(250);
const LOOK_SHARE: u32 = 20;

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
    /// Whether somebody waits for minions to connect again.
    closely: watch::Sender<bool>,
    /// Counts the looks that found a new connection to the publish port.
    connected: watch::Sender<u64>,
}

impl LowerMaster {
    /// Nothing is known yet.
    pub(crate) fn new() -> Self {
        Self {
            state: watch::Sender::new(MasterState::Away),
            died_at: watch::Sender::new(None),
            missed_at: Arc::default(),
            started: Arc::default(),
            closely: watch::Sender::new(false),
            connected: watch::Sender::new(0),
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

    /// Whether the master can be published on now.
    pub(crate) fn is_up(&self) -> bool {
        *self.state.borrow() == MasterState::Up
    }

    /// Whether connections are looked for often: somebody is silent who may come back.
    pub(crate) fn watch_closely(&self, closely: bool) {
        self.closely
            .send_if_modified(|now| std::mem::replace(now, closely) != closely);
    }

    /// Tells each time that somebody has connected to the publish port and subscribed.
    pub(crate) fn connections(&self) -> watch::Receiver<u64> {
        self.connected.subscribe()
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
    /// Connections at the last look while the master was up.
    before: Connections,
}

impl MinionsTask {
    pub(crate) fn new(master: LowerMaster, config: &MasterConfig, telemetry: Telemetry) -> Self {
        Self {
            master,
            listener: Listener::new(&config.interface, config.publish_port),
            telemetry,
            before: Connections::default(),
        }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let watch = async {
            let mut state = self.master.state.subscribe();
            loop {
                let now = *state.borrow_and_update();
                match now {
                    MasterState::Up => self.look(&mut state).await,
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

    /// Looks at the connections, and waits until the next look.
    async fn look(&mut self, state: &mut watch::Receiver<MasterState>) {
        let mut closely = self.master.closely.subscribe();
        let is_close = *closely.borrow_and_update();
        let began = Instant::now();
        let connections = self.listener.connections();
        let took = began.elapsed();
        // Away in between: the connections went with it.
        if !state.has_changed().unwrap_or(true) {
            let is_new = connections.has_new(&self.before);
            self.before = connections;
            if is_new && !self.tell_connected(state).await {
                return;
            }
        }
        let pause = if is_close {
            CLOSE_INTERVAL.max(took * LOOK_SHARE)
        } else {
            COUNT_INTERVAL
        };
        tokio::select! {
            _ = state.changed() => {}
            Ok(_) = closely.wait_for(|now| *now != is_close) => {}
            () = sleep(pause) => {}
        }
    }

    /// Whoever has connected subscribes in a moment. False when the master's state has changed before.
    async fn tell_connected(&self, state: &mut watch::Receiver<MasterState>) -> bool {
        tokio::select! {
            () = sleep(SUBSCRIBED_AFTER) => self.master.connected.send_modify(|count| *count += 1),
            _ = state.changed() => return false,
        }
        true
    }

    /// Waits for the minions, unless the master goes away again.
    async fn settle(&mut self, state: &mut watch::Receiver<MasterState>) {
        let began = Instant::now();
        let waiting = async {
            while self.listener.connections().count() < self.before.count()
                && began.elapsed() < SETTLE_MAX
            {
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
            .minions_settled(connections.count(), self.before.count(), began.elapsed());
        self.before = connections;
        self.master.settled();
        self.master.connected.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            before: Connections::default(),
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

    #[tokio::test]
    async fn new_connection_is_told_soon_while_somebody_waits_for_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let master = LowerMaster::new();
        let telemetry = Telemetry::new(&daemon_kit::metrics::Metrics::new("test", "0"), "site1");
        let task = MinionsTask {
            master: master.clone(),
            listener: Listener::new("127.0.0.1", address.port()),
            telemetry,
            before: Connections::default(),
        };
        let shutdown = CancellationToken::new();
        let checks = async {
            master.bus_connected(true);
            master.watch_closely(true);
            let mut connections = master.connections();
            let _first = std::net::TcpStream::connect(address).expect("connected");
            let _accepted = listener.accept().expect("accepted");
            let told = tokio::time::timeout(Duration::from_secs(5), connections.changed()).await;
            assert!(told.is_ok(), "a new connection");
            let again = tokio::time::timeout(3 * CLOSE_INTERVAL, connections.changed()).await;
            assert!(again.is_err(), "the same connection is not new");
            shutdown.cancel();
        };
        tokio::join!(task.run(shutdown.clone()), checks);
    }
}

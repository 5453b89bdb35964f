//! Simulated minions of a real master: they sign in, hear its publications, run jobs once, return, and give receipts.
//!
//! ```text
//! master 4505 ──► ears (threads, a SUB socket for each minion) ──► Site ──timers──► requests ──► master 4506
//! ```
//! - What a minion of Salt does is done: a queue of 100 jids, a session of its own, one return for each job.
//! - All share one key pair: making 2,000 would take minutes, and the master does not mind.
//! - Receipts follow the rules of the minion-shim (`minion-shim/src`), or are the start events of Salt 3008.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use salt_link::{
    queue::QueueBounds,
    requester::{RequestPool, RequestPoolConfig},
    session::{Session, SessionConfig},
    sign_in::{SignIn, SignInConfig},
    socket::Endpoint,
};
use salt_wire::{
    ids::{Jid, MinionId},
    msgpack::Value,
    publication::PublicationLoad,
    saltway::{Happened, MinionEvent, MinionState, MinionWord, Receipt},
};
use tokio::{
    sync::mpsc,
    task::{JoinSet, LocalSet},
    time::Instant,
};

mod ears;

use self::ears::{Ears, Heard};

/// `minion_jid_queue_hwm`.
const JID_QUEUE: usize = 100;
/// As the minion-shim: time between a take and its receipt, at least and at most. Between them: a quarter of
/// what the master took for the last returns.
const RECEIPT_AFTER: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// As the minion-shim: time between two receipts of a minion; four times what the master took.
const RECEIPT_INTERVAL: (Duration, Duration) =
    (Duration::from_millis(50), Duration::from_millis(900));
/// What a master takes while nothing is known.
const ANSWERS_WITHIN: Duration = Duration::from_millis(10);
/// A master under load takes its time.
const REQUEST_WITHIN: Duration = Duration::from_secs(600);
/// Requests under way at once; each minion of Salt has a socket of its own, but a master has a few workers.
const REQUEST_SOCKETS: usize = 64;
/// What the ears have heard and the site has not taken; a full channel makes the ears wait.
const HEARD_MAX: usize = 16_384;

/// How the minions tell what they took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipts {
    /// Not at all.
    Off,
    /// As with a minion-shim beside each.
    Shim,
    /// As Salt 3008 does by itself, when the job asks for it.
    StartEvent,
}

/// Who they are and where their master is.
#[derive(Debug)]
pub struct Plan {
    /// Their ids.
    pub ids: Vec<String>,
    /// The master's publish port.
    pub publish: SocketAddr,
    /// The master's request port.
    pub request: SocketAddr,
    /// Holds `minion.pem`, `minion.pub` and `syndic_master.pub`.
    pub pki_dir: PathBuf,
    /// How long each function takes.
    pub takes: fn(&str) -> Duration,
}

/// Requests that the minions have made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requests {
    /// `_return`.
    pub returns: u64,
    /// `_minion_event`.
    pub events: u64,
    /// Without an answer.
    pub failed: u64,
}

#[derive(Default)]
struct Counts {
    returns: AtomicU64,
    events: AtomicU64,
    failed: AtomicU64,
    repeated: AtomicU64,
}

/// What the caller and the minions share.
struct Shared {
    receipts: Mutex<Receipts>,
    /// The jids that each minion ran, in their order.
    runs: Mutex<Vec<Vec<String>>>,
    counts: Counts,
}

/// The minions; dropping them ends the process' part in them.
pub struct Minions {
    shared: Arc<Shared>,
    ears: Ears,
    heard: mpsc::Sender<Heard>,
}

impl Minions {
    /// Signs all of them in and subscribes.
    ///
    /// # Errors
    /// When the master does not take one of them.
    pub fn start(plan: Plan) -> Result<Self> {
        let shared = Arc::new(Shared {
            receipts: Mutex::new(Receipts::Off),
            runs: Mutex::new(vec![Vec::new(); plan.ids.len()]),
            counts: Counts::default(),
        });
        let (heard, inbox) = mpsc::channel(HEARD_MAX);
        let (ready, signed_in) = std::sync::mpsc::channel();
        let (publish, count, of_site) = (plan.publish, plan.ids.len(), Arc::clone(&shared));
        thread::Builder::new()
            .name("minions".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let Ok(runtime) = runtime else { return };
                LocalSet::new().block_on(&runtime, async move {
                    match sign_in(&plan).await {
                        Ok(sessions) => {
                            let aes = sessions.first().and_then(|session| session.current());
                            drop(ready.send(Ok(aes.map(|keys| keys.credentials.aes.clone()))));
                            Site::new(plan, sessions, of_site).run(inbox).await;
                        }
                        Err(err) => drop(ready.send(Err(err))),
                    }
                });
            })?;
        let aes = signed_in.recv().context("the minions' thread ended")??;
        let aes = aes.context("there are no minions")?;
        let ears = Ears::start(publish, count, &aes, &heard)?;
        Ok(Self {
            shared,
            ears,
            heard,
        })
    }

    /// From now on they give receipts so.
    pub fn give_receipts(&self, receipts: Receipts) {
        *lock(&self.shared.receipts) = receipts;
    }

    /// What these are sent is lost from now on, as on a connection that a firewall forgot.
    pub fn deafen(&self, minions: &[usize]) {
        self.ears.deafen(minions);
    }

    /// All of the deaf ones have a new connection, and their shims say so.
    ///
    /// # Errors
    /// When the minions have ended.
    pub fn hear_again(&self) -> Result<()> {
        for minion in self.ears.hear_again() {
            let heard = Heard::Reconnected { minion };
            self.heard
                .blocking_send(heard)
                .map_err(|_| anyhow!("the minions have ended"))?;
        }
        Ok(())
    }

    /// The jids that each minion ran, in their order.
    #[must_use]
    pub fn runs(&self) -> Vec<Vec<String>> {
        lock(&self.shared.runs).clone()
    }

    /// Publications of a jid that the minion had already, and ignored.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.shared.counts.repeated.load(Ordering::Relaxed)
    }

    /// Requests so far.
    #[must_use]
    pub fn requests(&self) -> Requests {
        let counts = &self.shared.counts;
        Requests {
            returns: counts.returns.load(Ordering::Relaxed),
            events: counts.events.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
        }
    }
}

async fn sign_in(plan: &Plan) -> Result<Vec<Arc<Session>>> {
    let endpoint = Endpoint::tcp(&plan.request.ip().to_string(), plan.request.port())?;
    let pool = RequestPool::spawn(RequestPoolConfig {
        sockets: REQUEST_SOCKETS,
        queue: QueueBounds {
            entries: 1 << 20,
            bytes: 1 << 30,
        },
        ..RequestPoolConfig::new(endpoint)
    })?;
    let pool = Arc::new(pool);
    let mut sessions = Vec::with_capacity(plan.ids.len());
    for id in &plan.ids {
        let mut config = SignInConfig::new(MinionId::parse(id)?, plan.pki_dir.clone());
        config.auth_timeout = REQUEST_WITHIN;
        let requester: Arc<RequestPool> = Arc::clone(&pool);
        let sign_in = SignIn::new(config, requester)?;
        sessions.push(Arc::new(Session::new(sign_in, SessionConfig::default())?));
    }
    let mut all = JoinSet::new();
    for session in &sessions {
        let session = Arc::clone(session);
        all.spawn_local(async move { drop(session.signed_in().await) });
    }
    while let Some(one) = all.join_next().await {
        one?;
    }
    Ok(sessions)
}

/// One minion's memory.
#[derive(Default)]
struct Minion {
    jids: VecDeque<String>,
    /// Taken, and the return is not on its way.
    unreturned: Vec<(Jid, Instant)>,
    /// Of these, those that no receipt has told of.
    untold: Vec<Jid>,
    receipt_due: Option<Instant>,
    last_receipt: Option<Instant>,
    taken: VecDeque<Jid>,
    /// When the returns on their way were sent.
    returning: VecDeque<Instant>,
    /// What the master took for the last returns.
    answers_within: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Return { minion: usize, jid: String },
    Receipt { minion: usize },
}

/// How long the master took for a minion's return.
type Answered = Option<(usize, Duration)>;

struct Site {
    plan: Plan,
    sessions: Vec<Arc<Session>>,
    shared: Arc<Shared>,
    minions: Vec<Minion>,
    /// What each jid asks for.
    loads: BTreeMap<String, Arc<PublicationLoad>>,
    timers: BTreeMap<(Instant, Due), ()>,
    requests: JoinSet<Answered>,
    since: Instant,
}

impl Site {
    fn new(plan: Plan, sessions: Vec<Arc<Session>>, shared: Arc<Shared>) -> Self {
        let minions = plan.ids.iter().map(|_| Minion::default()).collect();
        Self {
            plan,
            sessions,
            shared,
            minions,
            loads: BTreeMap::new(),
            timers: BTreeMap::new(),
            requests: JoinSet::new(),
            since: Instant::now(),
        }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Heard>) {
        loop {
            let next = self.timers.first_key_value().map(|((due, _), ())| *due);
            tokio::select! {
                heard = inbox.recv() => match heard {
                    Some(Heard::Publication { minion, load }) => self.publication(minion, &load),
                    Some(Heard::Reconnected { minion }) => self.reconnected(minion),
                    None => return,
                },
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    self.fire_due();
                }
                Some(answered) = self.requests.join_next() => {
                    if let Ok(Some((minion, took))) = answered {
                        self.answered(minion, took);
                    }
                }
            }
        }
    }

    fn publication(&mut self, minion: usize, load: &Arc<PublicationLoad>) {
        let Some(id) = self.plan.ids.get(minion) else {
            return;
        };
        if !means(load, id) {
            return;
        }
        let jid = load.jid().as_str().to_owned();
        let one = &mut self.minions[minion];
        if one.jids.contains(&jid) {
            self.shared.counts.repeated.fetch_add(1, Ordering::Relaxed);
            return;
        }
        one.jids.push_back(jid.clone());
        if one.jids.len() > JID_QUEUE {
            one.jids.pop_front();
        }
        lock(&self.shared.runs)[minion].push(jid.clone());
        self.loads
            .entry(jid.clone())
            .or_insert_with(|| Arc::clone(load));
        let now = Instant::now();
        let takes = (self.plan.takes)(&load.functions().join(","));
        self.timers
            .insert((now + takes, Due::Return { minion, jid }), ());
        self.tell_taken(minion, load, now);
    }

    fn tell_taken(&mut self, minion: usize, load: &PublicationLoad, now: Instant) {
        let receipts = *lock(&self.shared.receipts);
        let asked = load.fields().get("start_event").and_then(Value::as_bool) == Some(true);
        match receipts {
            Receipts::StartEvent if asked => {
                let id = &self.plan.ids[minion];
                let data = Value::map([
                    ("id", id.as_str().into()),
                    ("jid", load.jid().into()),
                    ("fun", load.fun().clone()),
                    ("tgt", load.tgt().clone()),
                    ("tgt_type", load.tgt_type().into()),
                    ("user", load.user().unwrap_or_default().into()),
                ]);
                let tag = format!("salt/job/{}/start/{id}", load.jid());
                self.send_event(minion, &tag, data);
            }
            Receipts::Off | Receipts::StartEvent => {}
            Receipts::Shim => {
                let one = &mut self.minions[minion];
                one.unreturned.push((load.jid().clone(), now));
                one.taken.push_back(load.jid().clone());
                one.untold.push(load.jid().clone());
                if one.receipt_due.is_none() {
                    let waiting = one.returning.front().map(|since| now - *since);
                    let took = one.answers_within.unwrap_or(ANSWERS_WITHIN);
                    let took = took.max(waiting.unwrap_or_default());
                    let after = (took / 4).clamp(RECEIPT_AFTER.0, RECEIPT_AFTER.1);
                    let interval = (4 * took).clamp(RECEIPT_INTERVAL.0, RECEIPT_INTERVAL.1);
                    let free = one.last_receipt.map_or(now, |last| last + interval);
                    let due = free.max(now + after);
                    one.receipt_due = Some(due);
                    self.timers.insert((due, Due::Receipt { minion }), ());
                }
            }
        }
    }

    fn fire_due(&mut self) {
        let now = Instant::now();
        while let Some(((due, _), ())) = self.timers.first_key_value() {
            if *due > now {
                return;
            }
            match self.timers.pop_first() {
                Some(((_, Due::Return { minion, jid }), ())) => self.send_return(minion, &jid),
                Some(((_, Due::Receipt { minion }), ())) => self.send_receipt(minion, now),
                None => return,
            }
        }
    }

    fn send_return(&mut self, minion: usize, jid: &str) {
        let Some(load) = self.loads.get(jid) else {
            return;
        };
        let one = &mut self.minions[minion];
        one.unreturned.retain(|(taken, _)| taken.as_str() != jid);
        one.untold.retain(|taken| taken.as_str() != jid);
        let mut ret = Value::map([
            ("cmd", "_return".into()),
            ("jid", jid.into()),
            ("fun", load.fun().clone()),
            ("fun_args", load.arg().clone()),
            ("return", Value::Bool(true)),
            ("retcode", Value::Int(0)),
            ("success", Value::Bool(true)),
        ]);
        if let Some(user) = load.user() {
            ret.set("user", user);
        }
        if let Some(master_id) = load.fields().get("master_id") {
            ret.set("master_id", master_id.clone());
        }
        self.shared.counts.returns.fetch_add(1, Ordering::Relaxed);
        self.minions[minion].returning.push_back(Instant::now());
        self.send(minion, ret, true);
    }

    fn send_receipt(&mut self, minion: usize, now: Instant) {
        let one = &mut self.minions[minion];
        one.receipt_due = None;
        if std::mem::take(&mut one.untold).is_empty() {
            return;
        }
        one.last_receipt = Some(now);
        let held = |at: Instant| u32::try_from((now - at).as_millis()).unwrap_or(u32::MAX);
        let jobs = one.unreturned.iter().rev().take(20).rev();
        let jobs = jobs.map(|(jid, at)| (jid.clone(), held(*at))).collect();
        let receipt = MinionWord::Receipt(Receipt {
            run: "simulated".to_owned(),
            jobs,
        });
        self.send_word(minion, receipt);
    }

    fn reconnected(&mut self, minion: usize) {
        if *lock(&self.shared.receipts) != Receipts::Shim {
            return;
        }
        let one = &self.minions[minion];
        let state = MinionWord::State(MinionState {
            run: "simulated".to_owned(),
            version: "0.0.0".to_owned(),
            what: Happened::Reconnected,
            covers_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            taken: one.taken.iter().cloned().collect(),
            undelivered: Vec::new(),
        });
        self.send_word(minion, state);
    }

    fn send_word(&mut self, minion: usize, what: MinionWord) {
        let Ok(id) = MinionId::parse(&self.plan.ids[minion]) else {
            return;
        };
        let event = MinionEvent { id, what };
        self.send_event(minion, &event.tag(), event.data());
    }

    fn send_event(&mut self, minion: usize, tag: &str, data: Value) {
        let load = Value::map([
            ("cmd", "_minion_event".into()),
            ("tag", tag.into()),
            ("data", data),
            ("pretag", Value::Nil),
        ]);
        self.shared.counts.events.fetch_add(1, Ordering::Relaxed);
        self.send(minion, load, false);
    }

    fn answered(&mut self, minion: usize, took: Duration) {
        let one = &mut self.minions[minion];
        one.returning.pop_front();
        let before = &mut one.answers_within;
        *before = Some(before.map_or(took, |before| (3 * before + took) / 4));
    }

    fn send(&mut self, minion: usize, load: Value, is_return: bool) {
        let session = Arc::clone(&self.sessions[minion]);
        let shared = Arc::clone(&self.shared);
        self.requests.spawn_local(async move {
            let began = Instant::now();
            match session.authenticated_request(load, REQUEST_WITHIN).await {
                Ok(_) => is_return.then(|| (minion, began.elapsed())),
                Err(_) => {
                    shared.counts.failed.fetch_add(1, Ordering::Relaxed);
                    None
                }
            }
        });
    }
}

/// The targets that the benchmark uses: everybody, or a list.
fn means(load: &PublicationLoad, id: &str) -> bool {
    match load.tgt() {
        Value::Array(ids) => ids.iter().any(|one| one.as_str() == Some(id)),
        other => match other.as_str() {
            Some("*") => true,
            Some(ids) => load.tgt_type() == "list" && ids.split(',').any(|one| one == id),
            None => false,
        },
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

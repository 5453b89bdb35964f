//! What goes wrong with Redis is noticed at every end, named, and over when it is mended.

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::{Server, append, frame, free_addr, keys, now_ms, open, site};
use redis_link::{
    AppendOutcome, Appender, AppenderConfig, Beaten, Frame, LinkEvent, Outcome, REASONS, Redis,
    RedisConfig, RedisError, ReplyEvent, RequestEvent, RequestsConfig, RequestsConsumer, Role,
    Subscription, SubscriptionConfig, Tunnel, TunnelConfig,
};
use testkit::{Direction, Proxy};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// By when everything has to be noticed, or be well again: 3 s, and a little for this machine. An end whose connection was given
/// up with another one finds out by a new connection that does not come about.
const NOTICED: Duration = Duration::from_millis(4_500);

/// The state of one end: well, or the class and text of what is wrong.
type State = Option<(&'static str, String)>;

/// Both daemons' ends at one relay, with the state of each.
struct Ends {
    states: Arc<Mutex<Vec<(&'static str, State)>>>,
    _tasks: JoinSet<()>,
}

const ENDS: [&str; 5] = ["append", "beat", "link", "replies", "requests"];

impl Ends {
    /// Bridge and site, each with its own way to Redis.
    fn start(bridge: &Redis, site_redis: &Redis) -> Self {
        let down = |text: &str| Some(("connect", text.to_owned()));
        let states = ENDS.map(|end| (end, down("not yet")));
        let states = Arc::new(Mutex::new(states.to_vec()));
        let mut tasks = JoinSet::new();
        let appender = Appender::new(bridge, keys(), site("one"), AppenderConfig::default());
        let appender = Arc::new(appender);
        tasks.spawn(append_on(Arc::clone(&appender), Arc::clone(&states)));
        tasks.spawn(beat_on(appender, Arc::clone(&states)));

        let (sender, events) = mpsc::channel(64);
        let config = SubscriptionConfig::default();
        tasks.spawn(Subscription::new(site_redis, &keys(), config).run(sender));
        tasks.spawn(hear(events, Arc::clone(&states)));

        let (consumer, replier) =
            RequestsConsumer::new(bridge, &keys(), site("one"), RequestsConfig::default());
        let (sender, events) = mpsc::channel(16);
        tasks.spawn(consumer.run(sender));
        tasks.spawn(answer(events, replier, Arc::clone(&states)));

        let (requests, config) = (RequestsConfig::default(), TunnelConfig::default());
        let (tunnel, task) = Tunnel::new(site_redis, &keys(), &site("dc1"), requests, config);
        let (sender, events) = mpsc::channel(16);
        tasks.spawn(task.run(sender));
        tasks.spawn(follow_replies(events, tunnel, Arc::clone(&states)));
        Self {
            states,
            _tasks: tasks,
        }
    }

    fn states(&self) -> Vec<(&'static str, State)> {
        self.states.lock().expect("no panic").clone()
    }

    /// Waits until these ends are not well, each in one of these classes.
    async fn notice(&self, ends: &[&str], classes: &[&str]) {
        assert!(classes.iter().all(|class| REASONS.contains(class)));
        let noticed = |(end, state): &(&str, State)| {
            let class = state.as_ref().map(|(class, _)| *class);
            !ends.contains(end) || class.is_some_and(|class| classes.contains(&class))
        };
        self.wait("notice", |states| states.iter().all(noticed))
            .await;
    }

    async fn well(&self) {
        self.wait("be well", |states| {
            states.iter().all(|(_, state)| state.is_none())
        })
        .await;
    }

    async fn wait(&self, what: &str, holds: impl Fn(&[(&'static str, State)]) -> bool) {
        let began = Instant::now();
        while !holds(&self.states()) {
            assert!(
                began.elapsed() < NOTICED,
                "did not {what}: {:#?}",
                self.states()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn set(states: &Mutex<Vec<(&'static str, State)>>, end: &str, state: State) {
    if let Some((class, text)) = &state {
        assert!(REASONS.contains(class), "{class} is not in the set");
        assert!(text.len() > 20, "{text}");
    }
    let mut states = states.lock().expect("no panic");
    let slot = states.iter_mut().find(|(name, _)| *name == end);
    slot.expect("an end").1 = state;
}

type Shared = Arc<Mutex<Vec<(&'static str, State)>>>;

fn failed(error: &RedisError) -> State {
    Some((error.reason(), error.to_string()))
}

/// Appends half a MiB every 200 ms.
async fn append_on(appender: Arc<Appender>, states: Shared) {
    loop {
        let jobs: Vec<Frame> = (0..128)
            .map(|n| frame(format!("{} {n} {}", now_ms(), "x".repeat(4096))))
            .collect();
        let state = match append(&appender, &jobs).await {
            Ok(_) => None,
            Err(error) => failed(&error),
        };
        set(&states, "append", state);
        sleep(Duration::from_millis(200)).await;
    }
}

async fn beat_on(appender: Arc<Appender>, states: Shared) {
    loop {
        match appender.beat(now_ms()).await {
            Ok(Beaten::Newest(_)) => set(&states, "beat", None),
            Ok(Beaten::Stale) => {}
            Err(error) => set(&states, "beat", failed(&error)),
        }
        sleep(Duration::from_millis(500)).await;
    }
}

async fn hear(mut events: mpsc::Receiver<LinkEvent>, states: Shared) {
    while let Some(event) = events.recv().await {
        match event {
            LinkEvent::Up => {}
            // Well when something comes, not only when the connection stands.
            LinkEvent::Beat { .. } | LinkEvent::Publication(_) => set(&states, "link", None),
            LinkEvent::Down { class, reason } => set(&states, "link", Some((class, reason))),
            LinkEvent::Malformed { reason } => panic!("{reason}"),
        }
    }
}

async fn answer(
    mut events: mpsc::Receiver<RequestEvent>,
    replier: redis_link::Replier,
    states: Shared,
) {
    while let Some(event) = events.recv().await {
        match event {
            RequestEvent::Up => set(&states, "requests", None),
            RequestEvent::Down { class, reason } => {
                set(&states, "requests", Some((class, reason)));
            }
            RequestEvent::Request(request) => {
                let reply = Outcome::Reply(request.frame.clone());
                drop(replier.reply(&request, &reply).await);
            }
            RequestEvent::Malformed { reason, .. } => panic!("{reason}"),
        }
    }
}

/// Keeps a request under way, and follows whether replies are heard.
async fn follow_replies(mut events: mpsc::Receiver<ReplyEvent>, tunnel: Tunnel, states: Shared) {
    let ask = async {
        loop {
            let asked = tunnel.request(Bytes::from_static(b"request"), now_ms(), NOTICED);
            drop(asked.await);
            sleep(Duration::from_millis(200)).await;
        }
    };
    let follow = async {
        while let Some(event) = events.recv().await {
            match event {
                ReplyEvent::Up => set(&states, "replies", None),
                ReplyEvent::Down { class, reason } => {
                    set(&states, "replies", Some((class, reason)));
                }
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::join!(ask, follow);
}

/// A server behind a proxy, and the ends in front of it.
fn proxied(server: &Server) -> (Proxy, Ends) {
    let proxy = Proxy::start(free_addr(), server.addr).expect("a proxy");
    let redis = |role| {
        let config = RedisConfig {
            primary: redis_link::Primary::Url(format!("redis://{}", proxy.socket())),
            ..server.config(role)
        };
        open(&config)
    };
    let ends = Ends::start(&redis("bridge"), &redis("site"));
    (proxy, ends)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_and_never_answers_is_noticed_at_every_end() {
    let server = Server::start();
    let ends = Ends::start(&server.redis("bridge"), &server.redis("site"));
    ends.well().await;
    server.stall();
    ends.notice(&ENDS, &["timeout", "silent"]).await;
    server.go_on();
    ends.well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_link_is_noticed_and_replaced() {
    let server = Server::start();
    let (proxy, ends) = proxied(&server);
    for direction in [Direction::Both, Direction::Up, Direction::Down] {
        ends.well().await;
        proxy.silence(direction);
        ends.notice(&ENDS, &["timeout", "silent", "disconnected", "connect"])
            .await;
        proxy.heal().expect("healed");
    }
    ends.well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_link_and_a_cut_one_are_noticed() {
    let server = Server::start();
    let (proxy, ends) = proxied(&server);
    ends.well().await;
    proxy.stall(Direction::Both);
    ends.notice(&ENDS, &["timeout", "silent", "disconnected", "connect"])
        .await;
    proxy.heal().expect("healed");
    ends.well().await;
    proxy.cut();
    ends.notice(&ENDS, &["connect", "disconnected"]).await;
    proxy.heal().expect("healed");
    ends.well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_empty_is_noticed_and_served_again() {
    let mut server = Server::start_with("appendonly no\n");
    let ends = Ends::start(&server.redis("bridge"), &server.redis("site"));
    ends.well().await;
    server.kill();
    ends.notice(&ENDS, &["connect", "disconnected"]).await;
    server.restart();
    ends.well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flushall_costs_nobody_his_way() {
    let server = Server::start();
    let ends = Ends::start(&server.redis("bridge"), &server.redis("site"));
    ends.well().await;
    for flush in [&b"FLUSHALL"[..], b"FLUSHDB"] {
        server.admin(&[flush]);
        server.admin(&[b"SCRIPT", b"FLUSH"]);
        sleep(Duration::from_millis(1500)).await;
        ends.well().await;
        let groups = server.admin(&[b"XINFO", b"GROUPS", keys().requests().as_bytes()]);
        assert!(matches!(groups, redis::Value::Array(groups) if groups.len() == 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_demoted_is_named_read_only() {
    let server = Server::start();
    let ends = Ends::start(&server.redis("bridge"), &server.redis("site"));
    ends.well().await;
    let nowhere = free_addr().port().to_string();
    server.admin(&[b"REPLICAOF", b"127.0.0.1", nowhere.as_bytes()]);
    ends.notice(&["append", "beat", "requests"], &["read_only"])
        .await;
    // The site hears that its server has lost its primary.
    ends.notice(&["link"], &["primary_lost"]).await;
    server.admin(&[b"REPLICAOF", b"NO", b"ONE"]);
    ends.well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_primary_went_silent_is_named() {
    let (primary, replica) = (Server::start(), Server::start());
    let proxy = Proxy::start(free_addr(), primary.addr).expect("a proxy");
    let port = proxy.socket().port().to_string();
    replica.admin(&[b"REPLICAOF", b"127.0.0.1", port.as_bytes()]);
    while !replica
        .info("replication")
        .contains("master_link_status:up")
    {
        sleep(Duration::from_millis(20)).await;
    }
    let mut config = primary.config("site");
    config.read_url = Some(format!("redis://{}", replica.addr));
    let ends = Ends::start(&primary.redis("bridge"), &open(&config));
    ends.well().await;
    // The replication hangs: for a minute the replica still calls it up.
    proxy.stall(Direction::Both);
    ends.notice(&["link"], &["primary_lost"]).await;
    let text = ends.states()[2].1.clone().expect("down").1;
    assert!(
        text.contains(&replica.addr.to_string()) && text.contains(&port),
        "{text}"
    );
    proxy.heal().expect("healed");
    ends.well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_is_cut_off_for_its_backlog_is_told_so_and_listens_again() {
    let server = Server::start_with("client-output-buffer-limit pubsub 256kb 0 0\n");
    let (proxy, ends) = proxied(&server);
    ends.well().await;
    drop(ends);
    let config = RedisConfig {
        primary: redis_link::Primary::Url(format!("redis://{}", proxy.socket())),
        ..server.config("site")
    };
    let (sender, mut events) = mpsc::channel(64);
    let mut tasks = JoinSet::new();
    let subscription = SubscriptionConfig::default();
    tasks.spawn(Subscription::new(&open(&config), &keys(), subscription).run(sender));
    assert_eq!(events.recv().await, Some(LinkEvent::Up));
    proxy.stall(Direction::Down);
    let payload = vec![b'x'; 1 << 20];
    for _ in 0..20 {
        server.admin(&[b"PUBLISH", keys().publications().as_bytes(), &payload]);
    }
    proxy.heal().expect("healed");
    let down = async {
        loop {
            if let Some(LinkEvent::Down { class, reason }) = events.recv().await {
                return (class, reason);
            }
        }
    };
    let (class, reason) = tokio::time::timeout(NOTICED, down).await.expect("noticed");
    assert_eq!(class, "disconnected", "{reason}");
    assert!(reason.contains("client-output-buffer-limit"), "{reason}");
    let up = async { while events.recv().await != Some(LinkEvent::Up) {} };
    tokio::time::timeout(NOTICED, up)
        .await
        .expect("listens again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_away_is_named_at_its_end_and_missed_no_more_when_it_is_back() {
    let server = Server::start();
    let ends = Ends::start(&server.redis("bridge"), &server.redis("site"));
    ends.well().await;
    for (user, take, give, end, word) in [
        ("saltway-bridge", "-xadd", "+xadd", "append", "xadd"),
        ("saltway-bridge", "-hmget", "+hmget", "beat", "hmget"),
        (
            "saltway-bridge",
            "-xreadgroup",
            "+xreadgroup",
            "requests",
            "xreadgroup",
        ),
        (
            "saltway-site",
            "-subscribe",
            "+subscribe",
            "link",
            "subscribe",
        ),
    ] {
        server.admin(&[b"ACL", b"SETUSER", user.as_bytes(), take.as_bytes()]);
        // A subscription that stands is not asked again.
        server.admin(&[b"CLIENT", b"KILL", b"TYPE", b"pubsub"]);
        ends.notice(&[end], &["not_permitted"]).await;
        let (_, state) = ends
            .states()
            .into_iter()
            .find(|(name, _)| *name == end)
            .expect("it");
        let text = state.expect("not well").1.to_lowercase();
        assert!(
            text.contains(word) && text.contains("redis-acl.conf"),
            "{text}"
        );
        server.admin(&[b"ACL", b"SETUSER", user.as_bytes(), give.as_bytes()]);
        ends.well().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_memory_is_named_and_heart_beats_go_on() {
    let server = Server::start();
    let ends = Ends::start(&server.redis("bridge"), &server.redis("site"));
    ends.well().await;
    server.admin(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    ends.notice(&["append"], &["out_of_memory"]).await;
    let beat = ends.states()[1].1.clone();
    assert!(beat.is_none(), "{beat:?}");
    server.admin(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
    ends.well().await;

    let info = server.redis("bridge").check(&keys(), Role::Bridge).await;
    assert_eq!(info.expect("usable").warnings, [""; 0]);
    server.admin(&[b"CONFIG", b"SET", b"maxmemory-policy", b"allkeys-lru"]);
    let info = server.redis("bridge").check(&keys(), Role::Bridge).await;
    let warnings = info.expect("usable").warnings.concat();
    assert!(
        warnings.contains("allkeys-lru") && warnings.contains("noeviction"),
        "{warnings}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_busy_with_a_script_or_with_loading_is_not_ready() {
    let mut server = Server::start_with("lua-time-limit 50\nenable-debug-command yes\n");
    let ends = Ends::start(&server.redis("bridge"), &server.redis("site"));
    ends.well().await;
    let client = redis::Client::open(format!("redis://{}", server.addr)).expect("a client");
    let busy = std::thread::spawn(move || {
        let mut connection = client.get_connection().expect("connected");
        let mut command = redis::cmd("EVAL");
        command.arg("while true do end").arg(0);
        drop(command.query::<()>(&mut connection));
    });
    ends.notice(&["append", "beat"], &["not_ready"]).await;
    server.admin(&[b"SCRIPT", b"KILL"]);
    busy.join().expect("it ended");
    ends.well().await;

    // Each key takes its time to load: some seconds.
    drop(ends);
    server.admin(&[b"CONFIG", b"SET", b"appendonly", b"no"]);
    server.admin(&[b"DEBUG", b"POPULATE", b"5000", b"key", b"100"]);
    server.admin(&[b"SAVE"]);
    server.kill();
    server.add_lines(
        "appendonly no\nkey-load-delay 500\nloading-process-events-interval-bytes 1024\n",
    );
    server.restart_without_waiting();
    let began = Instant::now();
    loop {
        let appender = common::appender(&server, "probe");
        match appender.append(&[frame("probe")]).await {
            Err(RedisError::NotReady { text, .. }) => {
                assert!(text.contains("LOADING"), "{text}");
                break;
            }
            Err(error) => assert!(error.is_transient(), "{error}"),
            Ok(AppendOutcome::Stale | AppendOutcome::Appended(_)) => panic!("it loads too fast"),
        }
        assert!(began.elapsed() < NOTICED);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_trimmed_away_is_sent_again() {
    let server = Server::start();
    let config = TunnelConfig {
        resend_after: Duration::from_millis(300),
        ..TunnelConfig::default()
    };
    let requests = RequestsConfig::default();
    let redis = server.redis("site");
    let (tunnel, task) = Tunnel::new(&redis, &keys(), &site("dc1"), requests.clone(), config);
    let (sender, _replies) = mpsc::channel(16);
    let mut tasks = JoinSet::new();
    tasks.spawn(task.run(sender));
    let asked = async {
        let request = Bytes::from_static(b"request");
        tunnel
            .request(request, now_ms(), NOTICED)
            .await
            .expect("a reply")
    };
    let trimming = async {
        let stream = keys().requests();
        while server.admin(&[b"XLEN", stream.as_bytes()]) == redis::Value::Int(0) {
            sleep(Duration::from_millis(10)).await;
        }
        server.admin(&[b"XTRIM", stream.as_bytes(), b"MAXLEN", b"0"]);
        let bridge = server.redis("bridge");
        let (consumer, replier) = RequestsConsumer::new(&bridge, &keys(), site("one"), requests);
        let (sender, events) = mpsc::channel(16);
        tasks.spawn(consumer.run(sender));
        let states = ENDS.map(|end| (end, None)).to_vec();
        tasks.spawn(answer(events, replier, Arc::new(Mutex::new(states))));
    };
    let (reply, ()) = tokio::join!(asked, trimming);
    assert_eq!(reply, "request");
}

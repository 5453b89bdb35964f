//! The primary as Sentinel names it: found, followed through failovers, and complained about.

mod common;

use std::time::Duration;

use common::{append, frame, keys, now_ms, open, site};
use redis_link::{
    AppendOutcome, Appender, AppenderConfig, Beaten, LinkEvent, Primary, Redis, RedisConfig,
    RedisError, Role, SentinelConfig, Subscription, SubscriptionConfig,
};
use testkit::{MASTER, Proxy, RedisServer, SentinelServer, Workspace};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const SOON: Duration = Duration::from_secs(30);

fn config(sentinels: &[&SentinelServer]) -> RedisConfig {
    let urls = sentinels.iter().map(|sentinel| sentinel.url()).collect();
    RedisConfig {
        primary: Primary::Sentinel(SentinelConfig::new(MASTER, urls)),
        ..RedisConfig::new("")
    }
}

fn appender(redis: &Redis) -> Appender {
    Appender::new(redis, keys(), site("one"), AppenderConfig::default())
}

fn sentinel(workspace: &Workspace, name: &str, primary: &RedisServer) -> SentinelServer {
    SentinelServer::builder(name)
        .start(workspace, primary)
        .expect("a sentinel starts")
}

/// Appends until Redis takes it.
async fn append_surely(appender: &Appender, text: &str) {
    let frames = [frame(text)];
    let appending = async {
        while let Err(error) = append(appender, &frames).await {
            assert!(error.is_transient(), "{error}");
        }
    };
    timeout(SOON, appending).await.expect("soon");
}

/// Beats until that is refused; returns how long it took.
async fn stale(appender: &Appender) -> Duration {
    let began = Instant::now();
    let refused = async {
        while !matches!(appender.beat(now_ms()).await, Ok(Beaten::Stale)) {
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(SOON, refused).await.expect("refused");
    began.elapsed()
}

/// The entries of the stream of a server.
fn stored(server: &RedisServer) -> Vec<String> {
    let output = server.cli(&["xrange", &keys().publications(), "-", "+"]);
    let stdout = output.expect("redis-cli runs").stdout;
    let lines = stdout.lines().filter(|line| line.starts_with("job "));
    lines.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn real_failover_by_order_and_by_death_lead_to_the_new_primary() {
    let workspace = Workspace::new().expect("/tmp is writable");
    let start = |builder: testkit::RedisBuilder| builder.start(&workspace).expect("redis starts");
    let mut one = start(RedisServer::builder("one"));
    let two = start(RedisServer::builder("two").replica_of(&one));
    let sentinels = ["s1", "s2", "s3"].map(|name| sentinel(&workspace, name, &one));
    for sentinel in &sentinels {
        sentinel.wait_for_replicas(1).expect("known");
    }
    let redis = open(&config(&sentinels.each_ref()));
    redis.check(&keys(), Role::Bridge).await.expect("usable");
    let appender = appender(&redis);
    append_surely(&appender, "job 1").await;
    let first = appender.newest();

    let (sender, mut events) = mpsc::channel(1024);
    let mut tasks = JoinSet::new();
    let heard = SubscriptionConfig::default();
    tasks.spawn(Subscription::new(&redis, &keys(), heard).run(sender));
    assert_eq!(events.recv().await, Some(LinkEvent::Up));

    two.wait_synced(&one).expect("caught up");
    sentinels[0].failover().expect("ordered");
    for sentinel in &sentinels {
        sentinel.wait_for_primary(&two).expect("failed over");
    }
    // The old primary takes writes for some 10 s more; the sentinels are asked every other second.
    append_surely(&appender, "job 2").await;
    stale(&appender).await;
    append_surely(&appender, "job 2").await;
    assert!(
        appender.newest().epoch > first.epoch,
        "a new epoch on the new primary"
    );
    assert_eq!(stored(&two), ["job 1", "job 2"]);

    // The old primary follows the new one; then the new one dies.
    one.wait_synced(&two).expect("follows");
    for sentinel in &sentinels {
        sentinel.wait_for_replicas(1).expect("known");
    }
    let second = appender.newest();
    let mut two = two;
    two.kill();
    append_surely(&appender, "job 3").await;
    assert!(appender.newest().epoch > second.epoch);
    assert_eq!(stored(&one), ["job 1", "job 2", "job 3"]);

    // A listener is led there as well, and hears what comes from now on.
    let heard = async {
        loop {
            append_surely(&appender, &format!("job {}", now_ms())).await;
            while let Ok(event) = events.try_recv() {
                if matches!(&event, LinkEvent::Publication(publication)
                    if publication.entry_id.epoch > second.epoch)
                {
                    return;
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, heard).await.expect("heard");
    one.kill();
}

/// A primary that is cut off from its sentinels, but not from us, takes writes that nobody will see.
#[tokio::test(flavor = "multi_thread")]
async fn real_a_primary_that_its_sentinels_gave_up_is_left_although_it_answers() {
    let workspace = Workspace::new().expect("/tmp is writable");
    let one_address = testkit::Address::lease().expect("an address");
    let (front, back) = (one_address.socket(6380), one_address.socket(6379));
    // Replicas and sentinels reach the primary through the proxy.
    let link = Proxy::start(front, back).expect("a proxy");
    let builder = RedisServer::builder("one")
        .address(one_address)
        .announce(front);
    let one = builder.start(&workspace).expect("redis starts");
    let two = RedisServer::builder("two")
        .replica_of(&one)
        .start(&workspace)
        .expect("redis starts");
    let sentinels = ["s1", "s2"].map(|name| sentinel(&workspace, name, &one));
    for sentinel in &sentinels {
        sentinel.wait_for_replicas(1).expect("known");
    }
    let redis = open(&config(&sentinels.each_ref()));
    let appender = appender(&redis);
    append_surely(&appender, "job 1").await;
    appender.beat(now_ms()).await.expect("a beat");
    two.wait_synced(&one).expect("caught up");

    // We keep our connections: the sentinels lose theirs only.
    for sentinel in &sentinels {
        // What a partition between the sentinels and the primary looks like to them.
        let moved = two.announced();
        sentinel
            .cli(&["sentinel", "remove", MASTER])
            .expect("removed");
        let (ip, port) = (moved.ip().to_string(), moved.port().to_string());
        sentinel
            .cli(&["sentinel", "monitor", MASTER, &ip, &port, "1"])
            .expect("monitored");
    }
    two.promote().expect("promoted");
    assert!(
        one.is_primary().expect("it answers"),
        "the old one still takes writes"
    );
    let took = stale(&appender).await;
    assert!(took < Duration::from_secs(4), "{took:?}");
    let outcome = appender.append(&[frame("job 2")]).await.expect("an answer");
    assert_eq!(outcome, AppendOutcome::Stale);
    append_surely(&appender, "job 2").await;
    assert_eq!(stored(&two), ["job 1", "job 2"]);
    assert_eq!(stored(&one), ["job 1"]);
    drop(link);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_sentinels_is_told_by_name() {
    let workspace = Workspace::new().expect("/tmp is writable");
    let primary = RedisServer::builder("one")
        .start(&workspace)
        .expect("redis starts");
    let replica = RedisServer::builder("two")
        .replica_of(&primary)
        .start(&workspace)
        .expect("redis starts");
    let sentinel = SentinelServer::builder("s1")
        .password("secret")
        .start(&workspace, &primary)
        .expect("a sentinel starts");
    let fails = async |urls: Vec<String>, master: &str, password: Option<&str>| {
        let mut sentinels = SentinelConfig::new(master, urls);
        sentinels.password_file = password.map(|password| {
            let path = workspace.path().join("password");
            std::fs::write(&path, password).expect("written");
            path
        });
        let config = RedisConfig {
            primary: Primary::Sentinel(sentinels),
            ..RedisConfig::new("")
        };
        let error = open(&config).check(&keys(), Role::Bridge).await.err();
        error.map(|error| (error.to_string(), error))
    };
    let told = |failed: Option<(String, RedisError)>, parts: &[&str]| {
        let (text, error) = failed.expect("a complaint");
        for part in parts {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        error
    };
    let dead = format!("redis://{}", common::free_addr());

    // A dead one and a server that is no sentinel do no harm beside one that answers.
    let urls = vec![dead.clone(), primary.url(), sentinel.url()];
    assert!(fails(urls, MASTER, Some("secret")).await.is_none());

    let failed = fails(vec![dead.clone(), primary.url()], MASTER, None).await;
    let error = told(
        failed,
        &[
            &dead,
            "Connection refused",
            &primary.url(),
            "is no sentinel",
        ],
    );
    assert!(matches!(error, RedisError::NoSentinel { .. }) && error.is_transient());

    let failed = fails(vec![sentinel.url()], MASTER, None).await;
    told(failed, &[&sentinel.url(), "redis.sentinel.password_file"]);

    let failed = fails(vec![sentinel.url()], "nobody", Some("secret")).await;
    let error = told(failed, &["nobody", &sentinel.url(), "sentinel monitor"]);
    assert!(matches!(error, RedisError::UnknownMaster { .. }) && !error.is_transient());

    // One that hangs.
    sentinel.process().expect("runs").pause().expect("paused");
    let failed = fails(vec![sentinel.url()], MASTER, Some("secret")).await;
    told(failed, &[&sentinel.url(), "did not answer within 1s"]);
    sentinel.process().expect("runs").resume().expect("resumed");

    // One that names a replica, as it does until a failover is done.
    let (ip, port) = (
        replica.socket().ip().to_string(),
        replica.socket().port().to_string(),
    );
    sentinel
        .cli(&["sentinel", "remove", MASTER])
        .expect("removed");
    sentinel
        .cli(&["sentinel", "monitor", MASTER, &ip, &port, "1"])
        .expect("monitored");
    let failed = fails(vec![sentinel.url()], MASTER, Some("secret")).await;
    let error = told(failed, &[&ip, "read-only replica", MASTER]);
    assert!(matches!(error, RedisError::ReadOnly { .. }) && error.is_transient());
}

//! The real redis-server under our hands.

use testkit::{RedisServer, SentinelServer, Workspace};

#[test]
fn a_restarted_or_killed_server_comes_back_with_its_data() {
    let workspace = Workspace::new().expect("/tmp is writable");
    let mut redis = RedisServer::builder("redis")
        .line("appendfsync always")
        .start(&workspace)
        .expect("redis starts");
    let get = |redis: &RedisServer| {
        redis
            .cli(&["get", "key"])
            .expect("redis-cli runs")
            .stdout
            .trim()
            .to_owned()
    };
    redis.cli(&["set", "key", "value"]).expect("redis-cli runs");

    redis.restart().expect("redis starts again");
    assert_eq!(get(&redis), "value");

    redis.kill();
    assert_ne!(redis.cli(&["ping"]).expect("redis-cli runs").code, 0);
    redis.start().expect("redis starts again");
    assert_eq!(get(&redis), "value");
    assert!(
        redis
            .process()
            .expect("it runs")
            .usage()
            .expect("it runs")
            .rss
            > 1_000_000
    );
}

#[test]
fn a_password_is_asked_for() {
    let workspace = Workspace::new().expect("/tmp is writable");
    let redis = RedisServer::builder("redis")
        .password("secret")
        .start(&workspace)
        .expect("redis starts");
    assert_eq!(
        redis.cli(&["ping"]).expect("redis-cli runs").stdout.trim(),
        "PONG"
    );
    let socket = redis.socket();
    let mut plain = std::process::Command::new("redis-cli");
    plain.args([
        "-h",
        &socket.ip().to_string(),
        "-p",
        &socket.port().to_string(),
        "ping",
    ]);
    let refused = plain.output().expect("redis-cli runs");
    assert!(
        String::from_utf8_lossy(&refused.stdout).contains("NOAUTH"),
        "{refused:?}"
    );
}

#[test]
fn real_sentinels_fail_over_by_order_and_when_the_primary_dies() {
    let workspace = Workspace::new().expect("/tmp is writable");
    let mut one = RedisServer::builder("one")
        .password("secret")
        .start(&workspace)
        .expect("redis starts");
    let two = RedisServer::builder("two")
        .replica_of(&one)
        .start(&workspace)
        .expect("redis starts");
    let sentinels: Vec<SentinelServer> = ["s1", "s2"]
        .into_iter()
        .map(|name| {
            SentinelServer::builder(name)
                .quorum(1)
                .start(&workspace, &one)
                .expect("a sentinel starts")
        })
        .collect();
    one.cli(&["set", "key", "value"]).expect("redis-cli runs");
    two.wait_synced(&one).expect("caught up");
    for sentinel in &sentinels {
        sentinel.wait_for_replicas(1).expect("known");
        assert_eq!(sentinel.primary().expect("named"), one.announced());
    }

    sentinels[0].failover().expect("ordered");
    for sentinel in &sentinels {
        sentinel.wait_for_primary(&two).expect("failed over");
    }
    one.wait_synced(&two).expect("the old primary follows");
    let get = one.cli(&["get", "key"]).expect("redis-cli runs");
    assert_eq!(get.stdout.trim(), "value");

    // The roles are written to the configuration files, so that they hold after a restart.
    one.restart().expect("redis starts again");
    assert!(!one.is_primary().expect("it answers"));
    for sentinel in &sentinels {
        sentinel.wait_for_replicas(1).expect("known");
    }
    let mut two = two;
    two.kill();
    for sentinel in &sentinels {
        sentinel.wait_for_primary(&one).expect("failed over");
    }
}

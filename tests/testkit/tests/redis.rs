//! The real redis-server under our hands.

use testkit::{RedisServer, Workspace};

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

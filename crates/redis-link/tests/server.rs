//! The redis-server that a bridge looks after itself.

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{append, frame, free_addr, keys, open, site};
use redis_link::{
    Appender, AppenderConfig, ManagedRedis, ManagedRedisConfig, Redis, Role, ServerError,
};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_secs(30);

fn config(state: &tempfile::TempDir) -> ManagedRedisConfig {
    ManagedRedisConfig {
        listen: free_addr(),
        ..ManagedRedisConfig::new(state.path())
    }
}

fn appender(redis: &Redis) -> Appender {
    Appender::new(redis, keys(), site("one"), AppenderConfig::default())
}

fn kill(pid: u32) {
    let status = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status();
    assert!(status.expect("kill runs").success());
}

fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie has ended.
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[tokio::test]
async fn it_serves_with_a_generated_password_and_stops_with_the_bridge() {
    let state = tempfile::tempdir().expect("a directory");
    let password_file = state.path().join("secret");
    let config = ManagedRedisConfig {
        password_file: Some(password_file.clone()),
        ..config(&state)
    };
    let managed = ManagedRedis::start(config).await.expect("started");
    let pid = managed.pid();
    let mode = std::fs::metadata(&password_file)
        .expect("made")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let secret = std::fs::read_to_string(&password_file).expect("readable");
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).expect("runs");
    assert!(!String::from_utf8_lossy(&arguments).contains(secret.trim()));

    let redis = open(managed.redis_config());
    redis.check(&keys(), Role::Bridge).await.expect("usable");
    append(&appender(&redis), &[frame("x")])
        .await
        .expect("appended");
    let mut nobody = managed.redis_config().clone();
    nobody.password_file = None;
    let error = open(&nobody)
        .check(&keys(), Role::Bridge)
        .await
        .expect_err("no password");
    assert!(error.to_string().contains("redis.password_file"), "{error}");

    let (stop, stopped) = oneshot::channel::<()>();
    let mut tasks = JoinSet::new();
    tasks.spawn(managed.run(async move { drop(stopped.await) }, |_| {}));
    stop.send(()).expect("it runs");
    timeout(SOON, tasks.join_all()).await.expect("stopped");
    assert!(!is_running(pid));
}

#[tokio::test]
async fn it_is_started_again_when_it_ends_and_keeps_its_data() {
    let state = tempfile::tempdir().expect("a directory");
    let managed = ManagedRedis::start(config(&state)).await.expect("started");
    let pid = managed.pid();
    let redis = open(managed.redis_config());
    let appender = appender(&redis);
    let frames = [frame("x"), frame("y")];
    let first = append(&appender, &frames[..1]).await.expect("appended")[0].entry_id;
    // The log of writes is flushed each second.
    sleep(Duration::from_millis(1500)).await;
    let restarts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&restarts);
    let (stop, stopped) = oneshot::channel::<()>();
    let mut tasks = JoinSet::new();
    let count = move |reason: &str| {
        assert!(reason.contains("signal: 9"), "{reason}");
        counter.fetch_add(1, Ordering::Relaxed);
    };
    tasks.spawn(managed.run(async move { drop(stopped.await) }, count));
    kill(pid);
    let again = timeout(SOON, async {
        loop {
            match append(&appender, &frames).await {
                Ok(appended) => return appended,
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
    });
    let again = again.await.expect("soon");
    assert_eq!((again[0].entry_id, again[0].duplicate), (first, true));
    assert!(again[1].entry_id.epoch > first.epoch);
    timeout(SOON, async {
        while restarts.load(Ordering::Relaxed) == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("told");
    stop.send(()).expect("it runs");
    timeout(SOON, tasks.join_all()).await.expect("stopped");
}

#[tokio::test]
async fn a_server_that_outlived_its_bridge_is_adopted_and_stopped() {
    let state = tempfile::tempdir().expect("a directory");
    let config = config(&state);
    let first = ManagedRedis::start(config.clone()).await.expect("started");
    let pid = first.pid();
    // A bridge that is killed does not say good-bye.
    drop(first);
    assert!(is_running(pid));
    let second = ManagedRedis::start(config.clone()).await.expect("adopted");
    assert_eq!(second.pid(), pid);
    drop(second);
    // With another address it cannot be used: it is stopped, and a new one started.
    let moved = ManagedRedisConfig {
        listen: free_addr(),
        ..config
    };
    let third = timeout(SOON, ManagedRedis::start(moved))
        .await
        .expect("soon")
        .expect("started");
    assert_ne!(third.pid(), pid);
    assert!(!is_running(pid));
    third.run(std::future::ready(()), |_| {}).await;
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_told() {
    let state = tempfile::tempdir().expect("a directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let listen = taken.local_addr().expect("an address");
    let start = |config| async {
        ManagedRedis::start(config)
            .await
            .map(|_| ())
            .expect_err("cannot")
    };
    let error = start(ManagedRedisConfig {
        listen,
        ..config(&state)
    })
    .await;
    assert!(matches!(error, ServerError::AddressInUse { .. }), "{error}");
    assert!(error.to_string().contains("redis.url"), "{error}");

    let program = "/nonexistent/redis-server".into();
    let error = start(ManagedRedisConfig {
        program,
        ..config(&state)
    })
    .await;
    assert!(
        error.to_string().contains("install redis-server"),
        "{error}"
    );

    let program = "/bin/false".into();
    let error = start(ManagedRedisConfig {
        program,
        ..config(&state)
    })
    .await;
    assert!(matches!(error, ServerError::Ended { .. }), "{error}");

    let file = state.path().join("file");
    std::fs::write(&file, "").expect("written");
    let error = start(ManagedRedisConfig {
        state_dir: file.clone(),
        ..config(&state)
    })
    .await;
    assert!(error.to_string().contains("state_dir"), "{error}");
    let password_file = Some(file);
    let error = start(ManagedRedisConfig {
        password_file,
        ..config(&state)
    })
    .await;
    assert!(matches!(error, ServerError::NoPassword { .. }), "{error}");
}

//! Publications from appenders to sequencers, over real servers that fail.

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use common::{Server, append, appender, counted, frame, keys, now_ms, open, site};
use redis_link::{
    Appender, AppenderConfig, Beaten, Frame, LinkEvent, Redis, RedisConfig, RedisError, Role,
    StreamReader, Subscription, SubscriptionConfig,
};
use relay_core::EntryId;
use relay_core::sequence::{Action, Event, Sequencer, SequencerConfig};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

/// What a sequencer did.
#[derive(Debug, Default)]
struct Followed {
    frames: Vec<Bytes>,
    lost: Vec<(EntryId, EntryId)>,
    malformed: Vec<String>,
    epochs: Vec<u64>,
}

/// Runs a sequencer over a real link until `wanted` publications came.
async fn follow(redis: Redis, cursor: Option<EntryId>, wanted: usize) -> Followed {
    let (sender, mut events) = mpsc::channel(64);
    let mut tasks = JoinSet::new();
    tasks.spawn(Subscription::new(&redis, &keys(), SubscriptionConfig::default()).run(sender));
    let reader = StreamReader::new(&redis, keys());
    let mut sequencer = Sequencer::new(cursor, SequencerConfig::default());
    let mut followed = Followed::default();
    while followed.frames.len() < wanted {
        let event = match events.recv().await.expect("the subscription runs") {
            LinkEvent::Up => Event::Connected,
            LinkEvent::Publication(publication) => Event::Published(publication),
            LinkEvent::Beat { newest, .. } => Event::Beat { newest },
            LinkEvent::Down { .. } => continue,
            LinkEvent::Malformed { reason } => {
                followed.malformed.push(reason);
                continue;
            }
        };
        let mut actions = sequencer.apply(event);
        while !actions.is_empty() {
            for action in std::mem::take(&mut actions) {
                match action {
                    Action::Deliver(publication) => followed.frames.push(publication.frame),
                    Action::Lost { from, to } | Action::Ended { from, to } => {
                        followed.lost.push((from, to));
                    }
                    Action::ReadFrom { after } => {
                        actions.extend(match reader.read_after(after, 100).await {
                            Ok(read) => {
                                let reasons = read.malformed.into_iter().map(|(_, reason)| reason);
                                followed.malformed.extend(reasons);
                                sequencer.apply(Event::Page(read.page))
                            }
                            Err(_) => sequencer.apply(Event::ReadFailed { after }),
                        });
                    }
                    Action::NewEpoch { epoch, .. } => followed.epochs.push(epoch),
                    Action::Duplicate(_) | Action::Behind { .. } => {}
                }
            }
        }
    }
    followed
}

/// Appends until Redis takes it.
async fn append_surely(appender: &Appender, frames: &[Frame]) {
    loop {
        match append(appender, frames).await {
            Ok(_) => return,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
}

#[tokio::test]
async fn two_bridges_append_the_same_frames_once_and_in_order() {
    let server = Server::start();
    let frames: Vec<Frame> = (0..500).map(|n| frame(format!("job {n}"))).collect();
    let (one, two) = (appender(&server, "one"), appender(&server, "two"));
    let (a, b) = tokio::join!(append(&one, &frames), append(&two, &frames));
    let (a, b) = (a.expect("appended"), b.expect("appended"));
    let mut ids = Vec::new();
    for (a, b) in a.iter().zip(&b) {
        assert_eq!(a.entry_id, b.entry_id);
        assert_ne!(a.duplicate, b.duplicate);
        ids.push(a.entry_id);
    }
    let epoch = ids[0].epoch;
    assert_eq!(
        ids,
        (1..=500)
            .map(|n| EntryId::new(epoch, n))
            .collect::<Vec<_>>()
    );
    assert_eq!(
        one.beat(now_ms()).await.expect("a beat"),
        Beaten::Newest(EntryId::new(epoch, 500))
    );
}

#[tokio::test]
async fn numbers_are_consecutive_under_concurrency() {
    let server = Server::start();
    let mut tasks = JoinSet::new();
    for bridge in 0..8 {
        let appender = appender(&server, &format!("bridge-{bridge}"));
        tasks.spawn(async move {
            let mut ids = Vec::new();
            for n in 0..50 {
                let appended = append(&appender, &[frame(format!("{bridge}/{n}"))]).await;
                ids.push(appended.expect("appended")[0].entry_id.number);
            }
            ids
        });
    }
    let mut numbers: Vec<u64> = tasks.join_all().await.concat();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=400).collect::<Vec<_>>());
}

/// Beats until it is heard.
async fn beat_surely(appender: &Appender) {
    while appender.beat(now_ms()).await.expect("a beat") == Beaten::Stale {
        appender.begin_epoch(now_ms()).await.expect("an epoch");
    }
}

/// Appends all frames one by one, then beats until dropped.
async fn append_then_beat(appender: Appender, frames: Vec<Frame>) {
    for frame in &frames {
        append_surely(&appender, std::slice::from_ref(frame)).await;
    }
    loop {
        drop(appender.beat(now_ms()).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_publication_arrives_once_and_in_order_through_a_restart_of_redis() {
    let mut server = Server::start();
    let appender = appender(&server, "one");
    let frames: Vec<Frame> = (0..3000).map(|n| frame(format!("job {n}"))).collect();
    let expected: Vec<Bytes> = frames.iter().map(|frame| frame.frame.clone()).collect();
    append_surely(&appender, &frames[..1]).await;
    let cursor = appender.newest().previous();
    let (redis, reconnects) = counted(&server.config("site"));
    let mut appending = JoinSet::new();
    appending.spawn(append_then_beat(appender, frames));
    let mut following = JoinSet::new();
    following.spawn(follow(redis.clone(), Some(cursor), 3000));
    let probe = StreamReader::new(&redis, keys());
    while probe
        .read_after(cursor, 1)
        .await
        .expect("a page")
        .page
        .newest
        .number
        < 500
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.kill();
    server.restart();
    let followed = timeout(SOON, following.join_next())
        .await
        .expect("soon")
        .expect("a task");
    let followed = followed.expect("no panic");
    assert_eq!(followed.frames, expected);
    assert_eq!(followed.lost, []);
    assert!(
        reconnects.load(Ordering::Relaxed) > 0,
        "Redis was restarted too late to matter"
    );
}

#[tokio::test]
async fn after_flushall_a_greater_epoch_is_followed_from_its_first_number() {
    let server = Server::start();
    let appender = appender(&server, "one");
    append_surely(&appender, &[frame("one"), frame("two")]).await;
    let last = appender.newest();
    server.admin(&[b"FLUSHALL"]);
    append_surely(&appender, &[frame("three"), frame("four")]).await;
    let begun = appender.newest();
    assert!(begun.epoch > last.epoch, "{last} then {begun}");
    assert_eq!(begun.number, 2);
    let followed = timeout(SOON, follow(server.redis("site"), Some(last), 2))
        .await
        .expect("soon");
    assert_eq!(followed.frames, [Bytes::from("three"), Bytes::from("four")]);
    assert_eq!(followed.epochs, [begun.epoch]);
}

#[tokio::test]
async fn a_trimmed_gap_is_reported_as_lost() {
    let server = Server::start();
    let appender = appender(&server, "one");
    let frames: Vec<Frame> = (0..20).map(|n| frame(format!("job {n}"))).collect();
    append_surely(&appender, &frames).await;
    let newest = appender.newest();
    let id = |number| EntryId::new(newest.epoch, number);
    server.admin(&[b"XTRIM", keys().publications().as_bytes(), b"MAXLEN", b"5"]);
    let followed = timeout(SOON, follow(server.redis("site"), Some(id(3)), 5))
        .await
        .expect("soon");
    assert_eq!(followed.lost, [(id(4), id(15))]);
    assert_eq!(followed.frames.len(), 5);
}

#[tokio::test]
async fn garbage_in_the_stream_and_the_channel_is_reported_and_passed_over() {
    let server = Server::start();
    let appender = appender(&server, "one");
    append_surely(&appender, &[frame("one")]).await;
    let cursor = appender.newest().previous();
    let stream = keys().publications();
    let stream = stream.as_bytes();
    for _ in 0..40 {
        server.admin(&[b"XADD", stream, b"*", b"\xff\x00", b"\xfe"]);
    }
    server.admin(&[b"XADD", stream, b"*", b"v", b"7", b"t", b"1", b"f", b"x"]);
    // The stream's end is foreign now: the next frames begin a new epoch.
    append_surely(&appender, &[frame("two")]).await;
    let following = follow(server.redis("site"), Some(cursor), 3);
    let publishing = async {
        for message in [
            &b""[..],
            b"\xff\xfe\n",
            b"v=9 id=1-1 t=1\nx",
            b"v=1 id=1 t=1\n",
            b"no line end",
            &[b'x'; 100_000],
        ] {
            server.admin(&[b"PUBLISH", stream, message]);
        }
        append_surely(&appender, &[frame("three")]).await;
        loop {
            appender.beat(now_ms()).await.expect("a beat");
            server.admin(&[b"PUBLISH", stream, b"v=9 id=1-1 t=1\nx"]);
            append_surely(&appender, &[frame("three")]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let followed = timeout(SOON, async {
        tokio::select! { followed = following => followed, () = publishing => unreachable!() }
    });
    let followed = followed.await.expect("soon");
    assert_eq!(followed.frames, ["one", "two", "three"].map(Bytes::from));
    assert!(
        followed
            .malformed
            .iter()
            .filter(|reason| reason.contains("no field v"))
            .count()
            >= 40
    );
    assert!(
        followed
            .malformed
            .iter()
            .any(|reason| reason.contains("unknown version v=7"))
    );
}

#[tokio::test]
async fn a_frame_too_large_for_pub_sub_is_announced_and_read() {
    let server = Server::start();
    let appender = appender(&server, "one");
    let following = follow(server.redis("site"), Some(EntryId::ZERO), 2);
    let large = Bytes::from(vec![7_u8; 3 << 20]);
    let frames = [
        Frame {
            received_at_ms: 1,
            frame: large.clone(),
        },
        frame("small"),
    ];
    let appending = async {
        append_surely(&appender, &frames).await;
        std::future::pending::<()>().await;
    };
    let followed = timeout(SOON, async {
        tokio::select! { followed = following => followed, () = appending => unreachable!() }
    });
    let followed = followed.await.expect("soon");
    assert_eq!(followed.frames, [large, Bytes::from("small")]);
}

#[tokio::test]
async fn the_clock_is_named_in_the_stream_in_the_channel_and_in_heart_beats() {
    let server = Server::start();
    let named = |clock: &str| {
        let config = AppenderConfig {
            clock: clock.to_owned(),
            ..AppenderConfig::default()
        };
        Appender::new(&server.redis("bridge"), keys(), site("one"), config)
    };
    let (sender, mut events) = mpsc::channel(64);
    let mut tasks = JoinSet::new();
    let redis = server.redis("site");
    tasks.spawn(Subscription::new(&redis, &keys(), SubscriptionConfig::default()).run(sender));
    assert_eq!(events.recv().await, Some(LinkEvent::Up));
    for (clock, told) in [
        ("one/1795000000000", Some("one/1795000000000")),
        ("", None),
        (&"x".repeat(301), None),
    ] {
        let appender = named(clock);
        append_surely(&appender, &[frame(format!("by {clock}"))]).await;
        appender.beat(now_ms()).await.expect("a beat");
        match events.recv().await {
            Some(LinkEvent::Publication(heard)) => assert_eq!(heard.clock.as_deref(), told),
            other => panic!("{other:?}"),
        }
        match events.recv().await {
            Some(LinkEvent::Beat { clock, .. }) => assert_eq!(clock.as_deref(), told),
            other => panic!("{other:?}"),
        }
        let before = appender.newest().previous();
        let read = StreamReader::new(&redis, keys())
            .read_after(before, 1)
            .await;
        let entries = read.expect("a page").page.entries;
        assert_eq!(entries[0].clock.as_deref(), told);
    }
}

#[tokio::test]
async fn the_script_is_loaded_again_after_the_server_forgot_it() {
    let server = Server::start();
    let appender = appender(&server, "one");
    append_surely(&appender, &[frame("one")]).await;
    server.admin(&[b"SCRIPT", b"FLUSH"]);
    let appended = append(&appender, &[frame("two"), frame("three")])
        .await
        .expect("appended");
    assert_eq!(
        appended
            .iter()
            .map(|a| a.entry_id.number)
            .collect::<Vec<_>>(),
        [2, 3]
    );
}

#[tokio::test]
async fn silence_is_down_and_a_stalled_server_is_noticed() {
    let server = Server::start();
    let (sender, mut events) = mpsc::channel(64);
    let mut tasks = JoinSet::new();
    let config = SubscriptionConfig {
        silence_max: Duration::from_millis(300),
        ..SubscriptionConfig::default()
    };
    tasks.spawn(Subscription::new(&server.redis("site"), &keys(), config).run(sender));
    assert_eq!(events.recv().await, Some(LinkEvent::Up));
    match events.recv().await {
        Some(LinkEvent::Down { reason, .. }) => {
            assert!(reason.contains("no heart-beat"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    let appender = appender(&server, "one");
    beat_surely(&appender).await;
    assert_eq!(events.recv().await, Some(LinkEvent::Up));
    assert!(matches!(events.recv().await, Some(LinkEvent::Beat { bridge, .. }) if bridge == "one"));
    server.stall();
    let noticed = tokio::time::Instant::now();
    match timeout(SOON, appender.beat(now_ms())).await.expect("soon") {
        Err(error @ RedisError::TimedOut { .. }) => assert!(error.is_transient()),
        other => panic!("{other:?}"),
    }
    assert!(noticed.elapsed() < Duration::from_secs(3));
    // First the missing beats, then the missing PONG.
    for part in ["no heart-beat", "did not answer"] {
        match timeout(Duration::from_secs(5), events.recv())
            .await
            .expect("soon")
        {
            Some(LinkEvent::Down { reason, .. }) => assert!(reason.contains(part), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let server = Server::start();
    server
        .redis("bridge")
        .check(&keys(), Role::Bridge)
        .await
        .expect("every right is there");
    server
        .redis("site")
        .check(&keys(), Role::Site)
        .await
        .expect("every right is there");

    let mut wrong = server.config("site");
    wrong.password_file = Some(server.file("wrong"));
    let error = open(&wrong)
        .check(&keys(), Role::Site)
        .await
        .expect_err("a wrong password");
    assert!(
        matches!(error, RedisError::WrongPassword { .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("redis.password_file") && !error.is_transient(),
        "{error}"
    );

    let error = server
        .redis("site")
        .check(&keys(), Role::Bridge)
        .await
        .expect_err("a site's rights");
    let text = error.to_string();
    assert!(
        matches!(error, RedisError::NotPermitted { .. }),
        "{error:?}"
    );
    for command in ["evalsha", "xreadgroup", "publish", "xack"] {
        assert!(
            text.to_lowercase().contains(command),
            "{command} is not named in {text}"
        );
    }

    server.admin(&[b"ACL", b"SETUSER", b"saltway-bridge", b"-xadd"]);
    let error = append(&appender(&server, "one"), &[frame("x")])
        .await
        .expect_err("no XADD");
    assert!(
        matches!(error, RedisError::NotPermitted { .. }),
        "{error:?}"
    );
    assert!(error.to_string().to_lowercase().contains("xadd"), "{error}");
    let error = server
        .redis("bridge")
        .check(&keys(), Role::Bridge)
        .await
        .expect_err("no XADD");
    assert!(error.to_string().to_lowercase().contains("xadd"), "{error}");

    server.admin(&[b"ACL", b"SETUSER", b"saltway-bridge", b"+xadd"]);
    server.admin(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    let error = append(&appender(&server, "one"), &[frame("x")])
        .await
        .expect_err("no memory");
    assert!(
        matches!(error, RedisError::OutOfMemory { .. }) && error.is_transient(),
        "{error:?}"
    );
    server.admin(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);

    let nowhere = common::free_addr().port().to_string();
    server.admin(&[b"REPLICAOF", b"127.0.0.1", nowhere.as_bytes()]);
    let error = append(&appender(&server, "one"), &[frame("x")])
        .await
        .expect_err("a replica");
    assert!(matches!(error, RedisError::ReadOnly { .. }), "{error:?}");
    assert!(error.to_string().contains("redis.read_url"), "{error}");

    let gone = RedisConfig::new(format!("redis://127.0.0.1:{nowhere}"));
    let error = open(&gone)
        .check(&keys(), Role::Bridge)
        .await
        .expect_err("nobody there");
    assert!(
        matches!(error, RedisError::Connect { .. }) && error.is_transient(),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_streams_are_measured_and_stay_within_their_bounds() {
    let server = Server::start();
    let config = AppenderConfig {
        publications_max: 200,
        ..AppenderConfig::default()
    };
    let appender = Appender::new(&server.redis("bridge"), keys(), site("one"), config);
    let stored = appender.stored().await.expect("measured");
    assert_eq!((stored.publications, stored.requests), (0, 0));
    let frames: Vec<Frame> = (0..2000).map(|n| frame(format!("job {n}"))).collect();
    append_surely(&appender, &frames).await;
    server.admin(&[b"XADD", keys().requests().as_bytes(), b"*", b"a", b"b"]);
    let stored = appender.stored().await.expect("measured");
    // Redis trims whole nodes of 100 entries.
    assert!((200..=300).contains(&stored.publications), "{stored:?}");
    assert_eq!(stored.requests, 1);
}

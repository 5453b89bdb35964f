//! Requests through the tunnel, over real servers and bridges that fail.

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::{Server, counted, keys, now_ms, site};
use redis_link::{
    Outcome, Replier, ReplyEvent, Request, RequestEvent, RequestsConfig, RequestsConsumer, Tunnel,
    TunnelConfig, TunnelError,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);

/// A bridge's consumer: its events, its replier, and what runs it.
struct Bridge {
    events: mpsc::Receiver<RequestEvent>,
    replier: Replier,
    _tasks: JoinSet<()>,
}

fn bridge(server: &Server, name: &str) -> Bridge {
    let config = RequestsConfig {
        reply_bytes_max: 1 << 20,
        ..RequestsConfig::default()
    };
    let (consumer, replier) =
        RequestsConsumer::new(&server.redis("bridge"), &keys(), site(name), config);
    let (sender, events) = mpsc::channel(16);
    let mut tasks = JoinSet::new();
    tasks.spawn(consumer.run(sender));
    Bridge {
        events,
        replier,
        _tasks: tasks,
    }
}

impl Bridge {
    async fn request(&mut self) -> Request {
        loop {
            match self.events.recv().await.expect("the consumer runs") {
                RequestEvent::Request(request) => return request,
                RequestEvent::Up | RequestEvent::Down { .. } => {}
                RequestEvent::Malformed { entry_id, reason } => panic!("{entry_id}: {reason}"),
            }
        }
    }

    /// Echoes each request until dropped.
    async fn echo(mut self) {
        loop {
            let request = self.request().await;
            let reply = [b"re: ", request.frame.as_ref()].concat();
            drop(
                self.replier
                    .reply(&request, &Outcome::Reply(reply.into()))
                    .await,
            );
        }
    }
}

fn tunnel(
    server: &Server,
    name: &str,
    config: TunnelConfig,
) -> (Tunnel, mpsc::Receiver<ReplyEvent>, JoinSet<()>) {
    let requests = RequestsConfig::default();
    let (tunnel, task) = Tunnel::new(
        &server.redis("site"),
        &keys(),
        &site(name),
        requests,
        config,
    );
    let (sender, events) = mpsc::channel(64);
    let mut tasks = JoinSet::new();
    tasks.spawn(task.run(sender));
    (tunnel, events, tasks)
}

fn hasty() -> TunnelConfig {
    TunnelConfig {
        resend_after: Duration::from_millis(300),
        ..TunnelConfig::default()
    }
}

fn stream_len(server: &Server) -> i64 {
    match server.admin(&[b"XLEN", keys().requests().as_bytes()]) {
        redis::Value::Int(len) => len,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn replies_reach_the_requests_that_they_answer() {
    let server = Server::start();
    let (one, _events, _tasks) = tunnel(&server, "dc1", TunnelConfig::default());
    let (two, _events, _tasks2) = tunnel(&server, "dc2", TunnelConfig::default());
    let mut bridges = JoinSet::new();
    bridges.spawn(bridge(&server, "a").echo());
    bridges.spawn(bridge(&server, "b").echo());
    let mut calls = JoinSet::new();
    for n in 0..200 {
        let tunnel = if n % 2 == 0 { one.clone() } else { two.clone() };
        calls.spawn(async move {
            let request = Bytes::from(format!("request {n}"));
            let reply = tunnel
                .request(request, now_ms(), SOON)
                .await
                .expect("a reply");
            assert_eq!(reply, format!("re: request {n}"));
        });
    }
    timeout(SOON, calls.join_all()).await.expect("all replied");
    assert_eq!((one.in_flight(), two.in_flight()), (0, 0));
    assert_eq!(
        stream_len(&server),
        0,
        "a request leaves the stream with its reply"
    );
}

#[tokio::test]
async fn refusals_time_outs_and_replies_too_large_are_told_apart() {
    let server = Server::start();
    let (tunnel, _events, _tasks) = tunnel(&server, "dc1", TunnelConfig::default());
    let mut bridge = bridge(&server, "a");
    let answers = [
        Outcome::Refused("clear-publish".to_owned()),
        Outcome::TimedOut("mom".to_owned()),
        Outcome::Reply(Bytes::from(vec![0; 2 << 20])),
    ];
    let serving = async {
        for outcome in &answers {
            let request = bridge.request().await;
            bridge
                .replier
                .reply(&request, outcome)
                .await
                .expect("published");
        }
    };
    let asking = async {
        let request = || tunnel.request(Bytes::from("x"), now_ms(), SOON);
        let error = request().await.expect_err("refused");
        assert!(matches!(&error, TunnelError::Refused { reason, .. } if reason == "clear-publish"));
        assert!(!error.is_transient());
        let error = request().await.expect_err("timed out");
        assert!(matches!(&error, TunnelError::MasterTimedOut { .. }) && error.is_transient());
        let error = request().await.expect_err("too large");
        assert!(
            matches!(&error, TunnelError::Refused { reason, .. } if reason == "reply-too-large")
        );
    };
    timeout(SOON, async { tokio::join!(serving, asking) })
        .await
        .expect("soon");
}

#[tokio::test]
async fn a_request_without_a_bridge_ends_at_its_deadline_and_is_repeated_until_then() {
    let server = Server::start();
    let (tunnel, _events, _tasks) = tunnel(&server, "dc1", hasty());
    let request = tunnel.request(Bytes::from("x"), now_ms(), Duration::from_millis(1500));
    match request.await.expect_err("nobody replies") {
        TunnelError::DeadlineExceeded { sends, .. } => {
            assert!((3..=6).contains(&sends), "sent {sends} times");
            assert_eq!(stream_len(&server), i64::from(sends));
        }
        other => panic!("{other}"),
    }
    assert_eq!(tunnel.in_flight(), 0);
    // A bridge that comes later sees one id in all copies.
    let mut bridge = bridge(&server, "a");
    let (first, second) = (bridge.request().await, bridge.request().await);
    assert_eq!(first.rid, second.rid);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tunnel_survives_a_restart_of_redis() {
    let mut server = Server::start();
    let (redis, reconnects) = counted(&server.config("site"));
    let (tunnel, task) = Tunnel::new(
        &redis,
        &keys(),
        &site("dc1"),
        RequestsConfig::default(),
        hasty(),
    );
    let (sender, mut events) = mpsc::channel(64);
    let mut tasks = JoinSet::new();
    tasks.spawn(task.run(sender));
    tasks.spawn(bridge(&server, "a").echo());
    let reply = tunnel
        .request(Bytes::from("before"), now_ms(), SOON)
        .await
        .expect("a reply");
    assert_eq!(reply, "re: before");
    server.kill();
    let mut calls = JoinSet::new();
    for n in 0..20 {
        let tunnel = tunnel.clone();
        calls.spawn(async move {
            tunnel
                .request(Bytes::from(format!("{n}")), now_ms(), SOON)
                .await
                .expect("a reply")
        });
    }
    while !matches!(events.recv().await.expect("runs"), ReplyEvent::Down { .. }) {}
    server.restart();
    let replies = timeout(SOON, calls.join_all()).await.expect("all replied");
    assert_eq!(replies.len(), 20);
    assert!(reconnects.load(std::sync::atomic::Ordering::Relaxed) > 0);
    // Also an emptied server, which has lost the consumer group.
    server.admin(&[b"FLUSHALL"]);
    let reply = tunnel
        .request(Bytes::from("after"), now_ms(), SOON)
        .await
        .expect("a reply");
    assert_eq!(reply, "re: after");
}

#[tokio::test]
async fn two_bridges_share_the_requests_and_one_takes_over_what_the_other_left() {
    let server = Server::start();
    let (tunnel, _events, _tasks) = tunnel(
        &server,
        "dc1",
        TunnelConfig {
            resend_after: Duration::from_secs(3600),
            ..TunnelConfig::default()
        },
    );
    let mut dies = bridge(&server, "dies");
    let mut calls = JoinSet::new();
    for n in 0..10 {
        let tunnel = tunnel.clone();
        calls.spawn(async move {
            tunnel
                .request(Bytes::from(format!("{n}")), now_ms(), SOON)
                .await
                .expect("a reply")
        });
    }
    // It has taken some and is gone, with everything that it knew.
    let taken: Vec<Request> = vec![dies.request().await, dies.request().await];
    drop(dies);
    drop(taken);
    let mut bridges = JoinSet::new();
    bridges.spawn(bridge(&server, "lives").echo());
    timeout(SOON, calls.join_all()).await.expect("all replied");
    assert_eq!(stream_len(&server), 0);
}

#[tokio::test]
async fn a_request_under_way_is_not_taken_over_from_a_live_bridge() {
    let server = Server::start();
    let (tunnel, _events, _tasks) = tunnel(
        &server,
        "dc1",
        TunnelConfig {
            resend_after: Duration::from_secs(3600),
            ..TunnelConfig::default()
        },
    );
    let mut slow = bridge(&server, "slow");
    let asking = tunnel.request(Bytes::from("x"), now_ms(), SOON);
    let serving = async {
        let request = slow.request().await;
        let mut other = bridge(&server, "other");
        // Longer than the idle time after which a request is taken over.
        let stolen = timeout(Duration::from_secs(9), other.request()).await;
        assert!(stolen.is_err(), "{stolen:?}");
        slow.replier
            .reply(&request, &Outcome::Reply(Bytes::from("late")))
            .await
            .expect("published");
    };
    let (reply, ()) = tokio::join!(asking, serving);
    assert_eq!(reply.expect("a reply"), "late");
}

#[tokio::test]
async fn a_restarted_bridge_begins_with_what_it_had_taken() {
    let server = Server::start();
    let (tunnel, _events, _tasks) = tunnel(
        &server,
        "dc1",
        TunnelConfig {
            resend_after: Duration::from_secs(3600),
            ..TunnelConfig::default()
        },
    );
    let mut asking = JoinSet::new();
    asking.spawn(async move { tunnel.request(Bytes::from("x"), now_ms(), SOON).await });
    let mut before = bridge(&server, "a");
    let rid = before.request().await.rid.clone();
    drop(before);
    let mut after = bridge(&server, "a");
    let request = timeout(Duration::from_secs(3), after.request())
        .await
        .expect("at once");
    assert_eq!(request.rid, rid);
}

#[tokio::test]
async fn garbage_is_deleted_and_reported_and_does_not_stop_requests() {
    let server = Server::start();
    let requests = keys().requests();
    let rid = "0123456789abcdef0123456789abcdef";
    let entries: [&[&[u8]]; 6] = [
        &[b"\xff", b"\x00"],
        &[b"v", b"2", b"site", b"dc1"],
        &[
            b"v",
            b"1",
            b"site",
            b"no good",
            b"rid",
            rid.as_bytes(),
            b"t",
            b"1",
            b"f",
            b"x",
        ],
        &[
            b"v", b"1", b"site", b"dc1", b"rid", b"short", b"t", b"1", b"f", b"x",
        ],
        &[
            b"v",
            b"1",
            b"site",
            b"dc1",
            b"rid",
            rid.as_bytes(),
            b"t",
            b"soon",
            b"f",
            b"x",
        ],
        &[
            b"v",
            b"1",
            b"site",
            b"dc1",
            b"rid",
            rid.as_bytes(),
            b"t",
            b"1",
        ],
    ];
    for fields in entries {
        server.admin(&[&[&b"XADD"[..], requests.as_bytes(), b"*"], fields].concat());
    }
    let mut bridge = bridge(&server, "a");
    let mut reasons = Vec::new();
    while reasons.len() < entries.len() {
        match timeout(SOON, bridge.events.recv())
            .await
            .expect("soon")
            .expect("runs")
        {
            RequestEvent::Malformed { reason, .. } => reasons.push(reason),
            RequestEvent::Up => {}
            other => panic!("{other:?}"),
        }
    }
    for (reason, part) in
        reasons
            .iter()
            .zip(["no field v", "v=2", "site", "rid", "field t", "field f"])
    {
        assert!(reason.contains(part), "{reason}");
    }
    assert_eq!(stream_len(&server), 0);

    let (tunnel, mut events, _tasks) = tunnel(&server, "dc1", TunnelConfig::default());
    assert_eq!(events.recv().await, Some(ReplyEvent::Up));
    let channel = keys().replies(&site("dc1"));
    let unknown = format!("v=1 rid={rid} status=ok\nnobody waits");
    let messages = [
        &b""[..],
        b"\xff\n",
        b"v=3 rid=1\n",
        b"v=1 rid=x status=ok\n",
        unknown.as_bytes(),
    ];
    for message in messages {
        server.admin(&[b"PUBLISH", channel.as_bytes(), message]);
    }
    let mut bridges = JoinSet::new();
    bridges.spawn(bridge.echo());
    let reply = tunnel
        .request(Bytes::from("x"), now_ms(), SOON)
        .await
        .expect("a reply");
    assert_eq!(reply, "re: x");
    let mut malformed = 0;
    while let Ok(event) = events.try_recv() {
        malformed += usize::from(matches!(event, ReplyEvent::Malformed { .. }));
    }
    assert_eq!(malformed, 4);
}

#[tokio::test]
async fn large_requests_pass_and_those_beyond_the_bound_do_not() {
    let server = Server::start();
    let requests = RequestsConfig {
        frame_bytes_max: 60 << 20,
        ..RequestsConfig::default()
    };
    let (tunnel, task) = Tunnel::new(
        &server.redis("site"),
        &keys(),
        &site("dc1"),
        requests,
        TunnelConfig::default(),
    );
    let (sender, _events) = mpsc::channel(64);
    let mut tasks = JoinSet::new();
    tasks.spawn(task.run(sender));
    let seen: Arc<Mutex<HashMap<usize, usize>>> = Arc::default();
    let mut bridge = bridge(&server, "a");
    let counting = Arc::clone(&seen);
    tasks.spawn(async move {
        loop {
            let request = bridge.request().await;
            *counting
                .lock()
                .expect("no panic")
                .entry(request.frame.len())
                .or_default() += 1;
            drop(
                bridge
                    .replier
                    .reply(&request, &Outcome::Reply(Bytes::from("ok")))
                    .await,
            );
        }
    });
    let large = tunnel.request(Bytes::from(vec![1; 52 << 20]), now_ms(), SOON);
    let small = tunnel.request(Bytes::from("small"), now_ms(), SOON);
    let (large, small) = tokio::join!(large, small);
    assert_eq!(
        (large.expect("a reply"), small.expect("a reply")),
        ("ok".into(), "ok".into())
    );
    assert_eq!(seen.lock().expect("no panic").get(&(52 << 20)), Some(&1));
    let error = tunnel
        .request(Bytes::from(vec![1; 61 << 20]), now_ms(), SOON)
        .await;
    let error = error.expect_err("too large");
    assert!(
        matches!(error, TunnelError::Send { .. }) && !error.is_transient(),
        "{error:?}"
    );
}

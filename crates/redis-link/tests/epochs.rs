//! Epochs: no id for two frames, whatever a server forgets, and everything appended again.

mod common;

use std::time::Duration;

use common::{Server, append, appender, frame, keys, now_ms};
use redis_link::{
    AppendOutcome, Appended, Appender, Beaten, Frame, LinkEvent, Subscription, SubscriptionConfig,
};
use relay_core::EntryId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Appends until Redis takes it, through whatever breaks on the way.
async fn append_surely(appender: &Appender, frames: &[Frame]) -> Vec<Appended> {
    loop {
        match append(appender, frames).await {
            Ok(appended) => return appended,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
}

/// The first answer of a server that was away.
async fn first_answer(appender: &Appender, frames: &[Frame]) -> AppendOutcome {
    loop {
        match appender.append(frames).await {
            Ok(outcome) => return outcome,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
}

fn frames(range: std::ops::Range<u32>) -> Vec<Frame> {
    range.map(|n| frame(format!("job {n}"))).collect()
}

fn numbers(appended: &[Appended]) -> Vec<u64> {
    appended.iter().map(|a| a.entry_id.number).collect()
}

#[tokio::test]
async fn nothing_is_taken_before_an_epoch_is_begun_and_a_second_bridge_joins_it() {
    let server = Server::start();
    let (one, two) = (appender(&server, "one"), appender(&server, "two"));
    let jobs = frames(0..3);
    assert_eq!(
        one.append(&jobs).await.expect("an answer"),
        AppendOutcome::Stale
    );
    assert_eq!(one.beat(now_ms()).await.expect("an answer"), Beaten::Stale);
    let begun = one.begin_epoch(now_ms()).await.expect("begun");
    assert!(!begun.joined);
    let again = one.begin_epoch(now_ms() + 1000).await.expect("joined");
    assert!(again.joined && again.epoch == begun.epoch, "{again:?}");
    let beat = one.beat(now_ms()).await.expect("a beat");
    assert_eq!(beat, Beaten::Newest(EntryId::new(begun.epoch, 0)));
    assert_eq!(
        two.append(&jobs).await.expect("an answer"),
        AppendOutcome::Stale
    );
    let joined = two.begin_epoch(now_ms() + 1000).await.expect("joined");
    assert!(joined.joined && joined.epoch == begun.epoch, "{joined:?}");
    assert_eq!(numbers(&append_surely(&two, &jobs).await), [1, 2, 3]);
    assert!(append_surely(&one, &jobs).await.iter().all(|a| a.duplicate));
}

#[tokio::test]
async fn bridges_that_begin_at_the_same_time_share_the_epoch() {
    let server = Server::start();
    let mut tasks = JoinSet::new();
    for bridge in 0..8_u64 {
        let appender = appender(&server, &format!("bridge-{bridge}"));
        tasks.spawn(async move {
            appender
                .begin_epoch(now_ms() + bridge)
                .await
                .expect("begun")
        });
    }
    let begun = tasks.join_all().await;
    assert_eq!(
        begun.iter().filter(|begun| !begun.joined).count(),
        1,
        "{begun:?}"
    );
    assert!(
        begun.iter().all(|other| other.epoch == begun[0].epoch),
        "{begun:?}"
    );
}

#[tokio::test]
async fn a_restart_begins_an_epoch_although_every_write_was_kept() {
    let mut server = Server::start();
    let appender = appender(&server, "one");
    let jobs = frames(0..3);
    append_surely(&appender, &jobs).await;
    let before = appender.newest();
    server.kill();
    server.restart();
    assert_eq!(first_answer(&appender, &jobs).await, AppendOutcome::Stale);
    let begun = appender.begin_epoch(before.epoch - 9).await.expect("begun");
    assert!(
        !begun.joined && begun.epoch > before.epoch,
        "{begun:?} after {before}"
    );
    let again = append_surely(&appender, &[jobs, frames(3..4)].concat()).await;
    assert!(
        again
            .iter()
            .take(3)
            .all(|a| a.duplicate && a.entry_id.epoch == before.epoch)
    );
    assert_eq!(again[3].entry_id, EntryId::new(begun.epoch, 1));
}

#[tokio::test]
async fn an_old_snapshot_gets_everything_again_that_it_lacks() {
    let mut server = Server::start_with("appendonly no\n");
    let appender = appender(&server, "one");
    append_surely(&appender, &frames(0..5)).await;
    server.admin(&[b"SAVE"]);
    append_surely(&appender, &frames(5..9)).await;
    let before = appender.newest();
    server.kill();
    server.restart();
    let all = frames(0..10);
    assert_eq!(first_answer(&appender, &all).await, AppendOutcome::Stale);
    // The host's clock stepped back meanwhile.
    let begun = appender.begin_epoch(1).await.expect("begun");
    assert!(begun.epoch > before.epoch);
    let again = append_surely(&appender, &all).await;
    assert!(again.iter().take(5).all(|a| a.duplicate));
    let after: Vec<EntryId> = again.iter().skip(5).map(|a| a.entry_id).collect();
    let expected: Vec<EntryId> = (1..=5).map(|n| EntryId::new(begun.epoch, n)).collect();
    assert_eq!(after, expected);
}

#[tokio::test]
async fn a_promoted_replica_that_lacks_writes_begins_an_epoch() {
    let (primary, replica) = (Server::start(), Server::start());
    let port = primary.addr.port().to_string();
    replica.admin(&[b"REPLICAOF", b"127.0.0.1", port.as_bytes()]);
    let appender_there = appender(&primary, "one");
    append_surely(&appender_there, &frames(0..5)).await;
    let reached = appender_there.newest();
    while !replica
        .info("replication")
        .contains("master_link_status:up")
        || replica.head_number() < reached.number
    {
        sleep(Duration::from_millis(10)).await;
    }
    // Promoted while the old primary still takes writes, as in a partition.
    replica.admin(&[b"REPLICAOF", b"NO", b"ONE"]);
    append_surely(&appender_there, &frames(5..8)).await;
    let before = appender_there.newest();
    drop(primary);
    // What Sentinel would do: lead the bridge to the other server.
    let appender = appender(&replica, "one");
    appender.note(before);
    assert_eq!(
        first_answer(&appender, &frames(0..1)).await,
        AppendOutcome::Stale
    );
    let begun = appender.begin_epoch(now_ms()).await.expect("begun");
    assert!(!begun.joined && begun.epoch > before.epoch);
    let again = append_surely(&appender, &frames(0..8)).await;
    let duplicates: Vec<bool> = again.iter().map(|a| a.duplicate).collect();
    assert_eq!(
        duplicates.iter().filter(|duplicate| !**duplicate).count(),
        3,
        "{duplicates:?}"
    );
}

#[tokio::test]
async fn a_bridge_that_knows_nothing_does_not_go_on_where_a_demoted_primary_stopped() {
    let server = Server::start();
    append_surely(&appender(&server, "one"), &frames(0..3)).await;
    // Demoted and promoted again: meanwhile it may have taken over another server's data, with
    // this run's own head in it.
    server.admin(&[b"REPLICAOF", b"127.0.0.1", b"1"]);
    server.admin(&[b"REPLICAOF", b"NO", b"ONE"]);
    let begun = appender(&server, "two")
        .begin_epoch(now_ms())
        .await
        .expect("begun");
    assert!(!begun.joined, "{begun:?}");
}

#[tokio::test]
async fn a_head_behind_what_the_bridge_saw_begins_an_epoch_on_the_same_run() {
    let server = Server::start();
    let appender = appender(&server, "one");
    append_surely(&appender, &frames(0..3)).await;
    let before = appender.newest();
    let stream = keys().publications();
    server.admin(&[b"XDEL", stream.as_bytes(), before.to_string().as_bytes()]);
    server.admin(&[b"HSET", keys().head().as_bytes(), b"number", b"2"]);
    assert_eq!(
        first_answer(&appender, &frames(3..4)).await,
        AppendOutcome::Stale
    );
    append_surely(&appender, &frames(3..4)).await;
    assert!(appender.newest().epoch > before.epoch);
    assert_eq!(appender.newest().number, 1);
}

#[tokio::test]
async fn a_head_that_is_nonsense_or_gone_begins_an_epoch() {
    let server = Server::start();
    let appender = appender(&server, "one");
    append_surely(&appender, &frames(0..2)).await;
    let head = keys().head();
    let head = head.as_bytes();
    for (n, nonsense) in [&b"x"[..], b"1e300", b"-1", b"1.5", b"9007199254740993", b""]
        .into_iter()
        .enumerate()
    {
        let before = appender.newest();
        server.admin(&[b"HSET", head, b"epoch", nonsense]);
        let job = frames(100 + u32::try_from(n).expect("few")..200);
        assert_eq!(
            first_answer(&appender, &job[..1]).await,
            AppendOutcome::Stale
        );
        append_surely(&appender, &job[..1]).await;
        let after = appender.newest();
        assert!(
            after.epoch > before.epoch && after.number == 1,
            "{before} then {after}"
        );
        assert!(after.epoch < before.epoch + 10_000_000_000, "{after}");
    }
    let before = appender.newest();
    server.admin(&[b"DEL", head]);
    assert_eq!(
        first_answer(&appender, &frames(9..10)).await,
        AppendOutcome::Stale
    );
    append_surely(&appender, &frames(9..10)).await;
    assert!(appender.newest().epoch > before.epoch);
}

#[tokio::test]
async fn a_foreign_entry_at_the_end_of_the_stream_begins_an_epoch_behind_it() {
    let server = Server::start();
    let appender = appender(&server, "one");
    append_surely(&appender, &frames(0..2)).await;
    let stream = keys().publications();
    let ahead = appender.newest().epoch + 1_000_000;
    server.admin(&[
        b"XADD",
        stream.as_bytes(),
        format!("{ahead}-7").as_bytes(),
        b"a",
        b"b",
    ]);
    assert_eq!(
        first_answer(&appender, &frames(2..3)).await,
        AppendOutcome::Stale
    );
    append_surely(&appender, &frames(2..3)).await;
    assert!(appender.newest().epoch > ahead);
    // An id that no number can follow: nothing goes on before somebody deletes the stream.
    let last = b"18446744073709551615-1";
    server.admin(&[b"XADD", stream.as_bytes(), last, b"a", b"b"]);
    let error = append(&appender, &frames(3..4))
        .await
        .expect_err("no room behind it");
    let text = error.to_string();
    assert!(
        text.contains("foreign id") && text.contains(&stream),
        "{text}"
    );
    server.admin(&[b"DEL", stream.as_bytes()]);
    append_surely(&appender, &frames(3..4)).await;
}

#[tokio::test]
async fn a_stale_heart_beat_is_not_heard() {
    let server = Server::start();
    let (one, two) = (appender(&server, "one"), appender(&server, "two"));
    append_surely(&one, &frames(0..2)).await;
    let (sender, mut events) = mpsc::channel(64);
    let mut tasks = JoinSet::new();
    let config = SubscriptionConfig::default();
    tasks.spawn(Subscription::new(&server.redis("site"), &keys(), config).run(sender));
    assert_eq!(events.recv().await, Some(LinkEvent::Up));
    assert_eq!(two.beat(now_ms()).await.expect("an answer"), Beaten::Stale);
    assert_eq!(
        one.beat(now_ms()).await.expect("an answer"),
        Beaten::Newest(one.newest())
    );
    match events.recv().await {
        Some(LinkEvent::Beat { bridge, .. }) => assert_eq!(bridge, "one"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_stands_in_an_epoch_that_sites_have_left_is_appended_again() {
    let server = Server::start();
    let one = appender(&server, "one");
    append_surely(&one, &frames(0..3)).await;
    let here = one.newest();
    // Meanwhile an epoch was begun on another server, and the sites followed it; then the first
    // server became the primary again.
    let elsewhere = EntryId::new(here.epoch + 1000, 7);
    let two = appender(&server, "two");
    two.note(elsewhere);
    let again = append_surely(&two, &frames(0..3)).await;
    assert!(
        again.iter().all(|a| !a.duplicate && a.entry_id > elsewhere),
        "{again:?}"
    );
    // A bridge that had not heard of it joins, and its frames are known from then on.
    assert!(
        append_surely(&one, &frames(0..3))
            .await
            .iter()
            .all(|a| a.duplicate)
    );
    assert_eq!(one.newest(), two.newest());
}

//! The lease of a site: one holder, a fence that grows, a position that only its holder moves.

mod common;

use std::time::Duration;

use common::{Server, keys, site};
use redis_link::{LeaseAnswer, LeaseWatch, RedisError, SiteLease};
use relay_core::EntryId;
use tokio::time::sleep;

const SITE: &str = "dc1.example.com";

fn lease(server: &Server, holder: &str) -> SiteLease {
    let redis = server.redis("site");
    SiteLease::new(&redis, &keys(), &site(SITE), holder.to_owned())
}

async fn ask(lease: &SiteLease, known_fence: u64) -> LeaseAnswer {
    loop {
        match lease.ask(known_fence).await {
            Ok(answer) => return answer,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
}

fn id(epoch: u64, number: u64) -> EntryId {
    EntryId::new(epoch, number)
}

#[tokio::test]
async fn one_holder_at_a_time_and_each_new_one_has_a_greater_fence() {
    let server = Server::start();
    let (one, two) = (lease(&server, "one"), lease(&server, "two"));
    one.check().await.expect("every right is there");
    let first = ask(&one, 0).await;
    assert!(first.granted && first.expires_in_ms == 4000 && first.position.is_none());
    let again = ask(&one, first.fence).await;
    assert!(again.granted && again.fence == first.fence, "{again:?}");
    let other = ask(&two, 0).await;
    assert!(!other.granted && other.fence == first.fence, "{other:?}");
    assert!((1..=4000).contains(&other.expires_in_ms), "{other:?}");

    assert!(
        one.write_position(first.fence, id(5, 7))
            .await
            .expect("noted")
    );
    two.release().await.expect("released");
    assert!(!ask(&two, 0).await.granted, "only the holder gives it back");
    one.release().await.expect("released");
    let taken = ask(&two, 0).await;
    assert!(taken.granted && taken.fence > first.fence, "{taken:?}");
    assert_eq!(taken.position, Some(id(5, 7)));
    // The position is fenced from the grant on, not only from the new holder's first word.
    assert!(
        !one.write_position(first.fence, id(5, 9))
            .await
            .expect("told")
    );
    assert!(
        two.write_position(taken.fence, id(5, 8))
            .await
            .expect("noted")
    );
    assert!(
        !one.write_position(first.fence, id(5, 9))
            .await
            .expect("told")
    );
    assert_eq!(ask(&two, 0).await.position, Some(id(5, 8)));
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_goes_to_another_and_comes_back_with_a_greater_fence() {
    let server = Server::start();
    let one = lease(&server, "one").lasting(200);
    let two = lease(&server, "two").lasting(200);
    let first = ask(&one, 0).await;
    loop {
        let answer = ask(&two, first.fence).await;
        if answer.granted {
            assert_eq!(answer.fence, first.fence + 1);
            break;
        }
        sleep(Duration::from_millis(answer.expires_in_ms)).await;
    }
    two.release().await.expect("released");
    assert_eq!(ask(&one, first.fence + 1).await.fence, first.fence + 2);
}

#[tokio::test]
async fn a_server_that_forgot_gives_no_fence_twice_and_says_how_young_its_knowledge_is() {
    let mut server = Server::start();
    let (one, two) = (lease(&server, "one"), lease(&server, "two"));
    let first = ask(&one, 0).await;
    sleep(Duration::from_millis(300)).await;
    let older = ask(&one, first.fence).await;
    assert!(older.known_for_ms >= 300, "{older:?}");
    server.admin(&[b"FLUSHALL"]);
    let other = ask(&two, first.fence).await;
    assert!(other.granted && other.fence > first.fence, "{other:?}");
    assert!(other.known_for_ms < 300, "{other:?}");
    assert!(!ask(&one, first.fence).await.granted);

    // A restart keeps the lease, but what it kept may be old.
    sleep(Duration::from_millis(300)).await;
    server.kill();
    server.restart();
    let kept = ask(&two, other.fence).await;
    assert!(kept.granted && kept.fence == other.fence, "{kept:?}");
    assert!(kept.known_for_ms < 300, "{kept:?}");
    // An older lease of the same holder comes back: it does not get its old fence again.
    let fence = other.fence + 5;
    let renewed = ask(&two, fence).await;
    assert!(renewed.granted && renewed.fence == fence + 1, "{renewed:?}");
}

#[tokio::test]
async fn a_lane_that_believes_in_an_old_run_looks_again_before_it_says_so() {
    let server = Server::start();
    let (one, two) = (lease(&server, "one"), lease(&server, "two"));
    ask(&one, 0).await;
    // The server's own id of its writes changes, as it does when the last replica is long gone:
    // lanes that stood before and those that come after know it by different names.
    server.admin(&[b"REPLICAOF", b"127.0.0.1", b"1"]);
    server.admin(&[b"REPLICAOF", b"NO", b"ONE"]);
    ask(&two, 0).await;
    sleep(Duration::from_millis(200)).await;
    for _ in 0..3 {
        let (a, b) = (ask(&one, 0).await, ask(&two, 0).await);
        assert!(
            a.known_for_ms >= 200 && b.known_for_ms >= 200,
            "{a:?} {b:?}"
        );
    }
}

#[tokio::test]
async fn a_position_never_moves_back_and_nonsense_in_it_is_overwritten() {
    let server = Server::start();
    let one = lease(&server, "one");
    let fence = ask(&one, 0).await.fence;
    for (to, stands) in [
        (id(5, 9), id(5, 9)),
        (id(5, 10), id(5, 10)),
        (id(5, 9), id(5, 10)),
        (id(4, 99), id(5, 10)),
        (id(6, 1), id(6, 1)),
    ] {
        assert!(one.write_position(fence, to).await.expect("noted"));
        assert_eq!(ask(&one, fence).await.position, Some(stands));
    }
    let key = keys().position(&site(SITE));
    for nonsense in [
        &b"x"[..],
        b"1-",
        b"-",
        b"1e300-1",
        b"99999999999999999999-1",
    ] {
        server.admin(&[b"HSET", key.as_bytes(), b"id", nonsense, b"fence", b"x"]);
        assert_eq!(ask(&one, fence).await.position, None);
        assert!(one.write_position(fence, id(6, 2)).await.expect("noted"));
        assert_eq!(ask(&one, fence).await.position, Some(id(6, 2)));
    }
    let lease_key = keys().lease(&site(SITE));
    server.admin(&[b"HSET", lease_key.as_bytes(), b"holder", b"nobody"]);
    server.admin(&[b"PERSIST", lease_key.as_bytes()]);
    assert!(
        ask(&one, fence).await.granted,
        "a lease without an end is none"
    );
}

#[tokio::test]
async fn missing_rights_are_told_all_at_once() {
    let server = Server::start();
    server.admin(&[b"ACL", b"SETUSER", b"saltway-site", b"-hset", b"-pexpire"]);
    let error = lease(&server, "one")
        .check()
        .await
        .expect_err("rights are missing");
    assert!(
        matches!(error, RedisError::NotPermitted { .. }),
        "{error:?}"
    );
    let text = error.to_string().to_lowercase();
    assert!(text.contains("hset") && text.contains("pexpire"), "{text}");
    let error = lease(&server, "one")
        .ask(0)
        .await
        .expect_err("rights are missing");
    assert!(
        matches!(error, RedisError::NotPermitted { .. }),
        "{error:?}"
    );
    // It goes on by itself when that is mended.
    server.admin(&[b"ACL", b"SETUSER", b"saltway-site", b"+hset", b"+pexpire"]);
    assert!(ask(&lease(&server, "one"), 0).await.granted);
}

#[tokio::test]
async fn a_bridge_sees_whose_lease_is_renewed() {
    let mut server = Server::start();
    let watch = LeaseWatch::new(&server.redis("bridge"), &keys());
    let sites = [site(SITE), site("dc2")];
    assert_eq!(watch.look(&sites).await.expect("seen"), [false, false]);
    let short = lease(&server, "one").lasting(400);
    let granted = ask(&short, 0).await;
    assert!(granted.granted);
    assert_eq!(watch.look(&sites).await.expect("seen"), [true, false]);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(watch.look(&sites).await.expect("seen"), [false, false]);
    assert!(watch.look(&[]).await.expect("seen").is_empty());
    server.kill();
    watch.look(&sites).await.unwrap_err();
    watch
        .look(&[])
        .await
        .expect_err("without sites Redis is asked, too");
}

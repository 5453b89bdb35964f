//! What restarts, kills and a second shim of the same site cost: nothing, and nothing runs twice.

use std::{collections::BTreeSet, time::Duration};

use salt_wire::msgpack::Value;
use standin::{Relay, jid, job};
use testkit::{Daemon, await_that, now};

const SOON: Duration = Duration::from_secs(20);

fn relay() -> Relay {
    let relay = Relay::builder()
        .site("site1", &["a1", "a2"])
        .start()
        .expect("a relay");
    // What was begun and not done when a shim died, only the lower master knows.
    for site in &relay.sites {
        site.lower.keep_job_cache();
    }
    relay
}

fn publish(relay: &Relay, numbers: std::ops::Range<u64>) {
    for number in numbers {
        relay
            .mom
            .publish(job(&jid(number), "*", "test.ping"))
            .expect("published");
    }
}

/// The site has these jobs, each once and in order.
#[track_caller]
fn await_each_once(relay: &Relay, numbers: std::ops::Range<u64>) {
    let expected: Vec<String> = numbers.map(jid).collect();
    let site = relay.site(0).expect("a site");
    site.lower
        .await_jobs(expected.len(), SOON)
        .unwrap_or_else(|err| panic!("{err:?}\n{}", site.shim.log_tail(20)));
    let jids = site.lower.jids();
    let wrong = jids
        .iter()
        .zip(&expected)
        .position(|(jid, expected)| jid != expected);
    assert_eq!(
        (jids.len(), wrong),
        (expected.len(), None),
        "jobs, first out of place"
    );
}

#[track_caller]
fn await_metric(daemon: &Daemon, name: &str, labels: &[(&str, &str)], expected: f64) {
    await_that(&format!("{name} = {expected}"), SOON, || {
        match daemon.metric(name, labels).expect("metrics") {
            Some(value) if (value - expected).abs() < 0.5 => Ok(()),
            value => Err(format!("{value:?}\n{}", daemon.log_tail(10))),
        }
    });
}

#[test]
fn real_shim_killed_again_and_again_in_mid_stream_doubles_and_loses_nothing() {
    let mut relay = relay();
    let mut next = 0;
    for _ in 0..5 {
        publish(&relay, next..next + 200);
        next += 200;
        let site = relay.sites.first_mut().expect("a site");
        site.shim.kill();
        site.shim.start().expect("started again");
    }
    await_each_once(&relay, 0..next);
}

#[test]
fn real_second_shim_of_a_site_takes_over_within_five_seconds() {
    let mut relay = relay();
    let site = relay.sites.first().expect("a site");
    let mut second = Daemon::master_shim("site1-second", &site.lower.config_file())
        .redis(&relay.redis.url())
        .start(&relay.workspace)
        .expect("started");
    second.ready().expect("ready");
    await_metric(&second, "saltway_lease_active", &[], 0.0);
    await_metric(&site.shim, "saltway_lease_active", &[], 1.0);
    publish(&relay, 0..100);
    await_each_once(&relay, 0..100);

    let began = now();
    relay.sites.first_mut().expect("a site").shim.kill();
    publish(&relay, 100..200);
    await_each_once(&relay, 0..200);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    await_metric(&second, "saltway_lease_active", &[], 1.0);

    // The first one comes back and stands by; a second one that ends in order gives the lease back at once.
    let site = relay.sites.first_mut().expect("a site");
    site.shim.start().expect("started again");
    site.shim.ready().expect("ready");
    await_metric(&site.shim, "saltway_lease_active", &[], 0.0);
    publish(&relay, 200..300);
    await_each_once(&relay, 0..300);
    let began = now();
    let status = second.terminate().expect("ended");
    assert!(status.success(), "{status}");
    publish(&relay, 300..310);
    await_each_once(&relay, 0..310);
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn real_returns_go_up_once_although_two_shims_hear_them() {
    let relay = relay();
    let site = relay.sites.first().expect("a site");
    let mut second = Daemon::master_shim("site1-second", &site.lower.config_file())
        .redis(&relay.redis.url())
        .start(&relay.workspace)
        .expect("started");
    second.ready().expect("ready");
    await_metric(&second, "saltway_lease_active", &[], 0.0);
    site.lower.set_returning(true);
    publish(&relay, 0..50);
    await_each_once(&relay, 0..50);
    relay.mom.await_returns(100, SOON).expect("all returns");
    await_metric(&site.shim, "saltway_spool_entries", &[], 0.0);
    let mut seen = relay.mom.seen(|seen| {
        let minions = seen.returns.iter().filter(|ret| ret.minion != "site1");
        let returns = minions.map(|ret| (ret.jid.clone(), ret.minion.clone()));
        returns.collect::<Vec<_>>()
    });
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!((seen.len(), count), (100, 100));
}

#[test]
fn real_job_ttl_of_the_job_itself_counts() {
    let relay = relay();
    let with_ttl = |number: u64, ttl: Value| {
        let mut load = job(&jid(number), "*", "test.ping");
        load.set("metadata", Value::map([("saltway_ttl", ttl)]));
        relay.mom.publish(load).expect("published");
    };
    // The lower master's bus is away, so that nothing is published and time goes by.
    let site = relay.sites.first().expect("a site");
    site.lower.bus.pause().expect("paused");
    await_that("the bus to be missed", SOON, || {
        let (_, ready) = site.shim.get("/readyz").expect("an answer");
        if ready.contains("event bus: no") {
            Ok(())
        } else {
            Err(ready)
        }
    });
    with_ttl(0, Value::Int(1));
    with_ttl(1, "10m".into());
    with_ttl(2, "soon".into());
    await_metric(&site.shim, "saltway_publications_expired_total", &[], 1.0);
    site.lower.bus.resume().expect("listening again");
    site.lower.await_jobs(2, SOON).expect("the other two");
    assert_eq!(site.lower.jids(), [jid(1), jid(2)]);
    let log = site.shim.log().expect("a log");
    assert!(log.contains("saltway_ttl") && log.contains("soon"), "{log}");
}

#[test]
fn real_mom_that_changes_its_key_while_the_shim_is_down_costs_nothing() {
    let mut relay = relay();
    publish(&relay, 0..5);
    await_each_once(&relay, 0..5);
    relay.sites.first_mut().expect("a site").shim.kill();
    publish(&relay, 5..10);
    relay.mom.rotate_keys().expect("rotated");
    publish(&relay, 10..15);
    let site = relay.sites.first_mut().expect("a site");
    site.shim.start().expect("started again");
    await_each_once(&relay, 0..15);
    let site = relay.site(0).expect("a site");
    let lost = site.shim.metric("saltway_publications_lost_total", &[]);
    assert_eq!(lost.expect("metrics"), Some(0.0));
}

#[test]
fn real_jobs_that_the_stream_brings_again_run_once() {
    let mut relay = relay();
    publish(&relay, 0..50);
    await_each_once(&relay, 0..50);
    // Redis forgets everything; the bridge appends again what it has.
    let flushed = relay.redis.cli(&["FLUSHALL"]).expect("flushed");
    assert!(flushed.stdout.contains("OK"), "{}", flushed.stdout);
    publish(&relay, 50..100);
    let all: BTreeSet<String> = (0..100).map(jid).collect();
    let site = relay.sites.first_mut().expect("a site");
    site.lower.await_jobs(100, SOON).expect("all jobs");
    site.shim.kill();
    site.shim.start().expect("started again");
    publish(&relay, 100..101);
    let site = relay.site(0).expect("a site");
    site.lower.await_jobs(101, SOON).expect("the last job");
    let jids = site.lower.jids();
    assert_eq!(jids.len(), 101, "some ran twice");
    assert!(all.iter().all(|jid| jids.contains(jid)));
}

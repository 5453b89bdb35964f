//! The flow through both daemons and a real Redis, between stand-in masters: order, completeness, drain.

use std::time::Duration;

use standin::{Relay, jid, job};
use testkit::{Daemon, Signal, await_that, now};

const SOON: Duration = Duration::from_secs(20);

/// Publications of the flood. Signed, that is 10,000 RSA operations: they are made before the clock runs.
const FLOOD: u64 = 10_000;

fn relay() -> Relay {
    Relay::builder()
        .site("site1", &["a1", "a2", "a3"])
        .start()
        .expect("a relay")
}

#[test]
fn real_ten_thousand_publications_reach_two_sites_each_once_and_in_order() {
    let relay = Relay::builder()
        .site("site1", &["a1"])
        .site("site2", &["b1"])
        .start()
        .expect("a relay");
    relay.mom.sign_publications(false);
    let frames: Vec<_> = (0..FLOOD)
        .map(|number| {
            relay
                .mom
                .frame(job(&jid(number), "*", "test.ping"))
                .expect("a frame")
        })
        .collect();
    for frame in &frames {
        relay.mom.send(frame).expect("sent");
    }
    let expected: Vec<String> = (0..FLOOD).map(jid).collect();
    for site in &relay.sites {
        site.lower
            .await_jobs(expected.len(), Duration::from_secs(60))
            .expect("all jobs");
    }
    // Whatever would come twice has come by the time that a last job is there.
    relay
        .mom
        .publish(job(&jid(FLOOD), "*", "test.ping"))
        .expect("published");
    for site in &relay.sites {
        site.lower
            .await_jobs(expected.len() + 1, SOON)
            .expect("the last job");
        let jids = site.lower.jids();
        assert!(jids.len() == expected.len() + 1, "{} jobs", jids.len());
        let wrong = jids
            .iter()
            .zip(&expected)
            .position(|(got, want)| got != want);
        assert_eq!(wrong, None, "first job out of order");
        let lost = site.shim.metric("saltway_publications_lost_total", &[]);
        assert_eq!(lost.expect("metrics"), Some(0.0));
    }
    let appended = relay
        .bridge
        .metric("saltway_publications_total", &[("hop", "redis")]);
    assert_eq!(appended.expect("metrics"), Some(10_001.0));
}

#[test]
fn real_sigterm_drains_what_the_shim_has_taken() {
    let mut relay = relay();
    // The MoM is busy, so that the returns are still on their way when the signal comes.
    relay.mom.set_paused(true);
    fire_returns(&relay, 500);
    let site = relay.sites.first_mut().expect("a site");
    terminate(&site.shim);
    assert_eq!(relay.mom.seen(|seen| seen.returns.len()), 0);
    relay.mom.set_paused(false);
    let status = site.shim.ended(Duration::from_secs(12)).expect("ended");
    assert!(status.success(), "{status}\n{}", site.shim.log_tail(20));
    let mut jids: Vec<_> = relay
        .mom
        .seen(|seen| seen.returns.iter().map(|ret| ret.jid.clone()).collect());
    jids.sort();
    jids.dedup();
    assert_eq!(jids.len(), 500);
}

#[test]
fn real_mom_that_is_away_holds_up_no_restart_and_costs_no_return() {
    let mut relay = relay();
    relay.mom.set_paused(true);
    fire_returns(&relay, 500);
    let site = relay.sites.first_mut().expect("a site");
    await_spooled(&site.shim, 500.0);
    let began = now();
    terminate(&site.shim);
    let status = site.shim.ended(Duration::from_secs(5)).expect("ended");
    assert!(status.success(), "{status}\n{}", site.shim.log_tail(20));
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    relay.mom.set_paused(false);
    site.shim.start().expect("started again");
    await_all_returns(&relay, 500);
}

#[test]
fn real_killed_shim_loses_no_return_that_it_has_seen() {
    let mut relay = relay();
    relay.mom.set_paused(true);
    fire_returns(&relay, 500);
    let site = relay.sites.first_mut().expect("a site");
    await_spooled(&site.shim, 500.0);
    site.shim.kill();
    relay.mom.set_paused(false);
    site.shim.start().expect("started again");
    await_all_returns(&relay, 500);
    let site = relay.site(0).expect("a site");
    await_spooled(&site.shim, 0.0);
}

/// So many records are in the shim's spool.
#[track_caller]
fn await_spooled(shim: &Daemon, count: f64) {
    await_that(
        &format!("{count} records in the spool"),
        SOON,
        || match shim.metric("saltway_spool_entries", &[]).expect("metrics") {
            Some(on_disk) if (on_disk - count).abs() < 0.5 => Ok(()),
            on_disk => Err(format!("{on_disk:?}")),
        },
    );
}

/// Every one of `count` different returns is at the MoM.
fn await_all_returns(relay: &Relay, count: usize) {
    await_that("all returns to be at the MoM", SOON, || {
        let returns = relay.mom.seen(|seen| {
            let jids: std::collections::BTreeSet<_> =
                seen.returns.iter().map(|ret| ret.jid.clone()).collect();
            jids.len()
        });
        (returns == count).then_some(()).ok_or(format!("{returns}"))
    });
}

#[test]
fn real_second_sigterm_ends_at_once() {
    let mut relay = relay();
    relay.mom.set_paused(true);
    fire_returns(&relay, 10);
    let site = relay.sites.first_mut().expect("a site");
    terminate(&site.shim);
    terminate(&site.shim);
    let began = now();
    let status = site.shim.ended(Duration::from_secs(15)).expect("ended");
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert!(!status.success(), "{status}");
}

#[test]
fn real_bridge_ends_at_sigterm_with_all_that_it_received_appended() {
    let mut relay = relay();
    for number in 0..200 {
        relay
            .mom
            .publish(job(&jid(number), "*", "test.ping"))
            .expect("published");
    }
    // What is still in the socket when the bridge ends is lost: only another bridge could have it.
    await_that("the bridge to have received all", SOON, || {
        let labels = [("hop", "mom")];
        let received = relay.bridge.metric("saltway_publications_total", &labels);
        match received.expect("metrics") {
            Some(received) if received >= 200.0 => Ok(()),
            received => Err(format!("{received:?}")),
        }
    });
    let status = relay.bridge.terminate().expect("ended by itself");
    assert!(status.success(), "{status}\n{}", relay.bridge.log_tail(20));
    let site = relay.site(0).expect("a site");
    site.lower
        .await_jobs(200, SOON)
        .expect("all that was sent before");
}

/// Returns of one minion, all of which the shim has seen when this returns.
fn fire_returns(relay: &Relay, count: u32) {
    let site = relay.site(0).expect("a site");
    for number in 0..count {
        let ret = format!("return {number}").as_str().into();
        let fired = site
            .lower
            .bus
            .fire_return(&jid(number.into()), "a1", "test.ping", ret);
        fired.expect("fired");
    }
    await_that("the shim to have seen the returns", SOON, || {
        let labels = [("hop", "lower_master")];
        let seen = site.shim.metric("saltway_returns_total", &labels);
        match seen.expect("metrics") {
            Some(seen) if seen >= f64::from(count) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    });
}

/// Sends SIGTERM and waits until the daemon has said that it ends.
fn terminate(daemon: &Daemon) {
    let signals = |log: &str| log.matches("signal=").count();
    let before = signals(&daemon.log().expect("a log"));
    let process = daemon.process().expect("running");
    process.signal(Signal::TERM).expect("signalled");
    await_that(
        "the daemon to have heard the signal",
        SOON,
        || match signals(&daemon.log().expect("a log")) {
            now if now > before => Ok(()),
            _ => Err("not yet"),
        },
    );
}

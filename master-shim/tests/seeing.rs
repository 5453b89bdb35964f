//! What an operator sees: metrics, health, and logs that are quiet at info and tell one story per job at debug.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use standin::{Relay, jid, job};
use testkit::{Daemon, await_that};

const SOON: Duration = Duration::from_secs(20);
const JOBS: u32 = 1_000;

/// Prometheus' own rules for names, as `promtool check metrics` knows them.
fn lint(text: &str) -> Vec<String> {
    let mut types = HashMap::new();
    let mut helped = HashSet::new();
    let mut mistakes = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            if let Some((name, kind)) = rest.split_once(' ') {
                types.insert(name.to_owned(), kind.to_owned());
            }
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            match rest.split_once(' ') {
                Some((name, help)) if !help.trim().is_empty() => {
                    helped.insert(name.to_owned());
                }
                _ => mistakes.push(format!("no help: {rest}")),
            }
        }
    }
    for (name, kind) in &types {
        let counter = kind == "counter";
        if counter != name.ends_with("_total") {
            mistakes.push(format!(
                "{name} is a {kind}: counters, and only they, end in _total"
            ));
        }
        if kind == "histogram" && !name.ends_with("_seconds") && !name.ends_with("_bytes") {
            mistakes.push(format!("{name}: a histogram without a base unit"));
        }
        for unit in [
            "_ms",
            "_millis",
            "_milliseconds",
            "_kib",
            "_mib",
            "_minutes",
        ] {
            if name.ends_with(unit) || name.contains(&format!("{unit}_")) {
                mistakes.push(format!("{name}: not a base unit"));
            }
        }
        if !helped.contains(name) {
            mistakes.push(format!("{name} has no help"));
        }
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !name.chars().all(plain) {
            mistakes.push(format!("{name}: other characters than a-z, 0-9 and _"));
        }
        let ours = name.starts_with("saltway_") || name.starts_with("process_");
        if !ours {
            mistakes.push(format!("{name} does not say whose it is"));
        }
    }
    mistakes.sort();
    mistakes
}

#[test]
fn real_metrics_follow_the_rules_and_health_pages_say_how_it_stands() {
    let mut relay = Relay::builder()
        .site("site1", &["a1"])
        .start()
        .expect("a relay");
    let site = relay.site(0).expect("a site");
    for daemon in [&relay.bridge, &site.shim] {
        let text = daemon.metrics().expect("metrics");
        assert!(text.contains("saltway_build_info"), "{text}");
        assert_eq!(lint(&text), Vec::<String>::new());
        assert_eq!(
            daemon.get("/healthz").expect("an answer"),
            (200, "ok\n".to_owned())
        );
        let (status, page) = daemon.get("/readyz").expect("an answer");
        assert!(
            status == 200 && page.lines().all(|line| line.ends_with(": ok")),
            "{page}"
        );
        assert_eq!(daemon.get("/nowhere").expect("an answer").0, 404);
    }
    // Each loss of a neighbour is named, by the daemon that needs it, and heals.
    let unready = |daemon: &Daemon, text: &str| {
        await_that(text, SOON, || match daemon.get("/readyz") {
            Ok((503, page)) if page.lines().any(|line| line.contains(text)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    relay.mom.stop();
    unready(&relay.bridge, "mom: no");
    relay.mom.start_again().expect("started again");
    relay.bridge.ready().expect("ready again");
    relay.redis.kill();
    let site = relay.site(0).expect("a site");
    unready(&relay.bridge, "redis: no");
    unready(&site.shim, "bridge main: no");
    relay.redis.start().expect("started again");
    relay.bridge.ready().expect("ready again");
    let site = relay.sites.first_mut().expect("a site");
    site.shim.ready().expect("ready again");
}

fn run_jobs(relay: &Relay, count: u32) {
    relay.mom.sign_publications(false);
    let site = relay.site(0).expect("a site");
    site.lower.set_returning(true);
    for number in 0..count {
        relay
            .mom
            .publish(job(&jid(number.into()), "*", "test.ping"))
            .expect("published");
    }
    // One return of the minion, and the site's own summary.
    let returns = 2 * usize::try_from(count).expect("small");
    relay
        .mom
        .await_returns(returns, Duration::from_secs(60))
        .expect("every return");
    await_that("the last answer", SOON, || {
        let labels = [("hop", "mom")];
        match site
            .shim
            .metric("saltway_returns_total", &labels)
            .expect("metrics")
        {
            Some(returns) if returns >= 2.0 * f64::from(count) => Ok(()),
            returns => Err(format!("{returns:?}")),
        }
    });
}

#[test]
fn real_info_is_quiet_whatever_the_number_of_jobs() {
    let relay = Relay::builder()
        .site("site1", &["a1"])
        .start()
        .expect("a relay");
    let site = relay.site(0).expect("a site");
    let lines = |daemon: &Daemon| daemon.log().expect("a log").lines().count();
    let before = [lines(&relay.bridge), lines(&site.shim)];
    run_jobs(&relay, JOBS);
    let after = [lines(&relay.bridge), lines(&site.shim)];
    for ((daemon, before), after) in [&relay.bridge, &site.shim]
        .into_iter()
        .zip(before)
        .zip(after)
    {
        assert!(
            after - before <= 2,
            "{} more lines\n{}",
            after - before,
            daemon.log_tail(10)
        );
    }
}

#[test]
fn real_debug_tells_the_story_of_one_job() {
    let relay = Relay::builder()
        .site("site1", &["a1"])
        .log("debug")
        .start()
        .expect("a relay");
    run_jobs(&relay, 3);
    let site = relay.site(0).expect("a site");
    let (bridge, shim) = (
        relay.bridge.log().expect("a log"),
        site.shim.log().expect("a log"),
    );
    // The bridge opens nothing: it and the site share the entry's id, the site knows the jid.
    let jid = jid(1);
    let about = |text: &str| {
        let found = shim
            .lines()
            .filter(|line| line.contains(&jid))
            .position(|line| line.contains(text));
        found.unwrap_or_else(|| panic!("{text:?} is not told of {jid}:\n{shim}"))
    };
    let opened = about("publication opened");
    let published = about("published on the lower master");
    let seen = about("return seen");
    let over = about("job over at this site");
    // A fast minion returns before the lower master has answered the publish.
    assert!(opened < published.min(seen) && published.max(seen) < over);
    about("return answered by the MoM");
    let line = shim
        .lines()
        .find(|line| line.contains(&jid) && line.contains("publication opened"));
    let entry_id = line
        .and_then(|line| line.split("entry_id=").nth(1))
        .and_then(|rest| rest.split(' ').next());
    let entry_id = entry_id.expect("the entry's id");
    let told = |log: &str, text: &str| {
        log.lines()
            .any(|line| line.contains(text) && line.contains(entry_id))
    };
    assert!(
        told(&bridge, "publication appended"),
        "{entry_id}:\n{bridge}"
    );
    assert!(told(&shim, "publication received"), "{entry_id}:\n{shim}");
}

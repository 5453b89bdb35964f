//! What a site tells the MoM of itself, between stand-in masters: roster, changes, status, jobs that it did not publish.

use std::time::Duration;

use salt_wire::{
    msgpack::Value,
    saltway::{
        JobNotice, NotPublished, Presence, Roster, RosterDigest, RosterKind, SiteEvent, Status,
    },
};
use standin::{PublishAnswer, Relay, Seen, Site, jid, job};
use testkit::await_that;

const SOON: Duration = Duration::from_secs(20);

/// Several statuses would have come by then.
const AWAY: Duration = Duration::from_secs(12);

fn relay(minions: &[&str]) -> Relay {
    let relay = Relay::builder().site("site1", minions).start();
    let relay = relay.expect("a relay");
    // A look at a directory that was just made is trusted only after a while.
    age(relay.site(0).expect("a site"));
    relay
}

/// As if nobody had touched the keys for a minute.
fn age(site: &Site) {
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(60);
    let keys = std::fs::File::open(site.lower.accepted_keys()).expect("opened");
    keys.set_modified(long_ago).expect("set");
}

/// The site's events, parsed; one that is none fails the test.
fn told(seen: &Seen) -> Vec<SiteEvent> {
    let parse = |event: &standin::EventSeen| SiteEvent::parse(&event.tag, &event.data);
    let parsed = seen.events.iter().map(parse);
    parsed
        .filter_map(|event| event.expect("well-formed"))
        .collect()
}

fn rosters(relay: &Relay) -> Vec<Roster> {
    let told = relay.mom.seen(told).into_iter();
    told.filter_map(|event| match event {
        SiteEvent::Roster(roster) => Some(roster),
        SiteEvent::Status(_) | SiteEvent::Job(_) | SiteEvent::Receipts(_) => None,
    })
    .collect()
}

fn statuses(relay: &Relay) -> Vec<Status> {
    let told = relay.mom.seen(told).into_iter();
    told.filter_map(|event| match event {
        SiteEvent::Status(status) => Some(status),
        SiteEvent::Roster(_) | SiteEvent::Job(_) | SiteEvent::Receipts(_) => None,
    })
    .collect()
}

fn notices(relay: &Relay) -> Vec<JobNotice> {
    let told = relay.mom.seen(told).into_iter();
    told.filter_map(|event| match event {
        SiteEvent::Job(notice) => Some(notice),
        SiteEvent::Roster(_) | SiteEvent::Status(_) | SiteEvent::Receipts(_) => None,
    })
    .collect()
}

/// What a roster says, in short.
fn short(roster: &Roster) -> String {
    let members: Vec<String> = roster
        .members
        .iter()
        .map(|(id, presence)| format!("{id}{}", presence.as_char()))
        .collect();
    let removed: Vec<&str> = roster.removed.iter().collect();
    let kind = match roster.kind {
        RosterKind::Full => "full",
        RosterKind::Change { .. } => "change",
    };
    format!("{kind} [{}] -[{}]", members.join(" "), removed.join(" "))
}

#[track_caller]
fn await_roster(relay: &Relay, expected: &str) -> Roster {
    await_that(&format!("the roster {expected}"), SOON, || {
        let rosters = rosters(relay);
        let found = rosters
            .iter()
            .rev()
            .find(|roster| short(roster) == expected);
        found
            .cloned()
            .ok_or_else(|| format!("{:?}", rosters.iter().map(short).collect::<Vec<_>>()))
    })
}

#[test]
fn real_site_tells_who_is_there_and_every_change_of_it() {
    let mut relay = relay(&["a1", "a2"]);
    let full = await_roster(&relay, "full [a1? a2?] -[]");
    assert_eq!(full.digest, RosterDigest::of_sorted(["a1", "a2"]));
    assert!(full.complete && full.number == 1);
    let site = relay.site(0).expect("a site");
    // Told by the bus, found in the directory.
    site.lower.accept_key("a3").expect("accepted");
    site.lower.fire_key("a3", "accept").expect("fired");
    let change = await_roster(&relay, "change [a3?] -[]");
    assert_eq!(change.kind, RosterKind::Change { base: full.digest });
    assert_eq!(change.digest, RosterDigest::of_sorted(["a1", "a2", "a3"]));
    assert_eq!(change.run, full.run);
    site.lower.delete_key("a2").expect("deleted");
    site.lower.fire_key("a2", "delete").expect("fired");
    await_roster(&relay, "change [] -[a2]");
    // Presence, by any sign of life.
    let start = Value::map([("id", "a1".into())]);
    site.lower
        .bus
        .fire("salt/minion/a1/start", &start)
        .expect("fired");
    await_roster(&relay, "change [a11] -[]");
    site.lower
        .bus
        .fire_return(&jid(1), "a3", "test.ping", true.into())
        .expect("fired");
    await_roster(&relay, "change [a31] -[]");
    let lost = [
        ("new", Value::Array(Vec::new())),
        ("lost", Value::array(["a1"])),
    ];
    site.lower
        .bus
        .fire("salt/presence/change", &Value::map(lost))
        .expect("fired");
    await_roster(&relay, "change [a10] -[]");
    // A bridge that was started again knows nothing.
    relay.mom.forget();
    relay.bridge.kill();
    relay.bridge.start().expect("started again");
    relay.bridge.ready().expect("ready");
    await_roster(&relay, "full [a10 a31] -[]");
    // So does nobody know what another process of this site had told.
    relay.mom.forget();
    let site = relay.sites.first_mut().expect("a site");
    site.shim.kill();
    site.shim.start().expect("started again");
    site.shim.ready().expect("ready");
    let anew = await_roster(&relay, "full [a1? a3?] -[]");
    assert!(anew.number == 1 && anew.run != full.run);
}

#[test]
fn real_status_tells_how_the_site_stands_and_does_not_pile_up() {
    let relay = relay(&["a1", "a2"]);
    let site = relay.site(0).expect("a site");
    relay
        .mom
        .publish(job(&jid(1), "*", "test.ping"))
        .expect("published");
    site.lower.await_jobs(1, SOON).expect("published below");
    site.lower
        .bus
        .fire_return(&jid(1), "a1", "test.ping", true.into())
        .expect("fired");
    let status = await_that("a status with all of it", SOON, || {
        let last = statuses(&relay).pop();
        last.filter(|status| status.up == 1 && status.entry.is_some_and(|entry| entry.number == 1))
            .ok_or_else(|| format!("{:?}", statuses(&relay).last()))
    });
    assert_eq!(status.roster, Some(RosterDigest::of_sorted(["a1", "a2"])));
    assert_eq!((status.minions, status.lag_entries), (2, 0));
    assert!(status.active && status.lost.iter().all(|(_, count)| *count == 0));
    let heartbeat = |hop| {
        let name = "saltway_heartbeat_timestamp_seconds";
        site.shim.metric(name, &[("hop", hop)]).expect("metrics")
    };
    for hop in ["bridge", "mom", "lower_master"] {
        assert!(heartbeat(hop).is_some_and(|at| at > 1e9), "{hop}");
    }
    // A MoM that is away gets the latest one when it is back, and no others.
    relay.mom.set_paused(true);
    relay.mom.forget();
    let fired = Value::map([("x", Value::Int(1))]);
    site.lower.bus.fire("custom/tag", &fired).expect("fired");
    site.lower.accept_key("a3").expect("accepted");
    site.lower.fire_key("a3", "accept").expect("fired");
    let began = testkit::now();
    await_that("the outage to last", AWAY + SOON, || {
        (began.elapsed() > AWAY).then_some(()).ok_or("not yet")
    });
    let spooled = site
        .shim
        .metric("saltway_spool_entries", &[])
        .expect("metrics");
    assert!(
        spooled <= Some(2.0),
        "{spooled:?}: the forwarded events alone, `custom/tag` and `salt/key`"
    );
    relay.mom.set_paused(false);
    relay
        .mom
        .await_event("custom/tag", SOON)
        .expect("the lane goes on");
    await_that("a status", SOON, || statuses(&relay).pop().ok_or("none"));
    let with_a3 = RosterDigest::of_sorted(["a1", "a2", "a3"]);
    await_that("what has changed meanwhile", SOON, || {
        let rosters = rosters(&relay);
        let known = rosters.iter().any(|roster| roster.digest == with_a3);
        known.then_some(()).ok_or(format!("{rosters:?}"))
    });
    let came = statuses(&relay).len();
    assert!(came <= 4, "{came} statuses of an outage of {AWAY:?}");
}

#[test]
fn real_job_that_is_not_published_is_told_with_its_reason() {
    let relay = relay(&["a1"]);
    let site = relay.site(0).expect("a site");
    let error = Value::map([
        ("name", "AuthorizationError".into()),
        ("message", "no".into()),
    ]);
    let refusal = Value::map([("error", error)]);
    let refusal = salt_wire::msgpack::encode(&refusal, salt_wire::msgpack::Dialect::Old);
    let await_notice = |what: NotPublished, jid: &str| {
        await_that(&format!("{what:?} of {jid}"), SOON, || {
            let notices = notices(&relay);
            let found = notices.iter().find(|notice| notice.jid.as_str() == jid);
            match found {
                Some(notice) if notice.what == what => Ok(notice.clone()),
                _ => Err(format!("{notices:?}")),
            }
        })
    };
    site.lower.set_answer(PublishAnswer::Frame(refusal));
    relay
        .mom
        .publish(job(&jid(1), "*", "test.ping"))
        .expect("published");
    let refused = await_notice(NotPublished::Refused, &jid(1));
    assert!(
        refused.reason.contains("publisher_acl"),
        "{}",
        refused.reason
    );
    site.lower.set_answer(PublishAnswer::NoMatch);
    let mut by_grain = job(&jid(2), "os:Debian", "test.ping");
    by_grain.set("tgt_type", "grain");
    relay.mom.publish(by_grain).expect("published");
    await_notice(NotPublished::NoMatch, &jid(2));
    let mut short_lived = job(&jid(3), "*", "test.ping");
    short_lived.set(
        "metadata",
        Value::map([("saltway_ttl", Value::Float64(0.001))]),
    );
    relay.mom.publish(short_lived).expect("published");
    let expired = await_notice(NotPublished::Expired, &jid(3));
    assert!(expired.reason.contains("older than"), "{}", expired.reason);
    // A question about another job is answered by nobody's absence.
    let mut question = job(&jid(4), "*", "saltutil.find_job");
    question.set("arg", Value::array([jid(1).as_str()]));
    relay.mom.publish(question).expect("published");
    relay
        .mom
        .publish(job(&jid(5), "*", "test.ping"))
        .expect("published");
    await_notice(NotPublished::NoMatch, &jid(5));
    assert!(
        notices(&relay)
            .iter()
            .all(|notice| notice.jid.as_str() != jid(4))
    );
    let status = await_that("a status that counts them", SOON, || {
        let last = statuses(&relay).pop();
        last.filter(|status| status.expired == 1).ok_or("not yet")
    });
    let lost: u64 = status.lost.iter().map(|(_, count)| count).sum();
    assert_eq!(lost, 1, "{:?}", status.lost);
}

#[test]
fn real_nobody_below_speaks_in_the_name_of_a_site() {
    let relay = relay(&["a1"]);
    let site = relay.site(0).expect("a site");
    let forged = Value::map([("v", Value::Int(1)), ("site", "site2".into())]);
    let ack = jid(1);
    for tag in [
        "saltway/site/site2/roster",
        "saltway/site/site2/status",
        "saltway/job/1/complete",
        &format!("syndic/site2/{ack}"),
    ] {
        site.lower.bus.fire(tag, &forged).expect("fired");
    }
    site.lower.bus.fire("custom/tag", &forged).expect("fired");
    relay
        .mom
        .await_event("custom/tag", SOON)
        .expect("forwarded");
    let forged = relay.mom.seen(|seen| {
        let tags = seen.events.iter().map(|event| event.tag.clone());
        tags.filter(|tag| tag.contains("site2") || tag.contains("job/1"))
            .collect::<Vec<_>>()
    });
    assert_eq!(forged, Vec::<String>::new());
}

#[test]
fn real_job_for_nobody_makes_no_request_on_the_lower_master() {
    let relay = relay(&["a1", "a2"]);
    let site = relay.site(0).expect("a site");
    await_roster(&relay, "full [a1? a2?] -[]");
    let publish = |number: u64, tgt: &str, tgt_type: &str| {
        let mut job = job(&jid(number), tgt, "test.ping");
        job.set("tgt_type", tgt_type);
        relay.mom.publish(job).expect("published");
    };
    let before = site.lower.requests();
    for (number, (tgt, tgt_type)) in (1..).zip([
        ("b*", "glob"),
        ("b1,b2", "list"),
        ("b.", "pcre"),
        ("b* or L@b1,b2", "compound"),
    ]) {
        publish(number, tgt, tgt_type);
    }
    let unmatched = || {
        site.shim
            .metric("saltway_publications_unmatched_total", &[])
    };
    await_that("four jobs for nobody", SOON, || {
        match unmatched().expect("metrics") {
            Some(count) if count >= 4.0 => Ok(()),
            count => Err(format!("{count:?}")),
        }
    });
    assert_eq!(site.lower.requests(), before, "no request but pings");
    assert_eq!(notices(&relay), Vec::new(), "nobody is told");
    // Whom this site may know goes on to it, whole and in order.
    site.lower.set_returning(true);
    let mut with_fields = job(&jid(5), "a*", "test.ping");
    with_fields.set("master_id", "mom-1");
    with_fields.set("auth_list", Value::array(["test.*"]));
    relay.mom.publish(with_fields).expect("published");
    publish(6, "b1", "glob");
    publish(7, "site1", "glob");
    publish(8, "os:Debian", "grain");
    publish(9, "G@os:Debian and b*", "compound");
    publish(10, "G@os:Debian or b*", "compound");
    publish(11, "*", "glob");
    site.lower
        .await_jobs(5, SOON)
        .expect("those that may be meant");
    let expected: Vec<String> = [5, 7, 8, 10, 11].into_iter().map(jid).collect();
    assert_eq!(site.lower.jids(), expected);
    let jobs = site.lower.jobs();
    let kwargs = jobs
        .first()
        .and_then(|job| job.get("kwargs"))
        .expect("kwargs");
    assert_eq!(kwargs.get_str("master_id"), Some("mom-1"));
    assert_eq!(kwargs.get("auth_list"), Some(&Value::array(["test.*"])));
    // The site answers for itself, as ever.
    await_that("the site's own answer", SOON, || {
        let returns = relay.mom.seen(|seen| seen.returns.clone());
        let own = |ret: &&standin::ReturnSeen| ret.jid == jid(7) && ret.minion == "site1";
        returns
            .iter()
            .find(own)
            .map(drop)
            .ok_or(format!("{returns:?}"))
    });
}

#[test]
fn real_minion_accepted_a_moment_before_its_first_job_gets_it() {
    let relay = relay(&["a1"]);
    let site = relay.site(0).expect("a site");
    await_roster(&relay, "full [a1?] -[]");
    for number in 1..=20 {
        let minion = format!("new{number}");
        // Nobody tells: no event, no time to look by itself.
        site.lower.accept_key(&minion).expect("accepted");
        relay
            .mom
            .publish(job(&jid(number), &minion, "test.ping"))
            .expect("published");
        let count = usize::try_from(number).expect("small");
        site.lower.await_jobs(count, SOON).expect("published below");
    }
    assert_eq!(site.lower.jobs().len(), 20);
}

#[test]
fn real_site_that_cannot_know_its_minions_publishes_everything_and_says_so() {
    let check = |relay: &Relay, why: &str| {
        let site = relay.site(0).expect("a site");
        relay
            .mom
            .publish(job(&jid(1), "b1", "test.ping"))
            .expect("published");
        site.lower.await_jobs(1, SOON).expect(why);
        let roster = await_that(why, SOON, || rosters(relay).pop().ok_or("no roster"));
        assert!(!roster.complete, "{why}");
        roster
    };
    let tiered = Relay::builder()
        .site("site1", &["a1"])
        .master_extra("order_masters: True\n")
        .start()
        .expect("a relay");
    let roster = check(&tiered, "masters below");
    let members: Vec<_> = roster.members.iter().collect();
    assert_eq!(members, [("a1", Presence::Unknown)]);
    let unreadable = relay(&["a1"]);
    let site = unreadable.site(0).expect("a site");
    await_roster(&unreadable, "full [a1?] -[]");
    let keys = site.lower.accepted_keys();
    std::fs::rename(&keys, keys.with_extension("away")).expect("moved");
    site.lower.fire_key("a1", "delete").expect("fired");
    await_that("the site to say so", SOON, || {
        let last = rosters(&unreadable).pop();
        last.filter(|roster| !roster.complete).ok_or("not yet")
    });
    check(&unreadable, "no directory");
}

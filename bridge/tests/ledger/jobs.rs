//! A job appears: whom the `salt` command is told to wait for, and what becomes of it.

use std::time::Duration;

use salt_wire::{
    ids::{Jid, MinionId},
    msgpack::Value,
    saltway::{JobNotice, LostAt, NotPublished},
};
use standin::jid;
use testkit::await_that;

use crate::stage::{SOON, Stage, ids, verdicts};

#[test]
fn real_a_job_is_followed_from_its_publication_to_its_end() {
    let stage = Stage::new("job_ttl: 60s");
    stage.site("site1", &["a1", "a2"]);
    stage.site("site2", &["b1", "b2"]);
    let job = jid(1);
    let published = testkit::now();
    stage.publish(&job, "glob", "*", &["site1", "site2", "direct"]);
    for (site, minions) in [("site1", ["a1", "a2"]), ("site2", ["b1", "b2"])] {
        let told = stage.bus.await_fired(&format!("syndic/{site}/{job}"), SOON);
        let told = told.expect("told");
        assert_eq!(ids(&told, "minions"), minions);
        assert!(ids(&told, "missing").is_empty());
    }
    // A look takes 20 ms by itself, and the machine may be busy.
    assert!(published.elapsed() < Duration::from_millis(500));
    stage.ack("site1", &job, &["a1", "a2"]);
    stage.fire(
        &format!("salt/job/{job}/start/a1"),
        &Value::map([("id", "a1".into())]),
    );
    stage.ret(&job, "a2", 0);
    stage.ret(&job, "b1", 2);
    stage.ret(&job, "direct", 0);
    // A site's own answer is no minion's.
    stage.ret(&job, "site1", 1);
    let seen = stage.await_job(&job, |job| job["returned"] == 3 && job["received"] == 4);
    assert_eq!(seen["user"], "sudo_alice");
    assert_eq!(
        (&seen["fun"], &seen["tgt"]),
        (&"test.echo".into(), &"*".into())
    );
    assert_eq!((&seen["expected"], &seen["failed"]), (&5.into(), &1.into()));
    let expected = [
        "a1 running",
        "a2 returned",
        "b1 failed",
        "b2 waiting",
        "direct returned",
    ];
    assert_eq!(verdicts(&seen), expected);
    let steps: Vec<_> = seen["minions"]
        .as_array()
        .expect("minions")
        .iter()
        .collect();
    assert_eq!(
        (&steps[0]["id"], &steps[0]["step"]),
        (&"a1".into(), &"received".into())
    );
    stage.ret(&job, "a1", 0);
    stage.ret(&job, "b2", 0);
    let ended = stage
        .bus
        .await_fired(&format!("saltway/job/{job}/complete"), SOON);
    let ended = ended.expect("told");
    assert_eq!(ended.get("expected").and_then(Value::as_i64), Some(5));
    assert_eq!(ended.get("missing_count").and_then(Value::as_i64), Some(0));
    let site2 = ended.get("sites").and_then(|sites| sites.get("site2"));
    let returned = site2.and_then(|site| site.get("returned"));
    assert_eq!(returned.and_then(Value::as_i64), Some(2), "{ended:?}");
    assert_eq!(
        stage.bus.fired(&format!("salt/job/{job}/ret/")),
        [],
        "no site was down"
    );
    let counted = |site: &str, step: &str| {
        let labels = [("site", site), ("step", step)];
        let value = stage.bridge.metric("saltway_deliveries_total", &labels);
        value.expect("metrics").unwrap_or_default()
    };
    await_that("the figures", SOON, || {
        let now = [
            ("site1", "expected"),
            ("site1", "accepted"),
            ("site1", "returned"),
            ("mom", "returned"),
        ]
        .map(|(site, step)| counted(site, step));
        if now == [2.0, 2.0, 2.0, 1.0] {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
}

#[test]
fn real_a_site_that_is_cut_off_is_answered_for_and_its_minions_are_named() {
    let stage = Stage::new("job_ttl: 1s");
    stage.site("site1", &["a1"]);
    stage.site("site2", &["b1", "b2", "b3"]);
    stage.site_goes("site2");
    let down = stage
        .bus
        .await_fired("saltway/site/site2/down", SOON)
        .expect("told");
    assert_eq!(down.get("minions").and_then(Value::as_i64), Some(3));
    assert!(
        down.get_str("reason")
            .is_some_and(|why| why.contains("no sign of life"))
    );
    // Its minions were up when it was heard last, which is not known to hold.
    let (_, status) = stage.api("/api/v1/status");
    assert_eq!(status["minions"], serde_json::json!({"known": 4, "up": 1}));
    for (number, tgt_type, tgt) in [
        (1, "glob", "*"),
        (2, "pcre", "(a|b).*"),
        (3, "compound", "a* or b*"),
    ] {
        let job = jid(number);
        stage.publish(&job, tgt_type, tgt, &["site1", "site2"]);
        let told = stage.bus.await_fired(&format!("syndic/site2/{job}"), SOON);
        assert_eq!(
            ids(&told.expect("told"), "missing"),
            ["b1", "b2", "b3"],
            "{tgt}"
        );
    }
    let answer = stage
        .bus
        .await_fired(&format!("salt/job/{}/ret/site2", jid(1)), SOON);
    let answer = answer.expect("answered");
    assert_eq!(answer.get("retcode").and_then(Value::as_i64), Some(1));
    let text = answer.get_str("return").expect("a text");
    assert!(text.contains("expected 3, missing 3: b1, b2, b3"), "{text}");
    // Only the sites know whom a grain means: the site itself is named.
    let grain = jid(4);
    stage.publish(&grain, "grain", "os:Debian", &[]);
    let answer = stage
        .bus
        .await_fired(&format!("salt/job/{grain}/ret/site2"), SOON);
    let text = answer.expect("answered");
    let text = text.get_str("return").expect("a text").to_owned();
    assert!(text.contains("only the site knows"), "{text}");
    assert_eq!(stage.bus.fired(&format!("syndic/site2/{grain}")), []);
    let missing = stage.await_api(&format!("/api/v1/jobs/{grain}/missing"), |_| true);
    assert_eq!(missing["sites_unreachable"], serde_json::json!(["site2"]));
    // What was said of it is no word of the site: it has not returned.
    stage.ack("site1", &jid(1), &["a1"]);
    stage.ret(&jid(1), "a1", 0);
    let seen = stage.await_job(&jid(1), |job| job["returned"] == 1);
    let expected = [
        "a1 returned",
        "b1 unreachable",
        "b2 unreachable",
        "b3 unreachable",
    ];
    assert_eq!(verdicts(&seen), expected);
    let missing = stage.await_api(&format!("/api/v1/jobs/{}/missing", jid(1)), |_| true);
    assert_eq!(missing["missing"].as_array().map(Vec::len), Some(3));
    // A late status mends nothing without the lease; the lease does.
    stage.lease("site2");
    stage.await_site("site2", "up");
    stage
        .bus
        .await_fired("saltway/site/site2/up", SOON)
        .expect("told");
}

#[test]
fn real_redis_that_is_away_takes_every_site_down_within_seconds() {
    let mut stage = Stage::new("");
    stage.site("site1", &["a1"]);
    let killed = testkit::now();
    stage.redis.kill();
    stage.await_site("site1", "down");
    let took = killed.elapsed();
    assert!(
        (Duration::from_secs(2)..Duration::from_secs(9)).contains(&took),
        "{took:?}"
    );
    let down = stage
        .bus
        .await_fired("saltway/site/site1/down", SOON)
        .expect("told");
    assert!(
        down.get_str("reason")
            .is_some_and(|why| why.contains("Redis")),
        "{down:?}"
    );
    let status = stage.await_api("/api/v1/status", |status| {
        status["redis"]["state"] == "down"
    });
    assert_eq!(status["sites"]["down"], 1);
}

#[test]
fn real_what_a_site_says_of_a_job_and_of_its_losses_is_known() {
    let stage = Stage::new("job_ttl: 60s");
    stage.site("site1", &["a1", "a2"]);
    let job = jid(1);
    stage.publish(&job, "list", Value::array(["a1", "a2"]), &[]);
    let notice = JobNotice {
        site: MinionId::parse("site1").expect("an id"),
        jid: Jid::parse(&job).expect("a jid"),
        what: NotPublished::Expired,
        age_seconds: 400.0,
        reason: "older than job_ttl".to_owned(),
    };
    stage.fire(&notice.tag(), &notice.data());
    let seen = stage.await_job(&job, |job| job["sites"][0]["said"] == "expired");
    assert_eq!(verdicts(&seen), ["a1 expired", "a2 expired"]);
    stage.status("site1", "run", &[(LostAt::Redis, 3)]);
    stage.status(
        "site1",
        "another run",
        &[(LostAt::Redis, 2), (LostAt::Site, 1)],
    );
    let sites = stage.await_api("/api/v1/sites", |sites| sites["sites"][0]["lost"] == 6);
    let site = &sites["sites"][0];
    assert_eq!(
        (&site["lag_entries"], &site["spool_bytes"]),
        (&7.into(), &300.into())
    );
    let lost = |hop: &str| {
        let labels = [("hop", hop), ("site", "site1")];
        let value = stage
            .bridge
            .metric("saltway_publications_lost_total", &labels);
        value.expect("metrics").unwrap_or(-1.0)
    };
    assert_eq!([lost("redis"), lost("site"), lost("mom")], [5.0, 1.0, 0.0]);
}

#[test]
fn real_a_job_that_runs_long_is_known_as_running_by_find_job() {
    let stage = Stage::new("job_ttl: 60s");
    stage.site("site1", &["a1", "a2"]);
    let (job, question) = (jid(1), jid(2));
    stage.publish(&job, "glob", "*", &["site1"]);
    stage.ack("site1", &job, &["a1", "a2"]);
    let data = Value::map([
        ("jid", question.as_str().into()),
        ("tgt_type", "list".into()),
        ("tgt", Value::array(["a1", "a2"])),
        ("user", "root".into()),
        ("fun", "saltutil.find_job".into()),
        ("arg", Value::array([job.as_str()])),
        ("minions", Value::Array(Vec::new())),
    ]);
    stage.fire(&format!("salt/job/{question}/new"), &data);
    let answer = |minion: &str, ret: Value| {
        let data = standin::return_data(&question, minion, "saltutil.find_job", ret);
        stage.fire(&format!("salt/job/{question}/ret/{minion}"), &data);
    };
    answer(
        "a1",
        Value::map([("jid", job.as_str().into()), ("pid", Value::Int(7))]),
    );
    answer("a2", Value::Map(Vec::new()));
    let seen = stage.await_job(&job, |job| verdicts(job).contains(&"a1 running".to_owned()));
    assert_eq!(verdicts(&seen), ["a1 running", "a2 waiting"]);
    let (status, _) = stage.api(&format!("/api/v1/jobs/{question}"));
    assert_eq!(status, 404, "the salt command's question is no job");
    assert_eq!(stage.bus.fired(&format!("syndic/site1/{question}")), []);
}

#[test]
fn real_hostile_events_are_counted_and_change_nothing() {
    let stage = Stage::new("");
    stage.site("site1", &["a1"]);
    let deep = (0..400).fold(Value::Nil, |inner, _| Value::Array(vec![inner]));
    let hostile = [
        ("salt/job/1/new", Value::map([("tgt", deep.clone())])),
        ("salt/job/1/new", Value::map([("fun", "test.ping".into())])),
        (
            "salt/job/../ret/a1",
            Value::map([("retcode", Value::Int(0))]),
        ),
        (
            "saltway/site/site1/roster",
            Value::map([("v", Value::Int(2))]),
        ),
        (
            "saltway/site/site1/roster",
            Value::map([("v", Value::Int(1)), ("ids", deep)]),
        ),
        (
            "saltway/site/../../status",
            Value::map([("v", Value::Int(1))]),
        ),
        ("saltway/site/site1/job", Value::map([("v", Value::Int(1))])),
        (
            "syndic/site1/..",
            Value::map([("minions", Value::array(["a1"]))]),
        ),
    ];
    for (tag, data) in &hostile {
        stage.fire(tag, data);
    }
    // Sites that nobody has announced are not kept for a status.
    for number in 0..50 {
        stage.status(&format!("nosite{number}"), "run", &[]);
    }
    stage
        .bus
        .bus()
        .fire_raw(b"\x82\xa4head\x80\xa4body\xc4\x03abc")
        .expect("fired");
    let job = jid(1);
    stage.publish(&job, "glob", "*", &["site1"]);
    stage
        .bus
        .await_fired(&format!("syndic/site1/{job}"), SOON)
        .expect("told");
    let sites = stage.await_api("/api/v1/sites", |_| true);
    assert_eq!(sites["sites"].as_array().map(Vec::len), Some(1));
    await_that("the counts", SOON, || {
        let count = |outcome| {
            let value = stage
                .bridge
                .metric("saltway_bus_events_total", &[("outcome", outcome)]);
            value.expect("metrics").unwrap_or_default()
        };
        let counts = [count("malformed"), count("refused")];
        if counts[0] >= 4.0 && counts[1] >= 4.0 {
            Ok(())
        } else {
            Err(format!("{counts:?}"))
        }
    });
}

//! Hostile and broken input from every side: it is counted and skipped, the flow goes on, and memory stays small.

use std::time::Duration;

use bytes::Bytes;
use salt_wire::crypticle::AesKey;
use salt_wire::keys::{PrivateKey, SigAlgo};
use salt_wire::msgpack::{Dialect, Value, encode};
use salt_wire::standin::Master;
use standin::{Framing, PublishAnswer, Relay, jid, job};
use testkit::{Daemon, await_that};

const SOON: Duration = Duration::from_secs(20);

/// What a daemon may hold after garbage of ordinary size; idle it holds about 20 MiB.
const RSS_MAX: u64 = 60 << 20;

/// The same after frames of 64 MiB and more: glibc keeps some of what was freed.
const RSS_MAX_AFTER_HUGE: u64 = 400 << 20;

/// Lines that a log may gain by garbage within a minute, whatever its amount.
const LOG_LINES_MAX: usize = 60;

fn relay() -> Relay {
    Relay::builder()
        .site("site1", &["a1"])
        .start()
        .expect("a relay")
}

/// Waits until a metric is at least `least`.
#[track_caller]
fn await_metric(daemon: &Daemon, name: &str, labels: &[(&str, &str)], least: f64) {
    await_that(
        &format!("{name} {labels:?} >= {least}"),
        SOON,
        || match daemon.metric(name, labels).expect("metrics") {
            Some(value) if value >= least => Ok(()),
            value => Err(format!("{value:?}\n{}", daemon.log_tail(10))),
        },
    );
}

/// A job goes down and its return comes up, as if nothing had happened.
#[track_caller]
fn assert_flow(relay: &Relay, number: u64) {
    let site = relay.site(0).expect("a site");
    let jid = jid(number);
    relay
        .mom
        .publish(job(&jid, "*", "test.ping"))
        .expect("published");
    await_that("the job", SOON, || {
        let jids = site.lower.jids();
        if jids.contains(&jid) {
            Ok(())
        } else {
            Err(format!("{} jobs\n{}", jids.len(), site.shim.log_tail(10)))
        }
    });
    await_that("the return", SOON, || {
        // A bus that was cut off a moment ago may have nobody on it yet.
        let bus = &site.lower.bus;
        bus.fire_return(&jid, "a1", "test.ping", true.into())
            .expect("fired");
        std::thread::sleep(Duration::from_millis(20));
        let came = |seen: &standin::Seen| seen.returns.iter().any(|ret| ret.jid == jid);
        if relay.mom.seen(came) {
            Ok(())
        } else {
            Err("not yet")
        }
    });
}

#[track_caller]
fn assert_small(daemon: &Daemon, max: u64) {
    let rss = daemon
        .process()
        .expect("running")
        .usage()
        .expect("usage")
        .rss;
    assert!(rss < max, "{} MiB", rss >> 20);
    assert_eq!(daemon.get("/healthz").expect("an answer").0, 200);
    let log = daemon.log().expect("a log");
    assert!(!log.contains("panicked"), "{log}");
}

/// Bytes that look random and are the same in every run.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// Maps and arrays that claim more than there is, and nest deeper than any stack.
fn bombs() -> Vec<Vec<u8>> {
    let deep = |byte: u8| vec![byte; 100_000];
    vec![
        b"\xdf\xff\xff\xff\xff".to_vec(),
        b"\xdd\xff\xff\xff\xff".to_vec(),
        b"\xc6\xff\xff\xff\xff".to_vec(),
        deep(0x91),
        deep(0x81),
        [b"\xdd\x00\x01\x86\xa0".to_vec(), vec![0xc0; 100_000]].concat(),
    ]
}

#[test]
fn real_garbage_on_the_moms_publish_port_is_counted_and_skipped() {
    let relay = relay();
    let site = relay.site(0).expect("a site");
    assert_flow(&relay, 1);
    for seed in 1..=100 {
        relay
            .mom
            .send(&noise(usize::try_from(seed).expect("small") * 7, seed))
            .expect("sent");
    }
    relay.mom.send(b"").expect("sent");
    for bomb in bombs() {
        relay.mom.send(&bomb).expect("sent");
    }
    let valid = relay
        .mom
        .frame(job(&jid(2), "*", "test.ping"))
        .expect("a frame");
    relay.mom.send_parts(&[b"a", b"b", &valid]).expect("sent");
    relay.mom.send_parts(&[b"a".as_slice(); 50]).expect("sent");
    relay.mom.send_parts(&[b"a1-topic", &valid]).expect("sent");
    // Three-part messages end at the bridge; everything of one part is the site's to open.
    await_metric(
        &relay.bridge,
        "saltway_publications_lost_total",
        &[("hop", "mom")],
        2.0,
    );
    await_metric(
        &site.shim,
        "saltway_publications_lost_total",
        &[("hop", "site")],
        107.0,
    );
    assert_flow(&relay, 3);
    assert_eq!(site.lower.jids(), [jid(1), jid(3)]);
    for daemon in [&site.shim, &relay.bridge] {
        let lines = daemon.log().expect("a log").lines().count();
        assert!(
            lines < LOG_LINES_MAX,
            "{lines} lines\n{}",
            daemon.log_tail(5)
        );
    }
    assert_small(&site.shim, RSS_MAX);
    assert_small(&relay.bridge, RSS_MAX);
}

#[test]
fn real_huge_frames_do_not_stay_in_memory() {
    let relay = relay();
    let site = relay.site(0).expect("a site");
    for (seed, mebibytes) in [(1, 1), (2, 16), (3, 64)] {
        relay.mom.send(&noise(mebibytes << 20, seed)).expect("sent");
    }
    assert_flow(&relay, 1);
    let lost = |daemon: &Daemon| {
        let lost = daemon.metric("saltway_publications_lost_total", &[]);
        lost.expect("metrics").unwrap_or_default()
    };
    assert_eq!(
        lost(&site.shim) + lost(&relay.bridge),
        3.0,
        "each is counted once"
    );
    assert_small(&site.shim, RSS_MAX_AFTER_HUGE);
    assert_small(&relay.bridge, RSS_MAX_AFTER_HUGE);
}

#[test]
fn real_forged_publications_are_refused_and_a_replay_runs_nothing() {
    let relay = relay();
    let site = relay.site(0).expect("a site");
    let sign = Some(SigAlgo::default());
    let load = |number| job(&jid(number), "*", "cmd.run");
    let valid = relay.mom.frame(load(1)).expect("a frame");
    relay.mom.send(&valid).expect("sent");
    site.lower.await_jobs(1, SOON).expect("the job");
    let real = relay.mom.master();
    let stranger = PrivateKey::generate(2048).expect("a key");
    // Signed by a stranger who knows the AES key, as every minion of the MoM does.
    let forged = Master {
        key: stranger.clone(),
        ..real.clone()
    };
    relay
        .mom
        .send(&forged.publish(load(2), 2, sign).expect("made"))
        .expect("sent");
    await_metric(
        &site.shim,
        "saltway_publications_lost_total",
        &[("hop", "site")],
        1.0,
    );
    let unknown = Master {
        aes: AesKey::generate().expect("a key"),
        ..real.clone()
    };
    relay
        .mom
        .send(&unknown.publish(load(3), 2, sign).expect("made"))
        .expect("sent");
    await_metric(
        &site.shim,
        "saltway_publications_lost_total",
        &[("hop", "site")],
        2.0,
    );
    relay.mom.send(&valid).expect("sent");
    await_metric(
        &relay.bridge,
        "saltway_publications_duplicate_total",
        &[],
        1.0,
    );
    assert_flow(&relay, 4);
    assert_eq!(site.lower.jids(), [jid(1), jid(4)]);
}

#[test]
fn real_garbage_in_redis_is_counted_and_skipped() {
    let relay = relay();
    let site = relay.site(0).expect("a site");
    assert_flow(&relay, 1);
    let mut redis = connect(&relay);
    let key = |name: &str| format!("saltway:{{main}}:{name}");
    let mut run = |words: &[&[u8]]| {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.query::<redis::Value>(&mut redis).expect("done");
    };
    let garbage: Vec<Vec<u8>> = (1..=20)
        .map(|seed| noise(300, seed))
        .chain(bombs())
        .chain([
            b"".to_vec(),
            b"v=1".to_vec(),
            b"v=2 id=1-1 t=1\nframe".to_vec(),
            b"v=1 id=1 t=1\nframe".to_vec(),
            b"v=1 beat=x id=? t=1\n".to_vec(),
            b"v=1 rid=00000000000000000000000000000000 status=ok\nframe".to_vec(),
            b"v=1 rid=x status=ok\n".to_vec(),
            b"v=1 rid=00000000000000000000000000000000 status=perhaps\n".to_vec(),
        ])
        .collect();
    for bytes in &garbage {
        run(&[b"PUBLISH", key("publications").as_bytes(), bytes]);
        run(&[b"PUBLISH", key("replies:site1").as_bytes(), bytes]);
        run(&[b"XADD", key("requests").as_bytes(), b"*", b"f", bytes]);
        let rid = b"00000000000000000000000000000000";
        run(&[
            b"XADD",
            key("requests").as_bytes(),
            b"*",
            b"v",
            b"1",
            b"site",
            b"site1",
            b"rid",
            rid,
            b"t",
            b"1",
            b"f",
            bytes,
        ]);
    }
    // An entry of the publications stream under the right next id, whose content is none.
    await_metric(
        &relay.bridge,
        "saltway_requests_total",
        &[("outcome", "malformed")],
        34.0,
    );
    await_metric(
        &relay.bridge,
        "saltway_requests_total",
        &[("outcome", "refused")],
        34.0,
    );
    await_metric(
        &site.shim,
        "saltway_malformed_total",
        &[("from", "pubsub")],
        20.0,
    );
    await_metric(
        &site.shim,
        "saltway_malformed_total",
        &[("from", "replies")],
        20.0,
    );
    assert_flow(&relay, 2);
    assert_eq!(site.lower.jids(), [jid(1), jid(2)]);
    assert_eq!(
        relay.mom.seen(|seen| seen.unreadable.len()),
        0,
        "nothing of it reached the MoM"
    );
    assert_small(&site.shim, RSS_MAX);
    assert_small(&relay.bridge, RSS_MAX);
}

#[test]
fn real_garbage_in_the_publications_stream_loses_nothing_else() {
    let mut relay = relay();
    assert_flow(&relay, 1);
    let site = relay.sites.first_mut().expect("a site");
    site.shim.terminate().expect("ended");
    let mut redis = connect(&relay);
    // A site that was away finds in the stream what somebody else has put there: behind the newest entry, in its epoch.
    relay
        .mom
        .publish(job(&jid(2), "*", "test.ping"))
        .expect("published");
    await_metric(
        &relay.bridge,
        "saltway_publications_total",
        &[("hop", "redis")],
        2.0,
    );
    let stream = "saltway:{main}:publications";
    for id in ["*", "*", "*"] {
        let mut command = redis::cmd("XADD");
        command.arg(stream).arg(id).arg("f").arg(noise(100, 1));
        command.query::<redis::Value>(&mut redis).expect("added");
    }
    let site = relay.sites.first_mut().expect("a site");
    site.shim.start().expect("started");
    site.shim.ready().expect("ready");
    site.lower
        .await_jobs(2, SOON)
        .expect("the job that was published meanwhile");
    // The intruder's ids are those of a later epoch; what the bridge publishes from now on has to come all the same.
    assert_flow(&relay, 3);
}

fn connect(relay: &Relay) -> redis::Connection {
    let client = redis::Client::open(relay.redis.url()).expect("a client");
    client.get_connection().expect("connected")
}

#[test]
fn real_forged_replies_are_not_believed() {
    let relay = relay();
    let site = relay.site(0).expect("a site");
    let mut redis = connect(&relay);
    relay.mom.set_paused(true);
    site.lower
        .bus
        .fire_return(&jid(1), "a1", "test.ping", true.into())
        .expect("fired");
    // The request that carries the return waits at the MoM; its rid can be read by whoever may read the stream.
    let rid = await_that("the request", SOON, || {
        let entries: redis::Value = redis::cmd("XRANGE")
            .arg("saltway:{main}:requests")
            .arg("-")
            .arg("+")
            .query(&mut redis)
            .map_err(|error| error.to_string())?;
        find_rid(&entries).ok_or_else(|| "no request".to_owned())
    });
    let forgeries = [
        b"".to_vec(),
        noise(200, 5),
        encode(&"bad load".into(), Dialect::Old).to_vec(),
    ];
    let message = |body: &[u8]| [format!("v=1 rid={rid} status=ok\n").as_bytes(), body].concat();
    for body in &forgeries {
        redis::cmd("PUBLISH")
            .arg("saltway:{main}:replies:site1")
            .arg(message(body))
            .query::<redis::Value>(&mut redis)
            .expect("published");
    }
    await_metric(
        &site.shim,
        "saltway_send_failures_total",
        &[("queue", "returns")],
        1.0,
    );
    assert_eq!(
        site.shim
            .metric("saltway_returns_total", &[("hop", "mom")])
            .expect("metrics"),
        Some(0.0)
    );
    relay.mom.set_paused(false);
    await_metric(&site.shim, "saltway_returns_total", &[("hop", "mom")], 1.0);
    assert!(relay.mom.seen(|seen| !seen.returns.is_empty()));
}

fn find_rid(value: &redis::Value) -> Option<String> {
    match value {
        redis::Value::Array(items) => {
            let is_name =
                |item: &redis::Value| matches!(item, redis::Value::BulkString(b) if b == b"rid");
            let position = items.iter().position(is_name);
            match position.and_then(|at| items.get(at + 1)) {
                Some(redis::Value::BulkString(rid)) => {
                    Some(String::from_utf8_lossy(rid).into_owned())
                }
                _ => items.iter().find_map(find_rid),
            }
        }
        _ => None,
    }
}

#[test]
fn real_commands_are_refused_at_the_gate() {
    let relay = relay();
    assert_flow(&relay, 1);
    let before = relay.mom.seen(|seen| seen.requests);
    let mut redis = connect(&relay);
    let clear = |load: Value| {
        let version = Value::Int(3);
        let envelope = Value::map([
            ("enc", "clear".into()),
            ("load", load),
            ("version", version),
        ]);
        encode(&envelope, Dialect::Old)
    };
    let command = |cmd: &str| {
        clear(Value::map([
            ("cmd", cmd.into()),
            ("fun", "test.ping".into()),
        ]))
    };
    let auth = |id: &str, key: &str| {
        let nonce = "0".repeat(32);
        let load = [
            ("cmd", "_auth"),
            ("id", id),
            ("pub", key),
            ("nonce", &nonce),
        ];
        clear(Value::map(
            load.map(|(name, text)| (name, Value::from(text))),
        ))
    };
    let frames: Vec<(Bytes, &str)> = vec![
        (command("publish"), "clear_command"),
        (command("runner"), "clear_command"),
        (command("wheel"), "clear_command"),
        (command("get_token"), "clear_command"),
        (auth("../../etc", "x"), "id"),
        (auth("site1", "no key"), "public_key"),
        (Bytes::from_static(b"\xff\xff"), "msgpack"),
        (encode(&Value::array(["x"]), Dialect::Old), "not_map"),
    ];
    for (number, (frame, _)) in frames.iter().enumerate() {
        let rid = format!("{number:032x}");
        let mut command = redis::cmd("XADD");
        command.arg("saltway:{main}:requests").arg("*");
        command
            .arg("v")
            .arg(1)
            .arg("site")
            .arg("site1")
            .arg("rid")
            .arg(rid);
        command.arg("t").arg(1).arg("f").arg(frame.as_ref());
        command.query::<redis::Value>(&mut redis).expect("added");
    }
    let name = "saltway_requests_refused_total";
    for (_, reason) in &frames {
        let same = frames.iter().filter(|(_, other)| other == reason).count();
        let least = f64::from(u32::try_from(same).expect("small"));
        await_metric(&relay.bridge, name, &[("reason", reason)], least);
    }
    let refused = relay.bridge.metric(name, &[]).expect("metrics");
    assert_eq!(refused, Some(8.0));
    assert_eq!(
        relay.mom.seen(|seen| seen.requests),
        before,
        "none reached the MoM"
    );
}

#[test]
fn real_lower_master_that_answers_nonsense_costs_single_jobs_only() {
    let relay = relay();
    let site = relay.site(0).expect("a site");
    let answers = [
        noise(100, 1),
        b"".to_vec(),
        bombs().swap_remove(3),
        encode(&Value::Nil, Dialect::Old).to_vec(),
    ];
    for (number, answer) in (1_u32..).zip(answers) {
        site.lower.set_answer(PublishAnswer::Frame(answer.into()));
        let load = job(&jid(number.into()), "*", "test.ping");
        relay.mom.publish(load).expect("published");
        let labels = [("hop", "lower_master")];
        let name = "saltway_publications_lost_total";
        await_metric(&site.shim, name, &labels, number.into());
    }
    site.lower.set_answer(PublishAnswer::Minions);
    assert_flow(&relay, 10);
    assert_small(&site.shim, RSS_MAX);
}

#[test]
fn real_jobs_expire_behind_a_lower_master_that_never_answers() {
    let relay = Relay::builder()
        .site("site1", &["a1"])
        .shim_extra("job_ttl: 2s")
        .start();
    let relay = relay.expect("a relay");
    let site = relay.site(0).expect("a site");
    site.lower.set_answer(PublishAnswer::Silence);
    for number in 1..=3 {
        relay
            .mom
            .publish(job(&jid(number), "*", "test.ping"))
            .expect("published");
    }
    await_metric(&site.shim, "saltway_publications_expired_total", &[], 3.0);
    let log = site.shim.log().expect("a log");
    assert!(
        log.contains("job not run: older than job_ttl") && log.contains(&jid(3)),
        "{log}"
    );
    site.lower.set_answer(PublishAnswer::Minions);
    assert_flow(&relay, 10);
    // The first was sent to the master before it expired, once; the others never.
    let jids = site.lower.jids();
    assert!(
        !jids.contains(&jid(2)) && !jids.contains(&jid(3)),
        "{jids:?}"
    );
}

#[test]
fn real_nonsense_on_the_event_bus_is_counted_or_ends_the_connection() {
    for framing in [Framing::LengthPrefix, Framing::Streaming] {
        let relay = Relay::builder()
            .site("site1", &["a1"])
            .framing(framing)
            .start();
        let relay = relay.expect("a relay");
        let site = relay.site(0).expect("a site");
        let bus = &site.lower.bus;
        assert_flow(&relay, 1);
        // A frame that is one, around something that is none.
        let no_map = bus
            .frame("some/tag", &Value::array(["x"]))
            .expect("a frame");
        bus.fire_raw(&no_map).expect("fired");
        await_metric(
            &site.shim,
            "saltway_malformed_total",
            &[("from", "event_bus")],
            1.0,
        );
        let half = |frame: &[u8]| {
            frame
                .get(..frame.len() / 2)
                .map(<[u8]>::to_vec)
                .expect("a half")
        };
        let breaks = [
            noise(5_000, 9),
            b"\x7f\xff\xff\xff".to_vec(),
            b"\xff\xff\xff\xff".to_vec(),
            b"\x82\xa4head\x80\xa4body\xc6\xff\xff\xff\xff".to_vec(),
            vec![0x91; 100_000],
            half(&no_map),
        ];
        for (number, bytes) in (2..).zip(breaks) {
            bus.await_listener(SOON).expect("connected");
            bus.fire_raw(&bytes).ok();
            bus.disconnect();
            assert_flow(&relay, number);
        }
        // A frame that never ends: the bound of a frame ends it.
        bus.await_listener(SOON).expect("connected");
        let head: &[u8] = match framing {
            Framing::LengthPrefix => b"\x7f\xff\xff\xff",
            Framing::Streaming => b"\x82\xa4head\x80\xa4body\xc6\xff\xff\xff\xff",
        };
        bus.fire_raw(head).expect("fired");
        let block = vec![0; 1 << 20];
        for _ in 0..300 {
            if bus.fire_raw(&block).is_err() || bus.listeners() == 0 {
                break;
            }
        }
        assert_flow(&relay, 20);
        assert_small(&site.shim, RSS_MAX_AFTER_HUGE);
    }
}

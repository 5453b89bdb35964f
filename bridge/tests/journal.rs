//! What the bridge received is in Redis in the end, once and in its order: through a Redis that is away, that has forgotten,
//! and through ends of the bridge.

use std::{fs, io::Write as _, path::Path, process::Command, time::Duration};

use standin::StandinMom;
use testkit::{Daemon, RedisServer, Workspace, await_that};

const SOON: Duration = Duration::from_secs(20);

/// Set for the process that has a small disk of its own: where it is.
const DISK: &str = "BRIDGE_TEST_DISK";

/// A MoM, a Redis, and a bridge between them.
struct Between {
    bridge: Daemon,
    redis: RedisServer,
    mom: StandinMom,
    sent: u64,
    _workspace: Workspace,
}

impl Between {
    fn new(extra: &str) -> Self {
        let workspace = Workspace::new().expect("a workspace");
        let mom = StandinMom::start(&workspace, "mom").expect("a stand-in");
        let redis = RedisServer::builder("redis")
            .start(&workspace)
            .expect("a redis-server");
        let mut bridge = Daemon::bridge("bridge", mom.config_file())
            .redis(&redis.url())
            .log("info")
            .extra(extra)
            .start(&workspace)
            .expect("started");
        bridge.ready().expect("ready");
        mom.await_subscriber(SOON).expect("subscribed");
        Self {
            bridge,
            redis,
            mom,
            sent: 0,
            _workspace: workspace,
        }
    }

    /// Sends so many frames, each with its number.
    fn send(&mut self, count: u64) {
        for _ in 0..count {
            self.sent += 1;
            let frame = format!("{:06} {}", self.sent, "x".repeat(500));
            self.mom.send(frame.as_bytes()).expect("sent");
        }
    }

    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let value = self.bridge.metric(name, labels).expect("metrics");
        value.unwrap_or_default()
    }

    fn await_metric(&self, name: &str, labels: &[(&str, &str)], value: u64) {
        await_that(name, SOON, || {
            let now = self.metric(name, labels);
            // A count of a test is exact as a float.
            if (now - f64::from(u32::try_from(value).expect("small"))).abs() < 0.5 {
                return Ok(());
            }
            Err(format!("{now}, not {value}\n{}", self.bridge.log_tail(20)))
        });
    }

    /// The numbers of the frames in the stream, in its order.
    fn stream(&self) -> Vec<u64> {
        let client = redis::Client::open(self.redis.url()).expect("a client");
        let entries = client.get_connection().and_then(|mut connection| {
            let mut range = redis::cmd("XRANGE");
            range.arg("saltway:{main}:publications").arg("-").arg("+");
            range.query::<Vec<(String, Vec<(String, Vec<u8>)>)>>(&mut connection)
        });
        let number = |fields: Vec<(String, Vec<u8>)>| {
            let (_, frame) = fields.into_iter().find(|(name, _)| name == "f")?;
            String::from_utf8(frame).ok()?.get(..6)?.parse().ok()
        };
        let entries = entries.unwrap_or_default().into_iter();
        entries.filter_map(|(_, fields)| number(fields)).collect()
    }

    /// Everything that was sent is there, once and in its order.
    fn await_all(&self) {
        self.await_stream((1..=self.sent).collect());
    }

    fn await_stream(&self, expected: Vec<u64>) {
        await_that("the stream", SOON, || {
            let stream = self.stream();
            if stream == expected {
                return Ok(());
            }
            let (first, last) = (stream.first(), stream.last());
            let tail = self.bridge.log_tail(20);
            Err(format!(
                "{} from {first:?} to {last:?}\n{tail}",
                stream.len()
            ))
        });
    }

    fn start_bridge(&mut self) {
        self.bridge.start().expect("started");
        self.bridge.ready().expect("ready");
        self.mom.await_subscriber(SOON).expect("subscribed");
    }
}

const UNAPPENDED: (&str, &[(&str, &str)]) = ("saltway_queue_entries", &[("queue", "unappended")]);

#[test]
fn real_frames_wait_on_disk_through_kills_while_redis_is_away() {
    let mut between = Between::new("");
    between.send(50);
    between.await_all();
    between.redis.kill();
    between.send(300);
    between.await_metric(UNAPPENDED.0, UNAPPENDED.1, 300);
    between.bridge.kill();
    // With what it had, which is recognised, and as another run.
    between.redis.start().expect("started");
    between.start_bridge();
    between.await_all();
    // A start on the same run of Redis appends nothing again.
    between.bridge.terminate().expect("ended");
    between.start_bridge();
    between.send(1);
    between.await_all();
    for name in ["reappended", "duplicate"] {
        let name = format!("saltway_publications_{name}_total");
        assert!(between.metric(&name, &[]) < 0.5, "{name}");
    }
}

#[test]
fn real_what_redis_forgot_is_appended_again_before_anything_new() {
    let mut between = Between::new("");
    between.send(2_000);
    between.await_all();
    let flushed = between.redis.cli(&["FLUSHALL"]).expect("answered");
    assert_eq!(flushed.code, 0);
    between.send(100);
    between.await_all();
    between.await_metric("saltway_publications_reappended_total", &[], 2_000);
    // A heart-beat finds out, too.
    between.redis.cli(&["FLUSHALL"]).expect("answered");
    between.await_all();
    let begun = &[("how", "begun")];
    assert!(between.metric("saltway_epochs_total", begun) >= 3.0);
}

#[test]
fn real_sigterm_drains_into_redis_or_leaves_it_on_disk() {
    let mut between = Between::new("");
    between.send(1);
    between.await_all();
    between.redis.pause().expect("paused");
    between.send(2_000);
    let received = ("saltway_publications_total", &[("hop", "mom")]);
    between.await_metric(received.0, received.1, 2_001);
    between.redis.resume().expect("resumed");
    assert!(between.bridge.terminate().expect("ended").success());
    between.await_all();
    // The same with a Redis that stays away.
    between.start_bridge();
    between.redis.pause().expect("paused");
    between.send(500);
    between.await_metric(received.0, received.1, 500);
    assert!(between.bridge.terminate().expect("ended").success());
    between.redis.resume().expect("resumed");
    between.start_bridge();
    between.await_all();
}

#[test]
fn real_journal_is_bounded_and_what_goes_is_counted() {
    let mut between = Between::new("journal: {max_entries: 1000}");
    // In steps: what Redis has not is not shed while Redis takes it.
    for _ in 0..3 {
        between.send(500);
        between.await_all();
    }
    let journal = ("saltway_queue_entries", &[("queue", "journal")]);
    between.await_metric(journal.0, journal.1, 1_000);
    // What Redis has goes first, without loss.
    let lost = (
        "saltway_publications_lost_total",
        &[("hop", "redis"), ("site", "")],
    );
    assert_eq!(between.metric(lost.0, lost.1), 0.0);
    between.redis.kill();
    between.send(1_200);
    between.await_metric(lost.0, lost.1, 200);
    between.redis.start().expect("started");
    // Redis kept what it had.
    between.await_stream((1..=1_500).chain(1_701..=2_700).collect());
}

#[test]
fn real_full_disk_lets_frames_pass_from_memory() {
    let Ok(disk) = std::env::var(DISK) else {
        return with_small_disk("real_full_disk_lets_frames_pass_from_memory");
    };
    let mut between = Between::new(&format!("state_dir: {disk}"));
    between.send(20);
    between.await_all();
    let filler = Path::new(&disk).join("filler");
    let mut file = fs::File::create(&filler).expect("made");
    while file.write_all(&[0; 4096]).is_ok() {}
    // More than the journal's own room takes: its log was begun a moment ago.
    while between.metric("saltway_publications_unjournaled_total", &[]) < 100.0 {
        between.send(200);
        between.await_all();
    }
    let (status, text) = between.bridge.get("/readyz").expect("an answer");
    assert!(status == 503 && text.contains("journal"), "{status} {text}");
    drop(file);
    fs::remove_file(&filler).expect("removed");
    await_that("the journal", SOON, || {
        between.send(1);
        let (status, text) = between.bridge.get("/readyz").expect("an answer");
        if status == 200 { Ok(()) } else { Err(text) }
    });
    between.await_all();
}

/// Runs the test `name` of this file again, in a mount namespace of its own with a disk of 8 MiB.
fn with_small_disk(name: &str) {
    let workspace = Workspace::new().expect("a workspace");
    let disk = workspace.path().join("disk");
    fs::create_dir(&disk).expect("made");
    let mount =
        r#"mount -t tmpfs -o size=8m,mode=0700 none "$1" && exec "$2" --exact "$3" --nocapture"#;
    let status = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            mount,
            "sh",
        ])
        .arg(&disk)
        .arg(std::env::current_exe().expect("this test"))
        .arg(name)
        .env(DISK, &disk)
        .status()
        .expect("unshare (util-linux) runs");
    assert!(status.success(), "unshare: {status}");
}

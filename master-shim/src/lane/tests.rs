use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use daemon_kit::{http::Readiness, metrics::Metrics};
use store::SpoolConfig;
use tokio::sync::Semaphore;

use super::*;
use crate::telemetry::Telemetry;

/// An item of that many bytes on the wire.
#[derive(Debug, PartialEq, Eq)]
struct Parcel(usize);

impl Item for Parcel {
    fn wire_bytes(&self) -> usize {
        self.0
    }
    fn class(&self) -> Class {
        Class::Return
    }
    fn encode(&self) -> Bytes {
        self.0.to_string().into()
    }
    fn decode(body: &Bytes) -> Option<Self> {
        Some(Self(std::str::from_utf8(body).ok()?.parse().ok()?))
    }
}

/// A MoM that answers when the test lets it.
#[derive(Clone)]
struct ScriptedMom {
    batches: Arc<Mutex<Vec<Vec<usize>>>>,
    replies: Arc<Semaphore>,
}

impl Sender<Parcel> for ScriptedMom {
    async fn send(&self, batch: Vec<Parcel>) {
        let sizes = batch.into_iter().map(|parcel| parcel.0).collect();
        self.batches
            .lock()
            .expect("no test panics here")
            .push(sizes);
        self.replies
            .acquire()
            .await
            .expect("the semaphore stays open")
            .forget();
    }

    fn spooled(&self, _items: &[Parcel]) {}
}

#[derive(Clone, Default)]
struct Counts {
    shed: Arc<AtomicUsize>,
    shed_from_memory: Arc<AtomicUsize>,
    undecodable: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
    window: Arc<AtomicUsize>,
    window_max: Arc<AtomicUsize>,
}

impl Observer for Counts {
    fn queued(&self, entries: usize, _bytes: usize) {
        self.window.store(entries, Ordering::SeqCst);
        self.window_max.fetch_max(entries, Ordering::SeqCst);
    }
    fn shed(&self, shed: &Shed) {
        let entries = usize::try_from(shed.entries).expect("a small number");
        self.shed.fetch_add(entries, Ordering::SeqCst);
    }
    fn shed_from_memory(&self, entries: usize) {
        self.shed_from_memory.fetch_add(entries, Ordering::SeqCst);
    }
    fn undecodable(&self) {
        self.undecodable.fetch_add(1, Ordering::SeqCst);
    }
    fn sent(&self, entries: usize) {
        self.sent.fetch_add(entries, Ordering::SeqCst);
    }
}

const CONFIG: LaneConfig = LaneConfig {
    window_entries_max: 6,
    window_bytes_max: 1_000,
    batch_entries_max: 3,
    batch_bytes_max: 100,
    in_flight_max: 1,
};

const LANE: u32 = 7;

/// A lane over a spool on disk, whose process can be ended and begun anew.
struct Rig {
    directory: tempfile::TempDir,
    mom: ScriptedMom,
    counts: Counts,
    items: Option<mpsc::Sender<Parcel>>,
    shutdown: CancellationToken,
    running: JoinSet<()>,
    spool: Spool,
}

impl Rig {
    fn new(config: LaneConfig) -> Self {
        Self::within(config, SpoolConfig::default())
    }

    fn within(config: LaneConfig, bounds: SpoolConfig) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self::open(directory, config, bounds)
    }

    fn open(directory: tempfile::TempDir, config: LaneConfig, bounds: SpoolConfig) -> Self {
        let (spool, opened) =
            Spool::open(&directory.path().join("spool.db"), bounds).expect("opened");
        assert!(opened.set_aside.is_none());
        let mom = ScriptedMom {
            batches: Arc::default(),
            replies: Arc::new(Semaphore::new(0)),
        };
        let counts = Counts::default();
        let (sender, items) = mpsc::channel(64);
        let telemetry = Telemetry::new(&Metrics::new("test", "0"), "site1");
        let on_disk = LaneDisk {
            spool: spool.clone(),
            lane: LANE,
            disk: Disk::new(Readiness::default().condition("state_dir"), telemetry),
        };
        let lane = LaneTask::new(config, items, on_disk, mom.clone(), counts.clone());
        let shutdown = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(lane.run(shutdown.clone()));
        Self {
            directory,
            mom,
            counts,
            items: Some(sender),
            shutdown,
            running,
            spool,
        }
    }

    async fn queue(&self, sizes: &[usize]) {
        for size in sizes {
            let items = self.items.as_ref().expect("not ended");
            items.send(Parcel(*size)).await.expect("the lane runs");
        }
    }

    fn reply(&self, batches: usize) {
        self.mom.replies.add_permits(batches);
    }

    fn batches(&self) -> Vec<Vec<usize>> {
        self.mom
            .batches
            .lock()
            .expect("no test panics here")
            .clone()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(10), waiting).await;
        assert!(waited.is_ok(), "{what}: {:?}", self.batches());
    }

    fn on_disk(&self) -> u64 {
        self.spool.state().entries
    }

    /// Ends the lane as a SIGTERM does; returns the directory for the next one.
    async fn end(mut self) -> tempfile::TempDir {
        self.items = None;
        self.shutdown.cancel();
        self.running
            .join_next()
            .await
            .expect("the lane ran")
            .expect("no panic");
        self.directory
    }
}

#[tokio::test]
async fn idle_lane_sends_at_once_and_what_queues_up_goes_as_the_next_batch() {
    let rig = Rig::new(CONFIG);
    rig.queue(&[1]).await;
    rig.until("the first goes alone", |rig| rig.batches() == [vec![1]])
        .await;
    rig.queue(&[2, 3, 4, 5]).await;
    rig.until("all are on disk", |rig| rig.on_disk() == 5).await;
    rig.reply(3);
    let expected = [vec![1], vec![2, 3, 4], vec![5]];
    rig.until("the rest", |rig| rig.batches() == expected).await;
    rig.until("the disk is empty", |rig| rig.on_disk() == 0)
        .await;
}

#[tokio::test]
async fn batch_is_bounded_by_bytes_and_a_larger_item_goes_alone() {
    let rig = Rig::new(CONFIG);
    rig.reply(10);
    rig.queue(&[1]).await;
    rig.until("the first", |rig| rig.batches().len() == 1).await;
    rig.queue(&[60, 60, 300, 5]).await;
    rig.until("all are sent", |rig| {
        rig.counts.sent.load(Ordering::SeqCst) == 5
    })
    .await;
    for batch in rig.batches() {
        assert!(batch.len() == 1 || batch.iter().sum::<usize>() <= 100);
    }
}

#[tokio::test]
async fn item_leaves_the_disk_only_after_the_reply() {
    let rig = Rig::new(CONFIG);
    rig.queue(&[1]).await;
    rig.until("it is sent", |rig| rig.batches().len() == 1)
        .await;
    assert_eq!(rig.on_disk(), 1, "not answered yet");
    rig.reply(1);
    rig.until("answered", |rig| rig.on_disk() == 0).await;
}

#[tokio::test]
async fn memory_is_bounded_while_the_mom_is_away_and_the_order_is_kept() {
    let rig = Rig::new(CONFIG);
    let all: Vec<usize> = (1..=60).collect();
    rig.queue(&all).await;
    rig.until("all are on disk", |rig| rig.on_disk() == 60)
        .await;
    assert!(rig.counts.window_max.load(Ordering::SeqCst) <= CONFIG.window_entries_max);
    rig.reply(1_000);
    rig.until("all are sent", |rig| {
        rig.counts.sent.load(Ordering::SeqCst) == 60
    })
    .await;
    assert_eq!(rig.batches().concat(), all);
    assert!(rig.counts.window_max.load(Ordering::SeqCst) <= CONFIG.window_entries_max);
    rig.queue(&[61]).await;
    rig.until("the lane is idle again", |rig| {
        rig.batches().last() == Some(&vec![61])
    })
    .await;
}

#[tokio::test]
async fn what_an_earlier_process_left_is_sent_first() {
    let rig = Rig::new(CONFIG);
    rig.queue(&[1, 2, 3]).await;
    rig.until("all are on disk", |rig| rig.on_disk() == 3).await;
    let directory = rig.end().await;
    let rig = Rig::open(directory, CONFIG, SpoolConfig::default());
    rig.reply(10);
    rig.until("they are sent", |rig| rig.batches().concat() == [1, 2, 3])
        .await;
    rig.until("the disk is empty", |rig| rig.on_disk() == 0)
        .await;
}

#[tokio::test]
async fn full_spool_sheds_the_oldest_and_counts_it() {
    let bounds = SpoolConfig {
        entries_max: 4,
        ..SpoolConfig::default()
    };
    let rig = Rig::within(CONFIG, bounds);
    rig.queue(&[1; 10]).await;
    rig.until("six are shed", |rig| {
        rig.counts.shed.load(Ordering::SeqCst) == 6
    })
    .await;
    assert_eq!(rig.on_disk(), 4);
}

#[tokio::test]
async fn record_that_is_none_is_dropped_and_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("spool.db");
    let (spool, _) = Spool::open(&path, SpoolConfig::default()).expect("opened");
    let record = NewRecord {
        class: Class::Return,
        body: Bytes::from_static(b"nonsense"),
    };
    spool.append(LANE, vec![record], 1).await.expect("written");
    drop(spool);
    let rig = Rig::open(directory, CONFIG, SpoolConfig::default());
    rig.until("it is counted", |rig| {
        rig.counts.undecodable.load(Ordering::SeqCst) == 1
    })
    .await;
    rig.until("it is gone", |rig| rig.on_disk() == 0).await;
}

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Semaphore;

use super::*;

#[derive(Debug, PartialEq, Eq)]
struct Parcel(usize);

impl Item for Parcel {
    fn wire_bytes(&self) -> usize {
        self.0
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
}

#[derive(Clone, Default)]
struct Counts {
    shed: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
    queued: Arc<AtomicUsize>,
}

impl Observer for Counts {
    fn queued(&self, entries: usize, _bytes: usize) {
        self.queued.store(entries, Ordering::SeqCst);
    }
    fn shed(&self, entries: usize) {
        self.shed.fetch_add(entries, Ordering::SeqCst);
    }
    fn sent(&self, entries: usize) {
        self.sent.fetch_add(entries, Ordering::SeqCst);
    }
}

const CONFIG: LaneConfig = LaneConfig {
    queue_entries_max: 6,
    queue_bytes_max: 1_000,
    batch_entries_max: 3,
    batch_bytes_max: 100,
    in_flight_max: 1,
};

struct Rig {
    lane: LaneTask<Parcel, ScriptedMom, Counts>,
    mom: ScriptedMom,
    counts: Counts,
}

impl Rig {
    fn new(config: LaneConfig) -> Self {
        let mom = ScriptedMom {
            batches: Arc::default(),
            replies: Arc::new(Semaphore::new(0)),
        };
        let counts = Counts::default();
        let (_, items) = mpsc::channel(1);
        let lane = LaneTask::new(config, items, mom.clone(), counts.clone());
        Self { lane, mom, counts }
    }

    fn queue(&mut self, sizes: &[usize]) {
        for size in sizes {
            assert!(self.lane.apply(Action::Queue(Parcel(*size))).is_continue());
        }
    }

    async fn reply(&mut self) -> ControlFlow<()> {
        self.mom.replies.add_permits(1);
        let held = self.lane.in_flight.join_next().await;
        let held = held.expect("a batch is in flight").expect("no panic");
        self.lane.apply(Action::Answered(held))
    }

    async fn batches(&self) -> Vec<Vec<usize>> {
        tokio::task::yield_now().await;
        self.mom
            .batches
            .lock()
            .expect("no test panics here")
            .clone()
    }
}

#[tokio::test]
async fn idle_lane_sends_at_once_and_what_queues_up_goes_as_the_next_batch() {
    let mut rig = Rig::new(CONFIG);
    rig.queue(&[1, 2, 3, 4, 5]);
    assert_eq!(rig.batches().await, [vec![1]]);
    assert!(rig.reply().await.is_continue());
    assert_eq!(rig.batches().await, [vec![1], vec![2, 3, 4]]);
    assert!(rig.reply().await.is_continue());
    assert_eq!(rig.batches().await, [vec![1], vec![2, 3, 4], vec![5]]);
}

#[tokio::test]
async fn batch_is_bounded_by_bytes_and_a_larger_item_goes_alone() {
    let mut rig = Rig::new(CONFIG);
    rig.queue(&[1, 60, 60, 300, 5]);
    for _ in 0..3 {
        assert!(rig.reply().await.is_continue());
    }
    assert_eq!(
        rig.batches().await,
        [vec![1], vec![60], vec![60], vec![300]]
    );
}

#[tokio::test]
async fn full_lane_sheds_the_new_item_and_counts_it() {
    let mut rig = Rig::new(CONFIG);
    rig.queue(&[1; 8]);
    assert_eq!(rig.counts.shed.load(Ordering::SeqCst), 2);
    assert_eq!(rig.counts.queued.load(Ordering::SeqCst), 6);

    let mut rig = Rig::new(CONFIG);
    rig.queue(&[2_000, 1]);
    assert_eq!(
        rig.counts.shed.load(Ordering::SeqCst),
        1,
        "the bytes are full"
    );
}

#[tokio::test]
async fn items_stay_until_the_reply_and_the_drain_waits_for_them() {
    let mut rig = Rig::new(CONFIG);
    rig.queue(&[1, 2]);
    assert!(rig.lane.apply(Action::Drain).is_continue());
    assert_eq!(rig.counts.queued.load(Ordering::SeqCst), 2);
    assert!(rig.reply().await.is_continue());
    assert!(rig.reply().await.is_break());
    assert_eq!(rig.counts.sent.load(Ordering::SeqCst), 2);
}

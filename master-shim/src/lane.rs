//! Carries what one site has to say to one MoM: a queue, batches, and a bounded number of requests in flight.
//!
//! One lane task per upstream and kind (returns; events). Fed by the site task, it hands batches to a [`Sender`].
//!
//! ```text
//! site task ──item──► LaneTask: queue ──batch──► Sender (request to the MoM, repeated until answered)
//! ```
//! - An idle lane sends at once; what queues up meanwhile goes as the next batch.
//! - An item leaves the lane only after the MoM's reply to the request that carried it.
//! - The queue is bounded by entries and bytes. When full, the new item is shed, counted and logged; nothing waits.

use std::{collections::VecDeque, future::Future, ops::ControlFlow, sync::Arc};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// Something that a lane carries.
pub(crate) trait Item: Send + 'static {
    /// Its share of the bounds, in bytes on the wire (an estimate will do).
    fn wire_bytes(&self) -> usize;
}

/// Turns a batch into one request and sees it answered.
pub(crate) trait Sender<T>: Send + Sync + 'static {
    /// Sends until the MoM has replied; ends early only when it is dropped.
    fn send(&self, batch: Vec<T>) -> impl Future<Output = ()> + Send;
}

/// What happens on a lane, for telemetry.
pub(crate) trait Observer: Send + Sync + 'static {
    /// The queue's size has changed.
    fn queued(&self, entries: usize, bytes: usize);
    /// `entries` items were shed because the queue was full.
    fn shed(&self, entries: usize);
    /// A batch of `entries` items was answered by the MoM.
    fn sent(&self, entries: usize);
}

/// The bounds of a lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneConfig {
    /// Items that wait or are in flight.
    pub(crate) queue_entries_max: usize,
    /// Bytes that wait or are in flight; a single larger item passes through an empty lane.
    pub(crate) queue_bytes_max: usize,
    /// Items in one request.
    pub(crate) batch_entries_max: usize,
    /// Bytes in one request; a single larger item goes alone.
    pub(crate) batch_bytes_max: usize,
    /// Requests in flight. One keeps the order of the items.
    pub(crate) in_flight_max: usize,
}

/// The task behind a lane.
pub(crate) struct LaneTask<T, S, O> {
    config: LaneConfig,
    items: mpsc::Receiver<T>,
    sender: Arc<S>,
    observer: O,
    queue: VecDeque<T>,
    /// Entries and bytes that wait or are in flight.
    held: Held,
    in_flight: JoinSet<Held>,
    draining: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Held {
    entries: usize,
    bytes: usize,
}

enum Action<T> {
    Queue(T),
    Answered(Held),
    Drain,
}

impl<T: Item, S: Sender<T>, O: Observer> LaneTask<T, S, O> {
    /// A lane that takes its items from `items`.
    pub(crate) fn new(
        config: LaneConfig,
        items: mpsc::Receiver<T>,
        sender: S,
        observer: O,
    ) -> Self {
        Self {
            config,
            items,
            sender: Arc::new(sender),
            observer,
            queue: VecDeque::new(),
            held: Held::default(),
            in_flight: JoinSet::new(),
            draining: false,
        }
    }

    /// Runs until `shutdown` and all that it held is answered. The daemon's grace period bounds the drain.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let action = tokio::select! {
                Some(sent) = self.in_flight.join_next() => Action::Answered(
                    sent.expect("a batch task neither panics nor is aborted while its lane runs"),
                ),
                item = self.items.recv(), if !self.draining => item.map_or(Action::Drain, Action::Queue),
                () = shutdown.cancelled(), if !self.draining => Action::Drain,
            };
            if self.apply(action).is_break() {
                return;
            }
        }
    }

    fn apply(&mut self, action: Action<T>) -> ControlFlow<()> {
        match action {
            Action::Queue(item) => self.queue_or_shed(item),
            Action::Answered(held) => {
                self.held.entries -= held.entries;
                self.held.bytes -= held.bytes;
                self.observer.sent(held.entries);
            }
            Action::Drain => {
                self.draining = true;
                while let Ok(item) = self.items.try_recv() {
                    self.queue_or_shed(item);
                }
            }
        }
        while self.in_flight.len() < self.config.in_flight_max && !self.queue.is_empty() {
            self.send_next_batch();
        }
        self.observer.queued(self.held.entries, self.held.bytes);
        if self.draining && self.held.entries == 0 {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn queue_or_shed(&mut self, item: T) {
        let bytes = item.wire_bytes();
        let full = self.held.entries >= self.config.queue_entries_max
            || (self.held.entries > 0 && self.held.bytes + bytes > self.config.queue_bytes_max);
        if full {
            self.observer.shed(1);
            return;
        }
        self.held.entries += 1;
        self.held.bytes += bytes;
        self.queue.push_back(item);
    }

    fn send_next_batch(&mut self) {
        let mut batch = Vec::new();
        let mut held = Held::default();
        while let Some(item) = self.queue.front() {
            let bytes = item.wire_bytes();
            let full = held.entries >= self.config.batch_entries_max
                || held.bytes + bytes > self.config.batch_bytes_max;
            if full && held.entries > 0 {
                break;
            }
            held.entries += 1;
            held.bytes += bytes;
            batch.extend(self.queue.pop_front());
        }
        let sender = Arc::clone(&self.sender);
        self.in_flight.spawn(async move {
            sender.send(batch).await;
            held
        });
    }
}

#[cfg(test)]
mod tests;

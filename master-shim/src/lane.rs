//! Carries what one site has to say to one MoM: from the disk in batches, with a bounded number of requests in flight.
//!
//! One lane task per upstream and kind (returns; events and acks). Fed by the site task, it hands batches to a [`Sender`].
//!
//! ```text
//!                       ┌─────────────────────────────── LaneTask ───────────────────────────┐
//! site task ──item──────┼─► spool on disk ──► window in memory ──batch──► Sender (until answered)
//!                       │        ▲  └──read when the window has room──┘            │         │
//!                       └────────┴──────────────── remove ◄────────────────────────┘─────────┘
//! ```
//! - An item is on disk before anything else is done with it, and leaves the disk after the MoM's reply to the request
//!   that carried it. At the start what an earlier process left is read first.
//! - An idle lane sends at once; what queues up meanwhile goes as the next batch. What the window does not hold is
//!   read from the disk when its turn comes, so that memory is bounded however long the MoM is away.
//! - The spool is bounded and says what it sheds. While the disk takes nothing, items pass from memory, up to the
//!   window's bounds, and further ones are shed.

use std::{collections::VecDeque, future::Future, ops::ControlFlow, sync::Arc, time::Duration};

use bytes::Bytes;
use store::{Appended, Class, NewRecord, Record, Shed, Spool, StoreError};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::disk::Disk;

/// How long requests in flight may take at the end: what is not answered goes again after the next start.
const DRAIN_MAX: Duration = Duration::from_millis(500);

/// The pause after a read that failed.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Something that a lane carries.
pub(crate) trait Item: Send + Sync + Sized + 'static {
    /// Its share of the bounds, in bytes on the wire (an estimate will do).
    fn wire_bytes(&self) -> usize;
    /// What it is worth when the spool is full.
    fn class(&self) -> Class;
    /// Its form on disk.
    fn encode(&self) -> Bytes;
    /// Out of its form on disk; `None` when it is none, as of another version of this program.
    fn decode(body: &Bytes) -> Option<Self>;
}

/// Turns a batch into one request and sees it answered.
pub(crate) trait Sender<T>: Send + Sync + 'static {
    /// Sends until the MoM has replied; ends early only when it is dropped.
    fn send(&self, batch: Vec<T>) -> impl Future<Output = ()> + Send;
    /// `items` are on disk.
    fn spooled(&self, items: &[T]);
}

/// What happens on a lane, for telemetry.
pub(crate) trait Observer: Send + Sync + 'static {
    /// The window's size has changed.
    fn queued(&self, entries: usize, bytes: usize);
    /// Items were shed because the spool was full or they were too old.
    fn shed(&self, shed: &Shed);
    /// `entries` items were shed because neither disk nor memory took them.
    fn shed_from_memory(&self, entries: usize);
    /// A record on disk is none of this program's.
    fn undecodable(&self);
    /// A batch of `entries` items was answered by the MoM.
    fn sent(&self, entries: usize);
}

/// The bounds of a lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneConfig {
    /// Items in memory.
    pub(crate) window_entries_max: usize,
    /// Bytes in memory; a single larger item passes through an empty window.
    pub(crate) window_bytes_max: usize,
    /// Items in one request.
    pub(crate) batch_entries_max: usize,
    /// Bytes in one request; a single larger item goes alone.
    pub(crate) batch_bytes_max: usize,
    /// Requests in flight. One keeps the order of the items.
    pub(crate) in_flight_max: usize,
}

/// Where a lane's items lie on disk.
#[derive(Clone)]
pub(crate) struct LaneDisk {
    /// The spool of this site.
    pub(crate) spool: Spool,
    /// This lane's number there.
    pub(crate) lane: u32,
    /// Hears of failures.
    pub(crate) disk: Disk,
}

/// The task behind a lane.
pub(crate) struct LaneTask<T, S, O> {
    config: LaneConfig,
    items: mpsc::Receiver<T>,
    sender: Arc<S>,
    observer: O,
    on_disk: LaneDisk,
    window: VecDeque<Held<T>>,
    window_bytes: usize,
    /// Records behind this id are on disk only.
    behind: Option<i64>,
    /// The newest record written, for seeing that a read has caught up.
    newest_written: i64,
    /// The newest record that has been in memory.
    newest_held: i64,
    io: JoinSet<Io<T>>,
    writing: bool,
    reading: bool,
    /// Whether something was written since the read under way began.
    written_since_read: bool,
    in_flight: JoinSet<Vec<i64>>,
    /// Whoever fills the lane has ended.
    closed: bool,
    drain: Drain,
}

/// An item in memory; id 0 when it is not on disk.
struct Held<T> {
    id: i64,
    item: T,
    bytes: usize,
}

/// What an operation on disk has brought.
enum Io<T> {
    Written(Vec<T>, Result<Appended, StoreError>),
    Read(i64, Result<Vec<Record>, StoreError>),
    Removed(Result<(), StoreError>),
    /// It is time to read again after a failure.
    ReadAgain,
}

enum Action<T> {
    Write(Vec<T>),
    Io(Io<T>),
    Answered(Vec<i64>),
    Closed,
    Drain,
    Leave,
}

/// How far the end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drain {
    No,
    /// Replies are waited for until then.
    Until(Instant),
    /// Only what is not on disk is waited for.
    Over,
}

impl<T: Item, S: Sender<T>, O: Observer> LaneTask<T, S, O> {
    /// A lane that takes its items from `items`, after those on disk.
    pub(crate) fn new(
        config: LaneConfig,
        items: mpsc::Receiver<T>,
        on_disk: LaneDisk,
        sender: S,
        observer: O,
    ) -> Self {
        Self {
            config,
            items,
            sender: Arc::new(sender),
            observer,
            on_disk,
            window: VecDeque::new(),
            window_bytes: 0,
            behind: Some(0),
            newest_written: 0,
            newest_held: 0,
            io: JoinSet::new(),
            writing: false,
            reading: false,
            written_since_read: false,
            in_flight: JoinSet::new(),
            closed: false,
            drain: Drain::No,
        }
    }

    /// Runs until `shutdown`, when whoever fills the lane has ended and everything is on disk. What the disk does not take is sent first; the daemon's grace
    /// period bounds that.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        self.read_when_needed();
        loop {
            let action = self.select(&shutdown).await;
            if self.apply(action).is_break() {
                return;
            }
        }
    }

    async fn select(&mut self, shutdown: &CancellationToken) -> Action<T> {
        const IO_HOLDS: &str =
            "an operation on disk neither panics nor is aborted while its lane runs";
        let mut arrived = Vec::new();
        let (drain, leave_at) = match self.drain {
            Drain::No => (true, Instant::now()),
            Drain::Until(leave_at) => (false, leave_at),
            Drain::Over => (false, Instant::now()),
        };
        let leave = matches!(self.drain, Drain::Until(_));
        tokio::select! {
            Some(answered) = self.in_flight.join_next() => Action::Answered(answered.expect(IO_HOLDS)),
            Some(io) = self.io.join_next() => Action::Io(io.expect(IO_HOLDS)),
            received = self.items.recv_many(&mut arrived, self.config.batch_entries_max),
                if !self.writing && !self.closed =>
            {
                if received == 0 { Action::Closed } else { Action::Write(arrived) }
            }
            () = shutdown.cancelled(), if drain => Action::Drain,
            () = tokio::time::sleep_until(leave_at), if leave => Action::Leave,
        }
    }

    fn apply(&mut self, action: Action<T>) -> ControlFlow<()> {
        match action {
            Action::Write(items) => self.write(items),
            Action::Io(Io::Written(items, result)) => self.written(items, result),
            Action::Io(Io::Read(after, result)) => self.read(after, result),
            Action::Io(Io::Removed(result)) => {
                self.on_disk.disk.written("remove from the spool", result);
            }
            Action::Io(Io::ReadAgain) => self.reading = false,
            Action::Answered(ids) => self.answered(ids),
            Action::Closed => {
                self.closed = true;
                self.begin_drain();
            }
            Action::Drain => self.begin_drain(),
            Action::Leave => self.drain = Drain::Over,
        }
        while self.in_flight.len() < self.config.in_flight_max && !self.window.is_empty() {
            self.send_next_batch();
        }
        self.read_when_needed();
        self.observer.queued(self.window.len(), self.window_bytes);
        if self.is_drained() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn begin_drain(&mut self) {
        if self.drain == Drain::No {
            self.drain = Drain::Until(Instant::now() + DRAIN_MAX);
        }
    }

    fn is_drained(&self) -> bool {
        let done = match self.drain {
            Drain::No => false,
            Drain::Until(_) => self.in_flight.is_empty() && self.window.is_empty(),
            Drain::Over => self.window.iter().all(|held| held.id != 0),
        };
        done && self.closed && self.io.is_empty()
    }

    fn write(&mut self, items: Vec<T>) {
        self.writing = true;
        let (on_disk, sender) = (self.on_disk.clone(), Arc::clone(&self.sender));
        self.io.spawn(async move {
            let records = items.iter().map(|item| NewRecord {
                class: item.class(),
                body: item.encode(),
            });
            let now_ms = daemon_kit::unix_millis();
            let result = on_disk
                .spool
                .append(on_disk.lane, records.collect(), now_ms)
                .await;
            if result.is_ok() {
                sender.spooled(&items);
            }
            Io::Written(items, result)
        });
    }

    fn written(&mut self, items: Vec<T>, result: Result<Appended, StoreError>) {
        self.writing = false;
        self.written_since_read = true;
        let Some(appended) = self.on_disk.disk.written("write the spool", result) else {
            return self.keep_in_memory(items);
        };
        for shed in &appended.shed {
            self.observer.shed(shed);
        }
        for (item, id) in items.into_iter().zip(appended.ids) {
            // The spool was full of what is worth more.
            if id == 0 {
                continue;
            }
            self.newest_written = id;
            if self.behind.is_none() && self.has_room(item.wire_bytes()) {
                self.hold(id, item);
            } else {
                self.behind = self.behind.or(Some(self.newest_held));
            }
        }
    }

    fn keep_in_memory(&mut self, items: Vec<T>) {
        for item in items {
            if self.has_room(item.wire_bytes()) {
                self.hold(0, item);
            } else {
                self.observer.shed_from_memory(1);
            }
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.window.is_empty()
            || (self.window.len() < self.config.window_entries_max
                && self.window_bytes + bytes <= self.config.window_bytes_max)
    }

    fn hold(&mut self, id: i64, item: T) {
        let bytes = item.wire_bytes();
        self.newest_held = self.newest_held.max(id);
        self.window_bytes += bytes;
        self.window.push_back(Held { id, item, bytes });
    }

    /// Reads from the disk when the window is half empty.
    fn read_when_needed(&mut self) {
        let Some(after) = self.behind else { return };
        let half_empty = self.window.len() <= self.config.window_entries_max / 2
            && self.window_bytes <= self.config.window_bytes_max / 2;
        if self.reading || self.drain != Drain::No || !half_empty {
            return;
        }
        self.reading = true;
        self.written_since_read = false;
        let on_disk = self.on_disk.clone();
        let entries = self.config.window_entries_max / 2;
        let bytes = self.config.window_bytes_max / 2;
        self.io.spawn(async move {
            let read = on_disk.spool.read(on_disk.lane, after, entries, bytes);
            Io::Read(after, read.await)
        });
    }

    fn read(&mut self, after: i64, result: Result<Vec<Record>, StoreError>) {
        let Some(records) = self.on_disk.disk.read("read the spool", result) else {
            self.io.spawn(async {
                tokio::time::sleep(READ_AGAIN).await;
                Io::ReadAgain
            });
            return;
        };
        self.reading = false;
        let last = records.last().map_or(after, |record| record.id);
        let nothing_left = records.is_empty() && !self.written_since_read;
        for record in records {
            match T::decode(&record.body) {
                Some(item) => self.hold(record.id, item),
                None => {
                    self.observer.undecodable();
                    self.remove(vec![record.id]);
                }
            }
        }
        let caught_up = nothing_left || (last > 0 && last == self.newest_written);
        self.behind = (!caught_up).then_some(last);
    }

    fn send_next_batch(&mut self) {
        let mut batch = Vec::new();
        let mut ids = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.window.front() {
            let full = batch.len() >= self.config.batch_entries_max
                || bytes + next.bytes > self.config.batch_bytes_max;
            if full && !batch.is_empty() {
                break;
            }
            bytes += next.bytes;
            if let Some(held) = self.window.pop_front() {
                ids.push(held.id);
                batch.push(held.item);
            }
        }
        self.window_bytes -= bytes;
        let sender = Arc::clone(&self.sender);
        self.in_flight.spawn(async move {
            sender.send(batch).await;
            ids
        });
    }

    fn answered(&mut self, mut ids: Vec<i64>) {
        self.observer.sent(ids.len());
        ids.retain(|id| *id != 0);
        if !ids.is_empty() {
            self.remove(ids);
        }
    }

    fn remove(&mut self, ids: Vec<i64>) {
        let spool = self.on_disk.spool.clone();
        self.io
            .spawn(async move { Io::Removed(spool.remove(ids).await) });
    }
}

#[cfg(test)]
mod tests;

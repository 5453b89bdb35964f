//! The bounded way from a socket's reader to the task that uses what was read.
//!
//! One producer (a thread that owns ZeroMQ sockets, or a task that reads a unix socket), one
//! consumer. Bounded twice, by entries and by bytes, because one entry of Salt may be 100 bytes
//! or 100 MiB. When full the producer stops reading, so that the peer's own buffers fill: nothing
//! that was read is ever dropped here.
//!
//! - An entry larger than the whole byte bound passes when the queue is empty; otherwise it could
//!   never pass.
//! - The producer is woken once room appears; the consumer sees the end after the last entry.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::socket::Waker;

/// Bounds of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueBounds {
    /// Most entries held.
    pub entries: usize,
    /// Most bytes held; a single larger entry passes alone.
    pub bytes: usize,
}

/// How full a queue is, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueState {
    /// Entries waiting.
    pub entries: usize,
    /// Bytes waiting.
    pub bytes: usize,
    /// The producer waits for room at this moment.
    pub stalled: bool,
    /// How often the producer had to wait for room since the start.
    pub stalls: u64,
}

struct State<T> {
    queue: VecDeque<(T, usize)>,
    bytes: usize,
    stalled: bool,
    stalls: u64,
    sender_gone: bool,
    receiver_gone: bool,
}

/// How the producer hears that there is room again.
enum Room {
    Task(Notify),
    Thread(Waker),
}

struct Shared<T> {
    bounds: QueueBounds,
    state: Mutex<State<T>>,
    arrived: Notify,
    room: Room,
    /// Apart from `room`, which wakes one waiter only: a producer may wait for both at once.
    receiver_gone: Notify,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal_room(&self) {
        match &self.room {
            Room::Task(notify) => notify.notify_one(),
            Room::Thread(waker) => waker.wake(),
        }
    }
}

/// Why an entry was not taken.
pub(crate) enum Refused<T> {
    /// No room; the producer will be woken.
    Full(T),
    /// Nobody will ever read it.
    Closed,
}

/// The producer's end.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// The consumer's end. `recv` may be used in `select!`: a cancelled call loses nothing.
pub struct Receiver<T>(Arc<Shared<T>>);

/// Looks at a queue without taking part in it.
pub struct QueueGauge<T>(Arc<Shared<T>>);

impl<T> Clone for QueueGauge<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> std::fmt::Debug for QueueGauge<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("QueueGauge").field(&self.state()).finish()
    }
}

impl<T> std::fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Receiver")
            .field(&self.gauge().state())
            .finish()
    }
}

/// A queue whose producer is a task.
pub(crate) fn from_task<T>(bounds: QueueBounds) -> (Sender<T>, Receiver<T>) {
    channel(bounds, Room::Task(Notify::new()))
}

/// A queue whose producer is a thread that polls the source of this waker.
pub(crate) fn from_thread<T>(bounds: QueueBounds, waker: Waker) -> (Sender<T>, Receiver<T>) {
    channel(bounds, Room::Thread(waker))
}

fn channel<T>(bounds: QueueBounds, room: Room) -> (Sender<T>, Receiver<T>) {
    let state = State {
        queue: VecDeque::new(),
        bytes: 0,
        stalled: false,
        stalls: 0,
        sender_gone: false,
        receiver_gone: false,
    };
    let shared = Arc::new(Shared {
        bounds,
        state: Mutex::new(state),
        arrived: Notify::new(),
        room,
        receiver_gone: Notify::new(),
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Sender<T> {
    /// Puts an entry of this many bytes into the queue if there is room.
    pub(crate) fn try_send(&self, item: T, bytes: usize) -> Result<(), Refused<T>> {
        let mut state = self.0.lock();
        if state.receiver_gone {
            return Err(Refused::Closed);
        }
        let fits = state.queue.len() < self.0.bounds.entries.max(1)
            && state.bytes.saturating_add(bytes) <= self.0.bounds.bytes;
        if !fits && !state.queue.is_empty() {
            if !state.stalled {
                state.stalled = true;
                state.stalls += 1;
            }
            return Err(Refused::Full(item));
        }
        state.bytes += bytes;
        state.queue.push_back((item, bytes));
        drop(state);
        self.0.arrived.notify_one();
        Ok(())
    }

    /// Puts an entry into the queue, waiting for room; false when the consumer is gone.
    pub(crate) async fn send(&self, item: T, bytes: usize) -> bool {
        let mut item = item;
        loop {
            match self.try_send(item, bytes) {
                Ok(()) => return true,
                Err(Refused::Closed) => return false,
                Err(Refused::Full(back)) => item = back,
            }
            self.room().await;
        }
    }

    /// Waits until the consumer is gone.
    pub(crate) async fn closed(&self) {
        while !self.is_closed() {
            self.0.receiver_gone.notified().await;
        }
    }

    async fn room(&self) {
        match &self.0.room {
            Room::Task(notify) => notify.notified().await,
            // A thread is woken through its poll, never through a future.
            Room::Thread(_) => std::future::pending().await,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.lock().receiver_gone
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.lock().sender_gone = true;
        self.0.arrived.notify_one();
    }
}

impl<T> Receiver<T> {
    /// The next entry; nothing when the producer has ended and all was taken. Cancel-safe.
    pub async fn recv(&mut self) -> Option<T> {
        loop {
            {
                let mut state = self.0.lock();
                if let Some((item, bytes)) = state.queue.pop_front() {
                    state.bytes -= bytes;
                    let wake = std::mem::take(&mut state.stalled);
                    drop(state);
                    if wake {
                        self.0.signal_room();
                    }
                    return Some(item);
                }
                if state.sender_gone {
                    return None;
                }
            }
            self.0.arrived.notified().await;
        }
    }

    /// A view of how full the queue is.
    #[must_use]
    pub fn gauge(&self) -> QueueGauge<T> {
        QueueGauge(Arc::clone(&self.0))
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.receiver_gone = true;
        let left = std::mem::take(&mut state.queue);
        state.bytes = 0;
        drop(state);
        drop(left);
        self.0.signal_room();
        self.0.receiver_gone.notify_one();
    }
}

impl<T> QueueGauge<T> {
    /// How full the queue is now.
    #[must_use]
    pub fn state(&self) -> QueueState {
        let state = self.0.lock();
        QueueState {
            entries: state.queue.len(),
            bytes: state.bytes,
            stalled: state.stalled,
            stalls: state.stalls,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: QueueBounds = QueueBounds {
        entries: 3,
        bytes: 100,
    };

    #[tokio::test]
    async fn what_was_sent_arrives_in_order_and_then_the_end() {
        let (sender, mut receiver) = from_task(BOUNDS);
        for number in 0..3 {
            assert!(sender.try_send(number, 1).is_ok());
        }
        drop(sender);
        let mut seen = Vec::new();
        while let Some(number) = receiver.recv().await {
            seen.push(number);
        }
        assert_eq!(seen, [0, 1, 2]);
    }

    #[tokio::test]
    async fn both_bounds_hold_and_a_huge_entry_passes_alone() {
        let (sender, mut receiver) = from_task(BOUNDS);
        let gauge = receiver.gauge();
        assert!(sender.try_send("huge", 1000).is_ok());
        assert!(matches!(
            sender.try_send("next", 1),
            Err(Refused::Full("next"))
        ));
        assert!(gauge.state().stalled);
        assert_eq!(receiver.recv().await, Some("huge"));
        assert!(!gauge.state().stalled);
        for _ in 0..3 {
            assert!(sender.try_send("small", 1).is_ok());
        }
        assert!(matches!(
            sender.try_send("fourth", 1),
            Err(Refused::Full(_))
        ));
        assert_eq!(
            gauge.state(),
            QueueState {
                entries: 3,
                bytes: 3,
                stalled: true,
                stalls: 2
            }
        );
    }

    #[tokio::test]
    async fn a_waiting_sender_goes_on_when_there_is_room() {
        let (sender, mut receiver) = from_task(QueueBounds {
            entries: 1,
            bytes: 10,
        });
        let send = async {
            for number in 0..100 {
                assert!(sender.send(number, 1).await);
            }
            drop(sender);
        };
        let receive = async {
            let mut next = 0;
            while let Some(number) = receiver.recv().await {
                assert_eq!(number, next);
                next += 1;
            }
            next
        };
        let ((), count) = tokio::join!(send, receive);
        assert_eq!(count, 100);
    }

    #[tokio::test]
    async fn waiting_for_the_end_takes_no_room_from_the_sender() {
        let (sender, mut receiver) = from_task(QueueBounds {
            entries: 1,
            bytes: 10,
        });
        let send = async {
            tokio::select! {
                biased;
                () = sender.closed() => panic!("the receiver is there"),
                () = async {
                    for number in 0..100 {
                        assert!(sender.send(number, 1).await);
                    }
                } => {}
            }
        };
        let receive = async {
            for number in 0..100 {
                assert_eq!(receiver.recv().await, Some(number));
            }
        };
        let both = async { tokio::join!(send, receive) };
        tokio::time::timeout(std::time::Duration::from_secs(10), both)
            .await
            .expect("both end");
    }

    #[tokio::test]
    async fn a_waiting_sender_learns_that_the_receiver_is_gone() {
        let (sender, receiver) = from_task(QueueBounds {
            entries: 1,
            bytes: 10,
        });
        assert!(sender.send(1, 1).await);
        let (sent, ()) = tokio::join!(sender.send(2, 1), async { drop(receiver) });
        assert!(!sent);
        sender.closed().await;
    }
}

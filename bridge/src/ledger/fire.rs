//! Fires the speaker's events on the MoM's bus, in the order in which the ledger asks for them.
//!
//! ```text
//! ledger task ──order──► bounded queue ──► FireTask ──EventWriter──► master_event_pull.ipc
//! ```
//! - The ledger never waits. An event that finds the queue full, or a bus that does not take it, is counted and told: the
//!   ledger itself knows what it said.
//! - The connection is made when the bus is heard, not when the first event is due: a job's minions have to be on the bus
//!   within milliseconds of the job.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use daemon_kit::{CancellationToken, chain};
use salt_link::event_bus::{EventWriter, FireError};
use salt_wire::msgpack::Value;
use tokio::sync::mpsc;

use crate::telemetry::LedgerTelemetry;

/// Events that wait: some thousand jobs' worth. A further one is not fired.
const QUEUED_MAX: usize = 4_096;

/// Their bytes, about.
const QUEUED_BYTES_MAX: usize = 16 << 20;

/// How soon the connection is tried again while the bus takes nothing.
const RETRY: Duration = Duration::from_secs(1);

enum Order {
    Connect,
    Fire {
        tag: String,
        data: Value,
        bytes: usize,
    },
}

/// The ledger's end.
#[derive(Clone)]
pub(super) struct Firing {
    orders: mpsc::Sender<Order>,
    bytes: Arc<AtomicUsize>,
    telemetry: LedgerTelemetry,
}

/// The end that does it.
pub(super) struct FireTask {
    orders: mpsc::Receiver<Order>,
    bytes: Arc<AtomicUsize>,
    writer: EventWriter,
    telemetry: LedgerTelemetry,
    failing: bool,
}

/// Both ends.
pub(super) fn new(writer: EventWriter, telemetry: &LedgerTelemetry) -> (Firing, FireTask) {
    let (sender, orders) = mpsc::channel(QUEUED_MAX);
    let bytes = Arc::new(AtomicUsize::new(0));
    let firing = Firing {
        orders: sender,
        bytes: Arc::clone(&bytes),
        telemetry: telemetry.clone(),
    };
    let task = FireTask {
        orders,
        bytes,
        writer,
        telemetry: telemetry.clone(),
        failing: false,
    };
    (firing, task)
}

impl Firing {
    /// The bus was heard: connect to it.
    pub(super) fn connect(&self) {
        // A full queue connects by itself.
        drop(self.orders.try_send(Order::Connect));
    }

    /// Fires `tag` when its turn comes.
    pub(super) fn fire(&self, tag: String, data: Value) {
        let bytes = tag.len() + weight(&data);
        let queued = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let order = Order::Fire { tag, data, bytes };
        if queued > QUEUED_BYTES_MAX || self.orders.try_send(order).is_err() {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.telemetry.event_not_fired("the queue is full");
        }
    }
}

/// Bytes of a value, about.
fn weight(value: &Value) -> usize {
    match value {
        Value::Raw(raw) => raw.len() + 40,
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Map(entries) => entries.iter().map(|(k, v)| weight(k) + weight(v)).sum(),
        _ => 40,
    }
}

impl FireTask {
    /// Fires until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let order = tokio::select! {
                () = shutdown.cancelled() => return,
                order = self.orders.recv() => order,
                () = tokio::time::sleep(RETRY), if self.failing => Some(Order::Connect),
            };
            let done = tokio::select! {
                () = shutdown.cancelled() => return,
                done = self.carry_out(order) => done,
            };
            match done {
                Ok(()) => self.failing = false,
                Err(err) if self.failing => tracing::debug!(error = %chain(&err), "still not"),
                Err(err) => {
                    self.failing = true;
                    self.telemetry.bus_refuses(&err);
                }
            }
        }
    }

    async fn carry_out(&mut self, order: Option<Order>) -> Result<(), FireError> {
        match order {
            // The ledger has ended; so does this.
            None => std::future::pending().await,
            Some(Order::Connect) => self.writer.reconnect().await,
            Some(Order::Fire { tag, data, bytes }) => {
                let fired = self.writer.fire(&tag, data).await;
                self.bytes.fetch_sub(bytes, Ordering::Relaxed);
                match &fired {
                    Ok(()) => self.telemetry.event_fired(),
                    Err(_) => self.telemetry.event_not_fired("the bus does not take it"),
                }
                fired
            }
        }
    }
}

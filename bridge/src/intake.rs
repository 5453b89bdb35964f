//! Takes the MoM's publications off the SUB thread's queue and writes them to the journal, before anything else is done.
//!
//! One task per bridge; the only reader of that queue, the only one that adds to the journal.
//!
//! ```text
//! MoM 4505 ──► SUB thread ──queue──► IntakeTask ──► journal, on disk
//!                                        └──numbered frames──► PublicationsTask
//! ```
//! - Frames are numbered in the order in which they came; a frame goes on when it is on disk.
//! - While the journal cannot be written (a full disk) frames go on from memory, marked so, counted and logged; the
//!   journal is tried again each second.
//! - It ends after `shutdown`, when what the SUB thread had received by then has gone on.

use std::time::Duration;

use bytes::Bytes;
use daemon_kit::{CancellationToken, http::Condition};
use redis_link::AppenderConfig;
use salt_link::{queue::Receiver, subscriber::SubscriberEvent};
use salt_wire::publication::topics::{self, Selection};
use store::{Journal, StoreError};
use tokio::{sync::mpsc, time::Instant};

use crate::telemetry::Telemetry;

/// Most frames written at once: what came while the last ones were written.
const BATCH_FRAMES_MAX: usize = 512;

/// Most bytes written at once, but for a single larger frame.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// How long frames go on from memory before the journal is tried again.
const JOURNAL_RETRY: Duration = Duration::from_secs(1);

/// A frame on its way to Redis.
#[derive(Debug, Clone)]
pub(crate) struct Numbered {
    /// Its number in the journal, or among those that the journal has not.
    pub(crate) seq: u64,
    pub(crate) received_at_ms: u64,
    pub(crate) frame: Bytes,
    pub(crate) on_disk: bool,
}

/// The task; see the module's head.
pub(crate) struct IntakeTask {
    events: Receiver<SubscriberEvent>,
    journal: Journal,
    next_seq: u64,
    publications: mpsc::Sender<Vec<Numbered>>,
    mom: Condition,
    on_disk: Condition,
    retry_at: Option<Instant>,
    telemetry: Telemetry,
    frame_bytes_max: usize,
    stalls: u64,
}

impl IntakeTask {
    /// `mom` tells whether the publish port is connected, `on_disk` whether the journal can be written.
    pub(crate) fn new(
        events: Receiver<SubscriberEvent>,
        (journal, next_seq): (Journal, u64),
        publications: mpsc::Sender<Vec<Numbered>>,
        (mom, on_disk): (Condition, Condition),
        telemetry: Telemetry,
    ) -> Self {
        on_disk.holds();
        Self {
            events,
            journal,
            next_seq,
            publications,
            mom,
            on_disk,
            retry_at: None,
            telemetry,
            frame_bytes_max: AppenderConfig::default().frame_bytes_max,
            stalls: 0,
        }
    }

    /// Runs until `shutdown`, then takes what was received before it.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let first = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                event = self.events.recv() => event,
            };
            let Some(first) = first else { return };
            self.carry(first).await;
        }
        let mut left = self.events.gauge().state().entries;
        while left > 0
            && let Some(first) = self.events.recv().await
        {
            left = left.saturating_sub(self.carry(first).await);
        }
    }

    /// Takes `first` and what is there already; returns how many events that were.
    async fn carry(&mut self, first: SubscriberEvent) -> usize {
        let (frames, events) = self.batch(first).await;
        if !frames.is_empty() {
            let frames = self.write(frames).await;
            if let Err(mpsc::error::SendError(frames)) = self.publications.send(frames).await {
                // Its time to drain is over.
                let lost = frames.iter().filter(|frame| !frame.on_disk).count();
                self.telemetry.publications_lost_at_the_end(lost);
            }
        }
        self.report_queue();
        events
    }

    /// The frames of `first` and of what is there already, and how many events that were.
    async fn batch(&mut self, first: SubscriberEvent) -> (Vec<(u64, Bytes)>, usize) {
        let mut frames = Vec::new();
        let (mut bytes, mut events) = (0, 0);
        let mut next = Some(first);
        while let Some(event) = next {
            events += 1;
            if let Some((received_at_ms, frame)) = self.frame_of(event) {
                bytes += frame.len();
                frames.push((received_at_ms, frame));
            }
            if frames.len() >= BATCH_FRAMES_MAX || bytes >= BATCH_BYTES_MAX {
                break;
            }
            next = tokio::select! {
                biased;
                event = self.events.recv() => event,
                () = std::future::ready(()) => None,
            };
        }
        (frames, events)
    }

    fn frame_of(&self, event: SubscriberEvent) -> Option<(u64, Bytes)> {
        match event {
            SubscriberEvent::Connected => {
                self.mom.holds();
                self.telemetry.mom_connected();
            }
            SubscriberEvent::Disconnected => {
                self.mom.fails("publish port not connected");
                self.telemetry.mom_disconnected();
            }
            SubscriberEvent::Malformed { reason } => self.telemetry.publication_malformed(reason),
            SubscriberEvent::Frames {
                received_at_ms,
                frames,
            } => match payload(&frames, self.frame_bytes_max) {
                Ok(Some(payload)) => {
                    self.telemetry.publication_received(payload.len());
                    return Some((received_at_ms, payload));
                }
                Ok(None) => {}
                Err(reason) => self.telemetry.publication_malformed(reason),
            },
        }
        None
    }

    /// Writes the frames to the journal, if that is possible, and numbers them.
    async fn write(&mut self, frames: Vec<(u64, Bytes)>) -> Vec<Numbered> {
        let first = self.next_seq;
        self.next_seq += frames.len() as u64;
        let on_disk = self.is_due() && {
            let written = self.journal.append(first, frames.clone()).await;
            self.note(&written);
            written.is_ok()
        };
        if !on_disk {
            self.telemetry.publications_unjournaled(frames.len());
        }
        (first..)
            .zip(frames)
            .map(|(seq, (received_at_ms, frame))| Numbered {
                seq,
                received_at_ms,
                frame,
                on_disk,
            })
            .collect()
    }

    fn is_due(&self) -> bool {
        self.retry_at.is_none_or(|at| at <= Instant::now())
    }

    fn note(&mut self, written: &Result<(), StoreError>) {
        match written {
            Ok(()) => {
                self.retry_at = None;
                if self.on_disk.holds() {
                    self.telemetry.journal_writable();
                }
            }
            Err(err) => {
                self.retry_at = Some(Instant::now() + JOURNAL_RETRY);
                if self.on_disk.fails(daemon_kit::chain(err)) {
                    self.telemetry.journal_failed(err);
                }
            }
        }
    }

    fn report_queue(&mut self) {
        let state = self.events.gauge().state();
        self.telemetry
            .queue("publications", state.entries, state.bytes);
        if state.stalls > self.stalls {
            self.telemetry
                .publications_stalled(state.stalls - self.stalls);
            self.stalls = state.stalls;
        }
    }
}

/// The payload of a message; `None` for a topic that is not for syndics.
///
/// A frame that no append takes is refused here: repeated for ever, it would hold up all that come after it.
fn payload(frames: &[Bytes], frame_bytes_max: usize) -> Result<Option<Bytes>, &'static str> {
    match topics::select(frames) {
        Selection::Payload(payload) if payload.len() > frame_bytes_max => {
            Err("the frame is larger than what goes through Redis")
        }
        Selection::Payload(payload) => Ok(Some(payload)),
        Selection::OtherTopic => Ok(None),
        Selection::Malformed { .. } => Err("neither one frame nor a topic and one frame"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_that_no_append_takes_is_refused_at_once() {
        let frame = Bytes::from_static(b"\x81\xa3enc\xa3aes");
        let frames = [frame.clone()];
        assert_eq!(payload(&frames, frame.len()), Ok(Some(frame.clone())));
        assert!(payload(&frames, frame.len() - 1).is_err());
    }
}

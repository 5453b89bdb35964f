//! Carries the MoM's publications into Redis, unopened and in their order.
//!
//! One task per bridge; the only reader of the SUB socket's queue and the only one that appends.
//!
//! ```text
//! MoM 4505 ──► SUB thread ──queue──► PublicationsTask ──append (Lua)──► stream + pub/sub
//! ```
//! - A frame leaves the task only when Redis has it; an append whose outcome is unknown is repeated, and Redis drops
//!   what it has already.
//! - While Redis is away frames wait in the queue, bounded by entries and bytes; when it is full the SUB thread stops
//!   reading, then the MoM's own high-water mark counts, and what is lost there the sites see in the MoM's serial.

use std::time::Duration;

use bytes::Bytes;
use daemon_kit::{CancellationToken, backoff::Backoff, http::Condition, unix_millis};
use redis_link::{AppendOutcome, Appender, AppenderConfig, Frame, RedisError};
use salt_link::{queue::Receiver, subscriber::SubscriberEvent};
use salt_wire::publication::topics::{self, Selection};
use tokio::sync::Notify;

use crate::telemetry::Telemetry;

/// Most frames in one call of [`Appender::append`].
const BATCH_FRAMES_MAX: usize = 256;

/// Most bytes in one call, but for a single larger frame.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// Pauses between attempts to append.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// The task; see the module's head.
pub(crate) struct PublicationsTask {
    events: Receiver<SubscriberEvent>,
    appender: std::sync::Arc<Appender>,
    mom: Condition,
    telemetry: Telemetry,
    /// Told when a heart-beat finds that an epoch has to be begun.
    stale: std::sync::Arc<Notify>,
    frame_bytes_max: usize,
    stalls: u64,
}

impl PublicationsTask {
    /// `mom` tells whether the publish port is connected.
    pub(crate) fn new(
        events: Receiver<SubscriberEvent>,
        appender: std::sync::Arc<Appender>,
        mom: Condition,
        telemetry: Telemetry,
        stale: std::sync::Arc<Notify>,
    ) -> Self {
        Self {
            events,
            appender,
            mom,
            telemetry,
            stale,
            frame_bytes_max: AppenderConfig::default().frame_bytes_max,
            stalls: 0,
        }
    }

    /// Runs until `shutdown`, then appends what was received before it.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let first = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = self.stale.notified() => {
                    if let Err(err) = self.begin_epoch().await {
                        self.telemetry.append_failed(&err, 0);
                    }
                    continue;
                }
                event = self.events.recv() => event,
            };
            let Some(first) = first else { return };
            self.carry(first, &shutdown).await;
        }
        let mut left = self.events.gauge().state().entries;
        while left > 0
            && let Some(first) = self.events.recv().await
        {
            left = left.saturating_sub(self.carry(first, &shutdown).await);
        }
    }

    /// Appends `first` and what is there already; returns how many events that were.
    async fn carry(&mut self, first: SubscriberEvent, shutdown: &CancellationToken) -> usize {
        let (frames, events) = self.batch(first).await;
        if !frames.is_empty() {
            self.append(frames, shutdown).await;
        }
        self.report_queue();
        events
    }

    /// The frames of `first` and of what is there already, and how many events that were.
    async fn batch(&mut self, first: SubscriberEvent) -> (Vec<Frame>, usize) {
        let mut frames = Vec::new();
        let (mut bytes, mut events) = (0, 0);
        let mut next = Some(first);
        while let Some(event) = next {
            events += 1;
            if let Some(frame) = self.frame_of(event) {
                bytes += frame.frame.len();
                frames.push(frame);
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

    fn frame_of(&self, event: SubscriberEvent) -> Option<Frame> {
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
            } => {
                return self.payload_of(&frames).map(|frame| Frame {
                    received_at_ms,
                    frame,
                });
            }
        }
        None
    }

    fn payload_of(&self, frames: &[Bytes]) -> Option<Bytes> {
        match payload(frames, self.frame_bytes_max) {
            Ok(payload) => {
                if let Some(payload) = &payload {
                    self.telemetry.publication_received(payload.len());
                }
                payload
            }
            Err(reason) => {
                self.telemetry.publication_malformed(reason);
                None
            }
        }
    }

    /// Appends until Redis has them. After `shutdown` a single attempt is left: the daemon's grace is short.
    async fn append(&self, frames: Vec<Frame>, shutdown: &CancellationToken) {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        loop {
            match self.append_or_begin(&frames).await {
                Ok(AppendOutcome::Stale) => continue,
                Ok(AppendOutcome::Appended(appended)) => {
                    for (appended, frame) in appended.iter().zip(&frames) {
                        self.telemetry
                            .publication_appended(appended, frame.received_at_ms);
                    }
                    return;
                }
                Err(err) if shutdown.is_cancelled() => {
                    for _ in &frames {
                        self.telemetry.publication_refused(&err);
                    }
                    return;
                }
                Err(err) => self.telemetry.append_failed(&err, frames.len()),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_delay()) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// After `Stale` an epoch has been begun, and the same frames are to be appended again.
    async fn append_or_begin(&self, frames: &[Frame]) -> Result<AppendOutcome, RedisError> {
        let outcome = self.appender.append(frames).await?;
        if outcome == AppendOutcome::Stale {
            self.begin_epoch().await?;
        }
        Ok(outcome)
    }

    async fn begin_epoch(&self) -> Result<(), RedisError> {
        let begun = self.appender.begin_epoch(unix_millis()).await?;
        self.telemetry.epoch_begun(begun.epoch, begun.joined);
        Ok(())
    }

    fn report_queue(&mut self) {
        let state = self.events.gauge().state();
        self.telemetry
            .publications_queue(state.entries, state.bytes);
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

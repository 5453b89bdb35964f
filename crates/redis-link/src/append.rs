//! Appends publications to the stream, and beats.
//!
//! One atomic step of the server per frame, several in one pipeline: may the caller go on from what
//! the server's head says? is the frame there already? else number it, store it, publish it.
//! Therefore
//!
//! - numbers are consecutive within an epoch, whoever appends;
//! - frames of one call are appended in their order;
//! - a frame is appended once although two bridges, or a repetition after an error, append it;
//! - a server that may have forgotten writes (another server, another run of it, a head that is
//!   lost or behind what this appender saw) takes nothing before an epoch was begun on it, so that
//!   no id is given to two frames, and the caller knows that it has to append again what it holds.
//!
//! ```text
//!            ┌──────── append, beat ────────┐
//!            ▼                              │
//!  (start) Stale ──begin_epoch──► Begun or joined ──another server, run or epoch──► Stale
//! ```

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use redis::Value;
use relay_core::EntryId;

use crate::connection::{Purpose, Redis};
use crate::error::RedisError;
use crate::keys::{RelayKeys, SiteName};
use crate::lane::{Lane, Session};
use crate::script::Script;
use crate::value;

/// A step on the stream, with what every such step begins with.
macro_rules! step {
    ($file:literal) => {
        concat!(
            include_str!("lua/call.lua"),
            include_str!("lua/head.lua"),
            include_str!($file)
        )
    };
}

const APPEND: &str = step!("lua/append.lua");
const BEAT: &str = step!("lua/beat.lua");
const BEGIN: &str = step!("lua/begin.lua");

/// Most bytes of frames in one pipeline: more frames than that go in several.
const PIPELINE_BYTES_MAX: usize = 8 << 20;
/// Most frames in one pipeline.
const PIPELINE_FRAMES_MAX: usize = 256;

/// How publications are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppenderConfig {
    /// Entries that the stream keeps, about: Redis trims whole nodes.
    pub publications_max: u64,
    /// How long a frame is remembered as appended: longer than two bridges can be apart.
    pub seen_for: Duration,
    /// Larger frames are announced by pub/sub but read from the stream.
    pub pubsub_frame_bytes_max: usize,
    /// Larger frames are refused.
    pub frame_bytes_max: usize,
    /// The name of the clock that frames and heart-beats are stamped with, `<bridge>/<start>`.
    /// Empty: they do not say.
    pub clock: String,
}

impl Default for AppenderConfig {
    /// 100,000 entries; 15 minutes, thrice the default expiry of a job; 256 KiB by pub/sub, of
    /// which Redis' default output buffer of a subscriber (8 MiB for a minute) takes 32.
    fn default() -> Self {
        Self {
            publications_max: 100_000,
            seen_for: Duration::from_secs(15 * 60),
            pubsub_frame_bytes_max: 256 * 1024,
            frame_bytes_max: 128 << 20,
            clock: String::new(),
        }
    }
}

/// A frame to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Unix time in milliseconds at which it was received.
    pub received_at_ms: u64,
    /// The top master's payload frame, unopened.
    pub frame: Bytes,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The entry that holds it.
    pub entry_id: EntryId,
    /// It had been appended before, by this bridge or another.
    pub duplicate: bool,
}

/// What became of a call of [`Appender::append`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendOutcome {
    /// Redis has every frame; one result for each.
    Appended(Vec<Appended>),
    /// The server may have forgotten writes, or another bridge began an epoch: call
    /// [`Appender::begin_epoch`], then append again, in order, everything that has not expired.
    /// The first of the frames may have been appended nevertheless.
    Stale,
}

/// What became of a heart-beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beaten {
    /// It was published, with the newest entry id; the number is 0 in an epoch without entries.
    Newest(EntryId),
    /// As [`AppendOutcome::Stale`]; nothing was published.
    Stale,
}

/// The epoch that the next frames are appended to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochBegun {
    /// The epoch.
    pub epoch: u64,
    /// Another bridge, or an earlier call, had begun it.
    pub joined: bool,
}

/// What Redis holds of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Entries of the publications stream.
    pub publications: u64,
    /// Entries of the requests stream.
    pub requests: u64,
}

/// Appends frames in the name of one bridge.
pub struct Appender {
    appends: Lane,
    /// Beside the appends: a heart-beat must not wait behind megabytes of frames.
    beats: Lane,
    keys: RelayKeys,
    bridge: SiteName,
    config: AppenderConfig,
    append: Script,
    beat: Script,
    begin: Script,
    /// The newest id that this appender has seen.
    known: Mutex<EntryId>,
}

impl Appender {
    /// An appender for the bridge of this name.
    #[must_use]
    pub fn new(redis: &Redis, keys: RelayKeys, bridge: SiteName, config: AppenderConfig) -> Self {
        Self {
            appends: redis.write_lane(Purpose::Append),
            beats: redis.write_lane(Purpose::Append),
            keys,
            bridge,
            config,
            append: Script::new(APPEND),
            beat: Script::new(BEAT),
            begin: Script::new(BEGIN),
            known: Mutex::new(EntryId::ZERO),
        }
    }

    /// The newest id that this appender has seen, `0-0` before the first.
    #[must_use]
    pub fn newest(&self) -> EntryId {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an id that this bridge has seen in an earlier life: also after a start no
    /// epoch is begun that is not greater than that.
    pub fn note(&self, id: EntryId) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = id.max(*known);
    }

    /// Appends frames in their order.
    ///
    /// # Errors
    /// After an error each frame may or may not be appended: append the same frames again, which
    /// appends none twice. `is_transient()` tells whether that makes sense without a person.
    pub async fn append(&self, frames: &[Frame]) -> Result<AppendOutcome, RedisError> {
        self.append_stamped(&self.config.clock, frames).await
    }

    /// As [`append`](Self::append), of frames that another clock stamped: an earlier life's.
    ///
    /// # Errors
    /// The same.
    pub async fn append_stamped(
        &self,
        clock: &str,
        frames: &[Frame],
    ) -> Result<AppendOutcome, RedisError> {
        let mut appended = Vec::with_capacity(frames.len());
        let mut rest = frames;
        while !rest.is_empty() {
            let (batch, behind) = rest.split_at(batch_len(rest, self.appends.patience()));
            match self.append_batch(clock, batch).await? {
                AppendOutcome::Appended(batch) => appended.extend(batch),
                AppendOutcome::Stale => return Ok(AppendOutcome::Stale),
            }
            rest = behind;
        }
        Ok(AppendOutcome::Appended(appended))
    }

    async fn append_batch(
        &self,
        clock: &str,
        frames: &[Frame],
    ) -> Result<AppendOutcome, RedisError> {
        const OPERATION: &str = "append publications";
        let bytes = frames.iter().map(|frame| frame.frame.len()).sum();
        let max = self.config.frame_bytes_max;
        if let Some(frame) = frames.iter().find(|f| f.frame.len() > max) {
            let (operation, bytes) = (OPERATION, frame.frame.len());
            return Err(RedisError::FrameTooLarge {
                operation,
                bytes,
                max,
            });
        }
        let session = self.appends.session(OPERATION).await?;
        let limit = self.appends.limit_for(bytes);
        let known = self.newest();
        let calls: Vec<redis::Cmd> = frames
            .iter()
            .map(|frame| self.append_call(clock, frame, &session, known))
            .collect();
        let replies = self
            .append
            .run(&self.appends, &session, OPERATION, &calls, limit);
        let mut appended = Vec::with_capacity(frames.len());
        for reply in Box::pin(replies).await? {
            match parse_appended(reply) {
                Some(Some(parsed)) => {
                    self.note(parsed.entry_id);
                    appended.push(parsed);
                }
                Some(None) => return Ok(AppendOutcome::Stale),
                None => {
                    let expected = "{entry id, 0 or 1} or stale";
                    return Err(self.appends.endpoint.unexpected(OPERATION, expected));
                }
            }
        }
        Ok(AppendOutcome::Appended(appended))
    }

    fn append_call(
        &self,
        clock: &str,
        frame: &Frame,
        session: &Session,
        known: EntryId,
    ) -> redis::Cmd {
        let mut call = self.append.call(3);
        call.arg(self.keys.head())
            .arg(self.keys.publications())
            .arg(self.keys.seen(&digest(&frame.frame)));
        head_args(&mut call, session, known);
        call.arg(frame.frame.as_ref())
            .arg(frame.received_at_ms)
            .arg(clock)
            .arg(self.config.publications_max)
            .arg(
                u64::try_from(self.config.seen_for.as_millis())
                    .unwrap_or(u64::MAX)
                    .max(1),
            )
            .arg(self.keys.publications())
            .arg(self.bridge.as_str())
            .arg(self.config.pubsub_frame_bytes_max);
        call
    }

    /// Begins an epoch on the server as it is now, or joins the one that another bridge has begun
    /// on it. `now_ms` becomes the epoch if no greater one is known.
    ///
    /// # Errors
    /// When Redis does not do it; it may or may not have begun one.
    pub async fn begin_epoch(&self, now_ms: u64) -> Result<EpochBegun, RedisError> {
        const OPERATION: &str = "begin an epoch";
        // What this lane believes about the server may be what was wrong.
        let session = self.appends.looked_at_again(OPERATION).await?;
        let mut call = self.begin.call(2);
        call.arg(self.keys.head()).arg(self.keys.publications());
        head_args(&mut call, &session, self.newest());
        call.arg(now_ms);
        let (calls, limit) = ([call], self.appends.endpoint.op_timeout);
        let replies = self
            .begin
            .run(&self.appends, &session, OPERATION, &calls, limit);
        let parse = |reply: Value| {
            let mut parts = value::array(reply)?.into_iter();
            let id = value::entry_id(&value::text(parts.next()?)?)?;
            Some((id, value::number(parts.next()?)? == 1))
        };
        let (id, joined) = (Box::pin(replies).await?.into_iter().next())
            .and_then(parse)
            .ok_or_else(|| {
                let expected = "{entry id, 0 or 1}";
                self.appends.endpoint.unexpected(OPERATION, expected)
            })?;
        self.note(id);
        let epoch = id.epoch;
        Ok(EpochBegun { epoch, joined })
    }

    /// How many entries the streams hold, for gauges.
    ///
    /// # Errors
    /// When Redis does not tell.
    pub async fn stored(&self) -> Result<Stored, RedisError> {
        const OPERATION: &str = "measure the streams";
        let mut pipeline = redis::Pipeline::with_capacity(2);
        for stream in [self.keys.publications(), self.keys.requests()] {
            pipeline.cmd("XINFO").arg("STREAM").arg(stream);
        }
        let limit = self.beats.endpoint.op_timeout;
        let asked = Box::pin(self.beats.pipeline(OPERATION, &pipeline, limit));
        let mut lengths = [0, 0];
        for (length, reply) in lengths.iter_mut().zip(asked.await?) {
            *length = match self.beats.endpoint.value(OPERATION, reply) {
                Ok(reply) => stream_length(reply).unwrap_or(0),
                // A stream that nobody has written to yet.
                Err(RedisError::Refused { text, .. }) if text.contains("no such key") => 0,
                Err(error) => return Err(error),
            };
        }
        let [publications, requests] = lengths;
        Ok(Stored {
            publications,
            requests,
        })
    }

    /// Tells every subscriber that the bridge lives and what the newest entry is. Every bridge
    /// beats every 500 ms.
    ///
    /// # Errors
    /// When Redis does not take it.
    pub async fn beat(&self, now_ms: u64) -> Result<Beaten, RedisError> {
        const OPERATION: &str = "beat";
        let session = self.beats.session(OPERATION).await?;
        let mut call = self.beat.call(2);
        call.arg(self.keys.head()).arg(self.keys.publications());
        head_args(&mut call, &session, self.newest());
        call.arg(self.keys.publications())
            .arg(self.bridge.as_str())
            .arg(now_ms)
            .arg(&self.config.clock);
        let (calls, limit) = ([call], self.beats.endpoint.op_timeout);
        let replies = self
            .beat
            .run(&self.beats, &session, OPERATION, &calls, limit);
        let (replies, ()) = tokio::join!(Box::pin(replies), self.beats.endpoint.confirm());
        let reply = (replies?.into_iter().next())
            .and_then(value::text)
            .unwrap_or_default();
        if reply == STALE {
            // The next one must not rely on what this one believed about the server.
            self.beats.looked_at_again(OPERATION).await?;
            return Ok(Beaten::Stale);
        }
        let newest = value::entry_id(&reply).ok_or_else(|| {
            let expected = "an entry id or stale";
            self.beats.endpoint.unexpected(OPERATION, expected)
        })?;
        self.note(newest);
        Ok(Beaten::Newest(newest))
    }
}

/// What a step answers that did nothing: the caller has to begin an epoch.
const STALE: &str = "stale";

/// The arguments that `head.lua` reads.
fn head_args(call: &mut redis::Cmd, session: &Session, known: EntryId) {
    call.arg(&*session.run).arg(known.epoch).arg(known.number);
}

/// How many of the frames, at least one, go into one pipeline.
///
/// On a link that proved slow they are fewer, so that each time something gets through.
fn batch_len(frames: &[Frame], patience: u32) -> usize {
    let bytes_max = PIPELINE_BYTES_MAX >> patience;
    let mut bytes = 0_usize;
    let fits = |frame: &&Frame| {
        bytes = bytes.saturating_add(frame.frame.len());
        bytes <= bytes_max
    };
    frames
        .iter()
        .take(PIPELINE_FRAMES_MAX)
        .take_while(fits)
        .count()
        .max(1)
}

/// The length in the answer to `XINFO STREAM`, a flat list of names and values.
fn stream_length(reply: Value) -> Option<u64> {
    let mut parts = value::array(reply)?.into_iter();
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        if value::text(name).as_deref() == Some("length") {
            return value::number(value);
        }
    }
    None
}

/// The step's answer: `Some(None)` for stale, `None` for what is no answer.
fn parse_appended(value: Value) -> Option<Option<Appended>> {
    let mut parts = value::array(value)?.into_iter();
    let id = value::text(parts.next()?)?;
    if id == STALE {
        return Some(None);
    }
    Some(Some(Appended {
        entry_id: value::entry_id(&id)?,
        duplicate: value::number(parts.next()?)? == 1,
    }))
}

/// The first 16 bytes of the frame's SHA-256, in hexadecimal: every frame is encrypted with a
/// random vector, so equal digests are equal frames.
fn digest(frame: &[u8]) -> String {
    value::hex(openssl::sha::sha256(frame).get(..16).unwrap_or_default())
}

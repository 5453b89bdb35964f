//! Appends publications to the stream, and beats.
//!
//! One atomic step of the server per frame, several in one pipeline: is the frame there already?
//! else number it, store it, publish it. Therefore
//!
//! - numbers are consecutive within an epoch, whoever appends;
//! - frames of one call are appended in their order;
//! - a frame is appended once although two bridges, or a repetition after an error, append it;
//! - a server that has forgotten writes that this appender saw begins a new epoch, so that no id
//!   is given to two frames.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use redis::Value;
use relay_core::EntryId;

use crate::connection::{Lane, Purpose, Redis};
use crate::error::RedisError;
use crate::keys::{RelayKeys, SiteName};
use crate::value;

const APPEND: &str = include_str!("append.lua");
const BEAT: &str = include_str!("beat.lua");

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

/// Appends frames in the name of one bridge.
pub struct Appender {
    lane: Lane,
    keys: RelayKeys,
    bridge: SiteName,
    config: AppenderConfig,
    append: Script,
    beat: Script,
    /// The newest id that this appender has seen.
    known: Mutex<EntryId>,
}

impl Appender {
    /// An appender for the bridge of this name.
    #[must_use]
    pub fn new(redis: &Redis, keys: RelayKeys, bridge: SiteName, config: AppenderConfig) -> Self {
        Self {
            lane: redis.write_lane(Purpose::Append),
            keys,
            bridge,
            config,
            append: Script::new(APPEND),
            beat: Script::new(BEAT),
            known: Mutex::new(EntryId::ZERO),
        }
    }

    /// The newest id that this appender has seen, `0-0` before the first.
    #[must_use]
    pub fn newest(&self) -> EntryId {
        *self
            .known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Appends frames in their order. `now_ms` becomes the epoch if the stream is begun.
    ///
    /// # Errors
    /// After an error each frame may or may not be appended: append the same frames again, which
    /// appends none twice. `is_transient()` tells whether that makes sense without a person.
    pub async fn append(&self, frames: &[Frame], now_ms: u64) -> Result<Vec<Appended>, RedisError> {
        let mut appended = Vec::with_capacity(frames.len());
        let mut rest = frames;
        while !rest.is_empty() {
            let (batch, behind) = rest.split_at(batch_len(rest));
            appended.extend(self.append_batch(batch, now_ms).await?);
            rest = behind;
        }
        Ok(appended)
    }

    async fn append_batch(
        &self,
        frames: &[Frame],
        now_ms: u64,
    ) -> Result<Vec<Appended>, RedisError> {
        const OPERATION: &str = "append publications";
        let bytes = frames.iter().map(|frame| frame.frame.len()).sum();
        if let Some(frame) = frames
            .iter()
            .find(|f| f.frame.len() > self.config.frame_bytes_max)
        {
            let (bytes, max) = (frame.frame.len(), self.config.frame_bytes_max);
            return Err(RedisError::FrameTooLarge {
                operation: OPERATION,
                bytes,
                max,
            });
        }
        let limit = self.lane.endpoint.timeout_for(bytes);
        let known = self.newest();
        let calls: Vec<redis::Cmd> = frames
            .iter()
            .map(|frame| self.append_call(frame, now_ms, known))
            .collect();
        let mut appended = Vec::with_capacity(frames.len());
        for value in self
            .append
            .run(&self.lane, OPERATION, &calls, limit)
            .await?
        {
            let parsed = parse_appended(value).ok_or_else(|| {
                self.lane
                    .endpoint
                    .unexpected(OPERATION, "{entry id, 0 or 1}")
            })?;
            self.note(parsed.entry_id);
            appended.push(parsed);
        }
        Ok(appended)
    }

    fn append_call(&self, frame: &Frame, now_ms: u64, known: EntryId) -> redis::Cmd {
        let mut call = self.append.call(3);
        call.arg(self.keys.head())
            .arg(self.keys.publications())
            .arg(self.keys.seen(&digest(&frame.frame)))
            .arg(frame.frame.as_ref())
            .arg(frame.received_at_ms)
            .arg(now_ms)
            .arg(known.epoch)
            .arg(known.number)
            .arg(self.config.publications_max)
            .arg(
                u64::try_from(self.config.seen_for.as_millis())
                    .unwrap_or(u64::MAX)
                    .max(1),
            )
            .arg(self.keys.publications())
            .arg(self.bridge.as_str())
            .arg(self.config.pubsub_frame_bytes_max)
            .arg(&self.config.clock);
        call
    }

    /// Tells every subscriber that the bridge lives and what the newest entry is; returns the
    /// newest entry id, `0-0` when there is none. Every bridge beats every 500 ms.
    ///
    /// # Errors
    /// When Redis does not take it.
    pub async fn beat(&self, now_ms: u64) -> Result<EntryId, RedisError> {
        const OPERATION: &str = "beat";
        let mut call = self.beat.call(1);
        call.arg(self.keys.head())
            .arg(self.keys.publications())
            .arg(self.bridge.as_str())
            .arg(now_ms)
            .arg(&self.config.clock);
        let limit = self.lane.endpoint.op_timeout;
        let values = self.beat.run(&self.lane, OPERATION, &[call], limit).await?;
        let newest = values
            .into_iter()
            .next()
            .and_then(value::text)
            .and_then(|id| value::entry_id(&id))
            .ok_or_else(|| self.lane.endpoint.unexpected(OPERATION, "an entry id"))?;
        self.note(newest);
        Ok(newest)
    }

    fn note(&self, id: EntryId) {
        let mut known = self
            .known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *known = id.max(*known);
    }
}

/// How many of the frames, at least one, go into one pipeline.
fn batch_len(frames: &[Frame]) -> usize {
    let mut bytes = 0_usize;
    let fits = |frame: &&Frame| {
        bytes = bytes.saturating_add(frame.frame.len());
        bytes <= PIPELINE_BYTES_MAX
    };
    frames
        .iter()
        .take(PIPELINE_FRAMES_MAX)
        .take_while(fits)
        .count()
        .max(1)
}

fn parse_appended(value: Value) -> Option<Appended> {
    let mut parts = value::array(value)?.into_iter();
    let entry_id = value::entry_id(&value::text(parts.next()?)?)?;
    Some(Appended {
        entry_id,
        duplicate: value::number(parts.next()?)? == 1,
    })
}

/// The first 16 bytes of the frame's SHA-256, in hexadecimal: every frame is encrypted with a
/// random vector, so equal digests are equal frames.
fn digest(frame: &[u8]) -> String {
    hex(openssl::sha::sha256(frame).get(..16).unwrap_or_default())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing into a String does not fail.
            write!(text, "{byte:02x}").unwrap_or_default();
            text
        })
}

/// A Lua script, called by its digest and loaded when the server does not know it.
struct Script {
    text: &'static str,
    digest: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        Self {
            text,
            digest: hex(&openssl::sha::sha1(text.as_bytes())),
        }
    }

    /// A call with that many keys; keys and arguments are still to be added.
    fn call(&self, keys: usize) -> redis::Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.digest).arg(keys);
        command
    }

    /// Runs the calls in one pipeline. If the server did not know the script it is loaded, and
    /// every call is made again: those that succeeded are recognised by their marker.
    async fn run(
        &self,
        lane: &Lane,
        operation: &'static str,
        calls: &[redis::Cmd],
        limit: Duration,
    ) -> Result<Vec<Value>, RedisError> {
        let mut pipeline = redis::Pipeline::with_capacity(calls.len());
        for call in calls {
            pipeline.add_command(call.clone());
        }
        let mut values = Box::pin(lane.pipeline(operation, &pipeline, limit)).await?;
        if values.iter().any(is_no_script) {
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(self.text);
            lane.command("load script", &load, lane.endpoint.op_timeout)
                .await?;
            values = Box::pin(lane.pipeline(operation, &pipeline, limit)).await?;
        }
        values
            .into_iter()
            .map(|value| lane.endpoint.value(operation, value))
            .collect()
    }
}

fn is_no_script(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

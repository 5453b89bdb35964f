//! A bridge's end: takes requests out of the stream and publishes the replies.
//!
//! All bridges share one consumer group; each has its own name in it.
//!
//! - A request is taken once at a time. It leaves the stream together with its reply.
//! - Requests under way are claimed again every [`REFRESH`], so that their idle time stays low;
//!   what is idle for [`TAKEOVER_IDLE`] belongs to a bridge that died, and is taken over
//!   (XAUTOCLAIM, Redis 6.2; on older servers the sites send again instead).
//! - A [`Request`] that is dropped without a reply is left to whoever takes it over.
//! - Under way are at most `in_flight_max` requests and about `in_flight_bytes_max` bytes; while
//!   they are, the stream holds the rest.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use redis::Value;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};

use super::{Outcome, RequestId, RequestsConfig, word};
use crate::backoff::Backoff;
use crate::connection::{Purpose, Redis};
use crate::error::{RedisError, chain};
use crate::keys::{RelayKeys, SiteName};
use crate::lane::Lane;
use crate::value::{self, RawEntry};

/// The consumer group that all bridges share.
const GROUP: &str = "bridges";
/// How long one XREADGROUP waits for requests.
const BLOCK: Duration = Duration::from_secs(1);
/// How often requests under way are claimed again.
const REFRESH: Duration = Duration::from_secs(2);
/// Idle time after which a request's bridge is taken for dead: two refreshes and a bit.
const TAKEOVER_IDLE: Duration = Duration::from_secs(5);
/// How long a read waits before the server is asked whether it lives.
const PING_AFTER: Duration = Duration::from_millis(500);
/// Requests of one read while they are small.
const READ_ENTRIES: usize = 16;
/// Above this size of the last request, requests are read one by one.
const LARGE_FRAME_BYTES: usize = 1 << 20;
/// Reads this bridge's own pending requests from their beginning.
const OWN_PENDING: &str = "0";
/// Reads requests that no bridge has taken.
const NEW: &str = ">";
/// How often the time of a read is doubled: 2 s become 128 s.
const DOUBLINGS_MAX: u32 = 6;
/// Most requests under way at this bridge.
const IN_FLIGHT_MAX: usize = 1024;
/// Most bytes of requests under way, counted before a read: one read may go beyond.
const IN_FLIGHT_BYTES_MAX: usize = 256 << 20;

/// What came out of the requests stream.
#[derive(Debug)]
pub enum RequestEvent {
    /// Requests are taken from now on.
    Up,
    /// No requests can be taken; the task goes on trying.
    Down {
        /// Why, in a word out of [`crate::REASONS`].
        class: &'static str,
        /// Why, for people.
        reason: String,
    },
    /// A request to be passed to the top master.
    Request(Request),
    /// An entry that is not of our form was deleted.
    Malformed {
        /// The entry's id in the stream.
        entry_id: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A site's request. Dropped without a reply, it is taken over after a while.
pub struct Request {
    /// The entry's id in the requests stream.
    pub entry_id: String,
    /// The site that asks, by its own word: Redis proves nothing.
    pub site: SiteName,
    /// The request's id, the same in every repetition.
    pub rid: RequestId,
    /// The site's clock when it sent the request, unix milliseconds.
    pub sent_at_ms: u64,
    /// The request frame for the top master.
    pub frame: Bytes,
    _under_way: UnderWay,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("entry_id", &self.entry_id)
            .field("site", &self.site)
            .field("rid", &self.rid)
            .field("sent_at_ms", &self.sent_at_ms)
            .field("frame_bytes", &self.frame.len())
            .finish_non_exhaustive()
    }
}

/// The requests under way at this bridge, by entry id, with their bytes.
#[derive(Default)]
struct InFlight {
    requests: Mutex<HashMap<String, usize>>,
    room: Notify,
}

impl InFlight {
    fn ids(&self) -> Vec<String> {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect()
    }

    fn is_full(&self) -> bool {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.len() >= IN_FLIGHT_MAX || requests.values().sum::<usize>() >= IN_FLIGHT_BYTES_MAX
    }

    /// `None` when the entry is under way already.
    fn begin(self: &Arc<Self>, entry_id: &str, bytes: usize) -> Option<UnderWay> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.contains_key(entry_id) {
            return None;
        }
        requests.insert(entry_id.to_owned(), bytes);
        Some(UnderWay {
            in_flight: Arc::clone(self),
            entry_id: entry_id.to_owned(),
        })
    }
}

/// Marks a request as under way until it is dropped.
struct UnderWay {
    in_flight: Arc<InFlight>,
    entry_id: String,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut requests = self
            .in_flight
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        requests.remove(&self.entry_id);
        drop(requests);
        self.in_flight.room.notify_one();
    }
}

/// How much is under way at a bridge; cheap to clone.
#[derive(Clone)]
pub struct RequestsGauge(Arc<InFlight>);

impl RequestsGauge {
    /// Requests under way, and the bytes of their frames.
    #[must_use]
    pub fn state(&self) -> (usize, usize) {
        let requests = self.0.requests.lock();
        let requests = requests.unwrap_or_else(PoisonError::into_inner);
        (requests.len(), requests.values().sum())
    }
}

/// Takes requests in the name of one bridge; a future that the daemon runs.
pub struct RequestsConsumer {
    /// Waits in XREADGROUP.
    reads: Lane,
    /// Everything that must not wait.
    claims: Lane,
    stream: String,
    bridge: SiteName,
    config: RequestsConfig,
    in_flight: Arc<InFlight>,
    /// What is read next: requests that this bridge took before an interruption and did not get
    /// to see come first, `>` stands for new ones.
    from: String,
    /// Time-outs in a row: each doubles the time of the next read, so that one large request on a
    /// slow link gets through at last, while a stalled link is noticed soon.
    timeouts: u32,
    takes_over: bool,
}

/// Publishes replies; cheap to clone.
#[derive(Clone)]
pub struct Replier {
    lane: Lane,
    keys: RelayKeys,
    config: RequestsConfig,
}

impl RequestsConsumer {
    /// A consumer for the bridge of this name, and what replies to its requests.
    #[must_use]
    pub fn new(
        redis: &Redis,
        keys: &RelayKeys,
        bridge: SiteName,
        config: RequestsConfig,
    ) -> (Self, Replier) {
        let replier = Replier {
            lane: redis.write_lane(Purpose::Replies),
            keys: keys.clone(),
            config: config.clone(),
        };
        let consumer = Self {
            reads: redis.write_lane(Purpose::Requests),
            claims: redis.write_lane(Purpose::Requests),
            stream: keys.requests(),
            bridge,
            config,
            in_flight: Arc::default(),
            from: OWN_PENDING.to_owned(),
            timeouts: 0,
            takes_over: true,
        };
        (consumer, replier)
    }

    /// Tells how much is under way.
    #[must_use]
    pub fn gauge(&self) -> RequestsGauge {
        RequestsGauge(Arc::clone(&self.in_flight))
    }

    /// Runs until the receiver is dropped. Waits for room before it takes requests.
    pub async fn run(mut self, sender: mpsc::Sender<RequestEvent>) {
        let mut backoff = Backoff::default();
        let mut told: Option<String> = None;
        let mut up = false;
        loop {
            let result = Box::pin(self.serve(&sender, &mut up)).await;
            let Err(error) = result else { return };
            // What was delivered into the void is pending in this bridge's name.
            OWN_PENDING.clone_into(&mut self.from);
            let (class, reason) = (error.reason(), chain(&error));
            let was_up = std::mem::take(&mut up);
            if was_up {
                backoff.reset();
            }
            if was_up || told.as_ref() != Some(&reason) {
                told = Some(reason.clone());
                if sender
                    .send(RequestEvent::Down { class, reason })
                    .await
                    .is_err()
                {
                    return;
                }
            }
            tokio::select! {
                () = sleep(backoff.next()) => {}
                () = sender.closed() => return,
            }
        }
    }

    /// Takes requests until something fails, or returns when the owner is gone.
    async fn serve(
        &mut self,
        sender: &mpsc::Sender<RequestEvent>,
        up: &mut bool,
    ) -> Result<(), RedisError> {
        self.ensure_group().await?;
        *up = true;
        if sender.send(RequestEvent::Up).await.is_err() {
            return Ok(());
        }
        let mut due = Instant::now();
        loop {
            if Instant::now() >= due {
                due = Instant::now() + REFRESH;
                self.refresh().await?;
                for event in self.take_over().await? {
                    if sender.send(event).await.is_err() {
                        return Ok(());
                    }
                }
            }
            let room = async {
                let permit = sender.reserve().await;
                while self.in_flight.is_full() {
                    self.in_flight.room.notified().await;
                }
                permit
            };
            let count = tokio::select! {
                permit = room => match permit {
                    Ok(_room) => sender.capacity().clamp(1, READ_ENTRIES),
                    Err(_closed) => return Ok(()),
                },
                () = tokio::time::sleep_until(due) => continue,
            };
            let (claims, reads) = (self.claims.clone(), self.reads.clone());
            let events = tokio::select! {
                events = Box::pin(self.read(count)) => events?,
                error = Box::pin(pinged(&claims)) => {
                    reads.reset().await;
                    return Err(error);
                }
                () = sender.closed() => return Ok(()),
            };
            for event in events {
                if sender.send(event).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    async fn ensure_group(&self) -> Result<(), RedisError> {
        let mut command = redis::cmd("XGROUP");
        command
            .arg("CREATE")
            .arg(&self.stream)
            .arg(GROUP)
            .arg("0")
            .arg("MKSTREAM");
        let limit = self.claims.endpoint.op_timeout;
        match self
            .claims
            .command("create the consumer group", &command, limit)
            .await
        {
            Err(RedisError::Refused { text, .. }) if text.starts_with("BUSYGROUP") => Ok(()),
            result => result.map(drop),
        }
    }

    /// New requests; at first those that were this bridge's own when it was last stopped.
    async fn read(&mut self, count: usize) -> Result<Vec<RequestEvent>, RedisError> {
        const OPERATION: &str = "take requests";
        let large = {
            let requests = self
                .in_flight
                .requests
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            requests.values().any(|bytes| *bytes > LARGE_FRAME_BYTES)
        };
        let mut command = redis::cmd("XREADGROUP");
        command
            .arg("GROUP")
            .arg(GROUP)
            .arg(self.bridge.as_str())
            .arg("COUNT")
            .arg(if large || self.timeouts > 0 { 1 } else { count })
            .arg("BLOCK")
            .arg(u64::try_from(BLOCK.as_millis()).unwrap_or(u64::MAX))
            .arg("STREAMS")
            .arg(&self.stream)
            .arg(&self.from);
        let endpoint = &self.reads.endpoint;
        let limit = BLOCK + endpoint.op_timeout * 2_u32.pow(self.timeouts);
        let reply = self.reads.command(OPERATION, &command, limit).await;
        if matches!(reply, Err(RedisError::TimedOut { .. })) {
            self.timeouts = (self.timeouts + 1).min(DOUBLINGS_MAX);
        }
        let reply = reply?;
        let unexpected = || endpoint.unexpected(OPERATION, "streams with their entries");
        let entries = match reply {
            Value::Nil => Vec::new(),
            reply => {
                let stream = value::array(reply)
                    .and_then(|s| s.into_iter().next())
                    .ok_or_else(unexpected)?;
                let parts = value::array(stream).ok_or_else(unexpected)?;
                parts
                    .into_iter()
                    .nth(1)
                    .and_then(value::array)
                    .ok_or_else(unexpected)?
            }
        };
        self.timeouts = 0;
        let entries: Vec<RawEntry> = entries.into_iter().filter_map(RawEntry::new).collect();
        match entries.last() {
            Some(last) if self.from != NEW => last.id.clone_into(&mut self.from),
            Some(_) => {}
            None => NEW.clone_into(&mut self.from),
        }
        self.sort(entries).await
    }

    /// Requests of bridges that died.
    async fn take_over(&mut self) -> Result<Vec<RequestEvent>, RedisError> {
        const OPERATION: &str = "take over requests";
        if !self.takes_over || self.in_flight.is_full() {
            return Ok(Vec::new());
        }
        let mut command = redis::cmd("XAUTOCLAIM");
        command
            .arg(&self.stream)
            .arg(GROUP)
            .arg(self.bridge.as_str())
            .arg(u64::try_from(TAKEOVER_IDLE.as_millis()).unwrap_or(u64::MAX))
            .arg("0")
            .arg("COUNT")
            .arg(if self.timeouts > 0 { 1 } else { READ_ENTRIES });
        let limit = self.claims.endpoint.op_timeout * 2_u32.pow(self.timeouts);
        let reply = match Box::pin(self.claims.command(OPERATION, &command, limit)).await {
            Err(RedisError::NoStreams { .. }) => {
                // Redis before 6.2: the sites send again what a dead bridge had taken.
                self.takes_over = false;
                return Ok(Vec::new());
            }
            result => result?,
        };
        let unexpected = || {
            self.claims
                .endpoint
                .unexpected(OPERATION, "claimed entries")
        };
        let parts = value::array(reply).ok_or_else(unexpected)?;
        let entries = parts
            .into_iter()
            .nth(1)
            .and_then(value::array)
            .ok_or_else(unexpected)?;
        self.sort(entries.into_iter().filter_map(RawEntry::new).collect())
            .await
    }

    /// Turns entries into events; what is not of our form is acked and deleted.
    async fn sort(&self, entries: Vec<RawEntry>) -> Result<Vec<RequestEvent>, RedisError> {
        let mut events = Vec::with_capacity(entries.len());
        let mut discarded = Vec::new();
        for mut raw in entries {
            let entry_id = raw.id.clone();
            if raw.fields.is_none() {
                // Trimmed while pending.
                discarded.push(entry_id);
                continue;
            }
            let Some(under_way) = self.in_flight.begin(&entry_id, raw.len()) else {
                continue;
            };
            match request(&mut raw, self.config.frame_bytes_max, under_way) {
                Ok(request) => events.push(RequestEvent::Request(request)),
                Err(reason) => {
                    discarded.push(entry_id.clone());
                    events.push(RequestEvent::Malformed { entry_id, reason });
                }
            }
        }
        if !discarded.is_empty() {
            let mut pipeline = redis::Pipeline::with_capacity(2);
            pipeline
                .cmd("XACK")
                .arg(&self.stream)
                .arg(GROUP)
                .arg(&discarded);
            pipeline.cmd("XDEL").arg(&self.stream).arg(&discarded);
            all(
                &self.claims,
                "delete malformed requests",
                &pipeline,
                self.claims.endpoint.op_timeout,
            )
            .await?;
        }
        Ok(events)
    }

    /// Keeps what is under way from being taken over.
    async fn refresh(&self) -> Result<(), RedisError> {
        let ids = self.in_flight.ids();
        if ids.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("XCLAIM");
        command
            .arg(&self.stream)
            .arg(GROUP)
            .arg(self.bridge.as_str())
            .arg(0)
            .arg(ids)
            .arg("JUSTID");
        let limit = self.claims.endpoint.op_timeout;
        self.claims
            .command("keep requests", &command, limit)
            .await
            .map(drop)
    }
}

/// Asks the server now and then whether it lives, while a read waits that may take long; returns
/// when it does not answer.
async fn pinged(lane: &Lane) -> RedisError {
    loop {
        sleep(PING_AFTER).await;
        let limit = lane.endpoint.op_timeout;
        if let Err(error) = lane.command("PING", &redis::cmd("PING"), limit).await {
            return error;
        }
    }
}

/// Reads the fields of an entry.
fn request(
    raw: &mut RawEntry,
    frame_bytes_max: usize,
    under_way: UnderWay,
) -> Result<Request, String> {
    let [version, site, rid, sent_at, frame] = raw.take(["v", "site", "rid", "t", "f"]);
    match version.as_deref() {
        Some(b"1") => {}
        Some(other) => return Err(format!("unknown version v={}", other.escape_ascii())),
        None => return Err("no field v".to_owned()),
    }
    let text = |bytes: Option<Bytes>| bytes.and_then(|bytes| String::from_utf8(bytes.into()).ok());
    let site = text(site)
        .and_then(|site| SiteName::new(&site).ok())
        .ok_or("no field site with a name")?;
    let rid = text(rid)
        .and_then(|rid| RequestId::parse(&rid))
        .ok_or("no field rid with 32 hexadecimal digits")?;
    let sent_at_ms = text(sent_at)
        .and_then(|at| value::digits(&at))
        .ok_or("no field t with unix milliseconds")?;
    let frame = frame.ok_or("no field f")?;
    if frame.len() > frame_bytes_max {
        return Err(format!(
            "a frame of {} bytes is larger than {frame_bytes_max}",
            frame.len()
        ));
    }
    let entry_id = raw.id.clone();
    Ok(Request {
        entry_id,
        site,
        rid,
        sent_at_ms,
        frame,
        _under_way: under_way,
    })
}

impl Replier {
    /// Publishes what became of a request and takes it out of the stream.
    ///
    /// # Errors
    /// After an error the reply may be lost and the request may still be in the stream: it will be
    /// taken over or sent again, so that nothing needs to be done.
    pub async fn reply(&self, request: &Request, outcome: &Outcome) -> Result<(), RedisError> {
        let too_large = Outcome::Refused("reply-too-large".to_owned());
        let outcome = match outcome {
            Outcome::Reply(frame) if frame.len() > self.config.reply_bytes_max => &too_large,
            other => other,
        };
        let rid = &request.rid;
        let (header, frame) = match outcome {
            Outcome::Reply(frame) => (format!("v=1 rid={rid} status=ok\n"), frame.as_ref()),
            Outcome::Refused(reason) => (
                format!("v=1 rid={rid} status=refused reason={}\n", word(reason)),
                &[][..],
            ),
            Outcome::TimedOut(reason) => (
                format!("v=1 rid={rid} status=timeout reason={}\n", word(reason)),
                &[][..],
            ),
        };
        let message = [header.as_bytes(), frame].concat();
        let stream = self.keys.requests();
        let mut pipeline = redis::Pipeline::with_capacity(3);
        pipeline
            .cmd("PUBLISH")
            .arg(self.keys.replies(&request.site))
            .arg(&message);
        pipeline
            .cmd("XACK")
            .arg(&stream)
            .arg(GROUP)
            .arg(&request.entry_id);
        pipeline.cmd("XDEL").arg(&stream).arg(&request.entry_id);
        let limit = self.lane.limit_for(message.len());
        Box::pin(all(&self.lane, "publish a reply", &pipeline, limit)).await
    }
}

/// Runs a pipeline of which every command has to succeed.
async fn all(
    lane: &Lane,
    operation: &'static str,
    pipeline: &redis::Pipeline,
    limit: Duration,
) -> Result<(), RedisError> {
    for value in lane.pipeline(operation, pipeline, limit).await? {
        lane.endpoint.value(operation, value)?;
    }
    Ok(())
}

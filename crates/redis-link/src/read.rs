//! Reads pages of the publications stream, at the server that is listened to.
//!
//! - The newest id and the range are read in one step of the server, so that a page is evidence:
//!   what it does not show is not in the stream.
//! - A page is bounded by entries and, as far as frames resemble those before them, by bytes.
//! - Entries that no bridge has written are reported and passed over.

use std::sync::Mutex;
use std::time::Duration;

use redis::Value;
use relay_core::sequence::Page;
use relay_core::{EntryId, Publication};

use crate::connection::{Purpose, Redis};
use crate::error::RedisError;
use crate::keys::RelayKeys;
use crate::lane::Lane;
use crate::value::{self, RawEntry};

const OPERATION: &str = "read publications";

/// Bytes of frames that a page aims at.
const PAGE_BYTES: usize = 4 << 20;
/// Entries of the first page, before the size of frames is known.
const FIRST_PAGE_ENTRIES: usize = 16;
/// How often a time-out is doubled after pages that did not arrive: 2 s become 128 s.
const DOUBLINGS_MAX: u32 = 6;

/// What a read showed: the page for the sequencer, and what was wrong in the stream.
#[derive(Debug, Clone, Default)]
pub struct PageRead {
    /// The page.
    pub page: Page,
    /// Entries that were passed over: the id as it stands in the stream, and the reason.
    pub malformed: Vec<(String, String)>,
    /// Whether the read reached the end of the stream.
    pub at_end: bool,
}

/// Reads the publications stream of one relay.
pub struct StreamReader {
    lane: Lane,
    keys: RelayKeys,
    pace: Mutex<Pace>,
}

/// How much to ask for, learned from the pages before.
#[derive(Debug, Clone, Copy)]
struct Pace {
    entries: usize,
    timeouts: u32,
}

impl StreamReader {
    /// A reader at the nearest server.
    #[must_use]
    pub fn new(redis: &Redis, keys: RelayKeys) -> Self {
        let pace = Mutex::new(Pace {
            entries: FIRST_PAGE_ENTRIES,
            timeouts: 0,
        });
        Self {
            lane: redis.read_lane(Purpose::Read),
            keys,
            pace,
        }
    }

    /// Reads at most `count_max` entries behind `after`.
    ///
    /// # Errors
    /// When the server does not give them. After a time-out the next read asks for a single entry
    /// and waits longer, so that one large frame on a slow link gets through at last.
    pub async fn read_after(
        &self,
        after: EntryId,
        count_max: usize,
    ) -> Result<PageRead, RedisError> {
        let pace = self.pace();
        let count = pace.entries.clamp(1, count_max.max(1));
        let limit = self.lane.endpoint.op_timeout * 2_u32.pow(pace.timeouts.min(DOUBLINGS_MAX));
        let result = self.read(after, count, limit).await;
        match &result {
            Ok((_, bytes, entries)) => self.learn(*bytes, *entries),
            Err(RedisError::TimedOut { .. }) => {
                self.set_pace(Pace {
                    entries: 1,
                    timeouts: (pace.timeouts + 1).min(DOUBLINGS_MAX),
                });
            }
            Err(_) => {}
        }
        result.map(|(page, _, _)| page)
    }

    async fn read(
        &self,
        after: EntryId,
        count: usize,
        limit: Duration,
    ) -> Result<(PageRead, usize, usize), RedisError> {
        let mut pipeline = redis::Pipeline::with_capacity(4);
        pipeline
            .cmd("MULTI")
            .cmd("HMGET")
            .arg(self.keys.head())
            .arg("epoch")
            .arg("number")
            .cmd("XRANGE")
            .arg(self.keys.publications())
            .arg(after.next().to_string())
            .arg("+")
            .arg("COUNT")
            .arg(count)
            .cmd("EXEC");
        let values = Box::pin(self.lane.pipeline(OPERATION, &pipeline, limit)).await?;
        // An error in the middle is told by the command that it concerns, EXEC only aborts.
        let mut exec = Value::Nil;
        for value in values {
            exec = self.lane.endpoint.value(OPERATION, value)?;
        }
        let unexpected = || {
            self.lane
                .endpoint
                .unexpected(OPERATION, "the head and a range")
        };
        let mut parts = value::array(exec).ok_or_else(unexpected)?.into_iter();
        let (Some(head), Some(range)) = (parts.next(), parts.next()) else {
            return Err(unexpected());
        };
        let newest = head_id(self.lane.endpoint.value(OPERATION, head)?);
        let range = self.lane.endpoint.value(OPERATION, range)?;
        let entries = value::array(range).ok_or_else(unexpected)?;
        let found = entries.len();
        let (page, bytes) = page(after, newest, entries, found < count);
        Ok((page, bytes, found))
    }

    fn learn(&self, bytes: usize, entries: usize) {
        if let Some(each) = bytes.checked_div(entries) {
            let each = each.max(1);
            self.set_pace(Pace {
                entries: (PAGE_BYTES / each).max(1),
                timeouts: 0,
            });
        }
    }

    fn pace(&self) -> Pace {
        *self
            .pace
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn set_pace(&self, pace: Pace) {
        *self
            .pace
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = pace;
    }
}

/// The id in the head hash; `0-0` when it is missing or not of our form.
fn head_id(head: Value) -> EntryId {
    let mut parts = value::array(head)
        .unwrap_or_default()
        .into_iter()
        .map(value::number);
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(epoch), Some(number)) => EntryId::new(epoch, number),
        _ => EntryId::ZERO,
    }
}

/// Sorts what a range held; also returns the bytes that it held.
fn page(after: EntryId, newest: EntryId, entries: Vec<Value>, at_end: bool) -> (PageRead, usize) {
    let mut read = PageRead {
        at_end,
        ..PageRead::default()
    };
    let mut through = after;
    let mut bytes = 0;
    for entry in entries {
        let Some(mut raw) = RawEntry::new(entry) else {
            read.malformed
                .push(("?".to_owned(), "not an entry".to_owned()));
            continue;
        };
        bytes += raw.len();
        match publication(&mut raw) {
            Ok(publication) => {
                through = through.max(publication.entry_id);
                read.page.entries.push(publication);
            }
            Err(reason) => {
                // Also a foreign id is passed over, or the same page would come for ever.
                through = through.max(raw.id.parse().unwrap_or(through));
                read.malformed.push((raw.id, reason));
            }
        }
    }
    if at_end {
        through = through.max(newest);
    }
    read.page.after = after;
    read.page.through = through;
    read.page.newest = newest;
    (read, bytes)
}

fn publication(raw: &mut RawEntry) -> Result<Publication, String> {
    let [version, received_at, clock, frame] = raw.take(["v", "t", "c", "f"]);
    match version.as_deref() {
        Some(b"1") => {}
        Some(other) => return Err(format!("unknown version v={}", other.escape_ascii())),
        None => return Err("no field v".to_owned()),
    }
    let entry_id = value::entry_id(&raw.id)
        .filter(|id| id.number > 0)
        .ok_or("the entry id is none that a bridge gives")?;
    let received_at_ms = received_at
        .and_then(|text| value::digits(std::str::from_utf8(&text).ok()?))
        .ok_or("no field t with unix milliseconds")?;
    Ok(Publication {
        entry_id,
        received_at_ms,
        clock: clock.and_then(|text| value::clock(std::str::from_utf8(&text).ok()?)),
        frame: frame.ok_or("no field f")?,
    })
}

//! `saltway/site/<id>/status`: how a site stands, each few seconds.

use std::fmt;

use crate::{ids::MinionId, msgpack::Value};

use super::{
    RosterDigest, SaltwayError, VERSION,
    fields::{Fields, key},
    roster, tag,
};

/// Where a publication was lost before the lower master had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LostAt {
    /// Between the MoM and the bridge: a gap in the MoM's serial without a gap in ours.
    Mom,
    /// In Redis: trimmed from the stream, or forgotten, before it was read.
    Redis,
    /// At the site: it does not open with any key, or is no publication.
    Site,
    /// At the lower master: it refused the job.
    LowerMaster,
}

impl LostAt {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Mom, Self::Redis, Self::Site, Self::LowerMaster];

    /// The word for it: in events and as the label `hop`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mom => "mom",
            Self::Redis => "redis",
            Self::Site => "site",
            Self::LowerMaster => "lower_master",
        }
    }
}

/// The id of an entry of the publications stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryNumber {
    /// The life of the stream.
    pub epoch: u64,
    /// Counts in it from 1.
    pub number: u64,
}

impl EntryNumber {
    fn parse(text: &str) -> Option<Self> {
        let (epoch, number) = text.split_once('-')?;
        Some(Self {
            epoch: epoch.parse().ok()?,
            number: number.parse().ok()?,
        })
    }
}

impl fmt::Display for EntryNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

/// What is in a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpoolFigures {
    /// Records.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How publications fared between the lower master and its minions. Counts are of this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LastHop {
    /// Minions targeted that are known to give receipts, each once a job.
    pub expected: u64,
    /// Of these, those that gave one, or returned.
    pub received: u64,
    /// Of these, those that were silent for `receipt_timeout` after the job was published first.
    pub missed: u64,
    /// Minions that were sent a job again.
    pub redelivered: u64,
    /// Minions that missed a job and were not sent it again, since it may have run.
    pub held_back: u64,
    /// Milliseconds from the publication to the receipt, over the last receipts: the median.
    pub after_ms_median: u64,
    /// The same: the 99th of a hundred.
    pub after_ms_p99: u64,
}

impl LastHop {
    fn data(&self) -> Value {
        Value::map([
            ("expected", self.expected.into()),
            ("received", self.received.into()),
            ("missed", self.missed.into()),
            ("redelivered", self.redelivered.into()),
            ("held_back", self.held_back.into()),
            ("after_ms_median", self.after_ms_median.into()),
            ("after_ms_p99", Value::from(self.after_ms_p99)),
        ])
    }

    fn read(map: &Value) -> Option<Self> {
        let number = |name| map.get(name).and_then(Value::as_u64);
        Some(Self {
            expected: number("expected")?,
            received: number("received")?,
            missed: number("missed")?,
            redelivered: number("redelivered")?,
            held_back: number("held_back")?,
            after_ms_median: number("after_ms_median")?,
            after_ms_p99: number("after_ms_p99")?,
        })
    }
}

/// How a site stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Whose.
    pub site: MinionId,
    /// Names the process: its counts begin at 0.
    pub run: String,
    /// The shim's release.
    pub version: String,
    /// Minions in the roster.
    pub minions: u64,
    /// Of these, those known to be up.
    pub up: u64,
    /// The roster; `None` while the site does not know it.
    pub roster: Option<RosterDigest>,
    /// The last entry that the site is done with.
    pub entry: Option<EntryNumber>,
    /// Entries that it is not done with.
    pub lag_entries: u64,
    /// For how long it has been behind the first of them.
    pub lag_seconds: f64,
    /// What waits for the MoM's reply.
    pub spool: SpoolFigures,
    /// Publications of this MoM lost in this run, by hop; a hop that is missing lost none.
    pub lost: Vec<(LostAt, u64)>,
    /// Publications of this MoM not run in this run because they were too old.
    pub expired: u64,
    /// Whether this shim is the active one of its site.
    pub active: bool,
    /// The way from the lower master to its minions; `None` of a shim that does not follow receipts.
    pub last_hop: Option<LastHop>,
}

impl Status {
    /// Its tag.
    #[must_use]
    pub fn tag(&self) -> String {
        tag(&self.site, "status")
    }

    /// Its data.
    #[must_use]
    pub fn data(&self) -> Value {
        let text = |value: Option<String>| Value::from(value.unwrap_or_default());
        let spool = [
            ("entries", self.spool.entries.into()),
            ("bytes", self.spool.bytes.into()),
        ];
        let lost = self.lost.iter();
        let lost = lost.map(|(hop, count)| (hop.as_str(), Value::from(*count)));
        let mut data = Value::map([
            ("v", Value::Int(VERSION)),
            ("site", (&self.site).into()),
            ("run", self.run.as_str().into()),
            ("version", self.version.as_str().into()),
            ("minions", self.minions.into()),
            ("up", self.up.into()),
            ("roster", text(self.roster.map(|digest| digest.to_string()))),
            ("entry", text(self.entry.map(|entry| entry.to_string()))),
            ("lag_entries", self.lag_entries.into()),
            ("lag_seconds", self.lag_seconds.into()),
            ("spool", Value::map(spool)),
            ("lost", Value::map(lost)),
            ("expired", self.expired.into()),
            ("active", self.active.into()),
        ]);
        if let Some(last_hop) = &self.last_hop {
            data.set("last_hop", last_hop.data());
        }
        data
    }

    pub(super) fn read(site: MinionId, fields: &Fields<'_>) -> Result<Self, SaltwayError> {
        let roster = match fields.text("roster")? {
            "" => None,
            _ => Some(roster::digest(fields, "roster")?),
        };
        let entry = match fields.text("entry")? {
            "" => None,
            text => {
                let entry = EntryNumber::parse(text);
                Some(entry.ok_or_else(|| key("entry", "not <epoch>-<number>"))?)
            }
        };
        let in_spool = |name| {
            let spool = fields.get("spool")?;
            spool.get(name).and_then(Value::as_u64)
        };
        let no_spool = || key("spool", "not a map of entries and bytes");
        Ok(Self {
            run: fields.word("run")?,
            version: fields.word("version")?,
            minions: fields.number("minions")?,
            up: fields.number("up")?,
            roster,
            entry,
            lag_entries: fields.number("lag_entries")?,
            lag_seconds: fields.seconds("lag_seconds")?,
            spool: SpoolFigures {
                entries: in_spool("entries").ok_or_else(no_spool)?,
                bytes: in_spool("bytes").ok_or_else(no_spool)?,
            },
            lost: lost(fields)?,
            expired: fields.number("expired")?,
            active: fields.flag("active", true)?,
            last_hop: match fields.get("last_hop") {
                None => None,
                Some(map) => {
                    let last_hop = LastHop::read(map);
                    Some(last_hop.ok_or_else(|| key("last_hop", "not a map of counts"))?)
                }
            },
            site,
        })
    }
}

/// Hops of a later version are passed over: none of them may become a label.
fn lost(fields: &Fields<'_>) -> Result<Vec<(LostAt, u64)>, SaltwayError> {
    let map = fields.get("lost");
    let map = map.filter(|map| map.as_map().is_some());
    let map = map.ok_or_else(|| key("lost", "no map"))?;
    let counts = LostAt::ALL.into_iter().filter_map(|hop| {
        let count = map.get(hop.as_str())?;
        let count = count
            .as_u64()
            .ok_or_else(|| key("lost", "holds what is no count"));
        Some(count.map(|count| (hop, count)))
    });
    counts.collect()
}

//! Events of the minion-shim, as they appear on the bus of the master that the minion belongs to.
//!
//! ```text
//! saltway/minion/<id>/receipt   jobs that the minion took
//! saltway/minion/<id>/state     what happened to the minion, and every job that it took of late
//! ```
//! The minion-shim hands them to its minion (`fire_master`), which sends them as a `_minion_event` of its own: the data on the
//! master's bus is that whole load, `{id, cmd, tag, data, ..}`, and these events are its `data`.
//!
//! - A load whose `id` is not that of the tag is refused.
//! - They are as trustworthy as a return: an accepted minion that means harm can speak for another one by the list form
//!   of `_minion_event`, as it can return for it.

use crate::{
    ids::{Jid, MinionId},
    msgpack::Value,
};

use super::{
    SaltwayError, VERSION,
    fields::{Fields, key},
};

/// Most jobs in one list of an event.
pub const JIDS_MAX: usize = 500;

/// What happened to a minion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Happened {
    /// The minion-shim began; nothing is known of the time before.
    Hello,
    /// The minion's process began.
    Started,
    /// Its connection to the master is a new one.
    Reconnected,
    /// Its master did not take returns.
    Undelivered,
}

impl Happened {
    const ALL: [Self; 4] = [
        Self::Hello,
        Self::Started,
        Self::Reconnected,
        Self::Undelivered,
    ];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Started => "started",
            Self::Reconnected => "reconnected",
            Self::Undelivered => "undelivered",
        }
    }
}

/// Jobs that a minion took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Names the process of the minion-shim.
    pub run: String,
    /// Each with the milliseconds from the take to the sending of this event.
    pub jobs: Vec<(Jid, u32)>,
}

/// What happened to a minion, and what it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MinionState {
    /// Names the process of the minion-shim.
    pub run: String,
    /// The release of the minion-shim.
    pub version: String,
    /// Why this is told.
    pub what: Happened,
    /// `taken` holds every job of the last so many milliseconds.
    pub covers_ms: u64,
    /// Jobs that the minion took, the oldest first.
    pub taken: Vec<Jid>,
    /// Jobs whose returns the master did not take.
    pub undelivered: Vec<Jid>,
}

/// What a minion-shim told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MinionWord {
    /// Jobs were taken.
    Receipt(Receipt),
    /// Something happened.
    State(MinionState),
}

/// One event of a minion-shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MinionEvent {
    /// The minion.
    pub id: MinionId,
    /// What is told of it.
    pub what: MinionWord,
}

impl MinionEvent {
    /// Whether the tag is one of these, without a look at the data.
    #[must_use]
    pub fn is_tag(tag: &str) -> bool {
        split(tag).is_some()
    }

    /// Reads an event of a master's bus, whose data is the minion's whole load; `None` when the tag is none of these.
    ///
    /// # Errors
    /// When the tag is one and the data is not what belongs to it.
    pub fn parse(tag: &str, load: &Value) -> Result<Option<Self>, SaltwayError> {
        let Some((id, what)) = split(tag) else {
            return Ok(None);
        };
        let id = MinionId::parse(id).map_err(SaltwayError::Site)?;
        if load.get_str("id") != Some(id.as_str()) {
            return Err(key("id", "another minion's than the tag's"));
        }
        let data = load.get("data").ok_or_else(|| key("data", "missing"))?;
        let fields = Fields::versioned(data)?;
        let what = match what {
            What::Receipt => MinionWord::Receipt(Receipt::read(&fields)?),
            What::State => MinionWord::State(MinionState::read(&fields)?),
        };
        Ok(Some(Self { id, what }))
    }

    /// Its tag.
    #[must_use]
    pub fn tag(&self) -> String {
        let what = match &self.what {
            MinionWord::Receipt(_) => "receipt",
            MinionWord::State(_) => "state",
        };
        format!("saltway/minion/{}/{what}", self.id)
    }

    /// Its data, without the load that the minion puts around it.
    #[must_use]
    pub fn data(&self) -> Value {
        match &self.what {
            MinionWord::Receipt(receipt) => receipt.data(),
            MinionWord::State(state) => state.data(),
        }
    }
}

enum What {
    Receipt,
    State,
}

fn split(tag: &str) -> Option<(&str, What)> {
    let (id, what) = tag.strip_prefix("saltway/minion/")?.rsplit_once('/')?;
    match what {
        "receipt" => Some((id, What::Receipt)),
        "state" => Some((id, What::State)),
        _ => None,
    }
}

impl Receipt {
    fn data(&self) -> Value {
        let held = self
            .jobs
            .iter()
            .map(|(_, held)| Value::from(u64::from(*held)));
        Value::map([
            ("v", Value::Int(VERSION)),
            ("run", self.run.as_str().into()),
            ("jids", Value::array(self.jobs.iter().map(|(jid, _)| jid))),
            ("held_ms", Value::array(held)),
        ])
    }

    fn read(fields: &Fields<'_>) -> Result<Self, SaltwayError> {
        let jids = jids(fields, "jids")?;
        let held = fields.get("held_ms").and_then(Value::as_array);
        let held = held.filter(|held| held.len() == jids.len());
        let held = held.ok_or_else(|| key("held_ms", "not one for each job"))?;
        let held = held.iter().map(|held| {
            let held = held.as_u64().and_then(|held| u32::try_from(held).ok());
            held.ok_or_else(|| key("held_ms", "holds what is no time"))
        });
        Ok(Self {
            run: fields.word("run")?,
            jobs: jids
                .into_iter()
                .zip(held)
                .map(|(jid, held)| held.map(|held| (jid, held)))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl MinionState {
    fn data(&self) -> Value {
        Value::map([
            ("v", Value::Int(VERSION)),
            ("run", self.run.as_str().into()),
            ("version", self.version.as_str().into()),
            ("what", self.what.as_str().into()),
            ("covers_ms", self.covers_ms.into()),
            ("taken", Value::array(&self.taken)),
            ("undelivered", Value::array(&self.undelivered)),
        ])
    }

    fn read(fields: &Fields<'_>) -> Result<Self, SaltwayError> {
        let what = fields.text("what")?;
        let what = Happened::ALL
            .into_iter()
            .find(|known| known.as_str() == what);
        Ok(Self {
            run: fields.word("run")?,
            version: fields.word("version")?,
            what: what.ok_or_else(|| key("what", "not a word that this version knows"))?,
            covers_ms: fields.number("covers_ms")?,
            taken: jids(fields, "taken")?,
            undelivered: jids(fields, "undelivered")?,
        })
    }
}

fn jids(fields: &Fields<'_>, name: &'static str) -> Result<Vec<Jid>, SaltwayError> {
    let list = fields.get(name).and_then(Value::as_array);
    let list = list.ok_or_else(|| key(name, "no list"))?;
    if list.len() > JIDS_MAX {
        return Err(key(name, "too many jobs"));
    }
    let parsed = list.iter().map(|jid| {
        let jid = jid.as_str().and_then(|jid| Jid::parse(jid).ok());
        jid.ok_or_else(|| key(name, "holds what is no jid"))
    });
    parsed.collect()
}

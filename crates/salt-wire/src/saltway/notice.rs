//! `saltway/site/<id>/job`: what became of a job that a site did not publish on its lower master.

use crate::{
    ids::{Jid, MinionId},
    msgpack::Value,
};

use super::{
    SaltwayError, VERSION,
    fields::{Fields, key},
    tag,
};

/// Longest reason; the rest is cut off where it is made, and refused where it is read.
const REASON_BYTES_MAX: usize = 1_000;

/// What became of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotPublished {
    /// It was too old, or the lower master could not be reached until it was.
    Expired,
    /// The lower master would not take it.
    Refused,
    /// It opened, but its signature is missing or wrong.
    Unusable,
    /// The site had published it before.
    Duplicate,
    /// The lower master says that it means none of its minions.
    NoMatch,
}

impl NotPublished {
    const ALL: [Self; 5] = [
        Self::Expired,
        Self::Refused,
        Self::Unusable,
        Self::Duplicate,
        Self::NoMatch,
    ];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Refused => "refused",
            Self::Unusable => "unusable",
            Self::Duplicate => "duplicate",
            Self::NoMatch => "no_match",
        }
    }
}

/// One job that was not published.
#[derive(Debug, Clone, PartialEq)]
pub struct JobNotice {
    /// Where.
    pub site: MinionId,
    /// The job.
    pub jid: Jid,
    /// What became of it.
    pub what: NotPublished,
    /// How old it was then, counted from the bridge's receipt.
    pub age_seconds: f64,
    /// More about it, for people; may be empty.
    pub reason: String,
}

impl JobNotice {
    /// Its tag.
    #[must_use]
    pub fn tag(&self) -> String {
        tag(&self.site, "job")
    }

    /// Its data.
    #[must_use]
    pub fn data(&self) -> Value {
        let end = self.reason.floor_char_boundary(REASON_BYTES_MAX);
        let reason = self.reason.get(..end).unwrap_or_default();
        Value::map([
            ("v", Value::Int(VERSION)),
            ("site", (&self.site).into()),
            ("jid", (&self.jid).into()),
            ("what", self.what.as_str().into()),
            ("age_seconds", self.age_seconds.into()),
            ("reason", reason.into()),
        ])
    }

    pub(super) fn read(site: MinionId, fields: &Fields<'_>) -> Result<Self, SaltwayError> {
        let what = fields.text("what")?;
        let what = NotPublished::ALL
            .into_iter()
            .find(|known| known.as_str() == what);
        let reason = fields.text("reason")?;
        if reason.len() > REASON_BYTES_MAX {
            return Err(key("reason", "too long"));
        }
        Ok(Self {
            jid: Jid::parse(fields.text("jid")?).map_err(|_| key("jid", "not a jid"))?,
            what: what.ok_or_else(|| key("what", "not a word that this version knows"))?,
            age_seconds: fields.seconds("age_seconds")?,
            reason: reason.to_owned(),
            site,
        })
    }
}

//! Saltway's own events on the MoM's bus by which sites tell who they are: roster, status, jobs not published, receipts.
//!
//! A shim sends them as `_minion_event`; whoever reads the MoM's bus parses them by [`SiteEvent::parse`].
//!
//! ```text
//! saltway/site/<id>/roster   Roster      the minions that the lower master accepts, and which are up: whole or as a change
//! saltway/site/<id>/status   Status      each few seconds: how far the site is, what waits, what was lost
//! saltway/site/<id>/job      JobNotice   what became of a job that the site did not publish
//! saltway/site/<id>/receipts Receipts    which minions got which jobs
//! ```
//! Those of the minion-shim, on the bus of the minion's own master, are [`MinionEvent`]s.
//!
//! - All data are maps with `v: 1`. Unknown keys are ignored; another `v` is refused by name.
//! - The MoM fires each event twice, as `<tag>` and as `syndic/<site>/<tag>`: only the plain one is parsed here.
//! - What is parsed names the site of its tag, and nothing in it is larger than the event itself.

mod fields;
mod ids;
mod minion;
mod notice;
mod receipts;
mod roster;
mod status;
#[cfg(test)]
mod tests;

pub use ids::{IdList, RosterDigest};
pub use minion::{Happened, JIDS_MAX, MinionEvent, MinionState, MinionWord, Receipt};
pub use notice::{JobNotice, NotPublished};
pub use receipts::{JOBS_MAX, JobReceipts, Receipts};
pub use roster::{Members, Presence, Roster, RosterKind};
pub use status::{EntryNumber, LastHop, LostAt, SpoolFigures, Status};

use crate::{
    ids::{IdError, MinionId},
    msgpack::Value,
};

/// The format version that is written, and the only one that is read.
pub const VERSION: i64 = 1;

/// Why the data of an event of Saltway's cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SaltwayError {
    /// The tag names no site that could be one.
    #[error("the tag names a site that cannot be one")]
    Site(#[source] IdError),
    /// Not a map.
    #[error("the data is no map")]
    NoMap,
    /// Of another version of Saltway.
    #[error(
        "version {found} of the event is not known: this is version {VERSION}; upgrade the older end"
    )]
    Version {
        /// What `v` says; `none` when it is missing.
        found: String,
    },
    /// The site of the data is not that of the tag.
    #[error("the data is about another site than the tag")]
    OtherSite,
    /// A key is missing, or its value is not what it should be.
    #[error("key {name}: {problem}")]
    Key {
        /// The key.
        name: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
}

/// What a tag of a site's says, without a look at the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SiteTag<'a> {
    /// `saltway/site/<id>/roster`.
    Roster(&'a str),
    /// `saltway/site/<id>/status`.
    Status(&'a str),
    /// `saltway/site/<id>/job`.
    Job(&'a str),
    /// `saltway/site/<id>/receipts`.
    Receipts(&'a str),
}

impl<'a> SiteTag<'a> {
    /// Takes the plain tag apart; `None` for any other one, also for that with `syndic/<site>/` before it.
    #[must_use]
    pub fn parse(tag: &'a str) -> Option<Self> {
        let (site, what) = tag.strip_prefix("saltway/site/")?.rsplit_once('/')?;
        match what {
            "roster" => Some(Self::Roster(site)),
            "status" => Some(Self::Status(site)),
            "job" => Some(Self::Job(site)),
            "receipts" => Some(Self::Receipts(site)),
            _ => None,
        }
    }

    /// The site, as the tag names it.
    #[must_use]
    pub fn site(self) -> &'a str {
        match self {
            Self::Roster(site) | Self::Status(site) | Self::Job(site) | Self::Receipts(site) => {
                site
            }
        }
    }
}

/// One event of a site's.
#[derive(Debug, Clone, PartialEq)]
pub enum SiteEvent {
    /// Who is there.
    Roster(Roster),
    /// How it stands.
    Status(Status),
    /// A job that was not published.
    Job(JobNotice),
    /// Who got what.
    Receipts(Receipts),
}

impl SiteEvent {
    /// Reads an event; `None` when the tag is none of a site's.
    ///
    /// # Errors
    /// When the tag is one and the data is not what belongs to it.
    pub fn parse(tag: &str, data: &Value) -> Result<Option<Self>, SaltwayError> {
        let Some(tag) = SiteTag::parse(tag) else {
            return Ok(None);
        };
        let site = MinionId::parse(tag.site()).map_err(SaltwayError::Site)?;
        let fields = fields::Fields::open(data, &site)?;
        let event = match tag {
            SiteTag::Roster(_) => Self::Roster(Roster::read(site, &fields)?),
            SiteTag::Status(_) => Self::Status(Status::read(site, &fields)?),
            SiteTag::Job(_) => Self::Job(JobNotice::read(site, &fields)?),
            SiteTag::Receipts(_) => Self::Receipts(Receipts::read(site, &fields)?),
        };
        Ok(Some(event))
    }

    /// Its tag.
    #[must_use]
    pub fn tag(&self) -> String {
        match self {
            Self::Roster(roster) => roster.tag(),
            Self::Status(status) => status.tag(),
            Self::Job(notice) => notice.tag(),
            Self::Receipts(receipts) => receipts.tag(),
        }
    }

    /// Its data.
    #[must_use]
    pub fn data(&self) -> Value {
        match self {
            Self::Roster(roster) => roster.data(),
            Self::Status(status) => status.data(),
            Self::Job(notice) => notice.data(),
            Self::Receipts(receipts) => receipts.data(),
        }
    }
}

fn tag(site: &MinionId, what: &str) -> String {
    format!("saltway/site/{site}/{what}")
}

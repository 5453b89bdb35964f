//! `saltway/site/<id>/roster`: the minions of a site.

use crate::{ids::MinionId, msgpack::Value};

use super::{
    IdList, RosterDigest, SaltwayError, VERSION,
    fields::{Fields, key},
    tag,
};

/// Most parts of one announcement: a gigabyte of ids.
const PARTS_MAX: u32 = 4_096;

/// Whether a minion is connected to its lower master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Presence {
    /// It is, or was when it was last heard.
    Up,
    /// It is not.
    Down,
    /// Nobody has said.
    #[default]
    Unknown,
}

impl Presence {
    /// Its character on the wire.
    #[must_use]
    pub const fn as_char(self) -> char {
        match self {
            Self::Up => '1',
            Self::Down => '0',
            Self::Unknown => '?',
        }
    }

    /// Characters of a later version say nothing to this one.
    const fn of_byte(byte: u8) -> Self {
        match byte {
            b'1' => Self::Up,
            b'0' => Self::Down,
            _ => Self::Unknown,
        }
    }
}

/// Minions, and for each whether it is up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    ids: IdList,
    /// One character for each id.
    up: Box<str>,
}

impl Members {
    /// Checks and keeps them.
    ///
    /// # Errors
    /// When an id is none.
    pub fn new<'a>(
        members: impl IntoIterator<Item = (&'a str, Presence)>,
    ) -> Result<Self, crate::ids::IdError> {
        let mut up = String::new();
        let ids = members.into_iter().map(|(id, presence)| {
            up.push(presence.as_char());
            id
        });
        let ids = IdList::new(ids)?;
        Ok(Self { ids, up: up.into() })
    }

    /// Each with its presence.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Presence)> {
        self.ids.iter().zip(self.up.bytes().map(Presence::of_byte))
    }

    /// The ids alone.
    #[must_use]
    pub fn ids(&self) -> &IdList {
        &self.ids
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// What an announcement is relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RosterKind {
    /// To nothing: who is not named is not there. It may come in several parts.
    Full,
    /// To the roster of that digest. It comes in one part.
    Change {
        /// The digest before.
        base: RosterDigest,
    },
}

/// One part of an announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    /// Whose.
    pub site: MinionId,
    /// Names the process that announces: numbers of another run say nothing about this one.
    pub run: String,
    /// Counts the announcements of that run from 1.
    pub number: u64,
    /// Parts of this announcement, at least one.
    pub parts: u32,
    /// Which of them this is, from 0.
    pub part: u32,
    /// Whole or change.
    pub kind: RosterKind,
    /// The digest of the whole roster after this announcement.
    pub digest: RosterDigest,
    /// Who is there; in a change, who is new or whose presence is another one.
    pub members: Members,
    /// Who is there no more; only in a change.
    pub removed: IdList,
    /// False when others may be reached through this site that the roster does not name: masters below its master, keys
    /// that are not in its directory.
    pub complete: bool,
}

impl Roster {
    /// Its tag.
    #[must_use]
    pub fn tag(&self) -> String {
        tag(&self.site, "roster")
    }

    /// Its data.
    #[must_use]
    pub fn data(&self) -> Value {
        let (kind, base) = match self.kind {
            RosterKind::Full => ("full", String::new()),
            RosterKind::Change { base } => ("change", base.to_string()),
        };
        let mut data = Value::map([
            ("v", Value::Int(VERSION)),
            ("site", (&self.site).into()),
            ("run", self.run.as_str().into()),
            ("number", self.number.into()),
            ("parts", self.parts.into()),
            ("part", self.part.into()),
            ("kind", kind.into()),
            ("base", base.into()),
            ("digest", self.digest.to_string().into()),
            ("ids", self.members.ids.as_text().into()),
            ("up", self.members.up.as_ref().into()),
        ]);
        if matches!(self.kind, RosterKind::Change { .. }) {
            data.set("removed", self.removed.as_text());
        }
        if !self.complete {
            data.set("complete", false);
        }
        data
    }

    pub(super) fn read(site: MinionId, fields: &Fields<'_>) -> Result<Self, SaltwayError> {
        let (parts, part) = (fields.small("parts")?, fields.small("part")?);
        if !(1..=PARTS_MAX).contains(&parts) {
            return Err(key("parts", "no sensible number of parts"));
        }
        if part >= parts {
            return Err(key("part", "not below the number of parts"));
        }
        let kind = match fields.text("kind")? {
            "full" => RosterKind::Full,
            "change" if parts == 1 => RosterKind::Change {
                base: digest(fields, "base")?,
            },
            "change" => return Err(key("parts", "a change has one part")),
            _ => return Err(key("kind", "neither full nor change")),
        };
        let removed = match kind {
            RosterKind::Change { .. } if fields.get("removed").is_some() => {
                id_list(fields, "removed")?
            }
            RosterKind::Change { .. } | RosterKind::Full => IdList::default(),
        };
        Ok(Self {
            run: fields.word("run")?,
            number: fields.number("number")?,
            parts,
            part,
            kind,
            digest: digest(fields, "digest")?,
            members: members(fields)?,
            removed,
            complete: fields.flag("complete", true)?,
            site,
        })
    }
}

fn members(fields: &Fields<'_>) -> Result<Members, SaltwayError> {
    let ids = id_list(fields, "ids")?;
    let up = fields.text("up")?;
    if !up.is_ascii() || up.len() != ids.len() {
        return Err(key("up", "not one character for each id"));
    }
    Ok(Members { ids, up: up.into() })
}

fn id_list(fields: &Fields<'_>, name: &'static str) -> Result<IdList, SaltwayError> {
    IdList::parse(fields.text(name)?).map_err(|_| key(name, "holds a text that is no minion id"))
}

pub(super) fn digest(
    fields: &Fields<'_>,
    name: &'static str,
) -> Result<RosterDigest, SaltwayError> {
    RosterDigest::parse(fields.text(name)?).ok_or_else(|| key(name, "not 16 hex digits"))
}

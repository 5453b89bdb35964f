//! Events of the MoM's bus, taken apart as far as the ledger needs: no further.
//!
//! | tag | what it tells |
//! |---|---|
//! | `salt/job/<jid>/new` | a job was published |
//! | `syndic/<site>/<jid>` | a site's lower master has published it for these minions |
//! | `salt/job/<jid>/start/<minion>` | a minion has received it |
//! | `salt/job/<jid>/ret/<minion>` | a minion has returned |
//! | `saltway/site/<site>/...` | a shim's roster, status, receipts, or what became of a job |
//! | `saltway/job/<jid>/redeliver` | an operator has the job sent again |
//!
//! - A return costs a look at its tag and at four values of its data; the rest of it is stepped over, nothing is copied.
//! - What a bridge has fired itself is no news.
//! - What is not of the form that Salt and the shims write is refused with a word for the counter.

use bytes::Bytes;
use relay_core::{
    ledger::{FIND_JOB, Published, Returned},
    target::Target,
};
use salt_wire::{
    bus::{Event, EventTag},
    ids::{Jid, MinionId},
    msgpack::Value,
    saltway::{JobNotice, Receipts, Roster, SaltwayError, SiteEvent, Status},
};

use super::skim;

/// In the data of a list of minions that a bridge has fired itself: it is no word of the site.
pub(super) const EXPECTED_BY: &str = "expected_by";

/// A user's name is cut at this length.
const USER_BYTES_MAX: usize = 256;

/// In the data of a return that a bridge has fired for a site which is down.
pub(super) const ANSWERED_BY: &str = "answered_by";

/// What an event tells the ledger.
#[derive(Debug)]
pub(super) enum News<'a> {
    /// A job was published.
    Published {
        published: Box<Published>,
        /// For the audit.
        arg: Value,
    },
    /// A lower master named the minions of a job.
    Accepted {
        jid: &'a str,
        site: &'a str,
        minions: Vec<MinionId>,
        missing: Vec<MinionId>,
    },
    /// A minion said that it has the job.
    Received { jid: &'a str, minion: &'a str },
    /// A minion returned.
    Returned(Returned<'a>),
    /// A shim's word.
    Roster(Box<Roster>),
    /// A shim's word.
    Status(Box<Status>),
    /// A shim's word.
    Notice(JobNotice),
    /// A shim's word.
    Receipts(Receipts),
    /// An operator has a job sent again.
    SentAgain {
        jid: &'a str,
        minions: Vec<MinionId>,
        user: String,
    },
}

/// Why an event is no news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// It does not concern the ledger, or comes from a bridge.
    NoNews,
    /// It is not what its tag says, by this word.
    Malformed(&'static str),
    /// A shim's word that cannot be used: mostly another version's.
    Saltway(SaltwayError),
}

/// When an event was heard, and what is not in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heard {
    /// In unix milliseconds.
    pub(super) at_ms: u64,
    /// How long a job may be run.
    pub(super) ttl_ms: u64,
}

/// Whether the reader of the bus passes the event on.
pub(super) fn is_wanted(tag: &str) -> bool {
    if let Some(rest) = tag.strip_prefix("salt/job/") {
        let rest = rest.split_once('/').map_or("", |(_, rest)| rest);
        return rest == "new" || rest.starts_with("ret/") || rest.starts_with("start/");
    }
    match tag.strip_prefix("syndic/") {
        // Acks only: what else a site forwards comes under its plain tag, too.
        Some(rest) => rest
            .split_once('/')
            .is_some_and(|(_, tag)| !tag.contains('/')),
        None => tag.starts_with("saltway/site/") || sent_again(tag).is_some(),
    }
}

/// The job that an operator has sent again, by the tag.
fn sent_again(tag: &str) -> Option<&str> {
    let jid = tag.strip_prefix("saltway/job/")?;
    jid.strip_suffix("/redeliver")
}

/// Takes an event apart.
pub(super) fn decode(event: &Event, heard: Heard) -> Result<News<'_>, Refused> {
    if event.tag.starts_with("saltway/site/") {
        return site_event(event);
    }
    if let Some(jid) = sent_again(&event.tag) {
        return operator(jid, event);
    }
    match event.parsed_tag() {
        EventTag::JobReturn { jid, minion } => returned(jid, minion, &event.data, heard),
        EventTag::JobStart { jid, minion } => {
            check(jid, minion)?;
            Ok(News::Received { jid, minion })
        }
        EventTag::JobNew { jid } => published(jid, &map_of(event)?, heard),
        EventTag::Forwarded { syndic, tag } => accepted(syndic, tag, event),
        _ => Err(Refused::NoNews),
    }
}

/// Both go into logs, answers and file names of Salt's.
fn check(jid: &str, minion: &str) -> Result<(), Refused> {
    Jid::parse(jid).map_err(|_| Refused::Malformed("jid"))?;
    MinionId::parse(minion)
        .map(drop)
        .map_err(|_| Refused::Malformed("minion"))
}

/// The ids in a list; what cannot be an id is left out.
pub(super) fn ids(list: Option<&Value>) -> Vec<MinionId> {
    let ids = list.and_then(Value::as_array).unwrap_or_default().iter();
    ids.filter_map(|id| MinionId::parse(id.as_str()?).ok())
        .collect()
}

fn map_of(event: &Event) -> Result<Value, Refused> {
    let value = event.value().map_err(|_| Refused::Malformed("msgpack"))?;
    match value {
        Value::Map(_) => Ok(value),
        _ => Err(Refused::Malformed("not_map")),
    }
}

/// What `salt/job/<jid>/new` says, or the load of a job in the job cache, which has the same keys.
pub(super) fn published(jid: &str, data: &Value, heard: Heard) -> Result<News<'static>, Refused> {
    Jid::parse(jid).map_err(|_| Refused::Malformed("jid"))?;
    let fun = match data.get("fun") {
        Some(Value::Array(funs)) => {
            let funs: Vec<&str> = funs.iter().filter_map(Value::as_str).collect();
            funs.join(",")
        }
        fun => fun.and_then(Value::as_str).unwrap_or_default().to_owned(),
    };
    let arg = data.get("arg").cloned().unwrap_or(Value::Nil);
    let first = arg.as_array().and_then(<[Value]>::first);
    let asks_about = first.and_then(Value::as_str).map(str::to_owned);
    let mom_minions = ids(data.get("minions"));
    let published = Published {
        jid: jid.to_owned(),
        asks_about: asks_about.filter(|_| fun == FIND_JOB),
        fun,
        user: data.get_str("user").unwrap_or_default().to_owned(),
        tgt: target(data.get("tgt")).ok_or(Refused::Malformed("target"))?,
        tgt_type: data.get_str("tgt_type").unwrap_or("glob").to_owned(),
        at_ms: heard.at_ms,
        ttl_ms: heard.ttl_ms,
        mom_minions: mom_minions.iter().map(ToString::to_string).collect(),
        is_past: false,
    };
    Ok(News::Published {
        published: Box::new(published),
        arg,
    })
}

fn target(tgt: Option<&Value>) -> Option<Target> {
    match tgt? {
        Value::Array(ids) => {
            let ids = ids.iter().filter_map(Value::as_str);
            Some(Target::List(ids.map(str::to_owned).collect()))
        }
        Value::Int(number) => Some(Target::Text(number.to_string())),
        text => Some(Target::Text(text.as_str()?.to_owned())),
    }
}

fn accepted<'a>(site: &'a str, jid: &'a str, event: &'a Event) -> Result<News<'a>, Refused> {
    let data = map_of(event)?;
    // An event of a lower master under a tag of its own, forwarded; or a bridge's.
    if data.get(EXPECTED_BY).is_some()
        || data.get("minions").is_none()
        || data.get_str("jid").is_some_and(|said| said != jid)
    {
        return Err(Refused::NoNews);
    }
    check(jid, site)?;
    Ok(News::Accepted {
        jid,
        site,
        minions: ids(data.get("minions")),
        missing: ids(data.get("missing")),
    })
}

fn returned<'a>(
    jid: &'a str,
    minion: &'a str,
    data: &'a Bytes,
    heard: Heard,
) -> Result<News<'a>, Refused> {
    check(jid, minion)?;
    let looked = look(data).ok_or(Refused::Malformed("not_map"))?;
    if looked.is_ours {
        return Err(Refused::NoNews);
    }
    Ok(News::Returned(Returned {
        jid,
        minion,
        fun: looked.fun,
        is_failed: looked.is_failed,
        is_empty: looked.is_empty,
        at_ms: heard.at_ms,
    }))
}

/// What a return's data says, as far as it is looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Looked<'a> {
    pub(super) fun: &'a str,
    pub(super) is_failed: bool,
    pub(super) is_empty: bool,
    is_ours: bool,
}

/// Looks at a return's data: that of an event or of a file of the job cache; `None` when it is no map.
pub(super) fn look(data: &Bytes) -> Option<Looked<'_>> {
    let (mut retcode, mut success, mut fun) = (None, None, "");
    let (mut is_empty, mut is_ours, mut is_map) = (false, false, false);
    skim::fields(data, |key, value| {
        is_map = true;
        match key {
            b"retcode" => retcode = Some(value),
            b"success" => success = Some(value == [0xc3]),
            b"fun" => {
                let text = skim::text(value).and_then(|text| std::str::from_utf8(text).ok());
                fun = text.unwrap_or_default();
            }
            b"return" => is_empty = matches!(value, [0x80 | 0x90 | 0xa0 | 0xc0]),
            _ if key == ANSWERED_BY.as_bytes() => is_ours = true,
            _ => {}
        }
        true
    });
    let is_failed = match retcode {
        Some(retcode) => is_failure(retcode, data),
        None => success == Some(false),
    };
    is_map.then_some(Looked {
        fun,
        is_failed,
        is_empty,
        is_ours,
    })
}

/// Several functions in one job have a retcode each, in a list or a dictionary.
fn is_failure(retcode: &[u8], data: &Bytes) -> bool {
    if let [small @ 0x00..=0x7f] = retcode {
        return *small != 0;
    }
    match skim::value(data, retcode) {
        Some(Value::Int(code)) => code != 0,
        Some(Value::UInt(_)) => true,
        Some(Value::Array(codes)) => codes.iter().any(|code| *code != Value::Int(0)),
        Some(Value::Map(codes)) => codes.iter().any(|(_, code)| *code != Value::Int(0)),
        _ => false,
    }
}

/// What the command or the runner says of a job that it had sent again.
fn operator<'a>(jid: &'a str, event: &'a Event) -> Result<News<'a>, Refused> {
    Jid::parse(jid).map_err(|_| Refused::Malformed("jid"))?;
    let data = map_of(event)?;
    if data.get("v") != Some(&Value::Int(1)) || data.get_str("jid") != Some(jid) {
        return Err(Refused::Malformed("redeliver"));
    }
    let user = data.get_str("user").unwrap_or_default();
    let end = user.floor_char_boundary(USER_BYTES_MAX);
    Ok(News::SentAgain {
        jid,
        minions: ids(data.get("minions")),
        user: user.get(..end).unwrap_or_default().to_owned(),
    })
}

fn site_event(event: &Event) -> Result<News<'_>, Refused> {
    let value = event.value().map_err(|_| Refused::Malformed("msgpack"))?;
    match SiteEvent::parse(&event.tag, &value) {
        Ok(Some(SiteEvent::Roster(roster))) => Ok(News::Roster(Box::new(roster))),
        Ok(Some(SiteEvent::Status(status))) => Ok(News::Status(Box::new(status))),
        Ok(Some(SiteEvent::Job(notice))) => Ok(News::Notice(notice)),
        Ok(Some(SiteEvent::Receipts(receipts))) => Ok(News::Receipts(receipts)),
        Ok(None) => Err(Refused::NoNews),
        Err(err) => Err(Refused::Saltway(err)),
    }
}

#[cfg(test)]
mod tests;

//! What the tag of an event says, without looking at the event's data.

/// A tag of the master's event bus, taken apart.
///
/// In the tags of jobs the jid is whatever the publisher chose; [`is_jid`] says whether it has
/// Salt's own form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventTag<'a> {
    /// `<jid>`: the minions that a job matched. Only 3006 and 3007 fire it.
    BareJid(&'a str),
    /// `salt/job/<jid>/new`: a job was published.
    JobNew {
        /// The job.
        jid: &'a str,
    },
    /// `salt/job/<jid>/publish`: the load of a publication. Only 3007 and 3008 fire it.
    JobPublish {
        /// The job.
        jid: &'a str,
    },
    /// `salt/job/<jid>/ret/<minion>`: one minion's return.
    JobReturn {
        /// The job.
        jid: &'a str,
        /// The minion that returned.
        minion: &'a str,
    },
    /// `salt/job/<jid>/start/<minion>`: a minion took a job that asked for this (3008).
    JobStart {
        /// The job.
        jid: &'a str,
        /// The minion that took it.
        minion: &'a str,
    },
    /// `salt/job/<jid>/error`: the master refused to publish.
    JobError {
        /// The job.
        jid: &'a str,
    },
    /// `salt/auth`: somebody signed in, or tried to.
    Auth,
    /// `salt/key`: an operator accepted, rejected or deleted a key.
    Key,
    /// `key`: the master is about to change its AES key.
    KeyRotation,
    /// `salt/minion/<id>/start`.
    MinionStart {
        /// The minion that started.
        minion: &'a str,
    },
    /// `minion_start`, the old form, with the id in the data only.
    LegacyMinionStart,
    /// `salt/syndic/<id>/start`.
    SyndicStart {
        /// The syndic that started.
        syndic: &'a str,
    },
    /// `syndic_start`, the old form, with the id in the data only.
    LegacySyndicStart,
    /// `minion/refresh/<id>`: the master refreshed what it caches of a minion.
    MinionRefresh {
        /// The minion.
        minion: &'a str,
    },
    /// `salt/presence/present`: everybody who is connected.
    PresencePresent,
    /// `salt/presence/change`: who came and who went.
    PresenceChange,
    /// `syndic/<syndic>/<tag>`: an event of a lower master, forwarded by its syndic.
    Forwarded {
        /// The syndic that forwarded it.
        syndic: &'a str,
        /// The tag that the event had below; [`EventTag::parse`] takes it apart.
        tag: &'a str,
    },
    /// Any other tag.
    Other,
}

impl<'a> EventTag<'a> {
    /// Takes a tag apart. Never fails: what is not known is [`EventTag::Other`].
    #[must_use]
    pub fn parse(tag: &'a str) -> Self {
        match tag {
            "salt/auth" => return Self::Auth,
            "salt/key" => return Self::Key,
            "key" => return Self::KeyRotation,
            "minion_start" => return Self::LegacyMinionStart,
            "syndic_start" => return Self::LegacySyndicStart,
            "salt/presence/present" => return Self::PresencePresent,
            "salt/presence/change" => return Self::PresenceChange,
            _ => {}
        }
        if let Some(rest) = tag.strip_prefix("salt/job/") {
            return Self::parse_job(rest);
        }
        if let Some(minion) = between(tag, "salt/minion/", "/start") {
            return Self::MinionStart { minion };
        }
        if let Some(syndic) = between(tag, "salt/syndic/", "/start") {
            return Self::SyndicStart { syndic };
        }
        if let Some(minion) = tag
            .strip_prefix("minion/refresh/")
            .filter(|id| is_segment(id))
        {
            return Self::MinionRefresh { minion };
        }
        if let Some((syndic, below)) = tag.strip_prefix("syndic/").and_then(|t| t.split_once('/'))
            && !syndic.is_empty()
            && !below.is_empty()
        {
            return Self::Forwarded { syndic, tag: below };
        }
        if is_jid(tag) {
            Self::BareJid(tag)
        } else {
            Self::Other
        }
    }

    fn parse_job(rest: &'a str) -> Self {
        let Some((jid, rest)) = rest.split_once('/').filter(|(jid, _)| !jid.is_empty()) else {
            return Self::Other;
        };
        match rest.split_once('/') {
            None => match rest {
                "new" => Self::JobNew { jid },
                "publish" => Self::JobPublish { jid },
                "error" => Self::JobError { jid },
                _ => Self::Other,
            },
            Some(("ret", minion)) if is_segment(minion) => Self::JobReturn { jid, minion },
            Some(("start", minion)) if is_segment(minion) => Self::JobStart { jid, minion },
            Some(_) => Self::Other,
        }
    }
}

/// Whether the text has the form of a jid that Salt makes: 20 digits, or 20 digits, `_` and a
/// suffix (the rule of `salt.utils.jid.is_jid`).
#[must_use]
pub fn is_jid(text: &str) -> bool {
    let (digits, suffix) = match text.split_once('_') {
        Some((digits, suffix)) => (digits, Some(suffix)),
        None => (text, None),
    };
    digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit()) && suffix != Some("")
}

/// One part of a tag: not empty and without a separator. Minion ids never hold a slash.
fn is_segment(text: &str) -> bool {
    !text.is_empty() && !text.contains('/')
}

fn between<'a>(tag: &'a str, prefix: &str, suffix: &str) -> Option<&'a str> {
    tag.strip_prefix(prefix)?
        .strip_suffix(suffix)
        .filter(|id| is_segment(id))
}

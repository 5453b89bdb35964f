//! Clear `publish`: how a job enters a master.

use std::fmt;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::ids::{Jid, MinionId};
use crate::msgpack::{Limits, Value};
use crate::publication::PublicationLoad;
use crate::request::{Reply, ReplyError, decode_reply_within, encode_clear};

/// Fields of a load that a master takes from `kwargs`, in the order in which salt-syndic sends the
/// first three. It drops the others, with which jobs lose their delimiter or metadata.
const KWARGS: &[&str] = &[
    "auth_list",
    "master_id",
    "user",
    "metadata",
    "delimiter",
    "ret_config",
    "ret_kwargs",
    "module_executors",
    "executor_opts",
    "start_event",
    "id",
];

/// Longest content of a `.root_key` file; Salt writes 76 characters.
const ROOT_KEY_LEN_MAX: usize = 1024;

/// The content of `.root_key` or `.<user>_key`: whoever has it commands the master.
#[derive(Clone, PartialEq, Eq)]
pub struct RootKey(Zeroizing<String>);

/// Why the content of a file is no root key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a root key is one line of visible characters, at most {ROOT_KEY_LEN_MAX}")]
pub struct RootKeyError;

impl RootKey {
    /// Takes the content of the file.
    ///
    /// # Errors
    /// If it is empty, too long, or more than one word.
    pub fn parse(content: &str) -> Result<Self, RootKeyError> {
        let key = content.trim();
        let is_key = (1..=ROOT_KEY_LEN_MAX).contains(&key.len());
        if is_key && key.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(Zeroizing::new(key.to_owned())))
        } else {
            Err(RootKeyError)
        }
    }
}

impl RootKey {
    pub(super) fn as_text(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(..)")
    }
}

/// A job for a master, whole.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The target: text, or an array of ids.
    pub tgt: Value,
    /// The function, or an array of them.
    pub fun: Value,
    /// Its arguments.
    pub arg: Value,
    /// What allows to publish.
    pub key: RootKey,
    /// How `tgt` is meant.
    pub tgt_type: Value,
    /// Returners.
    pub ret: Value,
    /// The job id; empty text lets the master choose.
    pub jid: Value,
    /// The rest, as a map.
    pub kwargs: Value,
    /// In whose name; any, if `key` is the root key.
    pub user: String,
    /// Seconds that the commanding side waits; kept by masters with `order_masters: True`.
    pub to: Option<i64>,
}

impl Publish {
    /// The job of a publication for the next master below, nothing lost but what
    /// [`PublicationLoad::unknown_fields`] names. `user` is the one whom `key` belongs to; the
    /// original user goes along in `kwargs`, as salt-syndic does it. `to` is the publication's, less
    /// one second for each master on the way; salt-syndic sets its own `timeout`, less one, if the
    /// publication has none.
    pub fn from_load(load: &PublicationLoad, key: RootKey, user: &str) -> Self {
        let field =
            |name: &str, default: Value| load.fields().get(name).cloned().unwrap_or(default);
        let kwargs = KWARGS
            .iter()
            .filter_map(|name| load.fields().get(name).map(|value| (*name, value.clone())));
        Self {
            tgt: load.tgt().clone(),
            fun: load.fun().clone(),
            arg: field("arg", Value::Array(Vec::new())),
            key,
            tgt_type: field("tgt_type", "glob".into()),
            ret: field("ret", "".into()),
            jid: load.jid().into(),
            kwargs: Value::map(kwargs),
            user: user.to_owned(),
            to: load.to().map(|seconds| seconds.saturating_sub(1)),
        }
    }

    /// The payload frame, its keys in salt-syndic's order.
    pub fn encode(&self) -> Bytes {
        let mut load = Value::map([
            ("cmd", "publish".into()),
            ("tgt", self.tgt.clone()),
            ("fun", self.fun.clone()),
            ("arg", self.arg.clone()),
            ("key", self.key.0.as_str().into()),
            ("tgt_type", self.tgt_type.clone()),
            ("ret", self.ret.clone()),
            ("jid", self.jid.clone()),
            ("kwargs", self.kwargs.clone()),
            ("user", self.user.as_str().into()),
        ]);
        if let Some(to) = self.to {
            load.set("to", to);
        }
        encode_clear(load)
    }
}

/// What a master answers to `publish`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishReply {
    /// The job is on its way.
    Published {
        /// As given, or chosen by the master.
        jid: Jid,
        /// Accepted ids that the target matches.
        minions: Vec<MinionId>,
        /// Names of a list target that are no accepted ids.
        missing: Vec<String>,
    },
    /// Nothing matched, and nothing was published: no event, no job.
    NoMatch {
        /// The master's sentence.
        text: String,
    },
    /// The key is wrong: read the file again, masters of 3006 write a new one at each start.
    AuthenticationError,
    /// `publisher_acl`, a blacklist or the publication's own `auth_list` forbids it.
    AuthorizationError,
    /// Anything else that the master said.
    Error(String),
}

/// Why a frame is no answer to `publish`.
#[derive(Debug, thiserror::Error)]
pub enum PublishReplyError {
    /// No reply at all.
    #[error("the reply to publish cannot be read")]
    Unreadable(#[source] ReplyError),
    /// A map without what masters answer.
    #[error("the reply to publish has no usable {field:?}")]
    Malformed {
        /// What is missing.
        field: &'static str,
    },
}

impl PublishReply {
    /// Reads the reply frame.
    ///
    /// # Errors
    /// If it is none of the known answers.
    pub fn parse(frame: &Bytes) -> Result<Self, PublishReplyError> {
        // The lists of ids are as long as the master below has minions.
        let reply = decode_reply_within(frame, Limits::CONTENT);
        let reply = match reply.map_err(PublishReplyError::Unreadable)? {
            Reply::Map(reply) => reply,
            Reply::Text(text) => return Ok(Self::Error(text)),
            Reply::Encrypted(_) => return Err(PublishReplyError::Malformed { field: "load" }),
        };
        if let Some(error) = reply.get("error") {
            return Ok(Self::from_error(error));
        }
        // An empty map answers a command that the master does not know.
        let load = reply
            .get("load")
            .ok_or(PublishReplyError::Malformed { field: "load" })?;
        match (load.get("jid"), load.get("error")) {
            (Some(Value::Nil), Some(text)) => Ok(Self::NoMatch {
                text: text.as_str().unwrap_or_default().to_owned(),
            }),
            (_, Some(text)) => Ok(Self::from_error(text)),
            (jid, None) => Self::from_jid(jid, load),
        }
    }

    fn from_jid(jid: Option<&Value>, load: &Value) -> Result<Self, PublishReplyError> {
        let jid = jid
            .and_then(Value::as_str)
            .and_then(|jid| Jid::parse(jid).ok());
        let names = |field| match load.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(names)) => Ok(names.iter().filter_map(Value::as_str).collect()),
            Some(_) => Err(PublishReplyError::Malformed { field }),
        };
        Ok(Self::Published {
            jid: jid.ok_or(PublishReplyError::Malformed { field: "jid" })?,
            minions: names("minions")?
                .into_iter()
                .filter_map(|name| MinionId::parse(name).ok())
                .collect(),
            missing: names("missing")?.into_iter().map(str::to_owned).collect(),
        })
    }

    pub(super) fn from_error(error: &Value) -> Self {
        match (error.get_str("name"), error.get_str("message")) {
            (Some("AuthenticationError"), _) => Self::AuthenticationError,
            (Some("AuthorizationError"), _) => Self::AuthorizationError,
            (Some(name), message) => Self::Error(format!("{name}: {}", message.unwrap_or("?"))),
            (None, _) => Self::Error(error.as_str().unwrap_or("an error without text").to_owned()),
        }
    }
}

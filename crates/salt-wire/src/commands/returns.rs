//! Returns: from the event bus of a master to the `_syndic_return` of its relay.

use crate::ids::{IdError, Jid, MinionId};
use crate::msgpack::Value;

/// Fields of a return event that the receiving master sets itself, from the element or from who
/// sent it. `sig` covers the request of the minion to its own master and fits no other.
const NOT_FORWARDED: &[&str] = &[
    "cmd",
    "id",
    "jid",
    "fun",
    "master_id",
    "tok",
    "nonce",
    "ts",
    "sig",
    "resource_id",
    "_stamp",
    "__peer_id",
];

/// Why the data of a return event is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReturnEventError {
    /// A field that every return has is missing or of the wrong kind.
    #[error("the return event has no usable {field:?}")]
    Field {
        /// Its name.
        field: &'static str,
    },
    /// The jid or id cannot be one.
    #[error("the {field:?} of the return event cannot be used")]
    Id {
        /// `jid` or `id`.
        field: &'static str,
        /// Why.
        #[source]
        source: IdError,
    },
}

/// One minion's answer to one job, as the master of the minion fires it on its bus
/// (`salt/job/<jid>/ret/<id>`), straight from the minion or through another syndic.
#[derive(Clone, Debug, PartialEq)]
pub struct ReturnEvent {
    /// The job.
    pub jid: Jid,
    /// The minion.
    pub id: MinionId,
    /// The function that it ran; nil if the event does not say.
    pub fun: Value,
    /// The master that the job began at, if it was another than the minion's own.
    pub master_id: Option<String>,
    /// What the master above shall get: `return`, `retcode`, `success`, `fun_args`, and whatever
    /// else came with them (`out`, `metadata`, ..), as a map.
    pub fields: Value,
}

impl ReturnEvent {
    /// Takes the data of the event apart; nothing of it is copied but the ids.
    ///
    /// # Errors
    /// If it is no return.
    pub fn parse(data: Value) -> Result<Self, ReturnEventError> {
        let text =
            |field: &'static str| data.get_str(field).ok_or(ReturnEventError::Field { field });
        let id_error = |field| move |source| ReturnEventError::Id { field, source };
        let jid = Jid::parse(text("jid")?).map_err(id_error("jid"))?;
        let id = MinionId::parse(text("id")?).map_err(id_error("id"))?;
        if data.get("return").is_none() {
            return Err(ReturnEventError::Field { field: "return" });
        }
        let fun = data.get("fun").cloned().unwrap_or(Value::Nil);
        let master_id = data.get_str("master_id").map(str::to_owned);
        let Value::Map(mut entries) = data else {
            return Err(ReturnEventError::Field { field: "return" });
        };
        entries.retain(|(name, _)| name.as_str().is_some_and(|n| !NOT_FORWARDED.contains(&n)));
        Ok(Self {
            jid,
            id,
            fun,
            master_id,
            fields: Value::Map(entries),
        })
    }
}

/// The returns of one job, for the master above.
#[derive(Clone, Debug, PartialEq)]
pub struct SyndicReturnElement {
    /// The id of the relay, which the master marks as a syndic.
    pub id: MinionId,
    /// The job.
    pub jid: Jid,
    /// The function.
    pub fun: Value,
    /// The publish load of a job that began below, `None` for one from above: the master has its
    /// own load of that one, and would overwrite it.
    pub load: Option<Value>,
    /// Fields of each minion's return, see [`ReturnEvent::fields`].
    pub returns: Vec<(MinionId, Value)>,
    /// The master that the job began at.
    pub master_id: Option<String>,
    /// Outputter and arguments common to all returns of the element; they replace those of the single
    /// returns.
    pub out: Option<Value>,
    /// See `out`.
    pub fun_args: Option<Value>,
}

impl SyndicReturnElement {
    fn into_value(self) -> Value {
        let returns = self
            .returns
            .into_iter()
            .map(|(id, fields)| ((&id).into(), fields))
            .collect();
        let mut element = Value::map([
            ("id", (&self.id).into()),
            ("jid", (&self.jid).into()),
            ("fun", self.fun),
            ("arg", Value::Nil),
            ("tgt", Value::Nil),
            ("tgt_type", Value::Nil),
            ("load", self.load.unwrap_or(Value::Map(Vec::new()))),
            ("return", Value::Map(returns)),
        ]);
        if let Some(master_id) = self.master_id {
            element.set("master_id", master_id);
        }
        if let Some(out) = self.out {
            element.set("out", out);
        }
        if let Some(fun_args) = self.fun_args {
            element.set("fun_args", fun_args);
        }
        element
    }
}

/// Returns of any number of jobs in one request (`_syndic_return`). The answer is nil in all cases.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SyndicReturn {
    /// One for each job.
    pub elements: Vec<SyndicReturnElement>,
}

impl SyndicReturn {
    /// The map of the command.
    pub fn into_load(self) -> Value {
        let elements = self
            .elements
            .into_iter()
            .map(SyndicReturnElement::into_value);
        Value::map([
            ("cmd", "_syndic_return".into()),
            ("load", Value::Array(elements.collect())),
        ])
    }
}

/// One return in the sender's own name (`_return`): a site's answer to a job that targets its id.
#[derive(Clone, Debug, PartialEq)]
pub struct Return {
    /// Own id; the master files the return under the authenticated one.
    pub id: MinionId,
    /// The job.
    pub jid: Jid,
    /// The function.
    pub fun: Value,
    /// Its arguments.
    pub fun_args: Value,
    /// The result.
    pub ret: Value,
    /// 0 for success.
    pub retcode: i64,
    /// Whether it went well.
    pub success: bool,
    /// Who gave the command.
    pub user: Option<String>,
    /// The master that the job began at.
    pub master_id: Option<String>,
    /// Metadata of the job.
    pub metadata: Option<Value>,
    /// Outputter for the result.
    pub out: Option<String>,
}

impl Return {
    /// The map of the command.
    pub fn into_load(self) -> Value {
        let mut load = Value::map([
            ("cmd", "_return".into()),
            ("id", (&self.id).into()),
            ("success", self.success.into()),
            ("return", self.ret),
            ("retcode", self.retcode.into()),
            ("jid", (&self.jid).into()),
            ("fun", self.fun),
            ("fun_args", self.fun_args),
        ]);
        let optional = [
            ("user", self.user.map(Value::from)),
            ("master_id", self.master_id.map(Value::from)),
            ("metadata", self.metadata),
            ("out", self.out.map(Value::from)),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                load.set(name, value);
            }
        }
        load
    }
}

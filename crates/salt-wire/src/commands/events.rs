//! `_minion_event`: events for the bus of the master above.

use crate::ids::MinionId;
use crate::msgpack::Value;
use crate::request::Identity;

/// One event of the list form.
#[derive(Clone, Debug, PartialEq)]
pub struct MinionEvent {
    /// Its tag.
    pub tag: String,
    /// A map; the master above sets its own `_stamp`.
    pub data: Value,
}

/// Events in one request. The answer is nil in all cases.
#[derive(Clone, Debug, PartialEq)]
pub enum MinionEvents {
    /// The single form: the master fires `tag` with the whole load as data, and `text` in its
    /// `data`; no blacklist applies. For `salt/syndic/<id>/start`.
    Single {
        /// The tag to fire.
        tag: String,
        /// What becomes `data.data`.
        data: Value,
    },
    /// The list form: each is fired as `tag` and `<pretag>/<tag>`, as far as the master's blacklist
    /// allows. An event with `jid` and `minions` adds to the job cache's list of targets.
    List {
        /// `syndic/<id>` for a relay.
        pretag: String,
        /// In this order.
        events: Vec<MinionEvent>,
    },
}

impl MinionEvents {
    /// The list form as a relay sends it.
    pub fn of_syndic(id: &MinionId, events: Vec<MinionEvent>) -> Self {
        Self::List {
            pretag: format!("syndic/{id}"),
            events,
        }
    }

    /// The map of the command, its keys in Salt's order.
    pub fn into_load(self, identity: &Identity) -> Value {
        let mut load = Value::map([
            ("id", identity.id().into()),
            ("cmd", "_minion_event".into()),
        ]);
        match self {
            Self::Single { tag, data } => {
                load.set("pretag", Value::Nil);
                load.set("tok", identity.tok().clone());
                load.set("data", data);
                load.set("tag", tag);
            }
            Self::List { pretag, events } => {
                let event = |event: MinionEvent| {
                    Value::map([("data", event.data), ("tag", event.tag.into())])
                };
                load.set("pretag", pretag);
                load.set("tok", identity.tok().clone());
                load.set(
                    "events",
                    Value::Array(events.into_iter().map(event).collect()),
                );
            }
        }
        load
    }
}

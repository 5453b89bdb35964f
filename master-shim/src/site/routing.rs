//! Decides what becomes of one event of the lower master's bus, as salt-syndic decides it (`SyndicManager` in
//! `salt/minion.py`), with the fields kept that salt-syndic loses.
//!
//! Pure: the site task owns a [`Router`], feeds it and acts on the [`Route`].
//!
//! ```text
//! event ──► Router ──┬─► Return   one minion's return, to the MoM that the job came from
//!                    ├─► Event    any other event, to every MoM
//!                    ├─► Probe    an answer to the shim's own find_job
//!                    └─► Skip     with its reason
//! ```
//! - `sync` mode forwards every event but those whose data has a `retcode`; `cluster` mode forwards only returns of other
//!   masters' jobs and events of jobs that name minions.
//! - The lower master's own bare-jid event of a job from above is skipped once: the ack stands for it.

use salt_link::salt_config::MasterId;
use salt_wire::{
    bus::{Event, EventTag, is_jid},
    commands::ReturnEvent,
    ids::{Jid, MinionId},
    msgpack::{self, Limits, Value},
};

use super::origins::{Origin, Origins};
use crate::{config::SyndicMode, job_cache};

/// Events of a relay about its sites and jobs. They go no further up than to the MoM of that relay, and a minion must not be able to
/// speak in a site's name.
const OWN_TAGS: &str = "saltway/";

/// One minion's return on its way up.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Return {
    /// Who returned what for which job; the fields that go up.
    pub(crate) event: ReturnEvent,
    /// The load of a job that was started below.
    pub(crate) load: Option<Value>,
    /// Bytes that it takes on the wire, more or less.
    pub(crate) bytes: usize,
    /// When it was heard, unix milliseconds; 0 when nobody knows.
    pub(crate) heard_ms: u64,
}

/// What becomes of an event.
#[derive(Debug, PartialEq)]
pub(crate) enum Route {
    /// A return; `upstream` is known when the job came from above.
    Return {
        /// The return.
        ret: Box<Return>,
        /// Index of the MoM that the job came from.
        upstream: Option<usize>,
        /// Salt has cut large values off; the job cache has them.
        trimmed: bool,
    },
    /// An event for every MoM.
    Event {
        /// Its data, decoded.
        data: Value,
    },
    /// A minion's answer to the shim's own find_job.
    Probe {
        /// The jid of the find_job.
        probe: Jid,
        /// Who answered.
        minion: MinionId,
        /// Whether that minion runs the job.
        running: bool,
    },
    /// Nothing goes up.
    Skip(SkipReason),
}

/// Why an event is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SkipReason {
    /// The data is not a msgpack map, or a return's tag and data make no sense.
    Malformed,
    /// salt-syndic does not forward it either.
    NotForwarded,
    /// The ack of the publication says the same.
    Acked,
    /// It belongs to the shim's own find_job.
    OwnProbe,
    /// Another shim of this site is the active one.
    Standby,
    /// Only a shim itself speaks of a site.
    OfSaltway,
    /// Only this shim asked for it.
    OwnStartEvent,
}

/// Knows what the decision depends on.
#[derive(Debug)]
pub(crate) struct Router {
    /// Where jobs come from.
    pub(crate) origins: Origins,
    mode: SyndicMode,
    /// The lower master's own `master_id`.
    master_id: Option<MasterId>,
}

impl Router {
    /// A router that knows no job yet.
    pub(crate) fn new(mode: SyndicMode, master_id: Option<MasterId>) -> Self {
        Self {
            origins: Origins::default(),
            mode,
            master_id,
        }
    }

    /// Decides on one event; `data` as [`decode`] has made it.
    pub(crate) fn route(&mut self, event: &Event, data: Value) -> Route {
        if event.tag.starts_with(OWN_TAGS) {
            return Route::Skip(SkipReason::OfSaltway);
        }
        match event.parsed_tag() {
            // Another site's ack: its minions are named by the plain form, which comes along.
            EventTag::Forwarded { tag, .. } if is_jid(tag) => Route::Skip(SkipReason::OfSaltway),
            EventTag::JobReturn { jid, .. } if is_jid(jid) && data.get("return").is_some() => {
                self.route_return(jid, data, event.data.len())
            }
            EventTag::BareJid(jid) => self.route_bare_jid(jid, data),
            EventTag::JobNew { jid } => {
                self.note_local(jid, &data);
                self.route_other(jid, data)
            }
            EventTag::JobPublish { jid }
            | EventTag::JobReturn { jid, .. }
            | EventTag::JobStart { jid, .. }
            | EventTag::JobError { jid } => self.route_other(jid, data),
            _ => self.route_event(data, false),
        }
    }

    fn route_return(&mut self, jid: &str, data: Value, bytes: usize) -> Route {
        if data.get("jid").is_none() {
            return Route::Skip(SkipReason::NotForwarded);
        }
        let trimmed = holds_trimmed(&data);
        let Ok(event) = ReturnEvent::parse(data) else {
            return Route::Skip(SkipReason::Malformed);
        };
        if event.jid.as_str() != jid {
            return Route::Skip(SkipReason::Malformed);
        }
        if self.mode == SyndicMode::Cluster && self.is_own_master_id(event.master_id.as_deref()) {
            return Route::Skip(SkipReason::NotForwarded);
        }
        let (upstream, load) = match self.origins.get_mut(&event.jid) {
            Some(Origin::Probe) => {
                let running = event.fields.get("return").is_some_and(says_running);
                return Route::Probe {
                    probe: event.jid,
                    minion: event.id,
                    running,
                };
            }
            Some(Origin::Upstream { index, .. }) => (Some(*index), None),
            Some(Origin::Local { load }) => (None, Some(load.clone())),
            None => (None, None),
        };
        Route::Return {
            ret: Box::new(Return {
                event,
                load,
                bytes,
                heard_ms: 0,
            }),
            upstream,
            trimmed,
        }
    }

    fn route_bare_jid(&mut self, jid: &str, data: Value) -> Route {
        let origin = Jid::parse(jid)
            .ok()
            .and_then(|jid| self.origins.get_mut(&jid));
        match origin {
            Some(Origin::Probe) => Route::Skip(SkipReason::OwnProbe),
            Some(Origin::Upstream { bare_jid_seen, .. })
                if !*bare_jid_seen && data.get("jid").is_none() =>
            {
                *bare_jid_seen = true;
                Route::Skip(SkipReason::Acked)
            }
            Some(Origin::Upstream { .. } | Origin::Local { .. }) | None => {
                self.route_event(data, false)
            }
        }
    }

    fn route_other(&self, jid: &str, data: Value) -> Route {
        let origin = Jid::parse(jid)
            .ok()
            .and_then(|jid| self.origins.get(&jid).cloned());
        if origin == Some(Origin::Probe) {
            return Route::Skip(SkipReason::OwnProbe);
        }
        self.route_event(data, is_jid(jid))
    }

    fn route_event(&self, data: Value, is_job: bool) -> Route {
        let forwarded = match self.mode {
            SyndicMode::Sync => true,
            SyndicMode::Cluster => is_job && data.get("minions").is_some(),
        };
        if !forwarded || data.get("retcode").is_some() {
            return Route::Skip(SkipReason::NotForwarded);
        }
        Route::Event { data }
    }

    fn is_own_master_id(&self, master_id: Option<&str>) -> bool {
        match &self.master_id {
            Some(MasterId::Text(own)) => master_id == Some(own.as_str()),
            Some(MasterId::Int(_)) | None => false,
        }
    }

    /// A job that is new here and came from no MoM was started here: its load goes up with its returns.
    fn note_local(&mut self, jid: &str, data: &Value) {
        let Ok(jid) = Jid::parse(jid) else { return };
        if self.origins.get(&jid).is_some() {
            return;
        }
        let load = local_load(data);
        self.origins.note(&jid, Origin::Local { load });
    }
}

/// The data of an event: a map.
pub(crate) fn decode(event: &Event) -> Option<Value> {
    let data = msgpack::decode(&event.data, Limits::CONTENT).ok()?;
    data.as_map().is_some().then_some(data)
}

/// `saltutil.find_job` answers with a map that is empty where the job does not run.
fn says_running(answer: &Value) -> bool {
    match answer {
        Value::Map(entries) => !entries.is_empty(),
        Value::Nil | Value::Bool(false) => false,
        Value::Raw(text) => !text.is_empty(),
        _ => true,
    }
}

/// The load as the lower master's job cache holds it, as far as the event tells.
fn local_load(data: &Value) -> Value {
    let keys = ["jid", "tgt", "tgt_type", "fun", "arg", "user"];
    let mut load = Value::map(
        keys.into_iter()
            .filter_map(|key| data.get(key).map(|value| (key, value.clone()))),
    );
    load.set("ret", "");
    if let Some(minions) = data.get("minions") {
        load.set("Minions", minions.clone());
    }
    load
}

/// Whether Salt has replaced a value of the data, or of a dictionary in it, by [`job_cache::TRIMMED`].
pub(crate) fn holds_trimmed(value: &Value) -> bool {
    match value {
        Value::Raw(raw) => raw.as_ref() == job_cache::TRIMMED,
        Value::Map(entries) => entries.iter().any(|(_, value)| holds_trimmed(value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests;

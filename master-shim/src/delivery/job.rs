//! A job on its way through the delivery, and what its load says about this site.

use std::time::Duration;

use relay_core::{
    entry::Publication as Entry,
    target::{self, Match, Target},
};
use salt_link::salt_config::MasterId;
use salt_wire::{ids::Jid, msgpack::Value, publication::PublicationLoad};

use super::records::Part;

/// The field by which a master of 3008 asks its minions to tell when they begin; older ones drop it.
const START_EVENT: &str = "start_event";

/// The function by which the `salt` command asks whether a job still runs.
const FIND_JOB: &str = "saltutil.find_job";

/// A publication that has been opened and is to be published.
pub(super) struct Job {
    pub(super) entry: Entry,
    pub(super) load: PublicationLoad,
    pub(super) part: Part,
    pub(super) ttl: Duration,
    /// The MoM did not ask for the minions' start events, and this shim does.
    pub(super) hides_start: bool,
    /// An operator published it again for single minions.
    pub(super) by_hand: bool,
}

/// The mark of a job that an operator published again for single minions: without it, it could not be told from a frame that another shim
/// of this site has had. A field of the load itself; masters without us leave it behind.
const BY_HAND: &str = "saltway_redelivery";

/// Takes the mark off the load; whether it was there.
pub(super) fn take_mark(load: PublicationLoad) -> (PublicationLoad, bool) {
    let marked = load.fields().get(BY_HAND).and_then(Value::as_bool) == Some(true);
    if load.fields().get(BY_HAND).is_none() {
        return (load, false);
    }
    let mut fields = load.fields().clone();
    fields.remove(BY_HAND);
    match PublicationLoad::new(fields) {
        Ok(load) => (load, marked),
        Err(_) => (load, false),
    }
}

/// The job with the question for start events, and whether the MoM did not ask itself.
pub(super) fn asking_for_start_events(load: PublicationLoad) -> (PublicationLoad, bool) {
    if load.fields().get(START_EVENT).and_then(Value::as_bool) == Some(true) {
        return (load, false);
    }
    let mut fields = load.fields().clone();
    fields.set(START_EVENT, true);
    match PublicationLoad::new(fields) {
        Ok(load) => (load, true),
        Err(_) => (load, false),
    }
}

/// The minions that a list target names; none for other targets.
pub(super) fn named(load: &PublicationLoad) -> Vec<&str> {
    if load.tgt_type() != "list" {
        return Vec::new();
    }
    match load.tgt() {
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        text => text.as_str().unwrap_or_default().split(',').collect(),
    }
}

/// Salt's rule (`Syndic._handle_decoded_payload`): a missing `master_id` is 0 in the job and 1 in the configuration.
pub(super) fn is_loop(load: &PublicationLoad, own: Option<&MasterId>) -> bool {
    let theirs = load.fields().get("master_id").unwrap_or(&Value::Int(0));
    match own {
        Some(MasterId::Text(own)) => theirs.as_str() == Some(own.as_str()),
        Some(MasterId::Int(own)) => theirs.as_i64() == Some(*own),
        None => theirs.as_i64() == Some(1),
    }
}

/// Whether the MoM waits for the site's own id to answer.
pub(super) fn means_site(load: &PublicationLoad, id: &str) -> bool {
    let target = match load.tgt() {
        Value::Array(items) => Target::List(
            items
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        ),
        other => Target::Text(other.as_str().unwrap_or_default().to_owned()),
    };
    target::is_expected_without_data(load.tgt_type(), &target, id) == Match::Yes
}

/// The job that a `saltutil.find_job` asks about.
pub(super) fn asked_about(load: &PublicationLoad) -> Option<Jid> {
    if load.functions() != [FIND_JOB] {
        return None;
    }
    let argument = load.arg().as_array()?.first()?.as_str()?;
    Jid::parse(argument).ok()
}

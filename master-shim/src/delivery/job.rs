//! A job on its way through the delivery, and what its load says about this site.

use std::time::Duration;

use relay_core::{
    entry::Publication as Entry,
    target::{self, Match, Target},
};
use salt_link::salt_config::MasterId;
use salt_wire::{ids::Jid, msgpack::Value, publication::PublicationLoad};

use super::records::Part;

/// The function by which the `salt` command asks whether a job still runs.
const FIND_JOB: &str = "saltutil.find_job";

/// A publication that has been opened and is to be published.
pub(super) struct Job {
    pub(super) entry: Entry,
    pub(super) load: PublicationLoad,
    pub(super) part: Part,
    pub(super) ttl: Duration,
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

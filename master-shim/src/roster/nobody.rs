//! Whether a job is certain to mean none of some minions, by their ids alone.

use relay_core::target::{Match, Matcher, Target};
use salt_wire::{msgpack::Value, publication::PublicationLoad};

use super::Register;

/// What one answer may cost, in words looked at: a tenth of a second. The lower master itself takes seconds for more.
const LOOKS_MAX: usize = 2_000_000;

/// A target that ids may settle.
#[derive(Debug)]
pub(super) struct IdTarget(Matcher);

/// The job's target, if it is of a kind that ids may settle; grains, pillar and the like never are.
pub(super) fn settled_by_ids(load: &PublicationLoad) -> Option<IdTarget> {
    let tgt_type = load.tgt_type();
    let target = match (tgt_type, load.tgt()) {
        ("glob" | "pcre" | "list" | "compound", Value::Raw(_)) => {
            Target::Text(load.tgt().as_str()?.to_owned())
        }
        ("list" | "compound", Value::Array(items)) => {
            let items = items.iter().map(|item| item.as_str().map(str::to_owned));
            Target::List(items.collect::<Option<_>>()?)
        }
        _ => return None,
    };
    Some(IdTarget(Matcher::new(tgt_type, &target)))
}

impl IdTarget {
    /// Whether it certainly does not mean this id.
    pub(super) fn surely_not(&self, id: &str) -> bool {
        self.0.matches(id) == Match::No
    }

    /// Whether it certainly means none of these.
    pub(super) fn surely_none_of(&self, register: &Register) -> bool {
        let minions = register.minions();
        minions.len().saturating_mul(self.0.words()) <= LOOKS_MAX
            && minions.keys().all(|id| self.surely_not(id))
    }
}

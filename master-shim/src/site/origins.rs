//! Where the jobs on the lower master's bus come from: a MoM, this master itself, or the shim's own probe.
//!
//! Bounded by [`JOBS_MAX`]; the oldest is forgotten first. A forgotten job counts as one of unknown origin: its
//! returns still go up, to the MoM that the failover rule picks, without a load.

use std::collections::{HashMap, VecDeque};

use salt_wire::{ids::Jid, msgpack::Value};

/// Jobs remembered. At 10 jobs a second that is a quarter of an hour of late returns.
const JOBS_MAX: usize = 10_000;

/// Where a job was started.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Origin {
    /// A publication of the upstream with this index.
    Upstream {
        /// Index in the list `syndic_master`.
        index: usize,
        /// Whether the lower master's own bare-jid event, which the ack stands for, has been seen.
        bare_jid_seen: bool,
        /// Whether the MoM did not ask for the minions' start events, and this shim did.
        hides_start: bool,
    },
    /// Started on the lower master itself.
    Local {
        /// The load for the MoM's job cache. It goes up with every return: several requests are under way at once, and
        /// a MoM that gets a return of a job that it does not know yet drops it.
        load: Value,
    },
    /// The shim's own `saltutil.find_job` about another job; nothing of it goes up.
    Probe,
}

/// The origins of the latest [`JOBS_MAX`] jobs.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    by_jid: HashMap<Jid, Origin>,
    order: VecDeque<Jid>,
}

impl Origins {
    /// Notes where `jid` comes from, unless that is known already.
    pub(crate) fn note(&mut self, jid: &Jid, origin: Origin) {
        if self.by_jid.contains_key(jid) {
            return;
        }
        if self.order.len() >= JOBS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_jid.remove(&oldest);
        }
        self.order.push_back(jid.clone());
        self.by_jid.insert(jid.clone(), origin);
    }

    /// The origin of `jid`, if it is remembered.
    pub(crate) fn get(&self, jid: &Jid) -> Option<&Origin> {
        self.by_jid.get(jid)
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, jid: &Jid) -> Option<&mut Origin> {
        self.by_jid.get_mut(jid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jid(number: usize) -> Jid {
        format!("2026112020{number:010}").parse().expect("a jid")
    }

    #[test]
    fn first_note_of_a_job_stands() {
        let mut origins = Origins::default();
        let upstream = Origin::Upstream {
            index: 1,
            bare_jid_seen: false,
            hides_start: false,
        };
        origins.note(&jid(1), upstream.clone());
        origins.note(&jid(1), Origin::Local { load: Value::Nil });
        assert_eq!(origins.get(&jid(1)), Some(&upstream));
    }

    #[test]
    fn oldest_job_is_forgotten_at_the_bound() {
        let mut origins = Origins::default();
        for number in 0..=JOBS_MAX {
            origins.note(&jid(number), Origin::Local { load: Value::Nil });
        }
        assert_eq!(
            (origins.by_jid.len(), origins.order.len()),
            (JOBS_MAX, JOBS_MAX)
        );
        assert_eq!(origins.get(&jid(0)), None);
        assert!(origins.get(&jid(JOBS_MAX)).is_some());
    }
}

//! Receipts and returns of jobs that are not known yet, and of minions that a known job is not known to mean.
//!
//! Most belong to jobs that an earlier process published, and are let go in time: the oldest job first.

use std::collections::{HashMap, HashSet, VecDeque};

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Early {
    jobs: HashMap<Box<str>, HashSet<Box<str>>>,
    order: VecDeque<Box<str>>,
    pairs: usize,
    /// Pairs let go unused, to make room.
    pub(super) dropped: u64,
}

impl Early {
    /// Keeps a receipt or a return; whether it is new.
    pub(super) fn keep(&mut self, jid: &str, minion: &str, pairs_max: usize) -> bool {
        if !self.jobs.contains_key(jid) {
            self.jobs.insert(jid.into(), HashSet::new());
            self.order.push_back(jid.into());
        }
        let is_new = self
            .jobs
            .get_mut(jid)
            .is_some_and(|minions| minions.insert(minion.into()));
        self.pairs += usize::from(is_new);
        while self.pairs > pairs_max {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            let dropped = self.jobs.remove(&oldest).map_or(0, |minions| minions.len());
            self.pairs -= dropped;
            self.dropped += dropped as u64;
        }
        is_new
    }

    /// Who was heard of this job already.
    pub(super) fn of(&self, jid: &str) -> Option<&HashSet<Box<str>>> {
        self.jobs.get(jid)
    }
}

//! Files of one host: what is written, what a kill leaves and what a power cut leaves.
//!
//! A file is the list of its commits, as SQLite's write-ahead log with `synchronous=NORMAL` has it:
//! a kill loses no commit, a power cut loses a suffix of the latest. What is on its way to the disk
//! when the process dies is committed or not, in its order.

use std::collections::VecDeque;

use fastrand::Rng;

/// How long a commit may stay in the system's memory, in milliseconds.
const UNSYNCED_MS: u64 = 3_000;

/// One file, as a list of commits of type `T`.
#[derive(Debug)]
pub(crate) struct Log<T> {
    commits: Vec<(u64, T)>,
    /// Being written, with the process' own mark of the write.
    pending: VecDeque<(u64, Vec<T>)>,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self {
            commits: Vec::new(),
            pending: VecDeque::new(),
        }
    }
}

impl<T> Log<T> {
    /// A write that takes its time; `token` tells its end from others.
    pub(crate) fn write(&mut self, token: u64, ops: Vec<T>) {
        self.pending.push_back((token, ops));
    }

    /// The write of this token, and all before it, are committed. False if it was before, or died.
    pub(crate) fn commit_through(&mut self, token: u64, now: u64) -> bool {
        if !self.pending.iter().any(|(pending, _)| *pending == token) {
            return false;
        }
        while let Some((pending, ops)) = self.pending.pop_front() {
            self.commits.extend(ops.into_iter().map(|op| (now, op)));
            if pending == token {
                break;
            }
        }
        true
    }

    /// Committed at once.
    pub(crate) fn commit(&mut self, op: T, now: u64) {
        self.commits.push((now, op));
    }

    /// The process dies: a part of what it was writing arrives.
    pub(crate) fn killed(&mut self, rng: &mut Rng, now: u64) {
        let arrive = rng.usize(0..=self.pending.len());
        for (_, ops) in self.pending.drain(..).take(arrive) {
            self.commits.extend(ops.into_iter().map(|op| (now, op)));
        }
        self.pending.clear();
    }

    /// The power goes: the newest commits are lost from some point on.
    pub(crate) fn power_cut(&mut self, rng: &mut Rng, now: u64) {
        self.killed(rng, now);
        let synced = self
            .commits
            .partition_point(|(at, _)| at + UNSYNCED_MS <= now);
        let keep = rng.usize(synced..=self.commits.len());
        self.commits.truncate(keep);
    }

    /// Every commit, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.commits.iter().map(|(_, op)| op)
    }
}

//! When a job is over, and what is kept of it in memory.
//!
//! ```text
//!            done for settle_ms                     a new part, a late ack
//!   Open ──────────────────────────► Complete ───────────────────────────► Open, or Incomplete when it is too late
//!    │                                  ▲
//!    └─ time to live and grace over ─► Incomplete, Expired ── the last late return
//! ```

use super::{Action, Ledger, State, fold::table_of, job::Job, report::JobView};
use crate::names::Names;

/// How soon a job that should leave the memory and is not on disk is looked at again.
const UNSAVED_AGAIN_MS: u64 = 1_000;

impl Ledger {
    /// When [`Ledger::tick`] has something to do, in unix milliseconds.
    #[must_use]
    pub fn next_tick_ms(&self) -> Option<u64> {
        self.timers.first().map(|(due_ms, _)| *due_ms)
    }

    /// Closes what is over. Call it at least each quarter of a second: its time is that of all questions to the ledger.
    #[must_use]
    pub fn tick(&mut self, now_ms: u64) -> Vec<Action> {
        self.now_ms = self.now_ms.max(now_ms);
        let mut actions = Vec::new();
        while self
            .timers
            .first()
            .is_some_and(|(due_ms, _)| *due_ms <= self.now_ms)
            && let Some((_, jid)) = self.timers.pop_first()
        {
            if let Some(job) = self.jobs.get_mut(&jid) {
                job.due_ms = u64::MAX;
            }
            self.look(&jid, &mut actions);
        }
        self.make_room(&mut actions);
        self.bound_times();
        self.former_if_needed();
        actions
    }

    /// Looks at a job whose time has come.
    fn look(&mut self, jid: &str, actions: &mut Vec<Action>) {
        let (now_ms, config) = (self.now_ms, self.config);
        let Some(job) = self.jobs.get_mut(jid) else {
            return;
        };
        let Some(names) = table_of(&mut self.rosters, &mut self.former, job.table) else {
            return;
        };
        (job.is_changed, job.review_ms) = (false, None);
        job.settle(names, now_ms, config.settle_ms);
        job.note_done(now_ms);
        let next = next_state(job, names, now_ms, config.settle_ms);
        if next != job.state {
            let was_open = job.state == State::Open;
            if next == State::Open {
                job.state = next;
                job.told = None;
                job.is_dirty = true;
            } else {
                job.close(next, names, &self.sites, now_ms);
            }
            self.open += usize::from(next == State::Open);
            self.open -= usize::from(was_open);
        }
        self.tell_end(jid, actions);
        let leaves = self.jobs.get(jid).is_some_and(|job| {
            job.state != State::Open
                && job.ended_ms.saturating_add(config.linger_ms) <= now_ms
                && !job.is_dirty
        });
        if leaves {
            self.remove(jid);
        } else {
            self.touched(jid);
        }
    }

    /// Tells of the end of a job whose publication was seen, unless that has been told.
    fn tell_end(&mut self, jid: &str, actions: &mut Vec<Action>) {
        let named_max = self.config.missing_named_max;
        let Some(job) = self.jobs.get_mut(jid) else {
            return;
        };
        if job.state == State::Open || !job.is_published || job.told == Some(job.state) {
            return;
        }
        job.told = Some(job.state);
        job.is_dirty = true;
        let Some(view) = self.job(jid) else { return };
        actions.push(ended(&view, named_max));
    }

    /// Makes room: jobs that are over and on disk go first, then the oldest open one is closed.
    fn make_room(&mut self, actions: &mut Vec<Action>) {
        while self.is_over_bounds() {
            let jobs = || {
                self.order
                    .iter()
                    .filter_map(|jid| Some((jid, self.jobs.get(jid)?)))
            };
            let is_over = |job: &Job| job.state != State::Open;
            let clean = jobs().find(|(_, job)| is_over(job) && !job.is_dirty);
            if let Some(jid) = clean.map(|(jid, _)| jid.clone()) {
                self.remove(&jid);
                continue;
            }
            // Those that are over wait for the disk; when that does not come their last changes are lost.
            let is_far_over = self.bytes > self.config.bytes_max.saturating_mul(2)
                || self.jobs.len() > self.config.jobs_max.saturating_mul(2);
            let over = jobs()
                .find(|(_, job)| is_over(job))
                .map(|(jid, _)| jid.clone());
            if is_far_over && let Some(jid) = over {
                self.remove(&jid);
                continue;
            }
            let oldest = jobs()
                .find(|(_, job)| !is_over(job))
                .map(|(jid, _)| jid.clone());
            let Some(jid) = oldest else { return };
            self.shed(&jid, actions);
            if !is_far_over {
                // It leaves once it is on disk.
                return;
            }
        }
    }

    fn is_over_bounds(&self) -> bool {
        self.jobs.len() > self.config.jobs_max
            || (self.bytes > self.config.bytes_max && self.jobs.len() > 1)
    }

    fn shed(&mut self, jid: &str, actions: &mut Vec<Action>) {
        let now_ms = self.now_ms;
        let Some(job) = self.jobs.get_mut(jid) else {
            return;
        };
        let Some(names) = table_of(&mut self.rosters, &mut self.former, job.table) else {
            return;
        };
        job.close(State::Incomplete, names, &self.sites, now_ms);
        self.open -= 1;
        actions.push(Action::Shed {
            jid: jid.to_owned(),
        });
        self.tell_end(jid, actions);
        self.touched(jid);
    }

    /// Sees that the job is there.
    pub(super) fn ensure(&mut self, jid: &str, at_ms: u64, actions: &mut Vec<Action>) {
        if self.jobs.contains_key(jid) {
            return;
        }
        let mut job = Job::new(jid, self.rosters.names().table(), at_ms);
        job.is_loading = true;
        job.ttl_ms = self.config.ttl_ms;
        self.insert(job);
        self.prolong(jid, at_ms);
        actions.push(Action::Load {
            jid: jid.to_owned(),
        });
    }

    /// A job and the names of its minions.
    pub(super) fn parts(&mut self, jid: &str) -> Option<(&mut Job, &mut Names)> {
        let job = self.jobs.get_mut(jid)?;
        let names = table_of(&mut self.rosters, &mut self.former, job.table)?;
        Some((job, names))
    }

    pub(super) fn insert(&mut self, mut job: Job) {
        let jid = job.jid.clone();
        (job.counted_bytes, job.counted_times) = (0, 0);
        job.is_queued = false;
        self.open += usize::from(job.state == State::Open);
        self.order.insert(jid.clone());
        self.jobs.insert(jid.clone(), job);
        self.touched(&jid);
    }

    pub(super) fn remove(&mut self, jid: &str) -> Option<Job> {
        let job = self.jobs.remove(jid)?;
        self.order.remove(jid);
        self.dirty.remove(jid);
        self.timers.remove(&(job.due_ms, job.jid.clone()));
        self.bytes -= job.counted_bytes;
        self.times_bytes -= job.counted_times;
        self.open -= usize::from(job.state == State::Open);
        Some(job)
    }

    /// Sets a job's end anew; one that was over is open again, unless it is too late.
    pub(super) fn prolong(&mut self, jid: &str, at_ms: u64) {
        let (grace_ms, now_ms) = (self.config.grace_ms, self.now_ms);
        let Some(job) = self.jobs.get_mut(jid) else {
            return;
        };
        let deadline_ms = at_ms.saturating_add(job.ttl_ms).saturating_add(grace_ms);
        job.deadline_ms = job.deadline_ms.max(deadline_ms);
        if job.state != State::Open && job.deadline_ms > now_ms {
            job.state = State::Open;
            job.told = None;
            self.open += 1;
        }
        self.touched(jid);
    }

    /// Keeps the books after a job has changed.
    pub(super) fn touched(&mut self, jid: &str) {
        let (now_ms, config) = (self.now_ms, self.config);
        let Some(job) = self.jobs.get_mut(jid) else {
            return;
        };
        job.note_done(now_ms);
        // Not at once, since it takes a look at every cell: late returns come in crowds.
        if job.is_changed && job.state != State::Open && job.review_ms.is_none() {
            job.review_ms = Some(now_ms.saturating_add(config.settle_ms));
        }
        let due_ms = due(job, now_ms, config.settle_ms, config.linger_ms);
        if due_ms != job.due_ms {
            self.timers.remove(&(job.due_ms, job.jid.clone()));
            if due_ms != u64::MAX {
                self.timers.insert((due_ms, job.jid.clone()));
            }
            job.due_ms = due_ms;
        }
        if job.is_dirty && !job.is_loading && !job.is_queued {
            job.is_queued = true;
            self.dirty.insert(job.jid.clone());
        }
        let bytes = job.bytes();
        self.bytes = self.bytes + bytes - job.counted_bytes;
        job.counted_bytes = bytes;
        let times = job.times.bytes();
        self.times_bytes = self.times_bytes + times - job.counted_times;
        job.counted_times = times;
    }

    /// Lets go of the times of the oldest jobs, when there are too many in memory; those on disk stay there, as long as the
    /// job does not change.
    fn bound_times(&mut self) {
        if self.times_bytes <= self.config.times_bytes_max {
            return;
        }
        for jid in &self.order {
            if let Some(job) = self.jobs.get_mut(jid) {
                self.times_bytes -= std::mem::take(&mut job.counted_times);
                job.times = super::times::Times::default();
            }
            if self.times_bytes <= self.config.times_bytes_max {
                return;
            }
        }
    }

    /// Begins a new table of names when that is due.
    pub(super) fn leave_table_if_due(&mut self) {
        if let Some(former) = self.rosters.compact_if_due() {
            self.deliveries
                .renumber(Some(&former), self.rosters.names().table());
            self.former.insert(former.table(), former);
            self.former_if_needed();
        }
    }

    /// Lets go of tables that no job in memory refers to, but for the one that was read last to show a job.
    fn former_if_needed(&mut self) {
        if self.former.is_empty() {
            return;
        }
        let used: std::collections::BTreeSet<u32> =
            self.jobs.values().map(|job| job.table).collect();
        let shown = self.shown_table;
        self.former
            .retain(|table, _| used.contains(table) || Some(*table) == shown);
        let present = self.rosters.names().table();
        self.saved_names
            .retain(|table, _| *table == present || self.former.contains_key(table));
    }
}

impl Job {
    /// Notes since when the job is done.
    fn note_done(&mut self, now_ms: u64) {
        match (self.is_done(), self.done_ms) {
            (true, None) => self.done_ms = Some(now_ms),
            (false, Some(_)) => self.done_ms = None,
            _ => {}
        }
    }
}

/// What a job is at this time.
fn next_state(job: &Job, names: &Names, now_ms: u64, settle_ms: u64) -> State {
    if let Some(done_ms) = job.done_ms {
        let is_settled = done_ms.saturating_add(settle_ms) <= now_ms;
        return if is_settled {
            State::Complete
        } else {
            job.state
        };
    }
    if now_ms < job.deadline_ms {
        return State::Open;
    }
    // Whom it meant is not known; all that were heard of have returned.
    if !job.is_published && job.pending == 0 && !job.parts.iter().any(super::job::Part::is_asked) {
        return State::Complete;
    }
    job.ending(names)
}

/// When to look at a job next.
fn due(job: &Job, now_ms: u64, settle_ms: u64, linger_ms: u64) -> u64 {
    let mut due = u64::MAX;
    let mut at = |ms: u64| due = due.min(ms);
    if let Some(settles_ms) = job.settles_ms(now_ms, settle_ms) {
        at(settles_ms);
    }
    match (job.state, job.done_ms) {
        (State::Complete, Some(_)) => {}
        (_, Some(done_ms)) => at(done_ms.saturating_add(settle_ms)),
        (State::Open, None) => at(job.deadline_ms),
        // No longer complete, or expired after all: at once.
        (State::Complete, None) if job.is_published => at(now_ms),
        (_, None) => {}
    }
    if let Some(review_ms) = job.review_ms {
        at(review_ms);
    }
    if job.state != State::Open {
        let leaves_ms = job.ended_ms.saturating_add(linger_ms);
        // Not yet on disk.
        at(if leaves_ms <= now_ms {
            now_ms.saturating_add(UNSAVED_AGAIN_MS)
        } else {
            leaves_ms
        });
    }
    due
}

fn ended(view: &JobView<'_>, named_max: usize) -> Action {
    let mut missing: Vec<&str> = view.missing().map(|minion| minion.id).collect();
    missing.sort_unstable();
    missing.truncate(named_max);
    Action::Ended {
        state: view.state(),
        summary: Box::new(view.summary()),
        missing: missing.into_iter().map(str::to_owned).collect(),
        asked: view.asked().map(str::to_owned).collect(),
    }
}

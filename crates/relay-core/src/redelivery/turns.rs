//! Whose turn it is: the time-out of each job, the next moment of each minion, and the paced way out.
//!
//! - A job's silent minions are looked at once, after the time-out; from then on each minion has its own moment.
//! - What is ready is looked at again when it goes: who was heard meanwhile is left out.
//! - Nothing is sent to one minion twice within a second.

use super::{
    Again, Redelivery,
    book::{
        AT_ONCE, CONNECTION, COUNTED, FRESH, JobNumber, KEPT, LIFE, MISSED, MinionNumber, READY,
        UNSAFE,
    },
};

impl Redelivery {
    /// What goes again now. Each of these is one publication.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Again> {
        self.advance(now_ms);
        let now_ms = self.now_ms;
        while let Some((_, job)) = pop_due(&mut self.expiries, now_ms) {
            self.expire(job);
        }
        while let Some((_, job)) = pop_due(&mut self.checks, now_ms) {
            self.check(job);
        }
        while let Some((_, minion)) = pop_due(&mut self.wakes, now_ms) {
            self.wake(minion);
        }
        self.let_go()
    }

    /// When [`Self::tick`] has something to do.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        let first = |first: Option<u64>| first.unwrap_or(u64::MAX);
        let due_ms = [
            first(self.expiries.first().map(|(at_ms, _)| *at_ms)),
            first(self.checks.first().map(|(at_ms, _)| *at_ms)),
            first(self.wakes.first().map(|(at_ms, _)| *at_ms)),
            first((!self.ready.is_empty()).then(|| self.pace.next_ms())),
        ];
        due_ms.into_iter().min().filter(|at_ms| *at_ms < u64::MAX)
    }

    fn expire(&mut self, number: JobNumber) {
        let Some(job) = self.book.jobs.get(&number) else {
            return;
        };
        if job.expires_ms > self.now_ms {
            // By hand it was given more time.
            self.expiries.insert((job.expires_ms, number));
            return;
        }
        self.forget(number);
    }

    /// The time-out of a publication has passed: counts who missed it, and gives each its moment. While answers stream
    /// in, nobody of the job is deaf: a slow master takes a while to tell of thousands.
    fn check(&mut self, number: JobNumber) {
        let Some(job) = self.book.jobs.get(&number) else {
            return;
        };
        let mut silent: Vec<MinionNumber> = job.cells.keys().copied().collect();
        silent.sort_unstable();
        let mut later_ms = u64::MAX;
        for minion in silent {
            let Some((job, cell, of)) = self.book.look(number, minion) else {
                continue;
            };
            if !of.gives(job.asked_start_event) || cell.has(MISSED) {
                continue;
            }
            let mut until_ms = self.config.quiet_ms(job, cell, of);
            if self.is_busy() {
                until_ms = until_ms.max(self.config.busy_ms(job, cell, self.now_ms));
            }
            if cell.attempts == 0 && until_ms > self.now_ms {
                later_ms = later_ms.min(until_ms);
                continue;
            }
            // Whoever turned out to give receipts only after the publication was not expected then.
            self.figures.expected += u64::from(!cell.has(COUNTED));
            self.figures.missed += 1;
            self.book
                .update(number, minion, |cell| cell.set(MISSED | COUNTED));
            self.count_unsafe(number, minion);
            self.wake(minion);
        }
        if later_ms < u64::MAX {
            self.checks.insert((later_ms, number));
        }
    }

    fn is_busy(&self) -> bool {
        self.answers.per_second(self.now_ms) >= self.config.busy_answers_per_s
    }

    /// A minion's moment: what it may be sent now becomes ready, and its next moment is set.
    pub(super) fn wake(&mut self, number: MinionNumber) {
        let now_ms = self.now_ms;
        let Some(minion) = self.book.minion_mut(number) else {
            return;
        };
        if let Some(woken_ms) = minion.wake_ms.take() {
            self.wakes.remove(&(woken_ms, number));
        }
        if let Some(hold) = minion.hold {
            if hold.until_ms > now_ms {
                self.rearm(number);
                return;
            }
            self.end_hold(number, hold);
        }
        self.send_missed(number);
        self.probe(number);
        self.rearm(number);
    }

    /// Something showed that the minion hears again: all that it missed.
    fn send_missed(&mut self, number: MinionNumber) {
        let (now_ms, is_busy) = (self.now_ms, self.is_busy());
        let Some(minion) = self.book.minion_mut(number) else {
            return;
        };
        if minion.life_ms.is_none_or(|life_ms| life_ms > now_ms) {
            return;
        }
        minion.life_ms = None;
        minion.settling_ms = None;
        let mut later_ms: Option<u64> = None;
        for job in minion.silent.clone() {
            let Some((of_job, cell, minion)) = self.book.look(job, number) else {
                continue;
            };
            if !cell.has(LIFE) && !cell.has(CONNECTION) {
                continue;
            }
            let mut due_ms = self.config.life_ms(of_job, cell, minion);
            if is_busy && cell.attempts == 0 && !cell.has(AT_ONCE) {
                due_ms = due_ms.max(self.config.busy_ms(of_job, cell, now_ms));
            }
            if due_ms > now_ms {
                later_ms = Some(later_ms.map_or(due_ms, |later_ms| later_ms.min(due_ms)));
                if cell.has(AT_ONCE) {
                    // Sent a moment ago: the newer ones wait for it, so that the order stays.
                    break;
                }
                continue;
            }
            if self.config.may_go(of_job, cell, minion) {
                self.make_ready(job, number);
            } else {
                self.book
                    .update(job, number, |cell| cell.clear(LIFE | CONNECTION | AT_ONCE));
            }
        }
        if let Some(minion) = self.book.minion_mut(number) {
            minion.life_ms = later_ms;
        }
    }

    /// By time alone: the oldest job that the minion may be sent.
    fn probe(&mut self, number: MinionNumber) {
        let now_ms = self.now_ms;
        let Some((due_ms, job)) = self.next_probe(number) else {
            return;
        };
        if due_ms > now_ms {
            return;
        }
        if let Some(minion) = self.book.minion_mut(number) {
            minion.probes = minion.probes.saturating_add(1);
            minion.probed_ms = now_ms;
        }
        self.make_ready(job, number);
    }

    /// The minion's next probe, and when.
    fn next_probe(&self, number: MinionNumber) -> Option<(u64, JobNumber)> {
        let minion = self.book.minion(number)?;
        // What goes after a return to life goes in its order.
        if minion.probes >= self.config.attempts_max || minion.life_ms.is_some() {
            return None;
        }
        for job in &minion.silent {
            let of_job = self.book.jobs.get(job)?;
            let cell = *of_job.cells.get(&number)?;
            if cell.has(UNSAFE)
                || !self.config.is_remembered(cell, minion)
                || !minion.gives(of_job.asked_start_event)
            {
                continue;
            }
            // One is left for a new connection: the oldest job then goes with the others, in their order.
            let by_time_max = self.config.attempts_max.saturating_sub(1).max(1);
            let may_go = cell.has(MISSED)
                && !cell.has(READY)
                && cell.attempts < by_time_max.min(self.config.attempts_max);
            let factor = 1_u64.checked_shl(u32::from(minion.probes)).unwrap_or(1);
            let wait_ms = self.config.receipt_timeout_ms.saturating_mul(factor);
            let since_probe_ms = match minion.probes {
                0 => 0,
                _ => minion.probed_ms.saturating_add(wait_ms),
            };
            let quiet_ms = self.config.quiet_ms(of_job, cell, minion);
            return may_go.then_some((since_probe_ms.max(quiet_ms), *job));
        }
        None
    }

    /// Sets the minion's next moment anew.
    pub(super) fn rearm(&mut self, number: MinionNumber) {
        let probe_ms = self.next_probe(number).map(|(due_ms, _)| due_ms);
        let Some(minion) = self.book.minion_mut(number) else {
            return;
        };
        let first_ms = match (minion.life_ms, probe_ms) {
            (Some(life_ms), Some(probe_ms)) => Some(life_ms.min(probe_ms)),
            (life_ms, probe_ms) => life_ms.or(probe_ms),
        };
        let next_ms = match minion.hold {
            Some(hold) => Some(hold.until_ms),
            None => first_ms,
        };
        let before_ms = std::mem::replace(&mut minion.wake_ms, next_ms);
        if before_ms == next_ms && next_ms.is_none() {
            return;
        }
        if let Some(before_ms) = before_ms {
            self.wakes.remove(&(before_ms, number));
        }
        if let Some(next_ms) = next_ms {
            self.wakes.insert((next_ms, number));
        }
    }

    fn make_ready(&mut self, number: JobNumber, minion: MinionNumber) {
        let Some(job) = self.book.jobs.get_mut(&number) else {
            return;
        };
        if let Some(cell) = job.cells.get_mut(&minion)
            && !cell.has(READY)
        {
            cell.set(READY);
            let ready = self.ready.entry(std::sync::Arc::clone(&job.jid));
            ready.or_default().push(minion);
        }
    }

    /// The paced way out, in the order of the jids.
    fn let_go(&mut self) -> Vec<Again> {
        let mut out = Vec::new();
        while let Some(mut entry) = self.ready.first_entry() {
            let jid = std::sync::Arc::clone(entry.key());
            let waiting = entry.get_mut();
            let size = self.config.minions_per_publication_max.max(1);
            let at = waiting.len().min(size);
            let rest = waiting.split_off(at);
            let turn = std::mem::replace(waiting, rest);
            if waiting.is_empty() {
                entry.remove();
            }
            let going = self.still_going(&jid, &turn);
            if going.is_empty() {
                continue;
            }
            if !self.pace.take(self.now_ms) {
                self.ready.entry(jid).or_default().extend(turn);
                break;
            }
            out.push(self.send(&jid, &going));
        }
        out
    }

    /// Those of the minions that have not been heard, and may still be sent the job.
    fn still_going(&mut self, jid: &str, turn: &[MinionNumber]) -> Vec<MinionNumber> {
        let Some(job) = self.book.number(jid) else {
            return Vec::new();
        };
        let now_ms = self.now_ms;
        let mut going = Vec::new();
        for minion in turn {
            let Some((of_job, cell, of)) = self.book.look(job, *minion) else {
                continue;
            };
            if !cell.has(READY) {
                continue;
            }
            let is_held = of.hold.is_some_and(|hold| hold.until_ms > now_ms);
            if !is_held && of_job.expires_ms > now_ms && self.config.may_go(of_job, cell, of) {
                going.push(*minion);
            } else {
                self.book.update(job, *minion, |cell| cell.clear(READY));
                self.rearm(*minion);
            }
        }
        going.sort_unstable();
        going
    }

    fn send(&mut self, jid: &str, going: &[MinionNumber]) -> Again {
        let mut minions = Vec::with_capacity(going.len());
        if let Some(job) = self.book.number(jid) {
            for minion in going {
                self.note_sent(job, *minion);
                let name = self.book.minion(*minion).map(|minion| &minion.name);
                minions.extend(name.map(|name| name.to_string()));
                self.rearm(*minion);
            }
        }
        self.figures.redelivered += minions.len() as u64;
        Again {
            jid: jid.to_owned(),
            minions,
        }
    }

    /// A minion is sent a job again now.
    pub(super) fn note_sent(&mut self, number: JobNumber, minion: MinionNumber) {
        let attempts_max = self.config.attempts_max;
        let (since, is_fresh) = match self.book.look(number, minion) {
            Some((job, cell, _)) => (job.since(self.now_ms), cell.has(FRESH)),
            None => return,
        };
        let count = match self.book.minion_mut(minion) {
            Some(minion) => {
                minion.count = minion.count.wrapping_add(u32::from(is_fresh));
                minion.count
            }
            None => return,
        };
        self.book.update(number, minion, |cell| {
            if cell.attempts >= attempts_max {
                cell.set(KEPT);
            }
            cell.attempts = cell.attempts.saturating_add(1);
            cell.sent = since;
            if is_fresh {
                cell.count = count;
            }
            cell.clear(READY | LIFE | CONNECTION | FRESH | AT_ONCE);
        });
    }
}

/// Takes the first entry that is due.
fn pop_due<T: Ord + Copy>(
    due: &mut std::collections::BTreeSet<(u64, T)>,
    now_ms: u64,
) -> Option<(u64, T)> {
    let first = *due.first().filter(|(at_ms, _)| *at_ms <= now_ms)?;
    due.remove(&first);
    Some(first)
}

//! What shows that a minion hears again, and what has to be known before it is sent anything.
//!
//! ```text
//!             connection opened, start event
//!   (free) ───────────────────────────────────► Hold ──► its report: all that it lists is done, the rest goes
//!     ▲    a minion with a shim, nobody else     │
//!     └──────────────────────────────────────────┴─► 3 s without: after a restart unsafe, else as without a shim
//! ```

use super::{
    Receipt, Redelivery, Report,
    book::{
        AT_ONCE, CONNECTION, FRESH, Hold, JobNumber, LIFE, MISSED, MinionNumber, UNSAFE,
        UNSAFE_COUNTED,
    },
};

/// How long a shim's report is waited for.
const REPORT_MS: u64 = 3_000;

/// How long new connections of anybody may keep a minion waiting in all: where one follows the other, those who have
/// lost nothing but a job have to be served in the end.
const HOLD_MS_MAX: u64 = 60_000;

/// How long a report answers for what is heard of the same start or connection in another way. A minion that is killed by
/// the first job after its report needs longer than this to be back.
const REPORT_FRESH_MS: u64 = 1_000;

/// Receipts of neighbouring jobs may come in another order, or in one event; and a job that was published a moment ago is
/// no missed one.
pub(super) const SETTLE_MS: u64 = 300;

/// A minion that was sent again what it missed, or takes what was held up, needs a while to tell of all of it: Salt starts
/// some ten jobs in a second.
pub(super) const SETTLE_BURST_MS: u64 = 1_000;

impl Redelivery {
    /// A minion sent something else: it lives, although that does not prove that it hears. It may be probed anew.
    pub fn sign_of_life(&mut self, minion: &str, now_ms: u64) {
        self.advance(now_ms);
        let Some(number) = self.book.minion_number(minion) else {
            return;
        };
        if let Some(minion) = self.book.minion_mut(number)
            && minion.probes > 0
        {
            minion.probes = 0;
            self.rearm(number);
        }
    }

    /// The minion told that it has this job: what was published to it before was passed over, if it was not heard. A job
    /// that was sent again at `again_ms` shows the same of all that was published until then.
    pub(super) fn heard(&mut self, number: MinionNumber, job: JobNumber, again_ms: Option<u64>) {
        let now_ms = self.now_ms;
        let Some(minion) = self.book.minion_mut(number) else {
            return;
        };
        minion.probes = 0;
        minion.heard_ms = now_ms;
        let mut found = false;
        for silent in minion.silent.clone() {
            let Some((of_job, cell, _)) = self.book.look(silent, number) else {
                continue;
            };
            let is_before = |again_ms| of_job.sent_ms(cell) <= again_ms;
            if silent < job || again_ms.is_some_and(is_before) {
                self.book.update(silent, number, |cell| cell.set(LIFE));
                found = true;
            }
        }
        if found && let Some(minion) = self.book.minion_mut(number) {
            // As long as it goes on telling of jobs, the rest may be about to come; but not for ever.
            let since_ms = *minion.settling_ms.get_or_insert(now_ms);
            let (settle_ms, most_ms) = match again_ms {
                Some(_) => (SETTLE_BURST_MS, self.config.receipt_timeout_ms),
                None => (SETTLE_MS, 2 * SETTLE_BURST_MS),
            };
            minion.life_ms = Some((now_ms + settle_ms).min(since_ms + most_ms));
        }
        self.rearm(number);
    }

    /// A minion's own start event: `salt/minion/<id>/start`.
    pub fn started(&mut self, minion: &str, now_ms: u64) {
        self.advance(now_ms);
        let Some(number) = self.book.minion_number(minion) else {
            return;
        };
        let Some(minion) = self.book.minion_mut(number) else {
            return;
        };
        minion.probes = 0;
        if !minion.has_shim {
            // It remembers no jid any more: what it did not tell of, it has not taken.
            self.release(number, 0, false);
            return;
        }
        let is_fresh = |at_ms: u64| at_ms.saturating_add(REPORT_FRESH_MS) > now_ms;
        if minion.reported_start_ms.is_some_and(is_fresh) || minion.silent.is_empty() {
            return;
        }
        minion.hold = Some(Hold {
            until_ms: now_ms + REPORT_MS,
            began_ms: now_ms,
            restarted_ms: Some(now_ms),
        });
        self.rearm(number);
    }

    /// Somebody connected to the publish port: whoever is silent may have missed what was published before.
    pub fn connection_opened(&mut self, now_ms: u64) {
        self.advance(now_ms);
        let silent: Vec<MinionNumber> = self.book.silent_minions().collect();
        for number in silent {
            self.connected(number, now_ms);
        }
    }

    fn connected(&mut self, number: MinionNumber, now_ms: u64) {
        let Some(minion) = self.book.minion(number) else {
            return;
        };
        let jobs: Vec<JobNumber> = minion.silent.clone();
        let (mut found, mut first_ms) = (false, u64::MAX);
        for job in jobs {
            let Some((of_job, cell, minion)) = self.book.look(job, number) else {
                continue;
            };
            if minion.gives(of_job.asked_start_event) {
                found = true;
                let mut marked = cell;
                marked.set(CONNECTION);
                let due_ms = self.config.life_ms(of_job, marked, minion);
                first_ms = first_ms.min(due_ms);
                self.book.update(job, number, |cell| cell.set(CONNECTION));
            }
        }
        let Some(minion) = self.book.minion_mut(number).filter(|_| found) else {
            return;
        };
        // It subscribes only once it is connected.
        let due_ms = first_ms.max(now_ms + SETTLE_MS);
        minion.life_ms = Some(minion.life_ms.map_or(due_ms, |life_ms| life_ms.min(due_ms)));
        let is_fresh = |at_ms: u64| at_ms.saturating_add(REPORT_FRESH_MS) > now_ms;
        if minion.has_shim && !minion.reported_ms.is_some_and(is_fresh) {
            let hold = minion.hold.get_or_insert(Hold {
                until_ms: 0,
                began_ms: now_ms,
                restarted_ms: None,
            });
            let latest_ms = hold.began_ms + HOLD_MS_MAX;
            hold.until_ms = hold.until_ms.max((now_ms + REPORT_MS).min(latest_ms));
        }
        self.rearm(number);
    }

    /// A minion's shim reported all that the minion took in the last `covers_ms`; those of `taken` whose receipt is news,
    /// in its order. [`Self::gives_receipts`] is implied.
    pub fn reported<'a>(
        &mut self,
        minion: &str,
        report: Report,
        taken: impl IntoIterator<Item = &'a str>,
        covers_ms: u64,
        now_ms: u64,
    ) -> Vec<(&'a str, Receipt)> {
        self.advance(now_ms);
        self.gives_receipts(minion, super::Source::Shim);
        let mut news = Vec::new();
        for jid in taken {
            let receipt = self.take_receipt(minion, jid, false);
            if receipt != Receipt::Again {
                news.push((jid, receipt));
            }
        }
        let Some(number) = self.book.minion_number(minion) else {
            return news;
        };
        let Some(minion) = self.book.minion_mut(number) else {
            return news;
        };
        minion.probes = 0;
        let was_restarted = minion.hold.is_some_and(|hold| hold.restarted_ms.is_some());
        let known_from_ms = now_ms.saturating_sub(covers_ms);
        let has_begun = match report {
            Report::Other => return news,
            Report::Reconnected => false,
            Report::Started | Report::Hello => true,
        };
        minion.reported_ms = Some(now_ms);
        if has_begun {
            minion.reported_start_ms = Some(now_ms);
        }
        self.release(number, known_from_ms, has_begun || was_restarted);
        news
    }

    /// What the minion is silent about may go now: it is known that it has not taken what was published since
    /// `known_from_ms`. What is older is unsafe if the minion forgot it.
    fn release(&mut self, number: MinionNumber, known_from_ms: u64, has_forgotten: bool) {
        let now_ms = self.now_ms;
        let Some(minion) = self.book.minion_mut(number) else {
            return;
        };
        minion.hold = None;
        minion.life_ms = Some(now_ms);
        minion.settling_ms = None;
        for job in minion.silent.clone() {
            let Some((of_job, cell, minion)) = self.book.look(job, number) else {
                continue;
            };
            let is_known = of_job.at_ms >= known_from_ms;
            let is_old = |ms| of_job.at_ms.saturating_add(ms) <= now_ms;
            // The connection that it went by is closed.
            let is_gone = is_known && is_old(REPORT_MS);
            let was_unheard = cell.has(UNSAFE) && !minion.has_shim;
            if was_unheard || (!is_known && (has_forgotten || cell.has(UNSAFE))) {
                self.mark_unsafe(job, number);
            } else if minion.gives(of_job.asked_start_event) && is_old(SETTLE_MS) {
                self.book.update(job, number, |cell| {
                    cell.clear(UNSAFE);
                    cell.set(LIFE | AT_ONCE | if is_gone { FRESH } else { 0 });
                });
            }
        }
        self.rearm(number);
    }

    /// The shim's report did not come in time.
    pub(super) fn end_hold(&mut self, number: MinionNumber, hold: Hold) {
        let Some(minion) = self.book.minion_mut(number) else {
            return;
        };
        minion.hold = None;
        let Some(restarted_ms) = hold.restarted_ms else {
            return;
        };
        for job in minion.silent.clone() {
            let is_older = self
                .book
                .jobs
                .get(&job)
                .is_some_and(|job| job.at_ms <= restarted_ms);
            if is_older {
                self.mark_unsafe(job, number);
            }
        }
    }

    /// Nobody listened to the minions for a while. A start event is told once: what those without a shim are silent about
    /// they may have taken. A shim tells again.
    pub fn unheard(&mut self, now_ms: u64) {
        self.advance(now_ms);
        let silent: Vec<MinionNumber> = self.book.silent_minions().collect();
        for number in silent {
            let minion = self.book.minion(number).filter(|minion| !minion.has_shim);
            for job in minion
                .map(|minion| minion.silent.clone())
                .unwrap_or_default()
            {
                self.mark_unsafe(job, number);
            }
            self.rearm(number);
        }
    }

    fn mark_unsafe(&mut self, job: JobNumber, number: MinionNumber) {
        self.book.update(job, number, |cell| {
            cell.set(UNSAFE);
            cell.clear(LIFE | CONNECTION | AT_ONCE);
        });
        self.count_unsafe(job, number);
    }

    /// Counts a cell as unsafe once it is missed, too.
    pub(super) fn count_unsafe(&mut self, job: JobNumber, number: MinionNumber) {
        let mut is_new = false;
        self.book.update(job, number, |cell| {
            is_new = cell.has(UNSAFE) && cell.has(MISSED) && !cell.has(UNSAFE_COUNTED);
            if is_new {
                cell.set(UNSAFE_COUNTED);
            }
        });
        self.figures.unsafe_ += u64::from(is_new);
    }
}

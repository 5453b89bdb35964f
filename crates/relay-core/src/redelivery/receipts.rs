//! Receipts and returns: whoever is heard has the job, and shows that it hears.

use super::{
    Policy, Receipt, Redelivery,
    book::{COUNTED, Cell, Job, JobNumber, MinionNumber},
};

impl Redelivery {
    /// A minion told that it took a job: by its shim's receipt or by a start event. Call [`Self::gives_receipts`], too.
    pub fn received(&mut self, minion: &str, jid: &str, now_ms: u64) -> Receipt {
        self.advance(now_ms);
        self.take_receipt(minion, jid, true)
    }

    pub(super) fn take_receipt(&mut self, minion: &str, jid: &str, shows_life: bool) -> Receipt {
        let numbers = self.book.number(jid).zip(self.book.minion_number(minion));
        let Some((job, number)) = numbers else {
            return self.keep_early(minion, jid);
        };
        let Some((of_job, cell, _)) = self.book.look(job, number) else {
            let is_done = |job: &Job| job.done.contains(&number) || job.is_closed;
            return match self.book.jobs.get(&job).is_some_and(is_done) {
                true => Receipt::Again,
                false => self.keep_early(minion, jid),
            };
        };
        let first_ms = if cell.attempts == 0 {
            of_job.sent_ms(cell)
        } else {
            of_job.at_ms
        };
        let after_ms = self.now_ms.saturating_sub(first_ms);
        self.delays.add(after_ms);
        self.figures.expected += u64::from(!cell.has(COUNTED));
        self.figures.received += 1;
        self.finish(job, number, cell, shows_life);
        Receipt::First { after_ms }
    }

    fn keep_early(&mut self, minion: &str, jid: &str) -> Receipt {
        if self.early.keep(jid, minion, self.config.early_max) {
            Receipt::Unknown
        } else {
            Receipt::Again
        }
    }

    /// A minion returned.
    pub fn returned(&mut self, minion: &str, jid: &str, now_ms: u64) {
        self.advance(now_ms);
        let numbers = self.book.number(jid).zip(self.book.minion_number(minion));
        let Some((job, number)) = numbers else {
            self.keep_early(minion, jid);
            return;
        };
        match self.book.look(job, number) {
            Some((_, cell, _)) => {
                self.figures.received += u64::from(cell.has(COUNTED));
                self.finish(job, number, cell, true);
            }
            None => {
                self.book.done(job, number);
                self.book.bound_heard(self.config.cells_max);
            }
        }
    }

    /// A minion has the job.
    fn finish(&mut self, job: JobNumber, number: MinionNumber, cell: Cell, shows_life: bool) {
        let again_ms = self.book.jobs.get(&job).map(|job| job.sent_ms(cell));
        let again_ms = again_ms.filter(|_| cell.attempts > 0);
        if let Some(job) = self.book.jobs.get_mut(&job) {
            job.word_ms = self.now_ms;
        }
        self.answers.note(self.now_ms);
        self.book.done(job, number);
        self.book.bound_heard(self.config.cells_max);
        self.forget_if_heard(job);
        if shows_life {
            self.heard(number, job, again_ms);
        } else {
            self.rearm(number);
        }
    }

    /// Every minion has it: its load is not needed any more.
    fn forget_if_heard(&mut self, number: JobNumber) {
        let job = self.book.jobs.get(&number);
        if let Some(job) = job.filter(|job| job.cells.is_empty() && job.policy == Policy::Safe) {
            self.forgotten.push(job.jid.to_string());
        }
    }
}

//! What an operator has sent again: to everybody who is not known to have it.

use std::collections::HashSet;

use super::{
    Policy, Redelivery, Sent,
    book::{Job, JobNumber},
};

impl Redelivery {
    /// An operator wants these minions to have the job again: those that may be sent it, in the same order. Only the
    /// ones that are known to have it are left out. The caller sends it; the job lives on until `expires_ms`.
    pub fn by_hand<'a>(
        &mut self,
        jid: &str,
        minions: &[&'a str],
        now_ms: u64,
        expires_ms: u64,
    ) -> Vec<&'a str> {
        let sent = Sent {
            jid,
            // What is not known of it cannot be safe.
            policy: Policy::Never,
            asked_start_event: false,
            now_ms,
            expires_ms,
        };
        self.advance(now_ms);
        let known = self.book.number(jid);
        let number = known.unwrap_or_else(|| self.book.add_job(Job::new(&sent)));
        if let Some(job) = self.book.jobs.get_mut(&number) {
            job.expires_ms = job.expires_ms.max(expires_ms);
        }
        self.expiries.insert((expires_ms, number));
        let mut going = Vec::new();
        for name in minions {
            if self.may_be_sent_by_hand(number, jid, name) {
                going.push(*name);
            }
        }
        self.make_room();
        going
    }

    fn may_be_sent_by_hand(&mut self, number: JobNumber, jid: &str, name: &str) -> bool {
        let is_early = |early: &HashSet<Box<str>>| early.contains(name);
        if self.early.of(jid).is_some_and(is_early) {
            return false;
        }
        let Some(minion) = self.book.number_minion(name, self.config.minions_max) else {
            return true;
        };
        let is_done = |job: &Job| job.done.contains(&minion);
        if self.book.jobs.get(&number).is_some_and(is_done) {
            return false;
        }
        if self.book.add_cell(number, minion, self.now_ms) == Some(true) {
            self.figures.expected += 1;
        }
        self.note_sent(number, minion);
        self.rearm(minion);
        true
    }
}

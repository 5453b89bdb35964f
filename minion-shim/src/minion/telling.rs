//! What a minion's masters are told: receipts, what happened, and returns once more.

use salt_wire::ids::Jid;
use salt_wire::saltway::{Happened, MinionEvent, MinionState, MinionWord, Receipt};

use super::{Minion, UNANSWERED_MS};
use crate::bus::BusError;
use crate::files;
use crate::frames::{self, OWN};
use crate::log::{debug, warning};

impl Minion {
    pub(super) fn report(&mut self, what: Happened, now: u64) {
        for (_, report) in &mut self.masters {
            report.ask(what, now);
        }
        if self.masters.is_empty() {
            self.unanswered = UNANSWERED_MS.map(|pause| (now + pause, what)).to_vec();
        }
    }

    /// Masters did not take the returns of these jobs.
    pub(super) fn undelivered(&mut self, jids: &[Jid], now: u64) {
        let id = &self.place.id;
        for jid in jids {
            warning!(
                "the master did not take the return of jid={jid} minion={id}; it is sent again"
            );
        }
        if !jids.is_empty() {
            self.report(Happened::Undelivered, now);
        }
    }

    pub(super) fn send_receipt(&mut self, now: u64) -> Result<(), BusError> {
        if self.jobs.next_due().is_none_or(|due| due > now) {
            return Ok(());
        }
        let proc_dir = self.place.cachedir.join("proc");
        let own: Vec<Jid> = self
            .jobs
            .untold()
            .filter(|jid| files::is_own_job(&proc_dir, jid))
            .cloned()
            .collect();
        for jid in own {
            self.jobs.not_the_masters(&jid);
        }
        let Some(jobs) = self.jobs.receipt(now) else {
            return Ok(());
        };
        debug!(
            "receipt of minion={} for jobs={}",
            self.place.id,
            jobs.len()
        );
        let run = self.shared.run.clone();
        self.fire(MinionWord::Receipt(Receipt { run, jobs }))
    }

    pub(super) fn send_reports(&mut self, now: u64) -> Result<(), BusError> {
        while let Some(&(_, what)) = self.unanswered.first().filter(|(due, _)| *due <= now) {
            self.unanswered.remove(0);
            if self.masters.is_empty() {
                let state = self.state(what, now);
                self.fire(state)?;
            }
        }
        // A minion that is not connected would only log an error for each attempt.
        let masters = if self.cut { 0 } else { self.masters.len() };
        for at in 0..masters {
            let request = self.request_id();
            let Some((master, report)) = self.masters.get_mut(at) else {
                continue;
            };
            let Some(what) = report.send(&request, now) else {
                continue;
            };
            let master = master.clone();
            let state = self.state(what, now);
            let event = self.event(state);
            debug!("report of minion={} what={}", self.place.id, what.as_str());
            self.write(|framing| frames::ask(&event, &request, &master, framing))?;
        }
        Ok(())
    }

    pub(super) fn send_returns(&mut self, now: u64) -> Result<(), BusError> {
        let lost = self.returns.tick(now);
        self.undelivered(&lost, now);
        if self.cut {
            self.returns.postpone(now);
        }
        let Some(again) = self.returns.next_again(now) else {
            return Ok(());
        };
        let (jid, master) = (again.jid.clone(), again.master.to_owned());
        let kept = again.data.map(<[u8]>::to_vec);
        let load = kept.or_else(|| files::kept_return(&self.place.cachedir, &jid, &self.place.id));
        let Some(load) = load else {
            warning!(
                "the return of jid={jid} is lost: no copy of it was kept minion={}; see cache_jobs",
                self.place.id
            );
            self.returns.cannot_send(now);
            return Ok(());
        };
        let request = self.request_id();
        self.write(|framing| frames::raw_request(&load, &request, &master, framing))?;
        self.returns.sent_again(request, now);
        Ok(())
    }

    pub(super) fn state(&mut self, what: Happened, now: u64) -> MinionWord {
        let (taken, covers_ms) = self.jobs.taken(now);
        MinionWord::State(MinionState {
            run: self.shared.run.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            what,
            covers_ms,
            taken,
            undelivered: self.returns.undelivered(),
        })
    }

    pub(super) fn event(&self, what: MinionWord) -> MinionEvent {
        MinionEvent {
            id: self.place.id.clone(),
            what,
        }
    }

    pub(super) fn fire(&mut self, what: MinionWord) -> Result<(), BusError> {
        let event = self.event(what);
        self.write(|framing| frames::fire(&event, framing))
    }

    pub(super) fn request_id(&mut self) -> String {
        self.requests += 1;
        format!("{OWN}{}-{}-{}", self.shared.run, self.number, self.requests)
    }
}

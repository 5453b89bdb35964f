//! What a minion's event bus tells: requests of its processes, answers to them, and the probe.

use salt_wire::bus::{Field, Skimmed, Wanted};
use salt_wire::ids::Jid;
use salt_wire::saltway::Happened;

use super::{MASTERS_MAX, Minion};
use crate::bus::{CMD, ERROR, JID, RET};
use crate::frames::{ANSWER, OWN, REQUEST};
use crate::log::{debug, info};
use crate::probe::Probe;
use crate::report::Report;
use crate::returns::{Answered, Room};

impl Minion {
    /// Reads what its bus tells.
    pub(crate) fn read(&mut self, buffer: &mut [u8], room: &Room, now: u64) {
        let Some(bus) = &mut self.bus else { return };
        let mut found = Vec::new();
        let copies = if self.place.cache_jobs {
            0
        } else {
            room.left()
        };
        let probes = bus.probe.known().is_none();
        let mut wanted = |tag: &str| match tag {
            _ if tag.starts_with(ANSWER) => Wanted::Fields,
            _ if !tag.starts_with(REQUEST) => {
                if probes && Probe::is_tag(tag) {
                    Wanted::Fields
                } else {
                    Wanted::Skip
                }
            }
            _ if tag
                .get(REQUEST.len()..)
                .is_some_and(|rest| rest.starts_with(OWN)) =>
            {
                Wanted::Skip
            }
            _ => Wanted::Copy(copies),
        };
        let read = bus
            .events
            .read(buffer, &mut wanted, &mut |event| found.push(event));
        for event in found {
            self.heard(event, now);
        }
        if let Err(err) = read {
            self.leave(&err, now);
        }
    }

    pub(super) fn heard(&mut self, event: Skimmed, now: u64) {
        if let Some(rest) = event.tag.strip_prefix(REQUEST) {
            if let Some((request, master)) = rest.split_once('/') {
                let (request, master) = (request.to_owned(), master.to_owned());
                self.requested(&request, &master, event, now);
            }
        } else if let Some(request) = event.tag.strip_prefix(ANSWER) {
            let error = event.fields.get(ERROR).and_then(Option::as_ref);
            let failed = !matches!(error, None | Some(Field::Nil | Field::Bool(false)));
            let good = !failed && event.fields.get(RET).is_some_and(Option::is_some);
            self.answered(request, good, now);
        } else if let Some(bus) = &mut self.bus
            && bus.probe.heard(&event.tag)
        {
            self.join(now);
        }
    }

    /// A process of the minion's sends a request.
    pub(super) fn requested(&mut self, request: &str, master: &str, event: Skimmed, now: u64) {
        if !self.masters.iter().any(|(known, _)| known == master)
            && self.masters.len() < MASTERS_MAX
        {
            let mut report = Report::default();
            report.ask(Happened::Hello, now);
            self.masters.push((master.to_owned(), report));
        }
        if event.text(CMD) != Some("_return") {
            return;
        }
        if let Some(jid) = event.text(JID).and_then(|jid| Jid::parse(jid).ok()) {
            self.jobs.returning(&jid, now);
            self.returns.sent(request, master, jid, event.copy, now);
        }
    }

    /// A request was answered.
    pub(super) fn answered(&mut self, request: &str, good: bool, now: u64) {
        let id = &self.place.id;
        for (master, report) in &mut self.masters {
            if report.answered(request, good) {
                debug!("master={master} took the report of minion={id}");
                // The minion is connected now, if it was not before.
                self.next_connection = now;
                self.returns.master_is_there(now);
                return;
            }
        }
        match self.returns.answered(request, good, now) {
            Some(Answered::Delivered(jid)) => {
                if request.starts_with(OWN) {
                    info!(
                        "delivered the return of jid={jid} that the master had not taken minion={id}"
                    );
                }
                self.jobs.returned(&jid, now);
            }
            Some(Answered::Undelivered(jid)) => self.undelivered(&[jid], now),
            Some(Answered::StillUndelivered) => {
                debug!("the master still takes no returns minion={id}")
            }
            None => {
                if good && !request.starts_with(OWN) {
                    self.returns.master_is_there(now);
                }
            }
        }
    }
}

//! The life of the connection to a minion's event bus.
//!
//! ```text
//! away ──socket there──► connected ──the probe comes back──► joined ──closed, nonsense──► away
//! ```

use bytes::Bytes;
use rustix::event::epoll;
use salt_wire::bus::{EncodeError, Framing};
use salt_wire::saltway::Happened;

use super::{Bus, CONNECT_MS, LOOK_MS, Minion};
use crate::bus::{BusError, Events, Inbox};
use crate::frames;
use crate::log::{debug, info, warning};
use crate::probe::Probe;
use crate::process::Process;
use crate::run::Poll;

impl Minion {
    pub(super) fn connect(&mut self, poll: &Poll, now: u64) {
        self.next_connect = now + self.connect_pause;
        self.connect_pause = (self.connect_pause * 2).min(LOOK_MS);
        let events = match Events::connect(&self.place.events) {
            Ok(events) => events,
            Err(err) => {
                debug!("no event bus of minion={} yet: {err}", self.place.id);
                return;
            }
        };
        if let Err(err) = poll.add(&events, self.number, epoll::EventFlags::IN) {
            warning!(
                "cannot wait for the event bus of minion={}: {err}",
                self.place.id
            );
            return;
        }
        let process = events.maker().and_then(Process::of);
        let run = format!("{}-{}", self.shared.run, self.requests);
        self.requests += 1;
        self.bus = Some(Bus {
            events,
            inbox: None,
            probe: Probe::new(&run, self.framing),
            process,
        });
    }

    /// Tries a framing, if that is due.
    pub(super) fn probe(&mut self, now: u64) -> Result<(), BusError> {
        let Some(bus) = &mut self.bus else {
            return Ok(());
        };
        let told = bus.events.framing();
        if let Some((framing, tag)) = bus.probe.attempt(told, now) {
            let mut inbox = Inbox::connect(&self.place.inbox)?;
            if let Ok(frame) = frames::probe(&tag, framing) {
                inbox.write(&frame)?;
            }
            bus.inbox = Some(inbox);
        }
        Ok(())
    }

    /// The framing is known: events can be sent.
    pub(super) fn join(&mut self, now: u64) {
        let Some(bus) = &mut self.bus else { return };
        self.framing = bus.probe.known();
        self.connect_pause = CONNECT_MS;
        // The last attempt may have been in the other framing, and its connection is spoilt then.
        bus.inbox = match Inbox::connect(&self.place.inbox) {
            Ok(inbox) => Some(inbox),
            Err(err) => return self.leave(&err.into(), now),
        };
        let process = bus.process;
        info!("joined the event bus of minion={}", self.place.id);
        let began_after_us = process.is_some_and(|process| process.began_ms() > self.shared.began);
        let what = match (self.greeted, process == self.process) {
            (false, _) if !began_after_us => Some(Happened::Hello),
            (true, true) => None,
            (_, _) => Some(Happened::Started),
        };
        self.greeted = true;
        if process != self.process {
            // Where the bus broke off its process may still have been there, dying. What is undelivered is in the report.
            let lost = self.returns.minion_ended(now);
            self.undelivered(&lost, now);
        }
        self.process = process;
        if what.is_some() {
            self.connection = None;
            self.cut = false;
        }
        self.next_connection = now;
        for (_, report) in &mut self.masters {
            report.begin_again(now);
        }
        if let Some(what) = what {
            self.report(what, now);
        }
    }

    pub(super) fn leave(&mut self, err: &BusError, now: u64) {
        info!("left the event bus of minion={}: {err}", self.place.id);
        let process = self.bus.take().and_then(|bus| bus.process);
        self.next_connect = now + self.connect_pause;
        self.connect_pause = (self.connect_pause * 2).min(LOOK_MS);
        let lives = process.is_some_and(|process| Process::of(process.pid) == Some(process));
        if !lives {
            let lost = self.returns.minion_ended(now);
            self.undelivered(&lost, now);
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), BusError> {
        match self.bus.as_mut().and_then(|bus| bus.inbox.as_mut()) {
            Some(inbox) => inbox.flush().map(drop),
            None => Ok(()),
        }
    }

    pub(super) fn write(
        &mut self,
        frame: impl FnOnce(Framing) -> Result<Bytes, EncodeError>,
    ) -> Result<(), BusError> {
        let Some(framing) = self.framing() else {
            return Ok(());
        };
        let Some(inbox) = self.bus.as_mut().and_then(|bus| bus.inbox.as_mut()) else {
            return Ok(());
        };
        match frame(framing) {
            Ok(frame) => {
                if !inbox.write(&frame)? {
                    warning!(
                        "minion={} reads nothing: an event is dropped",
                        self.place.id
                    );
                }
            }
            Err(err) => warning!("an event cannot be written: {err} minion={}", self.place.id),
        }
        Ok(())
    }

    pub(super) fn framing(&self) -> Option<Framing> {
        self.bus.as_ref()?.probe.known()
    }
}

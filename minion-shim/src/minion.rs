//! One minion: its jobs, its returns, its event bus, and what its masters are told of them.
//!
//! ```text
//! proc, job_queue ──come, go──► Jobs ──receipts──► fire_master ──────┐
//! events ──returns, answers──► Returns ──once more──► request ───────┼──► inbox ──► the minion ──► its master
//!        └─its own process, its connection──► Report ──► request ────┘
//! ```
//! - Everything is told through the minion, with its own session: there is no key here and no connection to a master.
//! - Nothing waits: what is due later is in [`Minion::next_due`], and [`Minion::tick`] does what is due.

use std::fs;
use std::rc::Rc;

use rustix::event::epoll;
use salt_wire::bus::{Field, Framing, Skimmed, Wanted};
use salt_wire::ids::Jid;
use salt_wire::saltway::{Happened, MinionEvent, MinionState, MinionWord, Receipt};

use crate::bus::{BusError, CMD, ERROR, Events, Inbox, JID, RET};
use crate::files;
use crate::frames::{self, ANSWER, OWN, REQUEST};
use crate::jobs::Jobs;
use crate::log::{debug, info, warning};
use crate::plan::Place;
use crate::probe::Probe;
use crate::process::{Connection, Process};
use crate::report::Report;
use crate::returns::{Answered, Returns, Room};
use crate::run::{Poll, Shared};
use crate::watch::{Dir, Watches};

/// A directory or socket that is not there is looked for this often, besides being waited for.
const LOOK_MS: u64 = 5_000;

/// Pause between looks at the minion's connection: one system call each.
const CONNECTION_MS: u64 = 5_000;

/// The same while it has none, doubled up to [`NO_CONNECTION_MAX_MS`]: such a look reads the host's table of connections.
const NO_CONNECTION_MS: u64 = 500;

const NO_CONNECTION_MAX_MS: u64 = 60_000;

/// Pause between attempts to reach a bus whose sockets are there, doubled up to [`LOOK_MS`].
const CONNECT_MS: u64 = 100;

/// What waits for a minion that does not read is tried again this often.
const FLUSH_MS: u64 = 50;

/// Most masters of one minion.
const MASTERS_MAX: usize = 8;

/// Where no master is known by name, the first report goes out without an answer, at these times after the bus was joined.
const UNANSWERED_MS: [u64; 3] = [0, 2_000, 8_000];

/// The connection to the minion's event bus.
#[derive(Debug)]
struct Bus {
    events: Events,
    inbox: Option<Inbox>,
    probe: Probe,
    process: Option<Process>,
}

/// One minion of this host.
#[derive(Debug)]
pub(crate) struct Minion {
    number: usize,
    place: Place,
    shared: Rc<Shared>,
    jobs: Jobs,
    returns: Returns,
    masters: Vec<(String, Report)>,
    bus: Option<Bus>,
    /// What the last bus took, and whose it was.
    framing: Option<Framing>,
    process: Option<Process>,
    greeted: bool,
    unanswered: Vec<(u64, Happened)>,
    connection: Option<Connection>,
    next_connection: u64,
    connection_pause: u64,
    next_connect: u64,
    connect_pause: u64,
    next_look: Option<u64>,
    requests: u64,
}

impl Minion {
    pub(crate) fn new(
        number: usize,
        place: Place,
        shared: Rc<Shared>,
        room: Room,
        now: u64,
    ) -> Self {
        let masters = place.masters.iter().take(MASTERS_MAX);
        Self {
            number,
            shared,
            jobs: Jobs::new(now),
            returns: Returns::new(room),
            masters: masters
                .map(|master| (master.clone(), Report::default()))
                .collect(),
            bus: None,
            framing: None,
            process: None,
            greeted: false,
            unanswered: Vec::new(),
            connection: None,
            next_connection: now,
            connection_pause: NO_CONNECTION_MS,
            next_connect: now,
            connect_pause: CONNECT_MS,
            next_look: Some(now),
            requests: 0,
            place,
        }
    }

    /// Where it is.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// When [`Self::tick`] has something to do.
    pub(crate) fn next_due(&self) -> u64 {
        let mut due = vec![self.next_look];
        match &self.bus {
            None => due.push(Some(self.next_connect)),
            Some(bus) => {
                due.push(bus.probe.next_due());
                if bus.probe.known().is_some() {
                    due.push(Some(self.next_connection));
                    due.push(self.jobs.next_due());
                    due.push(self.returns.next_due());
                    due.push(self.unanswered.first().map(|(due, _)| *due));
                    due.extend(self.masters.iter().map(|(_, report)| report.next_due()));
                }
                if bus.inbox.as_ref().is_some_and(Inbox::waits) {
                    due.push(Some(self.shared.now() + FLUSH_MS));
                }
            }
        }
        due.into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, watches: &mut Watches, poll: &Poll, now: u64) {
        if self.next_look.is_some_and(|due| due <= now) {
            self.look(watches, now);
        }
        if self.bus.is_none() && self.next_connect <= now {
            self.connect(poll, now);
        }
        let done = self.probe(now).and_then(|()| {
            if self.framing().is_none() {
                return Ok(());
            }
            self.flush()?;
            self.look_at_connection(now);
            self.send_receipt(now)?;
            self.send_reports(now)?;
            self.send_returns(now)
        });
        if let Err(err) = done {
            self.leave(&err, now);
        }
    }

    /// A file came into a directory.
    pub(crate) fn came(&mut self, dir: Dir, name: &str, now: u64) {
        let job = match dir {
            Dir::Jobs => files::job_of(name),
            Dir::Queue => files::queued_job_of(name),
            Dir::Sockets => {
                let ours = self
                    .place
                    .events
                    .file_name()
                    .is_some_and(|events| events == name);
                if ours && self.bus.is_none() {
                    // The minion made the socket just now and listens in a moment.
                    self.next_connect = now;
                    self.connect_pause = CONNECT_MS;
                }
                None
            }
            Dir::Cache | Dir::Proxies => {
                // A directory's name, as far as can be told.
                if !name.contains('.') {
                    self.next_look = Some(now);
                }
                None
            }
        };
        if let Some(jid) = job {
            self.jobs.take(jid, now);
        }
    }

    /// A file went from a directory.
    pub(crate) fn went(&mut self, dir: Dir, name: &str, now: u64) {
        if dir == Dir::Jobs
            && let Some(jid) = files::job_of(name)
        {
            self.jobs.finished(&jid, now);
        }
    }

    /// A directory is no more, or changes were lost: everything is looked at again.
    pub(crate) fn vanished(&mut self, dir: Option<Dir>, now: u64) {
        if matches!(dir, None | Some(Dir::Jobs | Dir::Queue)) {
            self.jobs.missed_until(now);
        }
        if dir.is_none() {
            self.list_jobs(now);
        }
        self.next_look = Some(now);
    }

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

    fn heard(&mut self, event: Skimmed, now: u64) {
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
    fn requested(&mut self, request: &str, master: &str, event: Skimmed, now: u64) {
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
    fn answered(&mut self, request: &str, good: bool, now: u64) {
        let id = &self.place.id;
        for (master, report) in &mut self.masters {
            if report.answered(request, good) {
                debug!("master={master} took the report of minion={id}");
                // The minion is connected now, if it was not before.
                self.next_connection = now;
                self.connection_pause = NO_CONNECTION_MS;
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
                self.jobs.returned(&jid);
            }
            Some(Answered::Undelivered(jid)) => {
                warning!(
                    "the master did not take the return of jid={jid} minion={id}; it is sent again"
                );
                self.report(Happened::Undelivered, now);
            }
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

    fn connect(&mut self, poll: &Poll, now: u64) {
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
    fn probe(&mut self, now: u64) -> Result<(), BusError> {
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
    fn join(&mut self, now: u64) {
        let Some(bus) = &mut self.bus else { return };
        let framing = bus.probe.known();
        let tried = framing != self.framing || bus.inbox.is_none();
        self.framing = framing;
        self.connect_pause = CONNECT_MS;
        // The last attempt may have been in the other framing, and its connection is spoilt then.
        if tried && let Ok(inbox) = Inbox::connect(&self.place.inbox) {
            bus.inbox = Some(inbox);
        }
        let process = bus.process;
        info!("joined the event bus of minion={}", self.place.id);
        let began_after_us = process.is_some_and(|process| process.began_ms() > self.shared.began);
        let what = match (self.greeted, process == self.process) {
            (false, _) if !began_after_us => Some(Happened::Hello),
            (true, true) => None,
            (_, _) => Some(Happened::Started),
        };
        self.greeted = true;
        self.process = process;
        if what.is_some() {
            self.connection = None;
        }
        self.next_connection = now;
        for (_, report) in &mut self.masters {
            report.begin_again(now);
        }
        if let Some(what) = what {
            self.report(what, now);
        }
    }

    fn leave(&mut self, err: &BusError, now: u64) {
        info!("left the event bus of minion={}: {err}", self.place.id);
        let process = self.bus.take().and_then(|bus| bus.process);
        self.next_connect = now + self.connect_pause;
        self.connect_pause = (self.connect_pause * 2).min(LOOK_MS);
        let lives = process.is_some_and(|process| Process::of(process.pid) == Some(process));
        if !lives && self.returns.minion_ended(now) {
            self.report(Happened::Undelivered, now);
        }
    }

    fn report(&mut self, what: Happened, now: u64) {
        for (_, report) in &mut self.masters {
            report.ask(what, now);
        }
        if self.masters.is_empty() {
            self.unanswered = UNANSWERED_MS.map(|pause| (now + pause, what)).to_vec();
        }
    }

    /// Looks for the directories, and for the jobs in those that are new.
    fn look(&mut self, watches: &mut Watches, now: u64) {
        let (number, cachedir) = (self.number, &self.place.cachedir);
        let (queues, parents) = files::queues(cachedir);
        let jobs = watches.add(&cachedir.join("proc"), number, Dir::Jobs);
        let cache = watches.add(cachedir, number, Dir::Cache);
        let sockets = watches.add(&self.place.sock_dir, number, Dir::Sockets);
        for parent in parents {
            // What is missing is made when a job has to wait, in a directory that is watched already.
            watches.add(&parent, number, Dir::Cache).ok();
        }
        let queues = queues
            .iter()
            .map(|queue| watches.add(queue, number, Dir::Queue));
        let new_queue = queues.fold(false, |new, added| new | matches!(added, Ok(true)));
        self.next_look = [jobs.err(), cache.err(), sockets.err()]
            .iter()
            .any(Option::is_some)
            .then_some(now + LOOK_MS);
        if matches!(jobs, Ok(true)) {
            self.jobs.missed_until(now);
        }
        if new_queue || matches!(jobs, Ok(true)) {
            self.list_jobs(now);
        }
    }

    fn list_jobs(&mut self, now: u64) {
        let mut found = files::jobs_in(&self.place.cachedir.join("proc"), files::job_of);
        let (queues, _) = files::queues(&self.place.cachedir);
        for queue in queues {
            found.extend(files::jobs_in(&queue, files::queued_job_of));
        }
        for (jid, age) in found {
            self.jobs.take(jid, now.saturating_sub(age));
        }
    }

    fn look_at_connection(&mut self, now: u64) {
        if self.next_connection > now {
            return;
        }
        self.next_connection = now + CONNECTION_MS;
        if self.connection.as_ref().is_some_and(Connection::is_there) {
            return;
        }
        let Some(process) = self.process else { return };
        self.next_connection = now + self.connection_pause;
        self.connection_pause = (self.connection_pause * 2).min(NO_CONNECTION_MAX_MS);
        let found = Connection::find(process.pid, self.place.publish_port);
        let Some(found) = found else { return };
        self.next_connection = now + CONNECTION_MS;
        self.connection_pause = NO_CONNECTION_MS;
        debug!(
            "knows the connection of minion={} to its master: {found:?}",
            self.place.id
        );
        if self.connection.replace(found).is_some() {
            info!(
                "minion={} has a new connection to its master",
                self.place.id
            );
            self.report(Happened::Reconnected, now);
        }
    }

    fn send_receipt(&mut self, now: u64) -> Result<(), BusError> {
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

    fn send_reports(&mut self, now: u64) -> Result<(), BusError> {
        while let Some(&(_, what)) = self.unanswered.first().filter(|(due, _)| *due <= now) {
            self.unanswered.remove(0);
            if self.masters.is_empty() {
                let state = self.state(what, now);
                self.fire(state)?;
            }
        }
        for at in 0..self.masters.len() {
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

    fn send_returns(&mut self, now: u64) -> Result<(), BusError> {
        if self.returns.tick(now) {
            self.report(Happened::Undelivered, now);
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

    fn state(&mut self, what: Happened, now: u64) -> MinionWord {
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

    fn event(&self, what: MinionWord) -> MinionEvent {
        MinionEvent {
            id: self.place.id.clone(),
            what,
        }
    }

    fn fire(&mut self, what: MinionWord) -> Result<(), BusError> {
        let event = self.event(what);
        self.write(|framing| frames::fire(&event, framing))
    }

    fn write(
        &mut self,
        frame: impl FnOnce(Framing) -> Result<bytes::Bytes, salt_wire::bus::EncodeError>,
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

    fn flush(&mut self) -> Result<(), BusError> {
        match self.bus.as_mut().and_then(|bus| bus.inbox.as_mut()) {
            Some(inbox) => inbox.flush().map(drop),
            None => Ok(()),
        }
    }

    fn framing(&self) -> Option<Framing> {
        self.bus.as_ref()?.probe.known()
    }

    fn request_id(&mut self) -> String {
        self.requests += 1;
        format!("{OWN}{}-{}-{}", self.shared.run, self.number, self.requests)
    }
}

/// Whether a place can be a minion's at all: its sockets or its cache are there.
pub(crate) fn is_there(place: &Place) -> bool {
    fs::symlink_metadata(&place.cachedir).is_ok() || fs::symlink_metadata(&place.events).is_ok()
}

//! One minion: its jobs, its returns, its event bus, and what its masters are told of them.
//!
//! ```text
//! proc, job_queue ──come, go──► Jobs ──receipts──► fire_master ──────┐
//! events ──returns, answers──► Returns ──once more──► request ───────┼──► inbox ──► the minion ──► its master
//!        └─its own process, its connection──► Report ──► request ────┘
//! ```
//! - Everything is told through the minion, with its own session: there is no key here and no connection to a master.
//! - Nothing waits: what is due later is in [`Minion::next_due`], and [`Minion::tick`] does what is due.

mod bus;
mod hearing;
mod telling;

use std::fs;
use std::rc::Rc;

use salt_wire::bus::Framing;
use salt_wire::saltway::Happened;

use crate::bus::{Events, Inbox};
use crate::files;
use crate::jobs::Jobs;
use crate::log::{debug, info};
use crate::plan::Place;
use crate::probe::Probe;
use crate::process::{Connection, Process};
use crate::report::Report;
use crate::returns::{Returns, Room};
use crate::run::{Poll, Shared};
use crate::watch::{Dir, Watches};

/// A directory or socket that is not there is looked for this often, besides being waited for.
const LOOK_MS: u64 = 5_000;

/// Pause between looks at the minion's connection: one system call each. A lower master waits three seconds for the report of a
/// minion that connected anew before it sends what was missed.
const CONNECTION_MS: u64 = 1_000;

/// More of it for each minion before this one, so that a thousand proxies cost as much as a hundred.
const CONNECTION_MORE_MS: u64 = 10;

/// While there is no connection a look reads the host's table of connections: pauses for each millisecond that it took.
const SEARCH_PAUSES: u64 = 1_000;

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
    /// It had a connection to its master and has none now.
    cut: bool,
    next_connection: u64,
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
            cut: false,
            next_connection: now,
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
                    if !self.cut {
                        due.extend(self.masters.iter().map(|(_, report)| report.next_due()));
                    }
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
        let pause = CONNECTION_MS + CONNECTION_MORE_MS * self.number as u64;
        self.next_connection = now + pause;
        if self.connection.as_ref().is_some_and(Connection::is_there) {
            return;
        }
        let Some(process) = self.process else { return };
        let found = Connection::find(process.pid, self.place.publish_port);
        let Some(found) = found else {
            let took = self.shared.now().saturating_sub(now);
            self.next_connection += SEARCH_PAUSES * took;
            self.cut = self.connection.is_some();
            return;
        };
        self.cut = false;
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
}

/// Whether a place can be a minion's at all: its sockets or its cache are there.
pub(crate) fn is_there(place: &Place) -> bool {
    fs::symlink_metadata(&place.cachedir).is_ok() || fs::symlink_metadata(&place.events).is_ok()
}

//! The one thread: waits for files, events and times, and gives each to its minion.
//!
//! Ended by any signal, at once: nothing is held that must be written. With nothing to do it sleeps until the next look at a
//! minion's connection.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use anyhow::Context;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::log::{info, warning};
use crate::minion::{self, Minion};
use crate::plan::Plan;
use crate::returns::Room;
use crate::watch::{Change, Dir, Watches};

/// One buffer for all that is read; a minion's events have a few hundred bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// The number of the changes in directories among what is waited for; minions count from 0.
const WATCHES: u64 = u64::MAX;

/// In place of a minion's number where proxies may appear.
const NOBODY: usize = usize::MAX;

/// What all minions share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Names this process.
    pub(crate) run: String,
    /// When it began.
    pub(crate) began: u64,
}

impl Shared {
    /// Milliseconds since the host started, as processes count theirs.
    pub(crate) fn now(&self) -> u64 {
        now()
    }
}

/// What is waited for.
#[derive(Debug)]
pub(crate) struct Poll(OwnedFd);

impl Poll {
    pub(crate) fn add(
        &self,
        source: &impl AsFd,
        number: usize,
        flags: EventFlags,
    ) -> Result<(), Errno> {
        epoll::add(&self.0, source, EventData::new_u64(number as u64), flags)
    }
}

/// Watches the minions of this host until the process is ended.
///
/// # Errors
/// When the system refuses what it needs, or the configuration holds mistakes.
pub fn run(plan: &Plan) -> anyhow::Result<Infallible> {
    let poll =
        Poll(epoll::create(CreateFlags::CLOEXEC).context("failed to wait for events (epoll)")?);
    let mut watches = Watches::new()
        .context("failed to watch directories (inotify); raise fs.inotify.max_user_instances")?;
    epoll::add(
        &poll.0,
        &watches,
        EventData::new_u64(WATCHES),
        EventFlags::IN,
    )
    .context("failed to wait for files")?;
    let began = now();
    let shared = Rc::new(Shared {
        run: format!("{:x}-{began:x}", std::process::id()),
        began,
    });
    let mut host = Host {
        minions: Vec::new(),
        room: Room::default(),
        shared,
    };
    for dir in plan.proxy_dirs() {
        // A host without proxies has no such directory; one that gets its first proxy needs a restart then.
        if let Err(err) = watches.add(&dir, NOBODY, Dir::Proxies) {
            warning!(
                "proxies that appear in {} are not seen: {err}",
                dir.display()
            );
        }
    }
    host.find(plan, began)?;
    info!(
        "watching minions={} version={}",
        host.minions.len(),
        env!("CARGO_PKG_VERSION")
    );
    host.serve(plan, &mut watches, &poll)
}

struct Host {
    minions: Vec<Minion>,
    room: Room,
    shared: Rc<Shared>,
}

impl Host {
    fn serve(
        &mut self,
        plan: &Plan,
        watches: &mut Watches,
        poll: &Poll,
    ) -> anyhow::Result<Infallible> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let before = now();
            let due = self.minions.iter().map(Minion::next_due).min();
            let wait = due.map(|due| timespec(due.saturating_sub(before)));
            let mut events: [Event; 16] = [Event {
                flags: EventFlags::empty(),
                data: EventData::new_u64(0),
            }; 16];
            let count = match epoll::wait(&poll.0, &mut events, wait.as_ref()) {
                Ok(count) => count,
                Err(Errno::INTR) => 0,
                Err(err) => return Err(err).context("failed to wait for events (epoll)"),
            };
            let now = now();
            for event in events.iter().take(count) {
                match event.data.u64() {
                    WATCHES => self.changed(plan, watches, now)?,
                    number => {
                        let number = usize::try_from(number).unwrap_or(NOBODY);
                        if let Some(minion) = self.minions.get_mut(number) {
                            minion.read(&mut buffer, &self.room, now);
                        }
                    }
                }
            }
            for minion in &mut self.minions {
                if minion.next_due() <= now {
                    minion.tick(watches, poll, now);
                }
            }
        }
    }

    fn changed(&mut self, plan: &Plan, watches: &mut Watches, now: u64) -> anyhow::Result<()> {
        let mut proxies = false;
        let minions = &mut self.minions;
        let told = watches.read(
            |(number, dir, change)| match (minions.get_mut(number), change) {
                (None, _) => proxies |= dir == Dir::Proxies,
                (Some(minion), Change::Came(name)) => minion.came(dir, name, now),
                (Some(minion), Change::Went(name)) => minion.went(dir, name, now),
                (Some(minion), Change::Vanished) => minion.vanished(Some(dir), now),
            },
        );
        if told.context("failed to read changes of directories (inotify)")? {
            warning!("changes of files were lost; what runs is looked at again");
            for minion in &mut self.minions {
                minion.vanished(None, now);
            }
        }
        if proxies && let Err(err) = self.find(plan, now) {
            warning!("new proxies are not watched: {err:#}");
        }
        Ok(())
    }

    /// Adds the minions that are new.
    fn find(&mut self, plan: &Plan, now: u64) -> anyhow::Result<()> {
        for place in plan.places()? {
            if self
                .minions
                .iter()
                .any(|minion| minion.place().cachedir == place.cachedir)
            {
                continue;
            }
            let there = if minion::is_there(&place) {
                ""
            } else {
                " (not there yet)"
            };
            info!("found minion={}{there}", place.id);
            let (number, shared) = (self.minions.len(), Rc::clone(&self.shared));
            self.minions
                .push(Minion::new(number, place, shared, self.room.clone(), now));
        }
        Ok(())
    }
}

/// Milliseconds since the host started, asleep or not.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

fn timespec(millis: u64) -> Timespec {
    // A day at most: the kernel's own bounds are far away then.
    let millis = i64::try_from(millis.min(86_400_000)).unwrap_or(0);
    Timespec {
        tv_sec: millis / 1000,
        tv_nsec: (millis % 1000) * 1_000_000,
    }
}

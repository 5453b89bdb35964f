//! The roster: the minions whose keys the lower master has accepted, and which of them are up.
//!
//! One task per shim owns the looks at the directory of accepted keys; the site task tells what it hears on the event bus.
//!
//! ```text
//! directory of accepted keys ──look──► RosterTask ──► Roster ◄──hears── site task (event bus)
//!                                                       ├──► announcements: what the MoM is told
//!                                                       └──► delivery: whether a job means anybody here
//! ```
//! - The directory is read at the start, each minute, whenever the bus tells of a key, and whenever a job seems to mean nobody and the
//!   directory may have changed since the last look.
//! - A job means nobody only when that is certain: on any doubt it is published.
//! - What is heard of minions that have no accepted key is not kept.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use daemon_kit::CancellationToken;
use salt_link::salt_config::MasterConfig;
use salt_wire::{
    bus::{Event, EventTag},
    ids::MinionId,
    msgpack::Value,
    publication::PublicationLoad,
    saltway::Presence,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use self::keys::{KeyDirectory, Look};
pub(crate) use self::register::{Census, Register, Snapshot};
use crate::telemetry::Telemetry;

mod keys;
mod nobody;
mod register;

/// How often the directory is read although nobody has told of a change.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// How long further events of keys are waited for: `salt-key -A` fires one for each.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// The looks take at most this share of the time, whoever fires events of keys.
const LOOK_SHARE: u32 = 10;

/// Counts the changes, for whoever waits for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Version {
    /// Looks at the directory that changed who is there, or whether all of them are known; 0 before the first look.
    pub(crate) members: u64,
    /// Changes of who is up.
    pub(crate) presence: u64,
}

/// What is known of the lower master's minions; cheap to clone.
#[derive(Clone)]
pub(crate) struct Roster(Arc<Shared>);

struct Shared {
    site: MinionId,
    keys: KeyDirectory,
    /// Whether minions may be reached through the lower master that have no key in its directory.
    others_below: bool,
    /// Salt 3008 finds resources by bare ids, too, once this file is there.
    resources: PathBuf,
    register: Mutex<Register>,
    version: watch::Sender<Version>,
    look_now: Notify,
    telemetry: Telemetry,
}

impl Roster {
    /// Nothing is known yet.
    pub(crate) fn new(site: MinionId, master: &MasterConfig, telemetry: Telemetry) -> Self {
        let resources = master.cachedir.join("resources");
        Self(Arc::new(Shared {
            site,
            keys: KeyDirectory::new(master.pki_dir.join("minions")),
            others_below: master.order_masters
                || master.enable_ssh_minions
                || master.cluster_id.is_some()
                || master.keys_cache_driver != "localfs_key",
            resources: resources.join("resource_index.by_id.mmap"),
            register: Mutex::default(),
            version: watch::Sender::default(),
            look_now: Notify::new(),
            telemetry,
        }))
    }

    /// Tells each change.
    pub(crate) fn versions(&self) -> watch::Receiver<Version> {
        self.0.version.subscribe()
    }

    /// Who is there at this moment.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.lock().snapshot()
    }

    /// How many are there.
    pub(crate) fn census(&self) -> Census {
        self.lock().census()
    }

    /// The event bus was not heard for a while: events of keys may have been missed.
    pub(crate) fn look_again(&self) {
        self.0.look_now.notify_one();
    }

    /// An event of the lower master's bus.
    pub(crate) fn hears(&self, event: &Event) {
        match event.parsed_tag() {
            EventTag::Key => self.look_again(),
            EventTag::JobReturn { minion, .. } => self.is_up(minion, false),
            // A minion that is new here has a key by now.
            EventTag::MinionStart { minion } => self.is_up(minion, true),
            EventTag::PresencePresent => self.present(event),
            EventTag::PresenceChange => self.present_changed(event),
            _ => {}
        }
    }

    /// Whether it is certain that the job means none of this site's minions, nor the site itself. Looks at the directory anew when that
    /// may have changed.
    pub(crate) async fn knows_that_nobody_is_meant_by(&self, load: &PublicationLoad) -> bool {
        let Some(target) = nobody::settled_by_ids(load) else {
            return false;
        };
        // Taken before the ids are looked at: if they are newer than this, the directory has changed since.
        let last_look = self.lock().look();
        if self.0.others_below || !self.means_nobody(&target) {
            return false;
        }
        let shared = Arc::clone(&self.0);
        let looked = tokio::task::spawn_blocking(move || {
            // Of a resource the directory knows nothing.
            if shared.resources.try_exists().unwrap_or(true) {
                return None;
            }
            match last_look {
                Some(look) if shared.keys.is_as_at(&look) => Some(None),
                Some(_) | None => shared.keys.look().ok().map(Some),
            }
        });
        match looked.await {
            Ok(Some(None)) => true,
            Ok(Some(Some(look))) => {
                self.take(Ok(look));
                self.means_nobody(&target)
            }
            Ok(None) | Err(_) => false,
        }
    }

    fn means_nobody(&self, target: &nobody::IdTarget) -> bool {
        let register = self.lock();
        register.is_complete()
            && target.surely_not(self.0.site.as_str())
            && target.surely_none_of(&register)
    }

    fn is_up(&self, minion: &str, is_new: bool) {
        let known = self.lock().set(minion, Presence::Up);
        match known {
            Some(true) => self.presence_changed(),
            Some(false) => {}
            None if is_new => self.look_again(),
            None => {}
        }
    }

    fn present(&self, event: &Event) {
        let Ok(data) = event.value() else { return };
        let Some(present) = data.get("present").and_then(Value::as_array) else {
            return;
        };
        let present = present.iter().filter_map(Value::as_str).collect();
        if self.lock().only_these_are_up(&present) {
            self.presence_changed();
        }
    }

    fn present_changed(&self, event: &Event) {
        let Ok(data) = event.value() else { return };
        let mut changed = false;
        for (key, presence) in [("lost", Presence::Down), ("new", Presence::Up)] {
            let minions = data.get(key).and_then(Value::as_array).unwrap_or_default();
            for minion in minions.iter().filter_map(Value::as_str) {
                changed |= self.lock().set(minion, presence) == Some(true);
            }
        }
        if changed {
            self.presence_changed();
        }
    }

    fn presence_changed(&self) {
        self.0.version.send_modify(|version| version.presence += 1);
    }

    /// Takes what a look at the directory has brought.
    fn take(&self, look: std::io::Result<Look>) {
        let telemetry = &self.0.telemetry;
        let taken = match look {
            Ok(look) => {
                let taken = self.lock().take(look, self.0.others_below);
                if taken.was_unreadable {
                    telemetry.keys_read(taken.minions);
                }
                taken
            }
            Err(err) => {
                let taken = self.lock().unreadable();
                let first = !taken.was_unreadable;
                telemetry.keys_unreadable(self.0.keys.path(), &err, first);
                taken
            }
        };
        if taken.changed {
            self.0.version.send_modify(|version| version.members += 1);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Register> {
        // No code that can panic runs under this lock.
        self.0
            .register
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the roster true; see the module's head.
pub(crate) struct RosterTask {
    roster: Roster,
}

impl RosterTask {
    pub(crate) fn new(roster: Roster) -> Self {
        Self { roster }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let shared = &self.roster.0;
        let mut not_before = Instant::now();
        loop {
            let began = Instant::now();
            let looking = Arc::clone(shared);
            let look = tokio::task::spawn_blocking(move || looking.keys.look());
            if let Ok(look) = look.await {
                self.roster.take(look);
            }
            not_before = not_before.max(began + LOOK_SHARE * began.elapsed());
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep_until(began + LOOK_INTERVAL) => {}
                () = shared.look_now.notified() => {
                    let due = not_before.max(Instant::now() + DEBOUNCE);
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = sleep_until(due) => {}
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

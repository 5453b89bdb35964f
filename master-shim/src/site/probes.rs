//! The shim's own `saltutil.find_job` questions to the site's minions, and the answers so far. Pure.
//!
//! Bounded by the jobs that [`SiteJobs`](relay_core::jobs::SiteJobs) remembers: one probe a job at a time.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use salt_wire::ids::{Jid, MinionId};
use tokio::time::Instant;

/// How long minions have to answer. They answer within a second or not at all; the MoM waits
/// `gather_job_timeout` (10 s) for the site.
const TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Probe {
    about: Jid,
    waiting: HashSet<String>,
    running: HashSet<String>,
    deadline: Instant,
}

/// What a probe has found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The job that was asked about.
    pub(super) about: Jid,
    /// The minions that run it.
    pub(super) running: HashSet<String>,
}

/// The probes under way, by their own jids.
#[derive(Debug, Default)]
pub(super) struct Probes {
    by_jid: HashMap<Jid, Probe>,
}

impl Probes {
    /// `minions` are being asked by the job `probe`.
    pub(super) fn start(&mut self, probe: Jid, about: Jid, minions: &[String], now: Instant) {
        let probe_state = Probe {
            about,
            waiting: minions.iter().cloned().collect(),
            running: HashSet::new(),
            deadline: now + TIMEOUT,
        };
        self.by_jid.insert(probe, probe_state);
    }

    /// One minion's answer. The probe ends with the first minion that runs the job, or when all have answered.
    pub(super) fn answered(
        &mut self,
        probe: &Jid,
        minion: &MinionId,
        running: bool,
    ) -> Option<Found> {
        let state = self.by_jid.get_mut(probe)?;
        if state.waiting.remove(minion.as_str()) && running {
            state.running.insert(minion.as_str().to_owned());
        }
        if state.waiting.is_empty() || !state.running.is_empty() {
            return self.end(probe);
        }
        None
    }

    /// The probe could not be published: nothing is known, so the minions count as running.
    pub(super) fn failed(&mut self, probe: &Jid) -> Option<Found> {
        let state = self.by_jid.get_mut(probe)?;
        state.running = std::mem::take(&mut state.waiting);
        self.end(probe)
    }

    /// When the next probe runs out of time.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_jid.values().map(|state| state.deadline).min()
    }

    /// The probes whose time is over; who did not answer does not run the job.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<Found> {
        let due: Vec<Jid> = self
            .by_jid
            .iter()
            .filter(|(_, state)| state.deadline <= now)
            .map(|(jid, _)| jid.clone())
            .collect();
        due.iter().filter_map(|jid| self.end(jid)).collect()
    }

    fn end(&mut self, probe: &Jid) -> Option<Found> {
        let state = self.by_jid.remove(probe)?;
        Some(Found {
            about: state.about,
            running: state.running,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jid(text: &str) -> Jid {
        text.parse().expect("a jid")
    }

    fn minion(text: &str) -> MinionId {
        text.parse().expect("a minion id")
    }

    fn asked(minions: &[&str]) -> (Probes, Instant) {
        let now = Instant::now();
        let mut probes = Probes::default();
        let minions: Vec<String> = minions.iter().map(|name| (*name).to_owned()).collect();
        probes.start(jid("2"), jid("1"), &minions, now);
        (probes, now)
    }

    #[test]
    fn first_running_minion_ends_the_probe() {
        let (mut probes, _) = asked(&["a1", "a2"]);
        let found = probes
            .answered(&jid("2"), &minion("a2"), true)
            .expect("ended");
        assert_eq!(found.running, HashSet::from(["a2".to_owned()]));
        assert_eq!(probes.next_deadline(), None);
    }

    #[test]
    fn probe_ends_when_all_have_answered() {
        let (mut probes, _) = asked(&["a1", "a2"]);
        assert_eq!(probes.answered(&jid("2"), &minion("a1"), false), None);
        assert_eq!(
            probes.answered(&jid("2"), &minion("a1"), false),
            None,
            "a repetition"
        );
        let found = probes
            .answered(&jid("2"), &minion("a2"), false)
            .expect("ended");
        assert!(found.running.is_empty());
    }

    #[test]
    fn silent_minions_do_not_run_the_job_when_time_is_over() {
        let (mut probes, now) = asked(&["a1"]);
        assert_eq!(probes.expired(now), []);
        let found = probes.expired(now + TIMEOUT);
        assert_eq!(found.len(), 1);
        assert!(found.iter().all(|found| found.running.is_empty()));
    }

    #[test]
    fn probe_that_cannot_be_published_proves_nothing() {
        let (mut probes, _) = asked(&["a1"]);
        let found = probes.failed(&jid("2")).expect("ended");
        assert_eq!(found.running, HashSet::from(["a1".to_owned()]));
    }
}

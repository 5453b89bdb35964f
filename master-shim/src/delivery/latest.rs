//! Publications that the lower master took just before it died: it may not have handed them to all of its minions.
//!
//! A master answers a publish before its publisher has written to every minion. After a restart, what it took in its last
//! moments is published again, under the same jid, to those minions alone that have neither returned nor started
//! anew since. A minion that has it drops it by its own queue of jids, which it keeps while it runs.

use std::{collections::VecDeque, time::Duration};

use salt_wire::publication::PublicationLoad;
use tokio::time::Instant;

/// How long a publisher may take to write to every minion: milliseconds for a small site, a second for a large one.
const UNSURE: Duration = Duration::from_secs(2);

/// Publications remembered; when full the oldest is forgotten.
const ENTRIES_MAX: usize = 1_000;

/// The latest publications that the lower master took.
#[derive(Default)]
pub(super) struct Latest {
    published: VecDeque<(Instant, PublicationLoad)>,
}

impl Latest {
    /// The lower master has just answered the publish.
    pub(super) fn published(&mut self, load: PublicationLoad) {
        let now = Instant::now();
        self.published.push_back((now, load));
        while let Some((at, _)) = self.published.front() {
            // A master that dies is missed by its event bus within this time.
            if now.duration_since(*at) <= 2 * UNSURE && self.published.len() <= ENTRIES_MAX {
                break;
            }
            self.published.pop_front();
        }
    }

    /// What the master took shortly before `died_at`.
    pub(super) fn before(&mut self, died_at: Instant) -> Vec<PublicationLoad> {
        let unsure = |at: Instant| at <= died_at && died_at.duration_since(at) <= UNSURE;
        let published = std::mem::take(&mut self.published);
        let (unsure, rest) = published.into_iter().partition(|(at, _)| unsure(*at));
        self.published = rest;
        let unsure: VecDeque<(Instant, PublicationLoad)> = unsure;
        unsure.into_iter().map(|(_, load)| load).collect()
    }
}

#[cfg(test)]
mod tests {
    use salt_wire::msgpack::Value;

    use super::*;

    fn load(jid: &str) -> PublicationLoad {
        let fields = [("fun", "test.ping"), ("tgt", "*"), ("jid", jid)];
        let fields = Value::map(fields.map(|(name, text)| (name, Value::from(text))));
        PublicationLoad::new(fields).expect("a job")
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_last_moments_are_unsure() {
        let mut latest = Latest::default();
        latest.published(load("20261121000000000001"));
        tokio::time::advance(UNSURE + Duration::from_millis(1)).await;
        latest.published(load("20261121000000000002"));
        let died_at = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        latest.published(load("20261121000000000003"));
        let unsure = latest.before(died_at);
        let jids: Vec<&str> = unsure.iter().map(|load| load.jid().as_str()).collect();
        assert_eq!(jids, ["20261121000000000002"]);
        assert!(latest.before(died_at).is_empty(), "once");
    }
}

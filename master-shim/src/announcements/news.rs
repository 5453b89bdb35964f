//! Which bridges are heard: whoever is new among them knows nothing of this site.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// Clocks of bridges remembered; one that was forgotten counts as new, and costs an announcement.
const CLOCKS_MAX: usize = 64;

/// What was heard so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Heard {
    /// Whether a bridge is heard now.
    pub(crate) up: bool,
    /// How often one was heard again after an interruption.
    pub(crate) returns: u64,
    /// How many clocks of bridges were new.
    pub(crate) births: u64,
}

/// A bridge and the name of its clock.
type Clock = (Box<str>, Box<str>);

/// Told by the link task; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct News {
    heard: watch::Sender<Heard>,
    /// Heard last are at the end.
    clocks: Arc<Mutex<VecDeque<Clock>>>,
}

impl News {
    /// What was heard, as it changes.
    pub(crate) fn heard(&self) -> watch::Receiver<Heard> {
        self.heard.subscribe()
    }

    /// A bridge has beaten. Its clock is named anew with each of its starts.
    pub(crate) fn beat(&self, bridge: &str, clock: Option<&str>) {
        let is_new = self.is_new(bridge, clock.unwrap_or_default());
        self.heard.send_if_modified(|heard| {
            let was_down = !std::mem::replace(&mut heard.up, true);
            heard.births += u64::from(is_new);
            heard.returns += u64::from(was_down);
            is_new || was_down
        });
    }

    /// Nobody is heard any more.
    pub(crate) fn down(&self) {
        self.heard
            .send_if_modified(|heard| std::mem::replace(&mut heard.up, false));
    }

    fn is_new(&self, bridge: &str, clock: &str) -> bool {
        // No code that can panic runs under this lock.
        let mut clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        let known = clocks
            .iter()
            .position(|(name, of)| **name == *bridge && **of == *clock);
        let entry = match known {
            Some(at) => clocks.remove(at),
            None => None,
        };
        clocks.push_back(entry.unwrap_or_else(|| (bridge.into(), clock.into())));
        if clocks.len() > CLOCKS_MAX {
            clocks.pop_front();
        }
        known.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_clocks_and_interruptions_are_news_and_other_beats_are_not() {
        let news = News::default();
        let check = |returns, births| {
            let expected = Heard {
                up: true,
                returns,
                births,
            };
            assert_eq!(*news.heard().borrow(), expected);
        };
        news.beat("b1", Some("b1/1"));
        check(1, 1);
        let mut heard = news.heard();
        heard.mark_unchanged();
        news.beat("b1", Some("b1/1"));
        assert!(!heard.has_changed().expect("open"));
        news.beat("b2", Some("b2/1"));
        check(1, 2);
        news.beat("b1", Some("b1/2"));
        check(1, 3);
        news.beat("b1", Some("b1/1"));
        check(1, 3);
        news.down();
        assert!(!news.heard().borrow().up);
        news.beat("b1", Some("b1/1"));
        check(2, 3);
    }

    #[test]
    fn remembered_clocks_are_bounded() {
        let news = News::default();
        for number in 0..1_000 {
            news.beat("b1", Some(&number.to_string()));
        }
        assert_eq!(news.clocks.lock().expect("no panic").len(), CLOCKS_MAX);
    }
}

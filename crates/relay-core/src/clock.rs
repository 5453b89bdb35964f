//! How old is a publication, when its bridge's clock and ours differ?
//!
//! Every clock has a name and never steps while it bears it: a step of the host's wall clock shows
//! only as a new name. So the difference between a bridge's clock and our own is constant up to
//! drift, and the beat that travelled fastest tells it best.
//!
//! - A beat that was held up on its way changes nothing, nor does a whole burst of them after a
//!   stall: beats are taken by the time of their arrival, and a burst is one slot of many.
//! - The age comes out too small by the transit of the fastest beat, never too large by more than
//!   drift, for a clock that has been heard.
//! - A clock never heard is waited for: its bridge beats twice a second. If it does not (it is dead,
//!   or was started again), its publications are judged by what was known of it before our host was
//!   started again, else by its bridge's other clocks, else by that known clock which
//!   makes the publication oldest: a late surprise is worse than an expired job that is named.

use std::collections::VecDeque;

/// Most clocks remembered: a bridge's host changes its clock's name when it boots.
const CLOCKS_MAX: usize = 16;
/// Beats that arrive within this time count as one.
const SLOT_MS: u64 = 2_000;
/// How long to wait for the first beat of a clock that stamped a publication.
const PATIENCE_MS: u64 = 3_000;
/// Slots remembered per clock. With beats twice a second that is half a minute; a stall adds none.
const SLOTS_MAX: usize = 16;

/// Differences to the clocks of bridges; see the module's head.
#[derive(Debug, Clone, Default)]
pub struct Clocks {
    /// The clock heard last is at the end.
    known: Vec<Known>,
    /// Clocks never heard, and when they were first asked about.
    awaited: Vec<(Box<str>, u64)>,
    /// Differences that may not hold any more.
    guessed: Vec<(Box<str>, i64)>,
}

#[derive(Debug, Clone)]
struct Known {
    name: Box<str>,
    /// When the slot began, and the smallest difference heard in it.
    slots: VecDeque<(u64, i64)>,
}

impl Known {
    fn difference(&self) -> i64 {
        let smallest = self.slots.iter().map(|(_, difference)| *difference).min();
        smallest.unwrap_or_default()
    }

    fn bridge(&self) -> &str {
        bridge_of(&self.name)
    }
}

impl Clocks {
    /// A beat that was sent at `sent_at_ms` by `clock` was heard at `now_ms` by our own clock.
    pub fn note(&mut self, clock: &str, sent_at_ms: u64, now_ms: u64) {
        let difference = signed(now_ms).saturating_sub(signed(sent_at_ms));
        let mut known = match self.known.iter().position(|known| &*known.name == clock) {
            Some(index) => self.known.remove(index),
            None => Known {
                name: clock.into(),
                slots: VecDeque::new(),
            },
        };
        match known.slots.back_mut() {
            Some((began, smallest)) if now_ms < began.saturating_add(SLOT_MS) => {
                *smallest = difference.min(*smallest);
            }
            _ => known.slots.push_back((now_ms, difference)),
        }
        if known.slots.len() > SLOTS_MAX {
            known.slots.pop_front();
        }
        if self.known.len() >= CLOCKS_MAX {
            self.known.remove(0);
        }
        self.known.push(known);
    }

    /// The age of what `clock` stamped with `received_at_ms`, at `now_ms` of our own clock. `None`
    /// before the first beat of all, and for a while for a clock never heard: ask again.
    #[must_use]
    pub fn age_ms(&mut self, clock: Option<&str>, received_at_ms: u64, now_ms: u64) -> Option<u64> {
        if clock.is_some_and(|clock| self.is_awaited(clock, now_ms)) {
            return None;
        }
        let difference = self.difference(clock)?;
        let age = signed(now_ms)
            .saturating_sub(signed(received_at_ms))
            .saturating_sub(difference);
        Some(u64::try_from(age).unwrap_or(0))
    }

    /// Every clock known and what to add to its time to get ours, the one heard last at the end.
    /// Kept on disk by a site whose own clock outlives its process.
    pub fn differences(&self) -> impl Iterator<Item = (&str, i64)> {
        self.known
            .iter()
            .map(|known| (&*known.name, known.difference()))
    }

    /// A difference that was known before a restart, by the same clock of ours: as good as a beat
    /// heard now.
    pub fn restore(&mut self, clock: &str, difference_ms: i64, now_ms: u64) {
        let sent_at_ms = signed(now_ms).saturating_sub(difference_ms);
        self.note(clock, u64::try_from(sent_at_ms).unwrap_or(0), now_ms);
    }

    /// A difference that was known before our own host was started again, as far as its wall clock
    /// tells: it counts until the clock is heard.
    pub fn guess(&mut self, clock: &str, difference_ms: i64) {
        if self.guessed.len() < CLOCKS_MAX {
            self.guessed.push((clock.into(), difference_ms));
        }
    }

    /// Whether this clock has been heard: else its ages are guessed.
    #[must_use]
    pub fn has_heard(&self, clock: &str) -> bool {
        self.known.iter().any(|known| &*known.name == clock)
    }

    /// Whether a beat of this clock may still come.
    fn is_awaited(&mut self, clock: &str, now_ms: u64) -> bool {
        if self.has_heard(clock) {
            return false;
        }
        if let Some((_, since)) = self.awaited.iter().find(|(name, _)| &**name == clock) {
            return now_ms < since.saturating_add(PATIENCE_MS);
        }
        if self.awaited.len() >= CLOCKS_MAX {
            self.awaited.remove(0);
        }
        self.awaited.push((clock.into(), now_ms));
        true
    }

    fn difference(&self, clock: Option<&str>) -> Option<i64> {
        if let Some(clock) = clock {
            let newest_first = || self.known.iter().rev();
            if let Some(known) = newest_first().find(|known| &*known.name == clock) {
                return Some(known.difference());
            }
            if let Some((_, difference)) = self.guessed.iter().find(|(name, _)| &**name == clock) {
                return Some(*difference);
            }
            if let Some(known) = newest_first().find(|known| known.bridge() == bridge_of(clock)) {
                return Some(known.difference());
            }
        }
        self.known.iter().map(Known::difference).min()
    }
}

/// The part of a clock's name, `<bridge>/<start>`, that outlives a restart.
fn bridge_of(clock: &str) -> &str {
    clock.rsplit_once('/').map_or(clock, |(bridge, _)| bridge)
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    #[test]
    fn nothing_is_said_before_the_first_beat() {
        assert_eq!(Clocks::default().age_ms(Some("a/1"), 5, 10), None);
        assert_eq!(Clocks::default().age_ms(Some("a/1"), 5, 10_000), None);
        assert_eq!(Clocks::default().age_ms(None, 5, 10), None);
    }

    #[test]
    fn a_clock_that_is_an_hour_ahead_makes_nothing_younger() {
        let mut clocks = Clocks::default();
        clocks.note("a/1", 60 * MINUTE + 1_000, 1_005);
        let age = clocks.age_ms(Some("a/1"), 60 * MINUTE + 1_000, 1_005 + 2 * MINUTE);
        assert_eq!(age, Some(2 * MINUTE));
    }

    #[test]
    fn the_fastest_beat_counts() {
        let mut clocks = Clocks::default();
        for (sent, heard) in [(1_000, 1_005), (1_500, 2_400), (2_000, 2_004)] {
            clocks.note("a/1", sent, heard);
        }
        assert_eq!(clocks.age_ms(Some("a/1"), 1_000, 1_104), Some(100));
    }

    #[test]
    fn a_burst_after_a_stall_makes_nothing_younger() {
        let mut clocks = Clocks::default();
        clocks.note("a/1", 1_000, 1_010);
        // Five minutes of beats arrive at once.
        for beat in 1..600 {
            clocks.note("a/1", 1_000 + beat * 500, 301_010);
        }
        assert_eq!(clocks.age_ms(Some("a/1"), 1_000, 301_010), Some(300_000));
    }

    #[test]
    fn drift_is_followed_in_half_a_minute() {
        let mut clocks = Clocks::default();
        clocks.note("a/1", 1_000, 1_010);
        for beat in 1..100 {
            clocks.note("a/1", 1_000 + beat * 500, 1_110 + beat * 500);
        }
        assert_eq!(clocks.age_ms(Some("a/1"), 40_000, 50_110), Some(10_000));
    }

    #[test]
    fn an_unknown_clock_is_judged_by_its_bridge_else_as_old_as_any_makes_it() {
        let mut clocks = Clocks::default();
        clocks.note("a/1", 5_000, 1_000);
        clocks.note("b/1", 1_000, 1_000);
        clocks.note("b/2", 2_000, 1_000);
        for unknown in ["b/3", "c/1"] {
            assert_eq!(clocks.age_ms(Some(unknown), 2_000, 1_000), None, "awaited");
            assert_eq!(clocks.age_ms(Some(unknown), 2_000, 3_999), None, "awaited");
        }
        assert_eq!(clocks.age_ms(Some("b/3"), 2_000, 4_010), Some(3_010), "b/2");
        for unknown in [Some("c/1"), None] {
            assert_eq!(clocks.age_ms(unknown, 2_000, 4_010), Some(6_010), "a/1");
        }
        // Now it is heard.
        clocks.note("c/1", 4_000, 4_000);
        assert_eq!(clocks.age_ms(Some("c/1"), 2_000, 4_010), Some(2_010));
    }

    #[test]
    fn the_clock_not_heard_for_longest_is_forgotten() {
        let mut clocks = Clocks::default();
        clocks.note("a/1", 0, MINUTE);
        clocks.note("b/1", 0, 0);
        clocks.note("a/1", 0, MINUTE);
        for other in 0..15 {
            clocks.note(&format!("c{other}/1"), 0, 0);
        }
        assert_eq!(clocks.known.len(), CLOCKS_MAX);
        assert_eq!(clocks.age_ms(Some("a/1"), 0, MINUTE), Some(0), "kept");
        assert_eq!(clocks.age_ms(Some("b/1"), 0, MINUTE), None, "gone");
    }

    #[test]
    fn differences_survive_a_restart() {
        let mut before = Clocks::default();
        before.note("a/1", 60 * MINUTE, MINUTE);
        before.note("b/1", MINUTE, 60 * MINUTE);
        let mut after = Clocks::default();
        for (clock, difference) in before.differences() {
            after.restore(clock, difference, 61 * MINUTE);
        }
        for (clock, at) in [("a/1", 60 * MINUTE), ("b/1", MINUTE)] {
            let now = 62 * MINUTE;
            let clock = Some(clock);
            assert_eq!(before.age_ms(clock, at, now), after.age_ms(clock, at, now));
        }
    }

    #[test]
    fn guess_counts_until_the_clock_is_heard() {
        let mut clocks = Clocks::default();
        clocks.guess("b/1", 5_000);
        clocks.note("a/1", 0, MINUTE);
        assert_eq!(clocks.age_ms(Some("b/1"), 0, MINUTE), None, "awaited");
        let later = MINUTE + PATIENCE_MS;
        assert_eq!(clocks.age_ms(Some("b/1"), 0, later), Some(later - 5_000));
        clocks.note("b/1", 0, later);
        assert_eq!(clocks.age_ms(Some("b/1"), 0, later), Some(0));
        assert!(clocks.has_heard("b/1"));
    }

    #[test]
    fn hostile_times_do_not_overflow() {
        let mut clocks = Clocks::default();
        for (sent, now) in [(u64::MAX, 0), (0, u64::MAX), (u64::MAX, u64::MAX)] {
            clocks.note("a/1", sent, now);
            assert!(clocks.age_ms(Some("a/1"), u64::MAX, 0).is_some());
            assert!(clocks.age_ms(None, 0, u64::MAX).is_some());
        }
    }
}

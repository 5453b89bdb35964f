//! Finds out how a minion's event bus wants its frames: sends an event in one framing and looks whether it comes back.
//!
//! 3006 reads and writes with lengths, 3007 neither, 3008 reads with lengths and writes without. A bus that gets the wrong kind
//! waits for more for ever and says nothing, so each attempt has a connection of its own.

use salt_wire::bus::Framing;

/// How long an event may take to come back; a minion that is starting is slow.
const ECHO_MS: u64 = 250;

/// From this attempt on there is no hurry: the minion hangs, or is stopped.
const HASTY_MAX: u32 = 8;

const PAUSE_MS: u64 = 10_000;

/// What is known of the bus's framing.
#[derive(Debug)]
pub(crate) struct Probe {
    run: String,
    known: Option<Framing>,
    /// What the attempt in progress uses, and until when it may take.
    trying: Option<(Framing, u64)>,
    attempts: u32,
    first: Framing,
}

impl Probe {
    /// `before` is what the minion took the last time.
    pub(crate) fn new(run: &str, before: Option<Framing>) -> Self {
        Self {
            run: run.to_owned(),
            known: None,
            trying: None,
            attempts: 0,
            // Where a length is expected a wrong frame is silence; the other way round the minion logs an error.
            first: before.unwrap_or(Framing::Streaming),
        }
    }

    /// The framing, once it is known.
    pub(crate) fn known(&self) -> Option<Framing> {
        self.known
    }

    /// When the next attempt is due.
    pub(crate) fn next_due(&self) -> Option<u64> {
        match (self.known, self.trying) {
            (Some(_), _) => None,
            (None, Some((_, until))) => Some(until),
            (None, None) => Some(0),
        }
    }

    /// The framing and tag of the attempt that is due. `told` is the framing in which the bus itself writes, if it wrote.
    pub(crate) fn attempt(&mut self, told: Option<Framing>, now: u64) -> Option<(Framing, String)> {
        if self.next_due().is_none_or(|due| due > now) {
            return None;
        }
        let other = |framing| match framing {
            Framing::LengthPrefix => Framing::Streaming,
            Framing::Streaming => Framing::LengthPrefix,
        };
        let framing = match (self.trying, told) {
            (Some((tried, _)), _) => other(tried),
            (None, Some(Framing::LengthPrefix)) => Framing::LengthPrefix,
            (None, _) => self.first,
        };
        self.attempts += 1;
        let pause = if self.attempts <= HASTY_MAX {
            ECHO_MS
        } else {
            PAUSE_MS
        };
        self.trying = Some((framing, now + pause));
        Some((framing, self.tag(framing)))
    }

    /// An event of the bus. True when it is the probe's, so that the framing is known now.
    pub(crate) fn heard(&mut self, tag: &str) -> bool {
        let both = [Framing::LengthPrefix, Framing::Streaming];
        let echoed = both.into_iter().find(|framing| self.tag(*framing) == tag);
        let Some(framing) = echoed.filter(|_| self.known.is_none()) else {
            return false;
        };
        self.known = Some(framing);
        true
    }

    /// Whether a tag is a probe's of any minion-shim.
    pub(crate) fn is_tag(tag: &str) -> bool {
        tag.starts_with("saltway/probe/")
    }

    /// An echo that comes late still tells which framing it was.
    fn tag(&self, framing: Framing) -> String {
        let word = match framing {
            Framing::LengthPrefix => "length",
            Framing::Streaming => "stream",
        };
        format!("saltway/probe/{}/{word}", self.run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framings_are_tried_in_turn_until_one_comes_back() {
        let mut probe = Probe::new("r", None);
        let (framing, streamed) = probe.attempt(None, 0).unwrap();
        assert_eq!(framing, Framing::Streaming);
        assert_eq!(probe.attempt(None, ECHO_MS - 1), None);
        let (framing, _) = probe.attempt(None, ECHO_MS).unwrap();
        assert_eq!(framing, Framing::LengthPrefix);
        assert!(!probe.heard("saltway/probe/other/length"));
        // The first one was only slow.
        assert!(probe.heard(&streamed));
        assert_eq!(
            (probe.known(), probe.next_due()),
            (Some(Framing::Streaming), None)
        );
    }

    #[test]
    fn what_is_known_is_tried_first() {
        let told = Some(Framing::LengthPrefix);
        let first = |before, told| Probe::new("r", before).attempt(told, 0).unwrap().0;
        assert_eq!(first(None, told), Framing::LengthPrefix);
        assert_eq!(first(told, None), Framing::LengthPrefix);
        assert_eq!(first(told, Some(Framing::Streaming)), Framing::LengthPrefix);
    }

    #[test]
    fn a_minion_that_hangs_is_not_hurried() {
        let mut probe = Probe::new("r", None);
        let mut now = 0;
        for _ in 0..=HASTY_MAX {
            probe.attempt(None, now).unwrap();
            now = probe.next_due().unwrap();
        }
        assert_eq!(now, u64::from(HASTY_MAX) * ECHO_MS + PAUSE_MS);
    }
}

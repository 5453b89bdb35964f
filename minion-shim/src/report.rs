//! What happened to a minion, until one of its masters has taken it.
//!
//! One [`Report`] for each master. It travels as a request of the minion's own, which is answered, unlike an event that is
//! only handed over: a minion that is starting drops it, and then it is sent again.

use salt_wire::saltway::Happened;

/// Pauses between attempts, the last one for ever: a starting minion is ready within a few seconds, a master may be away for days.
const PAUSES_MS: [u64; 14] = [
    500, 500, 500, 500, 1_000, 1_000, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 60_000, 300_000,
];

/// The report for one master.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    what: Happened,
    attempts: usize,
    due: u64,
    /// The requests that carried it; an answer to any of them will do.
    requests: Vec<String>,
}

impl Report {
    /// Something happened; of several things the most telling is reported.
    pub(crate) fn ask(&mut self, what: Happened, now: u64) {
        let what = match &self.pending {
            Some(pending) if weight(pending.what) > weight(what) => pending.what,
            _ => what,
        };
        self.pending = Some(Pending {
            what,
            attempts: 0,
            due: now,
            requests: Vec::new(),
        });
    }

    /// When it is to be sent.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.pending.as_ref().map(|pending| pending.due)
    }

    /// What is to be sent now, as this request.
    pub(crate) fn send(&mut self, request: &str, now: u64) -> Option<Happened> {
        let pending = self.pending.as_mut().filter(|pending| pending.due <= now)?;
        let pause = PAUSES_MS.get(pending.attempts).or(PAUSES_MS.last());
        pending.due = now + pause.copied().unwrap_or_default();
        pending.attempts = (pending.attempts + 1).min(PAUSES_MS.len());
        if pending.requests.len() == PAUSES_MS.len() {
            pending.requests.remove(0);
        }
        pending.requests.push(request.to_owned());
        Some(pending.what)
    }

    /// An answer came. True when it was for this and good.
    pub(crate) fn answered(&mut self, request: &str, good: bool) -> bool {
        let ours = |pending: &Pending| pending.requests.iter().any(|sent| sent == request);
        let taken = good && self.pending.as_ref().is_some_and(ours);
        if taken {
            self.pending = None;
        }
        taken
    }

    /// The minion's process ended, so that an old request cannot be answered; a new one is due when its bus is back.
    pub(crate) fn begin_again(&mut self, now: u64) {
        if let Some(pending) = &self.pending {
            let what = pending.what;
            self.ask(what, now);
        }
    }
}

fn weight(what: Happened) -> u8 {
    match what {
        Happened::Hello => 0,
        Happened::Undelivered => 1,
        Happened::Reconnected => 2,
        Happened::Started => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_sent_until_it_is_answered() {
        let mut report = Report::default();
        report.ask(Happened::Hello, 100);
        let mut now = 100;
        for pause in PAUSES_MS.into_iter().chain([300_000, 300_000]) {
            assert_eq!(report.send(&format!("r{now}"), now - 1), None);
            assert_eq!(report.send(&format!("r{now}"), now), Some(Happened::Hello));
            now += pause;
            assert_eq!(report.next_due(), Some(now));
        }
        assert!(!report.answered("other", true) && !report.answered("r100", true));
        let last = format!("r{}", now - 300_000);
        assert!(!report.answered(&last, false) && report.answered(&last, true));
        assert_eq!(report.next_due(), None);
    }

    #[test]
    fn the_most_telling_is_reported() {
        let mut report = Report::default();
        report.ask(Happened::Started, 0);
        report.send("a", 0);
        report.ask(Happened::Undelivered, 5);
        // What was sent before does not tell of it.
        assert!(!report.answered("a", true));
        assert_eq!(report.send("b", 5), Some(Happened::Started));
    }
}

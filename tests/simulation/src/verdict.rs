//! The end of a run: everything is healed and had its time.

use crate::book::Invariant;
use crate::message::Item;
use crate::world::World;

impl World {
    /// Looks at the end: everything is healed and had its time.
    pub(crate) fn verdict(&mut self) {
        let now = self.now;
        let held: Vec<u32> = self
            .book
            .journaled
            .iter()
            .filter(|(_, holders)| !holders.is_empty())
            .map(|(frame, _)| *frame)
            .filter(|frame| !self.book.let_go.contains(frame))
            .collect();
        self.book.stats.jobs = self.mom.frames.len() as u64;
        self.book.stats.unheard =
            self.book.stats.jobs - (self.book.journaled.len() as u64).min(self.book.stats.jobs);
        self.book.stats.gaps = self.book.gaps;
        self.book.stats.returns = self.mom.filed.len() as u64;
        self.book.stats.copies = self
            .mom
            .filed
            .values()
            .map(|count| u64::from(count - 1))
            .sum();
        self.book.stats.repeated = self
            .book
            .runs
            .values()
            .map(|runs| runs.len() as u64 - 1)
            .sum();
        if self.plan.tight {
            return;
        }
        for frame in held {
            let job = self.mom.frames[frame as usize].job;
            for site in 0..self.plan.sites {
                let key = (site, job);
                if !self.book.runs.contains_key(&key)
                    && !self.book.expired.contains(&key)
                    && !self.book.unopenable.contains(&key)
                {
                    let text = format!("frame {frame}, job {job} at site {site}");
                    self.book.violation(Invariant::Undelivered, text, now);
                }
            }
        }
        self.verdict_on_returns();
        self.verdict_on_order();
    }

    fn verdict_on_returns(&mut self) {
        let now = self.now;
        for lower in &self.lowers {
            for (job, minion) in &lower.returns {
                let item = Item::Return(*job, *minion);
                if !self.mom.filed.contains_key(&item) && !self.book.shed.contains(&item) {
                    let text = format!("{item:?}");
                    self.book.violation(Invariant::ReturnLost, text, now);
                }
            }
        }
        for (number, shim) in self.shims.iter().enumerate() {
            let left = shim
                .process
                .as_ref()
                .map_or(0, |process| process.up.spool.len());
            if left > 0 {
                let text = format!("{left} in the spool of shim {number}");
                self.book.violation(Invariant::NoProgress, text, now);
            }
        }
    }

    /// A job that ran before an earlier one, although whoever appended it held that one, too.
    fn verdict_on_order(&mut self) {
        let now = self.now;
        let mut wrong = Vec::new();
        for (site, order) in &self.book.run_order {
            for (index, later) in order.iter().enumerate() {
                for earlier in order.get(index + 1..).unwrap_or_default() {
                    let (Some(one), Some(two)) = (
                        self.book.journaled.get(earlier),
                        self.book.ever_journaled.get(later),
                    ) else {
                        continue;
                    };
                    let known = |(bridge, at): (&usize, &u64)| {
                        one.get(bridge).is_some_and(|before| before < at)
                    };
                    if two.is_empty() || !two.iter().all(known) {
                        continue;
                    }
                    if self.book.ended.contains(&(*site, *earlier)) {
                        self.book.stats.order_excused += 1;
                    } else {
                        wrong.push(format!("site {site}: frame {later} before {earlier}"));
                    }
                }
            }
        }
        for text in wrong {
            self.book.violation(Invariant::OutOfOrder, text, now);
        }
    }
}

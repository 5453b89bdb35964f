//! How many first answers a second the site's minions give: a master that is busy with them is late with each one.

/// Counts of this second and of the one before.
#[derive(Debug, Default)]
pub(super) struct Answers {
    second: u64,
    now: u32,
    before: u32,
}

impl Answers {
    /// A minion answered for the first time for a job.
    pub(super) fn note(&mut self, now_ms: u64) {
        let second = now_ms / 1_000;
        if second != self.second {
            self.before = match second.saturating_sub(self.second) {
                1 => self.now,
                _ => 0,
            };
            self.now = 0;
            self.second = second;
        }
        self.now = self.now.saturating_add(1);
    }

    /// The greater count of this second and of the whole one before.
    pub(super) const fn per_second(&self, now_ms: u64) -> u32 {
        match (now_ms / 1_000).saturating_sub(self.second) {
            0 if self.before > self.now => self.before,
            0 | 1 => self.now,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_seconds_count() {
        let mut answers = Answers::default();
        assert_eq!(answers.per_second(5_000), 0);
        (0..30).for_each(|at_ms| answers.note(5_000 + at_ms));
        assert_eq!(answers.per_second(5_100), 30);
        assert_eq!(answers.per_second(6_900), 30);
        answers.note(6_900);
        assert_eq!(answers.per_second(6_950), 30);
        assert_eq!(answers.per_second(7_100), 1);
        assert_eq!(answers.per_second(8_100), 0);
    }
}

//! How many publications may go now: a bucket of tokens, in thousandths.

/// See the module's head.
#[derive(Debug)]
pub(super) struct Pace {
    per_s: u64,
    /// Thousandths of a publication; `per_s` of them come in with each millisecond.
    filled: u64,
    at_ms: u64,
}

/// One publication.
const ONE: u64 = 1_000;

impl Pace {
    /// A full bucket: two seconds' worth.
    pub(super) const fn new(per_s: u32) -> Self {
        let per_s = if per_s == 0 { 1 } else { per_s as u64 };
        Self {
            per_s,
            filled: per_s * 2 * ONE,
            at_ms: 0,
        }
    }

    /// Takes one token, if there is one.
    pub(super) fn take(&mut self, now_ms: u64) -> bool {
        let passed = now_ms.saturating_sub(self.at_ms);
        self.at_ms = self.at_ms.max(now_ms);
        let come = passed.saturating_mul(self.per_s);
        self.filled = self
            .filled
            .saturating_add(come)
            .min(self.per_s.saturating_mul(2 * ONE));
        if self.filled < ONE {
            return false;
        }
        self.filled -= ONE;
        true
    }

    /// When the next token is there.
    pub(super) const fn next_ms(&self) -> u64 {
        let lacking = ONE.saturating_sub(self.filled);
        self.at_ms.saturating_add(lacking.div_ceil(self.per_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forty_go_at_once_and_then_twenty_in_a_second() {
        let mut pace = Pace::new(20);
        let go = |pace: &mut Pace, now_ms| (0..100).filter(|_| pace.take(now_ms)).count();
        assert_eq!(go(&mut pace, 10_000), 40);
        assert_eq!(pace.next_ms(), 10_050);
        assert_eq!(go(&mut pace, 10_049), 0);
        assert_eq!(go(&mut pace, 11_000), 20);
        assert_eq!(go(&mut pace, 99_000), 40);
    }
}

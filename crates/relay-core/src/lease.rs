//! Which of several shims of one site is the active one, as its owner may believe it.
//!
//! Redis holds the lease and gives it to one holder at a time; here is only what follows from its
//! answers. All times are the owner's own clock, which never steps.
//!
//! ```text
//!   ask sent ──────────────► Redis: lease for lease_ms ──────────────► expires there
//!      │                                                                  │
//!      └── Active for lease_ms - margin_ms, counted from here ──┤ margin ├┘
//! ```
//! - The owner stops believing before Redis gives the lease to another: it counts from the moment
//!   it asked, and leaves a margin for clocks of different speed.
//! - A server that has known the lease for a short time only (restarted, failed over, flushed) may
//!   have forgotten that another holds it. It says for how long (`known_for_ms`), and who gets the
//!   lease from it waits until every belief of before has ended, and asks once more: only then the
//!   site's position that Redis tells is final. Who is active at that moment stays so.
//! - A shim that has never heard of another one of its site need not wait for others' beliefs.
//! - Answers that overtake each other are taken in the order in which they were asked for.

/// The times of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseConfig {
    /// How long Redis keeps a lease that is not renewed.
    pub lease_ms: u64,
    /// How often it is renewed.
    pub renew_ms: u64,
    /// How much earlier than Redis the holder takes it for ended.
    pub margin_ms: u64,
    /// How soon to ask again after a question that had no answer.
    pub retry_ms: u64,
}

impl Default for LeaseConfig {
    /// A dead holder is replaced within 4.25 s: 4 s, and the time until the other asks.
    fn default() -> Self {
        Self {
            lease_ms: 4_000,
            renew_ms: 1_000,
            margin_ms: 500,
            retry_ms: 250,
        }
    }
}

/// What Redis said when it was asked for the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The lease is ours, from the moment that Redis answered.
    Granted {
        /// Its number: greater than that of every holder before.
        fence: u64,
        /// How long this server has known the lease, since its start or since it forgot: a
        /// younger one cannot speak for what was given before.
        known_for_ms: u64,
    },
    /// Another holds it.
    HeldByOther {
        /// The other's number.
        fence: u64,
        /// When its lease ends unless it is renewed.
        expires_in_ms: u64,
    },
    /// No answer; the question may or may not have been carried out.
    Failed,
}

/// Whether to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// This one works, under this number.
    Active {
        /// The lease's number.
        fence: u64,
    },
    /// Another works, or may still believe so.
    Standby,
    /// Redis has not told for a while.
    Unknown,
}

/// A shim's view of its site's lease; see the module's head.
#[derive(Debug)]
pub struct Lease {
    config: LeaseConfig,
    in_company: bool,
    /// The greatest number heard of.
    fence: u64,
    /// Active until `until_ms`, by an answer asked for at `from_ms` or later.
    from_ms: u64,
    until_ms: u64,
    /// What Redis said is good until then, whatever it was.
    told_until_ms: u64,
    /// When the question was sent whose answer was taken last.
    taken_ms: u64,
    next_ask_ms: u64,
}

impl Lease {
    /// Nothing is known; the first question is due at once. `in_company`: another holder has been
    /// heard of, now or before a restart, or this shim has no past that could tell.
    #[must_use]
    pub const fn new(config: LeaseConfig, in_company: bool) -> Self {
        Self {
            config,
            in_company,
            fence: 0,
            from_ms: 0,
            until_ms: 0,
            told_until_ms: 0,
            taken_ms: 0,
            next_ask_ms: 0,
        }
    }

    /// When to ask next. Ask one question at a time.
    #[must_use]
    pub const fn next_ask_ms(&self) -> u64 {
        self.next_ask_ms
    }

    /// The greatest number heard of: the server is told, so that it never goes back.
    #[must_use]
    pub const fn fence(&self) -> u64 {
        self.fence
    }

    /// Whether another holder has been heard of: to be kept on disk for the next start.
    #[must_use]
    pub const fn in_company(&self) -> bool {
        self.in_company
    }

    /// The answer to the question that was sent at `sent_at_ms`.
    pub fn asked(&mut self, sent_at_ms: u64, result: Asked, now_ms: u64) {
        let LeaseConfig {
            lease_ms,
            renew_ms,
            margin_ms,
            retry_ms,
        } = self.config;
        let belief_ms = lease_ms.saturating_sub(margin_ms);
        if sent_at_ms < self.taken_ms {
            return;
        }
        match result {
            Asked::Granted {
                fence,
                known_for_ms,
            } => {
                let unsure_ms = belief_ms.saturating_sub(known_for_ms);
                if unsure_ms > 0 && self.in_company && !self.is_active(now_ms) {
                    self.from_ms = self.from_ms.max(now_ms.saturating_add(unsure_ms));
                }
                self.fence = fence.max(self.fence);
                self.until_ms = self.until_ms.max(sent_at_ms.saturating_add(belief_ms));
                let renewal = sent_at_ms.saturating_add(renew_ms);
                let after_the_wait = if self.from_ms > sent_at_ms {
                    self.from_ms
                } else {
                    u64::MAX
                };
                self.next_ask_ms = renewal.min(after_the_wait).max(now_ms);
            }
            Asked::HeldByOther {
                fence,
                expires_in_ms,
            } => {
                self.in_company = true;
                self.fence = fence.max(self.fence);
                self.until_ms = 0;
                let renewal = sent_at_ms.saturating_add(renew_ms);
                let end = now_ms.saturating_add(expires_in_ms.max(1));
                self.next_ask_ms = renewal.min(end).max(now_ms.saturating_add(1));
            }
            Asked::Failed => {
                self.next_ask_ms = now_ms.saturating_add(retry_ms);
                return;
            }
        }
        self.taken_ms = sent_at_ms;
        self.told_until_ms = sent_at_ms.saturating_add(lease_ms);
    }

    /// Given back, at SIGTERM: this one does not work any more.
    pub const fn released(&mut self) {
        self.until_ms = 0;
    }

    /// Redis refused a position under our number, since it has taken one under `fence`: the server
    /// went back in time and gave numbers again. We stop, and ask for a greater one at once.
    pub fn fenced_off(&mut self, fence: u64) {
        self.fence = fence.max(self.fence);
        self.until_ms = 0;
        self.next_ask_ms = 0;
    }

    /// Whether to work at `now_ms`. Look again before each step that must not be taken twice.
    #[must_use]
    pub const fn standing(&self, now_ms: u64) -> Standing {
        if self.is_active(now_ms) {
            Standing::Active { fence: self.fence }
        } else if now_ms < self.told_until_ms {
            Standing::Standby
        } else {
            Standing::Unknown
        }
    }

    const fn is_active(&self, now_ms: u64) -> bool {
        self.from_ms <= self.taken_ms && now_ms < self.until_ms
    }
}

#[cfg(test)]
mod tests;

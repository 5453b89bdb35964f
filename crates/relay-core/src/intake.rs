//! What a site does with one publication: publish it, drop it, or ask first.
//!
//! ```text
//! job record │ at the lower master    │ verdict
//! ───────────┼────────────────────────┼─────────────────────────────────────
//! Done       │ -                      │ Duplicate
//! Begun      │ not asked yet          │ AskMaster
//! any        │ Published              │ Duplicate
//! Nothing    │ not asked              │ by age: Publish, Expired, Wait
//! any        │ NotPublished, Unknown  │ by age: Publish, Expired, Wait
//! ```
//! - What was begun and not done may or may not have been published: only the lower master knows.
//!   Where it does not, the job is published (again): the minions' own jid queues drop it.
//! - A duplicate is one however old it is: it is not counted as expired.
//! - Without an age nothing is published.

/// The site's job record of a frame, or of the same jid and target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remembered {
    /// There is none.
    Nothing,
    /// The publish request was going to be sent; its reply never came.
    Begun,
    /// The lower master has answered the publish request.
    Done,
}

/// What the lower master's job cache says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtMaster {
    /// It has published this job.
    Published,
    /// It has not.
    NotPublished,
    /// It cannot be asked.
    Unknown,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Record its begin, judge its age again, publish it, record that it is done.
    Publish,
    /// Ask the lower master's job cache and judge again.
    AskMaster,
    /// It has been published here. If it is only begun, record that it is done.
    Duplicate,
    /// It is too old and never published.
    Expired {
        /// How old it is.
        age_ms: u64,
    },
    /// Its age is not known yet: judge again after the next beat.
    Wait,
}

/// Judges one publication; see the module's head.
///
/// Pass `at_master` without being asked where the job records may not tell everything: for what
/// stood in the stream already when this process began, or became the site's active one.
#[must_use]
pub const fn judge(
    remembered: Remembered,
    at_master: Option<AtMaster>,
    age_ms: Option<u64>,
    ttl_ms: u64,
) -> Verdict {
    match (remembered, at_master) {
        (Remembered::Done, _) | (_, Some(AtMaster::Published)) => return Verdict::Duplicate,
        (Remembered::Begun, None) => return Verdict::AskMaster,
        (Remembered::Nothing, _) | (_, Some(AtMaster::NotPublished | AtMaster::Unknown)) => {}
    }
    match age_ms {
        None => Verdict::Wait,
        Some(age_ms) if age_ms > ttl_ms => Verdict::Expired { age_ms },
        Some(_) => Verdict::Publish,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        use AtMaster::{NotPublished, Published, Unknown};
        use Remembered::{Begun, Done, Nothing};
        use Verdict::{AskMaster, Duplicate, Expired, Publish, Wait};
        const TTL: u64 = 100;
        let old = Expired { age_ms: 101 };
        #[rustfmt::skip]
        let cases = [
            (Nothing, None,               [Publish,   old,       Wait]),
            (Nothing, Some(NotPublished), [Publish,   old,       Wait]),
            (Nothing, Some(Unknown),      [Publish,   old,       Wait]),
            (Nothing, Some(Published),    [Duplicate, Duplicate, Duplicate]),
            (Begun,   None,               [AskMaster, AskMaster, AskMaster]),
            (Begun,   Some(NotPublished), [Publish,   old,       Wait]),
            (Begun,   Some(Unknown),      [Publish,   old,       Wait]),
            (Begun,   Some(Published),    [Duplicate, Duplicate, Duplicate]),
            (Done,    None,               [Duplicate, Duplicate, Duplicate]),
            (Done,    Some(NotPublished), [Duplicate, Duplicate, Duplicate]),
        ];
        for (remembered, at_master, expected) in cases {
            for (age, expected) in [Some(100), Some(101), None].into_iter().zip(expected) {
                let verdict = judge(remembered, at_master, age, TTL);
                assert_eq!(verdict, expected, "{remembered:?} {at_master:?} {age:?}");
            }
        }
    }
}

//! The words for how far a job got, and how it ended.

/// The furthest step that is known of a job and a minion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// By its site's roster, the job means it.
    Expected,
    /// Its site's roster said so, its lower master did not.
    Unmatched,
    /// Its lower master published the job for it.
    Accepted,
    /// It took the job.
    Received,
    /// It said that it runs the job.
    Running,
    /// It returned.
    Returned,
    /// It returned a failure.
    Failed,
}

impl Step {
    /// The word for the interface and for labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expected => "expected",
            Self::Unmatched => "unmatched",
            Self::Accepted => "accepted",
            Self::Received => "received",
            Self::Running => "running",
            Self::Returned => "returned",
            Self::Failed => "failed",
        }
    }
}

/// How a job ended, or stands, with one minion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It returned.
    Returned,
    /// It returned a failure.
    Failed,
    /// The job is open, and nothing speaks against a return.
    Waiting,
    /// It took the job, or said that it runs it, and has not returned.
    Running,
    /// Its lower master published the job for it, and whether it took it nobody knows; or it took it, runs it no more, and has
    /// not returned.
    Silent,
    /// Its site was there and did not publish the job for it; or it gives receipts, and gave none.
    NotReceived,
    /// Its site did not publish the job, since it came too late.
    Expired,
    /// Its site cannot be reached.
    Unreachable,
    /// Its lower master does not have it any more: it is not missing.
    Unmatched,
    /// This ledger cannot know: it did not hear all of the job, or nothing of its site.
    Unknown,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 10] = [
        Self::Returned,
        Self::Failed,
        Self::Waiting,
        Self::Running,
        Self::Silent,
        Self::NotReceived,
        Self::Expired,
        Self::Unreachable,
        Self::Unmatched,
        Self::Unknown,
    ];

    /// The word for the interface and for labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Returned => "returned",
            Self::Failed => "failed",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Silent => "silent",
            Self::NotReceived => "not_received",
            Self::Expired => "expired",
            Self::Unreachable => "unreachable",
            Self::Unmatched => "unmatched",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the minion is to return, and has not.
    #[must_use]
    pub const fn is_missing(self) -> bool {
        !matches!(self, Self::Returned | Self::Failed | Self::Unmatched)
    }

    pub(super) const fn at(self) -> usize {
        self as usize
    }
}

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Returns may still come in time.
    Open,
    /// Every expected minion has returned, and every site that was asked has answered.
    Complete,
    /// It is too late for the minions that are missing; a late return still counts.
    Incomplete,
    /// The same, and each missing one's site did not publish the job, since it came too late.
    Expired,
}

impl State {
    /// The word for the interface and for labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Complete => "complete",
            Self::Incomplete => "incomplete",
            Self::Expired => "expired",
        }
    }
}

//! Broken variants of the relay: for each guarantee one that breaks it.
//!
//! They live in the glue of the world, never in the crates under test. A simulation that does not
//! catch them proves nothing.

/// One guarantee, broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutation {
    /// The bridge holds frames in memory only.
    JournalInMemory,
    /// A new epoch begins with what comes next: nothing is appended again.
    NoAppendAgain,
    /// Numbers go on whatever the caller believes in.
    NoEpoch,
    /// The append does not compare the server's run id.
    RunIdIgnored,
    /// Any marker of a frame counts, also one of an epoch that the sites have left.
    OldMarkersCount,
    /// The append leaves no marker.
    NoMarker,
    /// Publications are not looked up in the job records.
    NoDedupe,
    /// The cursor moves when a publication comes, not when it is done.
    CursorAhead,
    /// The job record is begun behind the publish request.
    BeginAfterPublish,
    /// What was begun is published again without asking the job cache.
    NoJobCacheQuestion,
    /// A standby works, too.
    LeaseIgnored,
    /// A lease of a forgetful server counts at once.
    LeaseWithoutWait,
    /// The position of an old holder is taken.
    NoFencing,
    /// A takeover begins at its own cursor.
    PositionIgnored,
    /// Ages are counted by the bridge's clock as if it were ours.
    NoClockCorrection,
    /// Times are taken from the wall clock.
    SteppingClock,
    /// Nothing expires.
    NoExpiry,
    /// The age is not looked at again before the request is sent.
    AgeJudgedOnce,
    /// A batch leaves the spool when it is sent.
    RemovedBeforeReply,
    /// A return counts as held before it is in the spool.
    ReturnedBeforeSpooled,
    /// Nothing is fetched from the job cache at a start.
    NoFetch,
    /// A request is sent once.
    NoResend,
    /// Heart-beats tell nothing about the stream.
    BeatsIgnored,
    /// The spool sheds returns first.
    ShedsReturnsFirst,
    /// Nothing is shed from the journal.
    NoJournalBound,
}

impl Mutation {
    /// Each of them.
    pub const ALL: [Self; 25] = [
        Self::JournalInMemory,
        Self::NoAppendAgain,
        Self::NoEpoch,
        Self::RunIdIgnored,
        Self::OldMarkersCount,
        Self::NoMarker,
        Self::NoDedupe,
        Self::CursorAhead,
        Self::BeginAfterPublish,
        Self::NoJobCacheQuestion,
        Self::LeaseIgnored,
        Self::LeaseWithoutWait,
        Self::NoFencing,
        Self::PositionIgnored,
        Self::NoClockCorrection,
        Self::SteppingClock,
        Self::NoExpiry,
        Self::AgeJudgedOnce,
        Self::RemovedBeforeReply,
        Self::ReturnedBeforeSpooled,
        Self::NoFetch,
        Self::NoResend,
        Self::BeatsIgnored,
        Self::ShedsReturnsFirst,
        Self::NoJournalBound,
    ];
}

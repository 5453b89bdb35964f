//! What the parts of the world say to each other.

use relay_core::EntryId;

/// A part of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Node {
    Mom,
    Bridge(usize),
    Redis(usize),
    Shim(usize),
    Lower(usize),
    Minion(usize),
}

/// A frame with the time at which a bridge received it. A clock is a host and its boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamped {
    pub(crate) frame: u32,
    pub(crate) received_at_ms: u64,
    pub(crate) clock: (usize, u32),
}

/// One thing that a site sends up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Item {
    Event(u32),
    /// A minion's answer to a job.
    Return(u32, usize),
}

/// A request to the top master.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) shim: usize,
    pub(crate) rid: u64,
    /// Empty: a sign-in.
    pub(crate) items: Vec<Item>,
}

/// A command to Redis.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    Append {
        frames: Vec<Stamped>,
        known: EntryId,
    },
    BeginEpoch {
        known: EntryId,
        clock_ms: u64,
    },
    Beat {
        clock: (usize, u32),
        clock_ms: u64,
        known: EntryId,
    },
    Subscribe {
        shim: usize,
    },
    ReadAfter {
        after: EntryId,
    },
    AskLease {
        site: usize,
        shim: usize,
        fence: u64,
    },
    Release {
        site: usize,
        shim: usize,
    },
    Position {
        site: usize,
        fence: u64,
        id: EntryId,
    },
    AddRequest(Request),
    TakeRequests {
        bridge: usize,
        in_hand: Vec<u64>,
    },
    ReplyTo {
        entry: u64,
        shim: usize,
        rid: u64,
    },
}

impl Command {
    /// Whether a replica may carry it out.
    pub(crate) const fn only_reads(&self) -> bool {
        matches!(self, Self::Subscribe { .. } | Self::ReadAfter { .. })
    }

    /// Whether a server that is out of memory refuses it.
    pub(crate) const fn needs_memory(&self) -> bool {
        matches!(
            self,
            Self::Append { .. }
                | Self::BeginEpoch { .. }
                | Self::AskLease { .. }
                | Self::Position { .. }
                | Self::AddRequest(_)
        )
    }
}

/// The answer to a command.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Appended(Vec<(EntryId, bool)>),
    Stale,
    Begun(u64),
    Beaten(EntryId),
    Subscribed,
    Page {
        after: EntryId,
        at_end: bool,
        entries: Vec<(EntryId, Stamped)>,
        newest: EntryId,
    },
    Granted {
        fence: u64,
        known_for_ms: u64,
        position: Option<(u64, EntryId)>,
    },
    HeldByOther {
        fence: u64,
        expires_in_ms: u64,
    },
    Requests(Vec<(u64, Request)>),
    /// A position under this number is held.
    FencedOff(u64),
    Done,
    /// Out of memory, or a replica.
    Refused,
}

/// What subscribers hear.
#[derive(Debug, Clone)]
pub(crate) enum Push {
    Publication(EntryId, Stamped),
    Beat {
        clock: (usize, u32),
        clock_ms: u64,
        newest: EntryId,
    },
    Reply {
        shim: usize,
        rid: u64,
    },
}

/// Everything that goes over a wire.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    /// The top master's publish stream.
    Frame(u32),
    ToRedis {
        op: u64,
        command: Command,
    },
    FromRedis {
        op: u64,
        answer: Answer,
    },
    Pushed(Push),
    /// A bridge passes a request on.
    ToMom {
        entry: u64,
        request: Request,
    },
    /// The top master's reply; a sign-in brings its key.
    FromMom {
        entry: u64,
        shim: usize,
        rid: u64,
    },
    /// A publish request, sent at a time.
    Publish {
        op: u64,
        shim: usize,
        job: u32,
        judged_at: u64,
    },
    Published {
        op: u64,
    },
    /// A master sends a job to its minions.
    Job {
        job: u32,
        lower: usize,
    },
    /// A minion answers to its master.
    Returned {
        job: u32,
        minion: usize,
    },
    ReturnTaken {
        job: u32,
    },
    /// On the event bus.
    Bus(Item),
}

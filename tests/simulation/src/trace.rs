//! What happened, as a hash over every step and, when asked for, as lines.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use relay_core::EntryId;

use crate::faults::Fault;
use crate::message::{Item, Node};

/// One step.
#[derive(Debug, Clone, Hash)]
pub(crate) enum Note {
    Published {
        frame: u32,
        job: u32,
        serial: u64,
    },
    BridgeReceived {
        bridge: usize,
        frame: u32,
    },
    Journaled {
        bridge: usize,
        frame: u32,
    },
    Appended {
        bridge: usize,
        through: u64,
    },
    Stale {
        bridge: usize,
    },
    Epoch {
        bridge: usize,
        epoch: u64,
    },
    Gone {
        bridge: usize,
        unappended: u64,
    },
    Started(Node),
    Stopped(Node),
    Fault(Fault),
    Active {
        shim: usize,
        fence: u64,
        from: EntryId,
    },
    Inactive {
        shim: usize,
    },
    Delivered {
        shim: usize,
        entry: EntryId,
        frame: u32,
    },
    NewEpoch {
        shim: usize,
        epoch: u64,
    },
    Lost {
        shim: usize,
        from: EntryId,
        to: EntryId,
    },
    Ended {
        shim: usize,
        from: EntryId,
        to: EntryId,
    },
    Judged {
        shim: usize,
        job: u32,
        verdict: &'static str,
    },
    Unopenable {
        shim: usize,
        frame: u32,
    },
    SignedIn {
        shim: usize,
        key: u32,
    },
    PublishSent {
        shim: usize,
        job: u32,
        age_ms: u64,
    },
    PublishFailed {
        shim: usize,
        job: u32,
    },
    Ran {
        lower: usize,
        job: u32,
    },
    Executed {
        minion: usize,
        job: u32,
    },
    Dropped {
        minion: usize,
        job: u32,
    },
    Cursor {
        shim: usize,
        entry: EntryId,
    },
    Spooled {
        shim: usize,
        item: Item,
    },
    Shed {
        shim: usize,
        item: Item,
    },
    Sent {
        shim: usize,
        rid: u64,
        items: usize,
    },
    Replied {
        shim: usize,
        rid: u64,
    },
    MomTook {
        rid: u64,
        items: usize,
    },
    Gap {
        shim: usize,
        from: u64,
        to: u64,
    },
}

impl Hash for crate::message::Stamped {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.frame.hash(state);
    }
}

/// The record of a run.
#[derive(Debug)]
pub(crate) struct Trace {
    hasher: DefaultHasher,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(crate) fn new(lines: bool) -> Self {
        Self {
            // Its keys are fixed, unlike those of a map.
            hasher: DefaultHasher::new(),
            lines: lines.then(Vec::new),
        }
    }

    pub(crate) fn note(&mut self, now: u64, note: Note) {
        (now, &note).hash(&mut self.hasher);
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>3}.{:03} {note:?}", now / 1000, now % 1000));
        }
    }

    pub(crate) fn finish(self) -> (u64, Vec<String>) {
        (self.hasher.finish(), self.lines.unwrap_or_default())
    }
}

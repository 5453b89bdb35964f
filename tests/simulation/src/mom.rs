//! The top master: publishes jobs with serials, changes its key, takes requests.

use std::collections::{BTreeMap, BTreeSet};

use crate::message::{Item, Message, Node};
use crate::trace::Note;
use crate::world::World;

/// What the top master knows.
#[derive(Debug, Default)]
pub(crate) struct Mom {
    /// Which AES key is in use.
    pub(crate) key: u32,
    serial: u64,
    /// What has been filed, and how often.
    pub(crate) filed: BTreeMap<Item, u32>,
    /// The key that a sign-in brought.
    pub(crate) sign_ins: BTreeMap<u64, u32>,
    pub(crate) frames: Vec<Frame>,
    jobs: u32,
    /// Requests taken, to count repetitions.
    pub(crate) taken: BTreeSet<u64>,
}

/// One message of the publish stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) job: u32,
    pub(crate) key: u32,
    pub(crate) serial: u64,
}

impl World {
    /// A new job; now and then the frame of an old one again, under the same jid.
    pub(crate) fn mom_publishes(&mut self) {
        if !self.life(Node::Mom).up {
            return;
        }
        let again = self.mom.jobs > 0 && self.rng.u8(..) < 20;
        let job = if again {
            self.rng.u32(0..self.mom.jobs)
        } else {
            self.mom.jobs += 1;
            self.mom.jobs - 1
        };
        self.mom.serial += 1;
        let (key, serial) = (self.mom.key, self.mom.serial);
        self.mom.frames.push(Frame { job, key, serial });
        let frame = u32::try_from(self.mom.frames.len() - 1).unwrap_or(u32::MAX);
        self.note(Note::Published { frame, job, serial });
        for bridge in 0..self.bridges.len() {
            self.send(Node::Mom, Node::Bridge(bridge), Message::Frame(frame));
        }
    }

    pub(crate) fn mom_hears(&mut self, from: Node, message: Message) {
        let Message::ToMom { entry, request } = message else {
            return;
        };
        let rid = request.rid;
        self.note(Note::MomTook {
            rid,
            items: request.items.len(),
        });
        self.mom.taken.insert(rid);
        if request.items.is_empty() {
            self.mom.sign_ins.insert(rid, self.mom.key);
        }
        for item in request.items {
            *self.mom.filed.entry(item).or_default() += 1;
        }
        let shim = request.shim;
        self.send(Node::Mom, from, Message::FromMom { entry, shim, rid });
    }

    /// The process starts again with a new key, and counts from 1.
    pub(crate) fn mom_rotates(&mut self) {
        self.mom.key += 1;
        self.mom.serial = 0;
    }
}

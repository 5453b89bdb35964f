//! What this site has done already, on disk: job records, for the delivery.
//!
//! Where the disk fails the delivery goes on: the lower master's job cache and the minions' own memory then guard against
//! doubles. Each failure is counted and logged.

use std::collections::HashMap;

use relay_core::{entry::EntryId, intake::Remembered};
use salt_wire::{
    ids::MinionId,
    msgpack::{Dialect, encode},
    publication::PublicationLoad,
};
use store::{Begin, Done, Jobs, PartKey, PartState};

use crate::{disk::Disk, site::Message};

/// One job part, as a publication brought it: `salt -b` of 3008 publishes several under one jid, each with its own target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    key: PartKey,
    frame: [u8; 16],
}

impl Part {
    /// The part that `load`, out of `frame`, is about. What an operator publishes again `by_hand` is a part of its own each time.
    pub(super) fn new(frame: &[u8], load: &PublicationLoad, by_hand: bool) -> Self {
        let frame = digest(frame);
        let part = if by_hand {
            frame
        } else {
            digest(&encode(load.tgt(), Dialect::New))
        };
        let jid = load.jid().as_str().to_owned();
        Self {
            key: PartKey { jid, part },
            frame,
        }
    }

    /// Whether both are the same part of the same job, be it in two frames.
    pub(super) fn is_same_job(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

/// The first 16 bytes of the SHA-256: the name that Redis' markers use, too.
fn digest(bytes: &[u8]) -> [u8; 16] {
    let whole = openssl::sha::sha256(bytes);
    let mut digest = [0; 16];
    digest.copy_from_slice(&whole[..16]);
    digest
}

/// The job records of this site, for one upstream.
pub(crate) struct Records {
    jobs: Jobs,
    disk: Disk,
    /// The site's own id, which answers for the site.
    site: String,
    /// Not on disk yet: written together at the end of a batch.
    done: Vec<Done>,
}

impl Records {
    pub(crate) fn new(jobs: Jobs, disk: Disk, site: &MinionId) -> Self {
        Self {
            jobs,
            disk,
            site: site.to_string(),
            done: Vec::new(),
        }
    }

    /// For each frame whether this site is done with it.
    pub(super) async fn seen(&self, frames: impl Iterator<Item = &[u8]>) -> Vec<bool> {
        let digests: Vec<[u8; 16]> = frames.map(digest).collect();
        let count = digests.len();
        let seen = self.jobs.seen_frames(digests).await;
        self.disk
            .read("read job records", seen)
            .unwrap_or(vec![false; count])
    }

    /// What is remembered of each part.
    pub(super) async fn remembered(&self, parts: impl Iterator<Item = &Part>) -> Vec<Remembered> {
        let keys: Vec<(PartKey, [u8; 16])> =
            parts.map(|part| (part.key.clone(), part.frame)).collect();
        let count = keys.len();
        let states = self.jobs.remembered(keys).await;
        let states = self
            .disk
            .read("read job records", states)
            .unwrap_or(vec![None; count]);
        let remembered = states.into_iter().map(|state| match state {
            None => Remembered::Nothing,
            Some(PartState::Begun) => Remembered::Begun,
            Some(PartState::Done) => Remembered::Done,
        });
        remembered.collect()
    }

    /// By jid, the minions that have not returned jobs that came since then; the site's own answer does not count.
    pub(super) async fn missing(&self, since_ms: u64) -> HashMap<String, Vec<String>> {
        let open = self.jobs.open_jobs(since_ms).await;
        let open = self.disk.read("read job records", open).unwrap_or_default();
        let mut missing: HashMap<String, Vec<String>> = HashMap::new();
        for job in open {
            let minions = job.missing.into_iter().filter(|name| *name != self.site);
            missing.entry(job.jid).or_default().extend(minions);
        }
        missing
    }

    /// Notes on disk that these are about to be published.
    pub(super) async fn begin(
        &self,
        upstream: usize,
        parts: impl Iterator<Item = (&Part, EntryId)>,
    ) {
        let at_ms = daemon_kit::unix_millis();
        let begun: Vec<Begin> = parts
            .map(|(part, entry_id)| Begin {
                key: part.key.clone(),
                frame: part.frame,
                upstream: u32::try_from(upstream).unwrap_or(u32::MAX),
                entry: (entry_id.epoch, entry_id.number),
                at_ms,
            })
            .collect();
        if !begun.is_empty() {
            let written = self.jobs.begin(begun).await;
            self.disk.written("write job records", written);
        }
    }

    /// Notes that a part is published; [`flush`](Self::flush) writes it.
    pub(super) fn done(&mut self, part: &Part, message: &Message) {
        if let Message::Published {
            fun,
            minions,
            answers_for_site,
            ..
        } = message
        {
            // The site's own answer is missing, too, until it is in the spool.
            let site = answers_for_site.then(|| self.site.clone());
            self.done.push(Done {
                key: part.key.clone(),
                fun: fun.clone(),
                minions: minions.iter().cloned().chain(site).collect(),
                answers_for_site: *answers_for_site,
            });
        }
    }

    /// Writes what is done.
    pub(super) async fn flush(&mut self) {
        if !self.done.is_empty() {
            let done = std::mem::take(&mut self.done);
            let written = self.jobs.done(done).await;
            self.disk.written("write job records", written);
        }
    }
}

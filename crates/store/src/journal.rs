//! The bridge's journal: the MoM's frames, from their receipt until they have expired.
//!
//! A frame is here before it is appended to Redis, and stays when it has been: a Redis that forgets gets it again. Who
//! decides what is to be appended and what is to go is `relay_core::backlog`; the journal only keeps.
//!
//! - Sequence numbers ascend, and are never given twice, also over restarts.
//! - Each frame knows the clock that stamped it: that of the process which wrote it.
//! - How far Redis has the frames survives a restart. When it is lost all are appended again, which Redis notices.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use rusqlite::Connection;
use tracing::error;

use crate::{
    Opened, StoreError,
    db::{self, State},
    key::Key,
    table,
    worker::Handle,
};

/// The track of the frames; a frame's number is its sequence number.
const FRAMES: u16 = 0;

/// Holds one record, which says how far the frames have been appended.
const MARK: Key = Key {
    track: 1,
    number: 1,
};

/// The clocks: each record's number is the first sequence number that it stamped.
const CLOCKS: u16 = 2;

/// Frames forgotten in one transaction, so that an append does not wait long.
const FORGET_STEP: usize = 2_000;

/// A frame without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameIndex {
    /// Its sequence number.
    pub seq: u64,
    /// Its length.
    pub bytes: u32,
    /// When the bridge received it.
    pub received_at_ms: u64,
}

/// A frame as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalFrame {
    /// Its sequence number.
    pub seq: u64,
    /// When the bridge received it.
    pub received_at_ms: u64,
    /// The clock that says so; empty where nobody knows.
    pub clock: Arc<str>,
    /// Its bytes.
    pub frame: Bytes,
}

/// What a journal held when it was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JournalOpened {
    /// What was found.
    pub opened: Opened,
    /// Every frame, in order.
    pub frames: Vec<FrameIndex>,
    /// Redis had these and all before; 0 for none.
    pub appended_through: u64,
    /// The newest entry id then known, epoch and number.
    pub newest_entry: (u64, u64),
    /// The next frame may have this number; every one that was ever given is smaller.
    pub next_seq: u64,
}

/// How full a journal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JournalState {
    /// Frames.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames found damaged while reading, and removed, since the journal was opened.
    pub damaged: u64,
}

/// The journal. Clones share it; see the module's head.
#[derive(Debug, Clone)]
pub struct Journal {
    handle: Handle<Contents>,
    state: Arc<Mutex<JournalState>>,
}

impl Journal {
    /// Opens the journal at `path`; reads all of it once. What is appended from now on is stamped by `clock`.
    ///
    /// # Errors
    /// When the file cannot be opened or made. A damaged one is no error: see [`Opened::set_aside`].
    pub fn open(path: &Path, clock: &str) -> Result<(Self, JournalOpened), StoreError> {
        let state = Arc::new(Mutex::new(JournalState::default()));
        let mut contents = Contents {
            clock: clock.into(),
            knows_clock: false,
            clocks: BTreeMap::new(),
            draft: Tally::default(),
            held: Tally::default(),
            found: Some(Vec::new()),
            state: Arc::clone(&state),
        };
        let (db, opened) = db::open(path, &mut contents)?;
        let opened = JournalOpened {
            opened,
            frames: contents.found.take().unwrap_or_default(),
            appended_through: contents.held.appended_through,
            newest_entry: contents.held.newest_entry,
            next_seq: contents.held.newest + 1,
        };
        let handle = Handle::start("journal", db, contents)?;
        Ok((Self { handle, state }, opened))
    }

    /// Writes `frames`, each with its time of receipt, numbered from `first` on; on disk when this returns. `first` is
    /// larger than every number given before; numbers in between may be left out.
    ///
    /// # Errors
    /// When nothing of it was written.
    pub async fn append(&self, first: u64, frames: Vec<(u64, Bytes)>) -> Result<(), StoreError> {
        let bytes = frames.iter().map(|(_, frame)| frame.len()).sum();
        let append = move |contents: &mut Contents, db: &Connection| {
            contents.write_clock(db, first)?;
            for (seq, (received_at_ms, frame)) in (first..).zip(&frames) {
                let key = Key::new(FRAMES, seq);
                table::put(db, key, *received_at_ms, frame)?;
                contents.draft.add(key, frame.len());
            }
            Ok(())
        };
        self.handle.call(bytes, append).await
    }

    /// The frames from `from` on, at most so many and so many bytes, but at least one if there is one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn read(
        &self,
        from: u64,
        frames_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<JournalFrame>, StoreError> {
        let read = move |contents: &mut Contents, db: &Connection| {
            contents.read(db, from, frames_max, bytes_max)
        };
        self.handle.call(0, read).await
    }

    /// Removes every frame up to and with `through`.
    ///
    /// # Errors
    /// When that failed; some of them may be gone.
    pub async fn forget(&self, through: u64) -> Result<(), StoreError> {
        loop {
            let forget =
                move |contents: &mut Contents, db: &Connection| contents.forget(db, through);
            if !self.handle.call(0, forget).await? {
                return Ok(());
            }
        }
    }

    /// Notes that Redis has every frame up to and with `through`, and the newest entry id that was seen.
    ///
    /// # Errors
    /// When it could not be noted.
    pub async fn appended(&self, through: u64, newest_entry: (u64, u64)) -> Result<(), StoreError> {
        let note = move |contents: &mut Contents, db: &Connection| {
            contents.draft.appended_through = through;
            contents.draft.newest_entry = newest_entry;
            contents.draft.newest = contents.draft.newest.max(through);
            let body: Vec<u8> = [through, newest_entry.0, newest_entry.1]
                .into_iter()
                .flat_map(u64::to_le_bytes)
                .collect();
            table::put(db, MARK, 0, &body)
        };
        self.handle.call(0, note).await
    }

    /// How full the journal is; cheap.
    #[must_use]
    pub fn state(&self) -> JournalState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Default)]
struct Tally {
    state: JournalState,
    newest: u64,
    appended_through: u64,
    newest_entry: (u64, u64),
}

impl Tally {
    fn add(&mut self, key: Key, bytes: usize) {
        self.state.entries += 1;
        self.state.bytes += bytes as u64;
        self.newest = self.newest.max(key.number);
    }

    fn subtract(&mut self, bytes: u64) {
        self.state.entries = self.state.entries.saturating_sub(1);
        self.state.bytes = self.state.bytes.saturating_sub(bytes);
    }
}

/// What the thread knows of the file.
struct Contents {
    clock: Arc<str>,
    /// The file knows our clock. Where a rollback took it back it is written once more than necessary.
    knows_clock: bool,
    /// The clocks by the first sequence number that they stamped.
    clocks: BTreeMap<u64, Arc<str>>,
    /// With what the transaction at hand does.
    draft: Tally,
    /// What the file holds.
    held: Tally,
    /// Every frame, while the journal is opened for the first time.
    found: Option<Vec<FrameIndex>>,
    state: Arc<Mutex<JournalState>>,
}

impl State for Contents {
    fn clear(&mut self) {
        self.found.iter_mut().for_each(Vec::clear);
        self.clocks.clear();
        self.knows_clock = false;
        self.draft = Tally {
            state: JournalState {
                damaged: self.held.state.damaged,
                ..JournalState::default()
            },
            // Numbers go on, so that none names two frames.
            newest: self.held.newest,
            ..Tally::default()
        };
    }

    fn record(&mut self, key: Key, at_ms: u64, body: &[u8]) {
        if key.track == FRAMES {
            self.draft.add(key, body.len());
            let index = FrameIndex {
                seq: key.number,
                bytes: u32::try_from(body.len()).unwrap_or(u32::MAX),
                received_at_ms: at_ms,
            };
            self.found.iter_mut().for_each(|found| found.push(index));
        } else if key.track == CLOCKS {
            let clock = String::from_utf8_lossy(body).into();
            self.clocks.insert(key.number, clock);
        } else if let ([through, epoch, number], _) = body.as_chunks() {
            let [through, epoch, number] = [through, epoch, number].map(|n| u64::from_le_bytes(*n));
            self.draft.appended_through = through;
            self.draft.newest_entry = (epoch, number);
            self.draft.newest = self.draft.newest.max(through);
        }
    }

    fn committed(&mut self) {
        self.held.clone_from(&self.draft);
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = self.held.state;
    }

    fn rolled_back(&mut self) {
        self.draft.clone_from(&self.held);
        self.knows_clock = false;
    }
}

impl Contents {
    fn write_clock(&mut self, db: &Connection, first: u64) -> rusqlite::Result<()> {
        if !self.knows_clock {
            let key = Key::new(CLOCKS, first);
            table::put(db, key, 0, self.clock.as_bytes())?;
            self.clocks.insert(key.number, Arc::clone(&self.clock));
            self.knows_clock = true;
        }
        Ok(())
    }

    fn clock_of(&self, seq: u64) -> Arc<str> {
        let newest = self.clocks.range(..=seq).next_back();
        newest.map_or_else(|| "".into(), |(_, clock)| Arc::clone(clock))
    }

    /// Forgets the clocks that stamped nothing which is left, all of it lying at or behind `oldest`.
    fn forget_clocks(&mut self, db: &Connection, oldest: u64) -> rusqlite::Result<()> {
        while let Some(first) = self.clocks.keys().next().copied()
            && self
                .clocks
                .keys()
                .nth(1)
                .is_some_and(|next| *next <= oldest)
        {
            table::remove(db, Key::new(CLOCKS, first))?;
            self.clocks.remove(&first);
        }
        Ok(())
    }

    fn read(
        &mut self,
        db: &Connection,
        from: u64,
        frames_max: usize,
        bytes_max: usize,
    ) -> rusqlite::Result<Vec<JournalFrame>> {
        let (mut frames, mut bytes) = (Vec::new(), 0_usize);
        for listed in table::keys(db, FRAMES, from.saturating_sub(1), frames_max)? {
            bytes = bytes.saturating_add(usize::try_from(listed.bytes).unwrap_or(usize::MAX));
            if bytes > bytes_max && !frames.is_empty() {
                break;
            }
            let seq = listed.key.number;
            match table::get(db, listed.key)? {
                Some(found) if found.holds => frames.push(JournalFrame {
                    seq,
                    received_at_ms: found.at_ms,
                    clock: self.clock_of(seq),
                    frame: found.body.into(),
                }),
                Some(_) => {
                    error!(seq, "frame of the journal lost: its checksum does not hold");
                    self.draft.state.damaged += 1;
                    self.remove(db, listed.key)?;
                }
                None => {}
            }
        }
        Ok(frames)
    }

    /// Removes some of the frames up to and with `through`; whether more are left.
    fn forget(&mut self, db: &Connection, through: u64) -> rusqlite::Result<bool> {
        let listed = table::keys(db, FRAMES, 0, FORGET_STEP)?;
        let is_whole_step = listed.len() == FORGET_STEP;
        let due = || {
            listed
                .iter()
                .take_while(|listed| listed.key.number <= through)
        };
        due().try_for_each(|listed| self.remove(db, listed.key))?;
        let kept = listed.iter().find(|listed| listed.key.number > through);
        self.forget_clocks(db, kept.map_or(0, |listed| listed.key.number))?;
        Ok(is_whole_step && due().count() == FORGET_STEP)
    }

    fn remove(&mut self, db: &Connection, key: Key) -> rusqlite::Result<()> {
        if let Some(bytes) = table::remove(db, key)? {
            self.draft.subtract(bytes);
        }
        Ok(())
    }
}

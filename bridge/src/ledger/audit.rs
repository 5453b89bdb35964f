//! The audit: who ran what on whom, when, and how it ended. One JSON line when a job appears, one when it is over.
//!
//! ```text
//! ledger task ──line──► bounded queue ──► thread `audit` ──► <state_dir>/audit.jsonl ──rotated──► audit.jsonl.1 ...
//! ```
//! - Lines are appended, never changed; the file is synced within a second, and nobody but its owner reads it.
//! - The ledger never waits: a line that finds the queue full is lost, counted and told.
//! - While the disk takes nothing, lines wait in memory up to a bound; a line is in the file whole or not at all.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    time::Duration,
};

use tokio::time::Instant;

use crate::telemetry::LedgerTelemetry;

/// The file in the state directory.
pub(super) const FILE: &str = "audit.jsonl";

/// Lines between the ledger and the thread: some seconds of a busy MoM. A further line is lost and counted.
const QUEUED_MAX: usize = 4_096;

/// Bytes of lines that wait for a disk that takes nothing. Beyond it the oldest are lost and counted.
const WAITING_BYTES_MAX: usize = 4 << 20;

/// How often what was written is synced, and a failed write is tried again.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// The bounds of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AuditBounds {
    /// A file that would grow beyond this is rotated first.
    pub(crate) bytes_max: u64,
    /// Files in all, the one being written included.
    pub(crate) files_max: u64,
}

/// The ledger's end of the audit.
#[derive(Debug)]
pub(super) struct Audit {
    lines: SyncSender<Vec<u8>>,
    telemetry: LedgerTelemetry,
}

/// The thread's end; [`AuditThread::run`] works until every [`Audit`] is dropped.
#[derive(Debug)]
pub(super) struct AuditThread {
    lines: Receiver<Vec<u8>>,
    log: Log,
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    failing: bool,
    telemetry: LedgerTelemetry,
}

impl Audit {
    /// The two ends of the audit in `dir`. The file is opened when the first line comes.
    pub(super) fn new(
        dir: &Path,
        bounds: AuditBounds,
        telemetry: &LedgerTelemetry,
    ) -> (Self, AuditThread) {
        let (sender, lines) = sync_channel(QUEUED_MAX);
        let thread = AuditThread {
            lines,
            log: Log::new(dir.join(FILE), bounds),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            failing: false,
            telemetry: telemetry.clone(),
        };
        let audit = Self {
            lines: sender,
            telemetry: telemetry.clone(),
        };
        (audit, thread)
    }

    /// Hands a line over; `line` holds no line end.
    pub(super) fn write(&self, mut line: Vec<u8>) {
        line.push(b'\n');
        match self.lines.try_send(line) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.telemetry.audit_lost(1, "the queue is full");
            }
        }
    }
}

impl AuditThread {
    /// Writes until nobody can hand over lines any more, then syncs.
    pub(super) fn run(mut self) {
        let mut synced = Instant::now();
        loop {
            match self.lines.recv_timeout(SYNC_EVERY) {
                Ok(line) => self.take(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if !self.failing || synced.elapsed() >= SYNC_EVERY {
                self.write();
            }
            if synced.elapsed() >= SYNC_EVERY {
                synced = Instant::now();
                let done = self.log.sync();
                self.note(done);
            }
        }
        self.write();
        let done = self.log.sync();
        self.note(done);
        if !self.waiting.is_empty() {
            let lost = self.waiting.len();
            self.telemetry
                .audit_lost(lost, "the bridge ends and the disk takes nothing");
        }
    }

    fn take(&mut self, line: Vec<u8>) {
        self.waiting_bytes += line.len();
        self.waiting.push_back(line);
        while self.waiting_bytes > WAITING_BYTES_MAX && self.waiting.len() > 1 {
            if let Some(lost) = self.waiting.pop_front() {
                self.waiting_bytes -= lost.len();
                self.telemetry.audit_lost(1, "the disk takes nothing");
            }
        }
    }

    fn write(&mut self) {
        while let Some(line) = self.waiting.front() {
            match self.log.append(line) {
                Ok(()) => {
                    self.waiting_bytes -= line.len();
                    self.waiting.pop_front();
                    self.note(Ok(()));
                }
                Err(err) => return self.note(Err(err)),
            }
        }
    }

    fn note(&mut self, done: io::Result<()>) {
        match done {
            Ok(()) if self.failing && self.waiting.is_empty() => {
                self.failing = false;
                self.telemetry.audit_writable();
            }
            Err(err) if !self.failing => {
                self.failing = true;
                self.telemetry.audit_failed(&self.log.path, &err);
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// The file being written, and the older ones beside it.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    bounds: AuditBounds,
    file: Option<File>,
    bytes: u64,
    dirty: bool,
}

impl Log {
    fn new(path: PathBuf, bounds: AuditBounds) -> Self {
        Self {
            path,
            bounds,
            file: None,
            bytes: 0,
            dirty: false,
        }
    }

    /// Appends a line whole, or leaves the file as it was.
    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            self.open()?;
        }
        let grown = self.bytes + line.len() as u64;
        if self.bytes > 0 && grown > self.bounds.bytes_max {
            self.rotate()?;
        }
        let Some(file) = &mut self.file else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if let Err(err) = file.write_all(line) {
            // What a full disk took of it would spoil the next line. Opening again mends what this cannot.
            if file.set_len(self.bytes).is_err() {
                self.file = None;
            }
            return Err(err);
        }
        self.bytes += line.len() as u64;
        self.dirty = true;
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)?;
        self.bytes = whole_lines(&mut file)?;
        file.set_len(self.bytes)?;
        self.file = Some(file);
        Ok(())
    }

    /// `audit.jsonl` becomes `audit.jsonl.1`, that `audit.jsonl.2`, and the last one goes.
    fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        let name = |number: u64| match number {
            0 => self.path.clone(),
            _ => PathBuf::from(format!("{}.{number}", self.path.display())),
        };
        let last = self.bounds.files_max.saturating_sub(1);
        for number in (0..last).rev() {
            match fs::rename(name(number), name(number + 1)) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
                _ => {}
            }
        }
        if last == 0 {
            fs::remove_file(name(0))?;
        }
        self.file = None;
        self.open()
    }

    fn sync(&mut self) -> io::Result<()> {
        if let (true, Some(file)) = (self.dirty, &self.file) {
            file.sync_data()?;
            self.dirty = false;
        }
        Ok(())
    }
}

/// The length of the file without a last line that a power cut left half written.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    const LINE_BYTES_MAX: u64 = 1 << 20;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(LINE_BYTES_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut end = Vec::new();
    file.take(LINE_BYTES_MAX).read_to_end(&mut end)?;
    let last = end.iter().rposition(|byte| *byte == b'\n');
    Ok(match last {
        Some(last) => from + last as u64 + 1,
        None if from == 0 => 0,
        // No line of ours is that long: whatever this is, it stays.
        None => length,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn log(dir: &Path, bytes_max: u64, files_max: u64) -> Log {
        let bounds = AuditBounds {
            bytes_max,
            files_max,
        };
        Log::new(dir.join(FILE), bounds)
    }

    fn read(dir: &Path, name: &str) -> String {
        fs::read_to_string(dir.join(name)).unwrap_or_else(|_| "none".to_owned())
    }

    #[test]
    fn files_are_rotated_by_size_and_the_oldest_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = log(dir.path(), 10, 3);
        for line in ["one\n", "two\n", "three\n", "four four four\n", "five\n"] {
            log.append(line.as_bytes()).expect("written");
        }
        assert_eq!(read(dir.path(), FILE), "five\n");
        assert_eq!(read(dir.path(), "audit.jsonl.1"), "four four four\n");
        assert_eq!(read(dir.path(), "audit.jsonl.2"), "three\n");
        assert_eq!(read(dir.path(), "audit.jsonl.3"), "none");
        let mode = fs::metadata(dir.path().join(FILE)).expect("there");
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_line_that_was_cut_off_is_removed_before_the_next() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(FILE), "whole\nhal").expect("written");
        let mut log = log(dir.path(), 1_000, 2);
        log.append(b"next\n").expect("written");
        assert_eq!(read(dir.path(), FILE), "whole\nnext\n");
    }
}

//! Looks at the write-ahead log before SQLite does: SQLite takes a damaged log for a short one, and drops the rest of it
//! without a word.
//!
//! A log is a header and frames, each one page. Each frame carries a checksum that is seeded with that of the frame
//! before it, the log's two salts (frames of an earlier round of the log, which was begun anew, carry others), and a
//! mark where a transaction is complete. Since the seed stands in the file, the frames behind a damaged one can be told
//! good from bad as well. Format: <https://sqlite.org/fileformat2.html#the_write_ahead_log>

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use crate::db::PAGE_BYTES;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
const FRAME_BYTES: usize = FRAME_HEADER_BYTES + PAGE_BYTES;

/// What a log is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// SQLite reads all of it.
    Whole,
    /// It ends in half a write.
    TornEnd,
    /// SQLite would drop complete transactions.
    Damaged,
}

/// A log, read.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) verdict: Verdict,
    /// Where the newest committed content of a page begins in the file.
    pub(crate) pages: HashMap<u32, u64>,
}

impl Log {
    fn empty(verdict: Verdict) -> Self {
        Self {
            verdict,
            pages: HashMap::new(),
        }
    }
}

/// Reads the log at `path`; a missing one is empty.
pub(crate) fn inspect(path: &Path) -> io::Result<Log> {
    let file = match File::open(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            return Ok(Log::empty(Verdict::Whole));
        }
        file => file?,
    };
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut header = [0; HEADER_BYTES];
    if !fill(&mut reader, &mut header)? {
        return Ok(Log::empty(Verdict::Whole));
    }
    let mut scan = Scan::new(&header);
    let mut frame = vec![0; FRAME_BYTES];
    while fill(&mut reader, &mut frame)? {
        scan.frame(&frame);
    }
    Ok(scan.finish())
}

/// Reads `buffer` whole; false at the end of the file.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}

/// The state of reading a log frame by frame.
struct Scan {
    header_holds: bool,
    big_endian: bool,
    salts: Option<[u32; 2]>,
    /// What the next frame's checksum may be seeded with: as written, and as computed. They differ where the frame
    /// before is damaged, in its checksum or elsewhere.
    seeds: [[u32; 2]; 2],
    /// Every frame so far follows from the one before.
    unbroken: bool,
    offset: u64,
    /// Where good content of pages since the last commit is.
    pending: Vec<(u32, u64)>,
    /// The same before the last commit. Where the newest content of a page is damaged an older one stands.
    committed: HashMap<u32, u64>,
    verdict: Verdict,
}

impl Scan {
    fn new(header: &[u8; HEADER_BYTES]) -> Self {
        let big_endian = word(header, 0) & 1 == 1;
        let written = [word(header, 24), word(header, 28)];
        let computed = checksum(big_endian, [0, 0], &header[..24]);
        let header_holds = written == computed
            && word(header, 0) & !1 == 0x377f_0682
            && usize::try_from(word(header, 8)) == Ok(PAGE_BYTES);
        Self {
            header_holds,
            big_endian,
            salts: header_holds.then(|| [word(header, 16), word(header, 20)]),
            seeds: [written, computed],
            unbroken: header_holds,
            offset: HEADER_BYTES as u64,
            pending: Vec::new(),
            committed: HashMap::new(),
            verdict: Verdict::Whole,
        }
    }

    fn frame(&mut self, frame: &[u8]) {
        let offset = self.offset;
        self.offset += FRAME_BYTES as u64;
        let salts = [word(frame, 8), word(frame, 12)];
        let own = *self.salts.get_or_insert(salts);
        let sum = |seed| {
            let sum = checksum(self.big_endian, seed, &frame[..8]);
            checksum(self.big_endian, sum, &frame[FRAME_HEADER_BYTES..])
        };
        let written = [word(frame, 16), word(frame, 20)];
        let computed = self.seeds.map(sum);
        let holds = salts == own && computed.contains(&written);
        self.unbroken &= holds && computed[0] == written;
        self.seeds = [written, if holds { written } else { computed[0] }];

        // Both differ in an earlier round; a flipped bit changes one, a torn sector both.
        if salts[0] != own[0] && salts[1] != own[1] {
            return;
        }
        if !holds {
            if self.verdict == Verdict::Whole {
                // Unless a commit follows, the end of the log is torn.
                self.verdict = Verdict::TornEnd;
            }
            return;
        }
        let content = offset + FRAME_HEADER_BYTES as u64;
        self.pending.push((word(frame, 0), content));
        if word(frame, 4) != 0 {
            if !self.unbroken {
                self.verdict = Verdict::Damaged;
            }
            self.committed.extend(self.pending.drain(..));
        }
    }

    fn finish(self) -> Log {
        let headless = !self.header_holds && self.salts.is_some();
        let verdict = if headless {
            Verdict::Damaged
        } else {
            self.verdict
        };
        Log {
            verdict,
            pages: self.committed,
        }
    }
}

/// The number of four bytes at `at`, the highest first.
fn word(bytes: &[u8], at: usize) -> u32 {
    let four = bytes[at..at + 4].try_into().expect("four bytes");
    u32::from_be_bytes(four)
}

/// SQLite's checksum of a log, of a multiple of eight bytes.
fn checksum(big_endian: bool, seed: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    let (words, _) = bytes.as_chunks::<4>();
    let read = |word: [u8; 4]| {
        if big_endian {
            u32::from_be_bytes(word)
        } else {
            u32::from_le_bytes(word)
        }
    };
    let (pairs, _) = words.as_chunks::<2>();
    pairs.iter().fold(seed, |[first, second], pair| {
        let first = first.wrapping_add(read(pair[0])).wrapping_add(second);
        let second = second.wrapping_add(read(pair[1])).wrapping_add(first);
        [first, second]
    })
}

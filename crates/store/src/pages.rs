//! Reads the pages of a damaged database by hand: SQLite gives up a whole branch of its tree where one page is damaged.
//!
//! Knows as much of the format as a table of records needs; everything read is checked against the page's bounds.
//! Format: <https://sqlite.org/fileformat2.html#b_tree_pages>

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use crate::db::PAGE_BYTES;

/// The first page of the only table: the one after the schema's.
const ROOT: u32 = 2;

const INTERIOR: u8 = 0x05;
const LEAF: u8 = 0x0d;

/// A larger record is not one of ours: a frame of Salt goes up to 128 MiB.
const PAYLOAD_MAX: usize = 256 << 20;

pub(crate) type Page = [u8; PAGE_BYTES];

/// A record as it stands in a page; its checksum is not looked at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) row: i64,
    pub(crate) at_ms: i64,
    pub(crate) crc: i64,
    pub(crate) body: Vec<u8>,
}

/// The pages of a database, with those of its log over them.
#[derive(Debug)]
pub(crate) struct Pages {
    database: Option<File>,
    log: Option<File>,
    logged: HashMap<u32, u64>,
    pub(crate) count: u32,
}

impl Pages {
    /// Opens both; either may be missing.
    pub(crate) fn open(database: &Path, log: &Path, logged: HashMap<u32, u64>) -> io::Result<Self> {
        let open = |path| match File::open(path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.map(Some),
        };
        let (database, log) = (open(database)?, open(log)?);
        let bytes = database
            .as_ref()
            .map_or(Ok(0), |file| file.metadata().map(|metadata| metadata.len()))?;
        let stored = u32::try_from(bytes / PAGE_BYTES as u64).unwrap_or(u32::MAX);
        let newest = logged.keys().copied().max().unwrap_or(0);
        Ok(Self {
            database,
            log,
            logged,
            count: stored.max(newest),
        })
    }

    /// Page `number`; pages count from 1. `None` where nothing can be read.
    pub(crate) fn read(&self, number: u32) -> Option<Page> {
        let mut page = [0; PAGE_BYTES];
        let (file, offset) = match self.logged.get(&number) {
            Some(offset) => (self.log.as_ref()?, *offset),
            None => {
                let before = u64::from(number.checked_sub(1)?);
                (self.database.as_ref()?, before * PAGE_BYTES as u64)
            }
        };
        file.read_exact_at(&mut page, offset).ok()?;
        Some(page)
    }

    /// The leaves of the table's tree; false when the tree is broken somewhere.
    pub(crate) fn leaves(&self) -> (Vec<u32>, bool) {
        let (mut leaves, mut intact) = (Vec::new(), true);
        let mut seen = HashSet::new();
        let mut next = vec![ROOT];
        while let Some(number) = next.pop() {
            if !seen.insert(number) {
                intact = false;
                continue;
            }
            match self.read(number) {
                Some(page) if page[0] == LEAF && cells(&page).is_some() => leaves.push(number),
                Some(page) if page[0] == INTERIOR => match children(&page) {
                    Some(children) => next.extend(children),
                    None => intact = false,
                },
                _ => intact = false,
            }
        }
        (leaves, intact)
    }

    /// Every page that looks like a leaf of a table and is not known to be free.
    pub(crate) fn stray_leaves(&self) -> impl Iterator<Item = u32> {
        let free = self.free();
        (ROOT..=self.count)
            .filter(move |number| !free.contains(number))
            .filter(|number| self.read(*number).is_some_and(|page| page[0] == LEAF))
    }

    /// The pages on the list of free ones, as far as it can be followed.
    fn free(&self) -> HashSet<u32> {
        let mut free = HashSet::new();
        let mut next = self.read(1).and_then(|page| word(&page, 32)).unwrap_or(0);
        while next != 0 && free.insert(next) {
            let Some(trunk) = self.read(next) else { break };
            let listed = word(&trunk, 4).unwrap_or(0);
            let listed = (0..usize::try_from(listed).unwrap_or(0)).map_while(|at| {
                let at = at.checked_mul(4)?.checked_add(8)?;
                word(&trunk, at)
            });
            free.extend(listed);
            next = word(&trunk, 0).unwrap_or(0);
        }
        free
    }

    /// The records of a leaf; `None` in place of one that makes no sense.
    pub(crate) fn records(&self, page: &Page) -> Vec<Option<Cell>> {
        let cells = cells(page).unwrap_or_default();
        cells.into_iter().map(|at| self.cell(page, at)).collect()
    }

    fn cell(&self, page: &Page, at: usize) -> Option<Cell> {
        let mut rest = page.get(at..)?;
        let bytes = usize::try_from(varint(&mut rest)?).ok()?;
        let row = varint(&mut rest)?.cast_signed();
        let payload = self.payload(rest, bytes)?;
        let mut rest = payload.as_slice();
        let header_bytes = usize::try_from(varint(&mut rest)?).ok()?;
        let mut values = payload.get(header_bytes..)?;
        // The columns: id (which stands in the cell), at_ms, crc, body.
        (varint(&mut rest)? == 0).then_some(())?;
        let at_ms = integer(varint(&mut rest)?, &mut values)?;
        let crc = integer(varint(&mut rest)?, &mut values)?;
        let body_type = varint(&mut rest)?;
        let is_blob = body_type >= 12 && body_type % 2 == 0;
        let body_bytes = is_blob.then(|| usize::try_from((body_type - 12) / 2))?;
        let body = values.get(..body_bytes.ok()?)?.to_vec();
        Some(Cell {
            row,
            at_ms,
            crc,
            body,
        })
    }

    /// The payload of a cell: what stands in the page, and what follows on overflow pages.
    fn payload(&self, rest: &[u8], bytes: usize) -> Option<Vec<u8>> {
        if bytes > PAYLOAD_MAX {
            return None;
        }
        let in_page_max = PAGE_BYTES - 35;
        let in_page_min = (PAGE_BYTES - 12) * 32 / 255 - 23;
        if bytes <= in_page_max {
            return Some(rest.get(..bytes)?.to_vec());
        }
        let fitting = in_page_min + (bytes - in_page_min) % (PAGE_BYTES - 4);
        let in_page = if fitting <= in_page_max {
            fitting
        } else {
            in_page_min
        };
        let mut payload = rest.get(..in_page)?.to_vec();
        let mut next = word(rest, in_page)?;
        while payload.len() < bytes {
            let page = self.read(next)?;
            let wanted = (bytes - payload.len()).min(PAGE_BYTES - 4);
            payload.extend_from_slice(page.get(4..4 + wanted)?);
            next = word(&page, 0)?;
        }
        Some(payload)
    }
}

/// Where the cells of a page begin.
fn cells(page: &Page) -> Option<Vec<usize>> {
    let header = if page[0] == INTERIOR { 12 } else { 8 };
    let count = usize::from(half(page, 3)?);
    let end = header + 2 * count;
    (0..count)
        .map(|index| {
            let at = usize::from(half(page, header + 2 * index)?);
            (end..PAGE_BYTES).contains(&at).then_some(at)
        })
        .collect()
}

fn children(page: &Page) -> Option<Vec<u32>> {
    let right = word(page, 8)?;
    let cells = cells(page)?.into_iter().map(|at| word(page, at));
    cells.chain([Some(right)]).collect()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// SQLite's variable number: seven bits in a byte, the highest first; the ninth byte counts whole.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for index in 0..9 {
        let (byte, left) = rest.split_first()?;
        *rest = left;
        if index == 8 {
            return Some(value << 8 | u64::from(*byte));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some(value)
}

/// An integer of SQLite's serial type `kind`.
fn integer(kind: u64, values: &mut &[u8]) -> Option<i64> {
    let bytes = match kind {
        1..=4 => usize::try_from(kind).ok()?,
        5 => 6,
        6 => 8,
        8 => return Some(0),
        9 => return Some(1),
        _ => return None,
    };
    let (number, rest) = values.split_at_checked(bytes)?;
    *values = rest;
    let sign = if number[0] & 0x80 == 0 { 0 } else { -1 };
    Some(
        number
            .iter()
            .fold(sign, |value, byte| value << 8 | i64::from(*byte)),
    )
}

//! How far a job got with each minion: four bits for each of them, fewer where neighbours are alike.
//!
//! Cells lie in pages of 2,048 minions. A page is a list of runs while these are few, else four bits for each cell; a
//! page of which nothing is known is not there. 100,000 cells take 51 KiB in the worst case, and some hundred bytes
//! when all are alike.

use crate::{
    codec::{Reader, Writer},
    names::MinionIndex,
};

/// How far a job got with one minion, and whether its site has named it: each can be heard of first.
///
/// The steps have an order: what is heard later in an odd order changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Cell(u8);

/// The lower three bits of a cell.
pub(super) const EXPECTED: u8 = 1;
pub(super) const UNMATCHED: u8 = 2;
pub(super) const RECEIVED: u8 = 3;
pub(super) const RUNNING: u8 = 4;
pub(super) const RETURNED: u8 = 5;
pub(super) const FAILED: u8 = 6;
/// It took the job, and said later that it does not run it: between received and running.
pub(super) const STOPPED: u8 = 7;
/// Its site has said that it published the job for this minion.
const ACCEPTED: u8 = 8;

impl Cell {
    /// The job does not mean this minion, as far as is known.
    pub(super) const NONE: Self = Self(0);

    pub(super) const fn new(step: u8) -> Self {
        Self(step & 7)
    }

    pub(super) const fn accepted(self) -> Self {
        Self(self.0 | ACCEPTED)
    }

    pub(super) const fn is_accepted(self) -> bool {
        self.0 & ACCEPTED != 0
    }

    pub(super) const fn step(self) -> u8 {
        self.0 & 7
    }

    /// Whether the minion got as far as this step.
    pub(super) const fn reached(self, step: u8) -> bool {
        rank(self.step()) >= rank(step)
    }

    /// The job was over, and the minion, which gives receipts, had given none.
    pub(super) const fn is_missed(self) -> bool {
        self.0 == ACCEPTED
    }

    /// The same cell, as that of a minion which has missed the job: its silence tells so.
    pub(super) const fn missed(self) -> Self {
        Self(ACCEPTED)
    }

    /// What both say together; the order of hearing them does not matter.
    pub(super) const fn and(self, other: Self) -> Self {
        let step = if self.reached(other.step()) {
            self.step()
        } else {
            other.step()
        };
        Self(step | (self.0 | other.0) & ACCEPTED)
    }

    /// The minion is to return, and has not.
    pub(super) const fn is_pending(self) -> bool {
        match self.step() {
            EXPECTED | RECEIVED | RUNNING | STOPPED => true,
            UNMATCHED | 0 => self.is_accepted(),
            _ => false,
        }
    }

    /// The site said after all that it does not have this minion.
    pub(super) const fn is_unmatched(self) -> bool {
        self.0 == UNMATCHED
    }

    fn from_bits(bits: u8) -> Option<Self> {
        (bits <= ACCEPTED + STOPPED).then_some(Self(bits))
    }
}

/// The place of a step in their order.
const fn rank(step: u8) -> u8 {
    match step {
        STOPPED => RUNNING,
        RUNNING | RETURNED | FAILED => step + 1,
        _ => step,
    }
}

const PAGE: u32 = 2_048;
const PAGE_BYTES: usize = PAGE as usize / 2;
/// More runs than this become four bits for each cell.
const RUNS_MAX: usize = 256;
/// A page goes back to runs when they are so few; less than `RUNS_MAX`, so that it does not go to and fro.
const RUNS_AGAIN: usize = 128;

#[derive(Debug, Clone)]
enum Page {
    /// Begin and cell of each run: `begin << 4 | cell`. The first begins at 0, neighbours differ.
    Runs(Vec<u16>),
    Dense(Box<[u8; PAGE_BYTES]>),
}

/// The cells of a job; see the module's head.
#[derive(Debug, Clone, Default)]
pub(super) struct Cells {
    /// Sorted by the page's number.
    pages: Vec<(u16, Page)>,
    /// What the pages take.
    bytes: usize,
}

impl Cells {
    pub(super) fn get(&self, index: MinionIndex) -> Cell {
        let Ok(at) = self
            .pages
            .binary_search_by_key(&number(index), |(number, _)| *number)
        else {
            return Cell::NONE;
        };
        let page = self.pages.get(at).map(|(_, page)| page);
        page.map_or(Cell::NONE, |page| page.get(offset(index)))
    }

    /// Sets a cell; what it was.
    pub(super) fn set(&mut self, index: MinionIndex, cell: Cell) -> Cell {
        let number = number(index);
        let at = match self
            .pages
            .binary_search_by_key(&number, |(number, _)| *number)
        {
            Ok(at) => at,
            Err(_) if cell == Cell::NONE => return cell,
            Err(at) => {
                self.pages.insert(at, (number, Page::Runs(Vec::from([0]))));
                self.bytes += size_of::<u16>();
                at
            }
        };
        let Some((_, page)) = self.pages.get_mut(at) else {
            return Cell::NONE;
        };
        let taken = page.bytes();
        let before = page.set(offset(index), cell);
        self.bytes = self.bytes + page.bytes() - taken;
        before
    }

    /// Every cell of which something is known.
    pub(super) fn iter(&self) -> impl Iterator<Item = (MinionIndex, Cell)> {
        self.pages.iter().flat_map(|(number, page)| {
            let first = u32::from(*number) * PAGE;
            let known = page.runs().filter(|(_, _, cell)| *cell != Cell::NONE);
            known.flat_map(move |(begin, end, cell)| {
                (begin..end).map(move |at| (MinionIndex(first + u32::from(at)), cell))
            })
        })
    }

    /// Makes the cells as small as they can be.
    pub(super) fn squeeze(&mut self) {
        for (_, page) in &mut self.pages {
            page.squeeze();
        }
        self.pages
            .retain(|(_, page)| !matches!(page, Page::Runs(runs) if *runs == [0]));
        self.pages.shrink_to_fit();
        self.bytes = self.pages.iter().map(|(_, page)| page.bytes()).sum();
    }

    /// What they take in memory.
    pub(super) const fn bytes(&self) -> usize {
        self.pages.capacity() * size_of::<(u16, Page)>() + self.bytes
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.number(self.pages.len() as u64);
        for (number, page) in &self.pages {
            writer.number((*number).into());
            match page {
                Page::Runs(runs) => {
                    writer.number(runs.len() as u64);
                    for run in runs {
                        writer.raw(&run.to_le_bytes());
                    }
                }
                Page::Dense(cells) => {
                    writer.number(0).raw(cells.as_slice());
                }
            }
        }
    }

    /// Reads cells; `None` when they are none that were written here.
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let mut pages: Vec<(u16, Page)> = Vec::new();
        for _ in 0..reader.number()? {
            let number = reader.small()?;
            let is_next = pages.last().is_none_or(|(last, _)| *last < number);
            is_next.then_some(())?;
            let page = match reader.small::<usize>()? {
                0 => read_dense(reader.raw(PAGE_BYTES)?)?,
                runs if runs <= RUNS_MAX => read_runs(reader.raw(runs * 2)?)?,
                _ => return None,
            };
            pages.push((number, page));
        }
        let bytes = pages.iter().map(|(_, page)| page.bytes()).sum();
        Some(Self { pages, bytes })
    }
}

fn number(index: MinionIndex) -> u16 {
    // A table has far fewer entries than this could not count: 134 million.
    u16::try_from(index.0 / PAGE).unwrap_or(u16::MAX)
}

fn offset(index: MinionIndex) -> u16 {
    u16::try_from(index.0 % PAGE).unwrap_or(0)
}

const fn begin(run: u16) -> u16 {
    run >> 4
}

fn cell(run: u16) -> Cell {
    Cell(run.to_le_bytes()[0] & 15)
}

fn run(begin: u16, cell: Cell) -> u16 {
    begin << 4 | u16::from(cell.0)
}

fn read_dense(bytes: &[u8]) -> Option<Page> {
    let is_cell = |bits| Cell::from_bits(bits).is_some();
    let are_cells = bytes
        .iter()
        .all(|byte| is_cell(byte & 15) && is_cell(byte >> 4));
    let cells: [u8; PAGE_BYTES] = bytes.try_into().ok()?;
    are_cells.then(|| Page::Dense(Box::new(cells)))
}

fn read_runs(bytes: &[u8]) -> Option<Page> {
    let (runs, _) = bytes.as_chunks();
    let runs: Vec<u16> = runs.iter().map(|run| u16::from_le_bytes(*run)).collect();
    let is_first = runs.first().is_some_and(|first| begin(*first) == 0);
    let ascend =
        runs.is_sorted_by(|one, next| begin(*one) < begin(*next) && cell(*one) != cell(*next));
    let are_cells = runs
        .iter()
        .all(|run| begin(*run) < 2_048 && Cell::from_bits(cell(*run).0).is_some());
    (is_first && ascend && are_cells).then_some(Page::Runs(runs))
}

impl Page {
    const fn bytes(&self) -> usize {
        match self {
            Self::Runs(runs) => runs.capacity() * size_of::<u16>(),
            Self::Dense(_) => PAGE_BYTES,
        }
    }

    fn get(&self, at: u16) -> Cell {
        match self {
            Self::Runs(runs) => {
                let behind = runs.partition_point(|run| begin(*run) <= at);
                let run = behind.checked_sub(1).and_then(|index| runs.get(index));
                run.map_or(Cell::NONE, |run| cell(*run))
            }
            Self::Dense(cells) => {
                let byte = cells.get(usize::from(at / 2)).copied().unwrap_or(0);
                Cell(if at.is_multiple_of(2) {
                    byte & 15
                } else {
                    byte >> 4
                })
            }
        }
    }

    fn set(&mut self, at: u16, to: Cell) -> Cell {
        match self {
            Self::Runs(runs) => {
                let before = set_in_runs(runs, at, to);
                if runs.len() > RUNS_MAX {
                    *self = self.dense();
                }
                before
            }
            Self::Dense(cells) => {
                let Some(byte) = cells.get_mut(usize::from(at / 2)) else {
                    return Cell::NONE;
                };
                let shift = if at.is_multiple_of(2) { 0 } else { 4 };
                let before = Cell(*byte >> shift & 15);
                *byte = *byte & !(15 << shift) | to.0 << shift;
                before
            }
        }
    }

    /// Begin, end and cell of each run.
    fn runs(&self) -> impl Iterator<Item = (u16, u16, Cell)> {
        let end_of_page = u16::try_from(PAGE).unwrap_or(u16::MAX);
        let mut at = 0;
        let mut next = 0;
        std::iter::from_fn(move || match self {
            Self::Runs(runs) => {
                let run = *runs.get(next)?;
                next += 1;
                let end = runs.get(next).map_or(end_of_page, |next| begin(*next));
                Some((begin(run), end, cell(run)))
            }
            Self::Dense(_) => {
                let begin = at;
                let cell = (begin < end_of_page).then(|| self.get(begin))?;
                while at < end_of_page && self.get(at) == cell {
                    at += 1;
                }
                Some((begin, at, cell))
            }
        })
    }

    fn dense(&self) -> Self {
        let mut dense = Self::Dense(Box::new([0; PAGE_BYTES]));
        for (begin, end, cell) in self.runs() {
            for at in begin..end {
                dense.set(at, cell);
            }
        }
        dense
    }

    fn squeeze(&mut self) {
        if let Self::Runs(runs) = self {
            runs.shrink_to_fit();
        } else if self.runs().nth(RUNS_AGAIN).is_none() {
            *self = Self::Runs(
                self.runs()
                    .map(|(begin, _, cell)| run(begin, cell))
                    .collect(),
            );
        }
    }
}

fn set_in_runs(runs: &mut Vec<u16>, at: u16, to: Cell) -> Cell {
    let behind = runs.partition_point(|run| begin(*run) <= at);
    let Some((index, own)) = behind
        .checked_sub(1)
        .and_then(|index| Some((index, *runs.get(index)?)))
    else {
        return Cell::NONE;
    };
    let before = cell(own);
    if before == to {
        return before;
    }
    let end = runs.get(behind).map_or(2_048, |next| begin(*next));
    let left = index
        .checked_sub(1)
        .and_then(|left| runs.get(left))
        .copied();
    let right = runs.get(behind).copied();
    // What stands in place of the run: its rest to the left, the cell, its rest to the right; joined with neighbours.
    let (mut first, mut last) = (index, behind);
    let mut new = [0; 3];
    let mut count = 0;
    let mut push = |run| {
        if let Some(place) = new.get_mut(count) {
            *place = run;
            count += 1;
        }
    };
    if begin(own) < at {
        push(own);
        push(run(at, to));
    } else if let Some(left) = left.filter(|left| cell(*left) == to) {
        first -= 1;
        push(left);
    } else {
        push(run(at, to));
    }
    if at + 1 < end {
        push(run(at + 1, before));
    } else if right.is_some_and(|right| cell(right) == to) {
        last += 1;
    }
    runs.splice(first..last, new.into_iter().take(count));
    before
}

#[cfg(test)]
mod tests;

//! Since when minions have a job: two bytes for each of them, exact to a thousandth.
//!
//! Times lie in pages of 64 minions; a page of which nothing is known is not there. 100,000 times take some 200 KiB: they
//! are counted apart from the cells, and may be let go.

use std::collections::BTreeMap;

use crate::{
    codec::{Reader, Writer},
    names::MinionIndex,
};

const PAGE: u32 = 64;
const PAGE_LEN: usize = PAGE as usize;

/// What a page takes, with its place in the map.
const PAGE_BYTES: usize = PAGE_LEN * size_of::<u16>() + 24;

/// See the module's head. A time is a number of milliseconds since the job appeared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Times(BTreeMap<u32, Box<[u16; PAGE_LEN]>>);

impl Times {
    /// Notes a time; an earlier one stays. Whether that changed anything.
    pub(super) fn note(&mut self, index: MinionIndex, after_ms: u64) -> bool {
        let (page, at) = place(index);
        let page = self
            .0
            .entry(page)
            .or_insert_with(|| Box::new([0; PAGE_LEN]));
        let Some(code) = page.get_mut(at) else {
            return false;
        };
        let new = encode(after_ms);
        let is_news = *code == 0 || new < *code;
        if is_news {
            *code = new;
        }
        is_news
    }

    pub(super) fn get(&self, index: MinionIndex) -> Option<u64> {
        let (page, at) = place(index);
        decode(*self.0.get(&page)?.get(at)?)
    }

    /// The minion has another number from now on.
    pub(super) fn carry(&mut self, from: MinionIndex, to: MinionIndex) {
        if let Some(after_ms) = self.get(from) {
            let (page, at) = place(from);
            if let Some(code) = self.0.get_mut(&page).and_then(|page| page.get_mut(at)) {
                *code = 0;
            }
            self.note(to, after_ms);
        }
    }

    /// The job appeared at another time than was taken for it.
    pub(super) fn appeared(&mut self, before_ms: u64, now_ms: u64) {
        if before_ms == now_ms {
            return;
        }
        let codes = self.0.values_mut().flat_map(|page| page.iter_mut());
        for code in codes {
            if let Some(after_ms) = decode(*code) {
                *code = encode((before_ms + after_ms).saturating_sub(now_ms));
            }
        }
    }

    /// What they take in memory.
    pub(super) fn bytes(&self) -> usize {
        self.0.len() * PAGE_BYTES
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.number(self.0.len() as u64);
        for (number, page) in &self.0 {
            writer.number((*number).into());
            let mut before = 0;
            for code in page.iter() {
                // Neighbours mostly have like times: one byte or two.
                writer.number(zigzag(i64::from(*code) - i64::from(before)));
                before = *code;
            }
        }
    }

    /// Reads times; `None` when they are none that were written here.
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let mut pages = BTreeMap::new();
        for _ in 0..reader.number()? {
            let number: u32 = reader.small()?;
            let is_next = pages
                .last_key_value()
                .is_none_or(|(last, _)| *last < number);
            is_next.then_some(())?;
            let mut page = Box::new([0; PAGE_LEN]);
            let mut before = 0_i64;
            for code in page.iter_mut() {
                before = before.checked_add(unzigzag(reader.number()?))?;
                *code = u16::try_from(before).ok()?;
            }
            pages.insert(number, page);
        }
        Some(Self(pages))
    }
}

fn place(index: MinionIndex) -> (u32, usize) {
    (index.0 / PAGE, (index.0 % PAGE) as usize)
}

/// One more than: the number itself below 2,048, then an exponent and eleven bits, the first of which is 1.
fn encode(ms: u64) -> u16 {
    let exponent = ms.checked_ilog2().unwrap_or(0).saturating_sub(10);
    let code = u64::from(exponent) * 1_024 + (ms >> exponent);
    u16::try_from(code + 1).unwrap_or(u16::MAX)
}

fn decode(code: u16) -> Option<u64> {
    let code = u64::from(code.checked_sub(1)?);
    let exponent = (code / 1_024).saturating_sub(1);
    Some((code - exponent * 1_024) << exponent)
}

const fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
}

const fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_exact_to_a_thousandth() {
        for ms in [
            0,
            1,
            2,
            1_023,
            1_024,
            2_047,
            2_048,
            2_049,
            5_000,
            86_400_000,
            1 << 40,
        ] {
            let kept = decode(encode(ms)).unwrap();
            assert!(kept <= ms && ms - kept <= ms / 1_000, "{ms} became {kept}");
        }
        assert_eq!(decode(0), None);
    }

    #[test]
    fn the_earliest_time_stays_and_all_are_read_back() {
        let mut times = Times::default();
        assert!(times.note(MinionIndex(7), 300));
        assert!(!times.note(MinionIndex(7), 400));
        assert!(times.note(MinionIndex(7), 20));
        times.note(MinionIndex(100_000), 5_000);
        times.carry(MinionIndex(7), MinionIndex(8));
        times.appeared(1_000, 990);
        assert_eq!(times.get(MinionIndex(7)), None);
        assert_eq!(times.get(MinionIndex(8)), Some(30));
        let mut writer = Writer::default();
        times.write(&mut writer);
        let bytes = writer.finish();
        assert_eq!(Times::read(&mut Reader::new(&bytes)).as_ref(), Some(&times));
        for length in 0..bytes.len() {
            assert_eq!(Times::read(&mut Reader::new(&bytes[..length])), None);
        }
    }
}

//! What is kept on disk as bytes: numbers, and texts with their length before them.

/// Writes.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// A number, seven bits in a byte, the lowest first.
    pub(crate) fn number(&mut self, mut value: u64) -> &mut Self {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
        self
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.number(text.len() as u64);
        self.raw(text.as_bytes())
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads what a [`Writer`] wrote; `None` where it is something else. Takes no more memory than the bytes it has read.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.raw(1)? else { return None };
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A number that fits the type asked for.
    pub(crate) fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.number()?).ok()
    }

    pub(crate) fn raw(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let length = self.small()?;
        std::str::from_utf8(self.raw(length)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_a_cut_is_noticed() {
        let numbers = [0, 1, 127, 128, 300, u64::MAX];
        let mut writer = Writer::default();
        for number in numbers {
            writer.number(number);
        }
        writer.text("web1").raw(b"\xff\x00");
        let bytes = writer.finish();
        let read = |bytes| {
            let mut reader = Reader::new(bytes);
            let numbers: Option<Vec<u64>> = (0..6).map(|_| reader.number()).collect();
            let text = reader.text()?.to_owned();
            let raw = reader.raw(2)?.to_vec();
            Some((numbers?, text, raw, reader.is_empty()))
        };
        let whole = (
            numbers.to_vec(),
            "web1".to_owned(),
            b"\xff\x00".to_vec(),
            true,
        );
        assert_eq!(read(&bytes), Some(whole));
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]), None);
        }
        assert_eq!(Reader::new(&[200]).small::<u8>(), None);
    }
}

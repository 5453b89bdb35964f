//! Writes and reads the bodies of job records: numbers, and bytes with their length before them.

/// Writes a body.
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

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn texts<'a>(&mut self, texts: impl ExactSizeIterator<Item = &'a str>) {
        self.number(texts.len() as u64);
        for text in texts {
            self.bytes(text.as_bytes());
        }
    }

    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

/// Reads a body; `None` where it is not what a [`Writer`] wrote.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub(crate) fn texts(&mut self) -> Option<Vec<&'a str>> {
        // Not reserved beforehand: the number may be anything.
        let number = self.number()?;
        (0..number).map(|_| self.text()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_a_cut_body_is_noticed() {
        let mut writer = Writer::default();
        for number in [0, 1, 127, 128, 300, u64::MAX] {
            writer.number(number);
        }
        writer.bytes(b"\x00\xff").texts(["web1", ""].into_iter());
        let body = writer.take();
        let read = |body: &[u8]| {
            let mut reader = Reader::new(body);
            let numbers: Option<Vec<u64>> = (0..6).map(|_| reader.number()).collect();
            let bytes = reader.bytes()?.to_vec();
            let texts: Vec<String> = reader.texts()?.into_iter().map(str::to_owned).collect();
            Some((numbers?, bytes, texts, reader.is_empty()))
        };
        let (numbers, bytes, texts, is_empty) = read(&body).unwrap();
        assert_eq!(numbers, [0, 1, 127, 128, 300, u64::MAX]);
        assert_eq!(bytes, b"\x00\xff");
        assert_eq!(texts, ["web1", ""]);
        assert!(is_empty);
        for length in 0..body.len() {
            assert_eq!(read(&body[..length]), None);
        }
    }
}

//! The checksum of a record: CRC-32 (IEEE), over its key, its time and its body.

const TABLES: [[u32; 256]; 8] = tables();

/// Eight tables, so that eight bytes are taken at a time: opening a store reads all of it.
const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0_u32;
    while byte < 256 {
        let mut crc = byte;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (if crc & 1 == 1 { 0xEDB8_8320 } else { 0 });
            bit += 1;
        }
        tables[0][byte as usize] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// The checksum of a record.
pub(crate) fn of_record(row: i64, at_ms: i64, body: &[u8]) -> u32 {
    let crc = update(!0, &row.to_le_bytes());
    let crc = update(crc, &at_ms.to_le_bytes());
    !update(crc, body)
}

fn update(mut crc: u32, bytes: &[u8]) -> u32 {
    let look = |table: usize, byte: u8| TABLES[table][usize::from(byte)];
    let (eights, rest) = bytes.as_chunks::<8>();
    for eight in eights {
        let low = crc.to_le_bytes();
        crc = look(7, eight[0] ^ low[0])
            ^ look(6, eight[1] ^ low[1])
            ^ look(5, eight[2] ^ low[2])
            ^ look(4, eight[3] ^ low[3])
            ^ look(3, eight[4])
            ^ look(2, eight[5])
            ^ look(1, eight[6])
            ^ look(0, eight[7]);
    }
    for byte in rest {
        crc = (crc >> 8) ^ look(0, crc.to_le_bytes()[0] ^ byte);
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_value_of_crc_32() {
        assert_eq!(!update(!0, b"123456789"), 0xCBF4_3926);
        let long: Vec<u8> = (0..=255).cycle().take(1003).collect();
        let bytewise = long.iter().fold(!0, |crc, byte| update(crc, &[*byte]));
        assert_eq!(update(!0, &long), bytewise);
    }
}

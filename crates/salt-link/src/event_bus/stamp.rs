//! `_stamp`, the time that Salt's clients put into each event.

use jiff::Timestamp;

/// Now, in the form of 3008, which 3006 and 3007 read as well: `2026-11-20T18:02:16.200638+00:00`.
pub(super) fn now() -> String {
    format(Timestamp::now())
}

fn format(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_salt_writes_them() {
        let check = |micros, expected| {
            let time = Timestamp::from_microsecond(micros).expect("within range");
            assert_eq!(format(time), expected);
        };
        check(0, "1970-01-01T00:00:00.000000+00:00");
        check(951_782_400_000_001, "2000-02-29T00:00:00.000001+00:00");
        check(1_795_197_736_200_638, "2026-11-20T18:02:16.200638+00:00");
    }
}

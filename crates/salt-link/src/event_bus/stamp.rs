//! `_stamp`, the time that Salt's clients put into each event.

use std::time::{Duration, SystemTime};

/// Now, in the form of 3008, which 3006 and 3007 read as well: `2026-11-20T18:02:16.200638+00:00`.
pub(super) fn now() -> String {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    format(since)
}

fn format(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let micros = since_epoch.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+00:00")
}

/// Year, month and day of a day counted from 1970-01-01 in the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01, so that a leap day is the last of its year; eras of 400 years
    // have 146,097 days.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_salt_writes_them() {
        let check = |seconds, micros: u32, expected| {
            assert_eq!(format(Duration::new(seconds, micros * 1000)), expected);
        };
        check(0, 0, "1970-01-01T00:00:00.000000+00:00");
        check(951_782_400, 1, "2000-02-29T00:00:00.000001+00:00");
        check(1_767_225_599, 999_999, "2025-12-31T23:59:59.999999+00:00");
        check(1_767_225_600, 0, "2026-01-01T00:00:00.000000+00:00");
        check(1_795_197_736, 200_638, "2026-11-20T18:02:16.200638+00:00");
        check(4_107_542_400, 0, "2100-03-01T00:00:00.000000+00:00");
    }
}

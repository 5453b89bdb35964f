//! Durations and sizes with their units.

use std::time::Duration;

/// Reads `250ms`, `5m`, `1h 30m`.
///
/// # Errors
/// What is wrong, and what to do.
pub fn parse_duration(text: &str) -> Result<Duration, (String, String)> {
    let text = text.trim();
    if is_number(text) {
        let problem = format!("the duration {text} has no unit");
        return Err((problem, format!("add one, as in `{text}s` or `{text}ms`")));
    }
    humantime::parse_duration(text).map_err(|err| {
        let problem = format!("not a duration: {err}");
        (
            problem,
            "write a number and a unit, as in `250ms`, `5s`, `5m`, `1h`".to_owned(),
        )
    })
}

/// Reads `64MiB`, `10 kB`, `512B`: 1024-based with an `i`, 1000-based without.
///
/// # Errors
/// What is wrong, and what to do.
pub fn parse_bytes(text: &str) -> Result<u64, (String, String)> {
    let text = text.trim();
    if is_number(text) {
        let problem = format!("the size {text} has no unit");
        return Err((problem, format!("add one, as in `{text}B` or `{text}MiB`")));
    }
    let help = || "write a whole number and a unit, as in `512KiB`, `64MiB`, `2GiB`".to_owned();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(("not a size".to_owned(), help())),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| ("not a size".to_owned(), help()))?;
    number
        .checked_mul(factor)
        .ok_or_else(|| ("too large".to_owned(), help()))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_their_unit() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration(" 5m "), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert!(parse_duration("5").unwrap_err().1.contains("`5s`"));
        for text in ["", "soon", "5 parsecs", "-5s", "99999999999999999999y"] {
            parse_duration(text).unwrap_err();
        }
    }

    #[test]
    fn sizes_carry_their_unit() {
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("10 kB"), Ok(10_000));
        assert_eq!(parse_bytes("0B"), Ok(0));
        assert!(parse_bytes("64").unwrap_err().1.contains("`64MiB`"));
        for text in ["", "MiB", "1.5GiB", "-1B", "64 MiBs", "99999999999TiB"] {
            parse_bytes(text).unwrap_err();
        }
    }
}

//! The one place that reads the wall clock.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Now as milliseconds since 1970-01-01 UTC; 0 on a clock set before that.
pub fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// The time in milliseconds since 1970 that never steps: the host's clock at the process's first call, and what has gone
/// by since. A clock that is set while the daemon runs changes no age.
#[must_use]
pub fn steady_millis() -> u64 {
    static BEGAN: OnceLock<(Instant, u64)> = OnceLock::new();
    let (began, wall) = BEGAN.get_or_init(|| (Instant::now(), unix_millis()));
    wall.saturating_add(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::unix_millis;

    #[test]
    fn the_unit_is_milliseconds() {
        // 2020-01-01 and 2200-01-01 in milliseconds: seconds or microseconds would fall outside.
        assert!((1_577_836_800_000..7_258_118_400_000).contains(&unix_millis()));
    }
}

//! A job's own expiry: the metadata key `saltway_ttl`, in seconds or as `"10m"`.
//!
//! `salt --metadata='{"saltway_ttl": 30}' ...` on the MoM.

use std::time::Duration;

use daemon_kit::config::parse_duration;
use salt_wire::{msgpack::Value, publication::PublicationLoad};

/// The longest expiry that makes sense here: as long as job records and AES keys are kept.
const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The metadata key.
const KEY: &str = "saltway_ttl";

/// The job's own expiry. `Err(None)` when it has none, `Err(Some(text))` when it cannot be used.
pub(super) fn of(load: &PublicationLoad) -> Result<Duration, Option<String>> {
    let value = load
        .metadata()
        .and_then(|metadata| metadata.get(KEY))
        .ok_or(None)?;
    let unusable = || Some(format!("{value:?}"));
    let ttl = match value {
        Value::Int(_) | Value::UInt(_) => value.as_u64().map(Duration::from_secs),
        Value::Float64(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
        text => text.as_str().and_then(|text| match text.parse() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => parse_duration(text).ok(),
        }),
    };
    ttl.map(|ttl| ttl.min(TTL_MAX)).ok_or_else(unusable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(metadata: Value, expected: Result<Duration, bool>) {
        let fields = Value::map([
            ("fun", "test.ping".into()),
            ("tgt", "*".into()),
            ("jid", "20261121175418824928".into()),
            ("metadata", metadata),
        ]);
        let load = PublicationLoad::new(fields).expect("a job");
        assert_eq!(of(&load).map_err(|unusable| unusable.is_some()), expected);
    }

    #[test]
    fn seconds_and_durations_are_understood() {
        let with = |value: Value| Value::map([(KEY, value)]);
        check(with(Value::Int(30)), Ok(Duration::from_secs(30)));
        check(with(Value::Float64(0.5)), Ok(Duration::from_millis(500)));
        check(with("90".into()), Ok(Duration::from_secs(90)));
        check(with("10m".into()), Ok(Duration::from_secs(600)));
        check(with("400d".into()), Ok(TTL_MAX));
        check(with("soon".into()), Err(true));
        check(with(Value::Int(-1)), Err(true));
        check(Value::Nil, Err(false));
        check(Value::map([("other", Value::Int(1))]), Err(false));
    }
}

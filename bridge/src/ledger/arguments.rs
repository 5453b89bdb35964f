//! What the audit tells of a job's arguments: all, only their shape, or nothing.

use salt_wire::msgpack::Value;
use serde_json::{Map, Value as Json};

/// How much the audit tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arguments {
    /// Everything.
    Whole,
    /// How many, and the names of `name=value`; each value is `***`.
    Redacted,
    /// Nothing.
    Left,
}

/// Stands for a value that is not told.
const HIDDEN: &str = "***";

/// Salt's mark on a dictionary of named arguments.
const KWARG_MARK: &str = "__kwarg__";

/// Deepest level that is written; what lies below is told by its kind.
const DEPTH_MAX: usize = 8;

/// Longest list or text that is written whole: an audit line stays one line that can be read.
const ITEMS_MAX: usize = 256;
const TEXT_BYTES_MAX: usize = 4_096;

impl Arguments {
    /// The arguments as they stand in the audit.
    pub(super) fn told(self, arguments: &Value) -> Json {
        match self {
            Self::Whole => json(arguments, 0),
            Self::Redacted => redacted(arguments, 0),
            Self::Left => Json::Null,
        }
    }
}

/// A value as JSON; what JSON cannot say is told by its kind and size.
pub(super) fn json(value: &Value, depth: usize) -> Json {
    match value {
        Value::Nil => Json::Null,
        Value::Bool(flag) => (*flag).into(),
        Value::Int(number) => (*number).into(),
        Value::UInt(number) => (*number).into(),
        Value::Float32(number) => f64::from(*number).into(),
        Value::Float64(number) => (*number).into(),
        Value::Raw(raw) => match value.as_str() {
            Some(text) if text.len() <= TEXT_BYTES_MAX => text.into(),
            _ => format!("({} bytes)", raw.len()).into(),
        },
        Value::Ext(_, data) => format!("({} bytes)", data.len()).into(),
        Value::Array(items) if depth >= DEPTH_MAX => format!("({} items)", items.len()).into(),
        Value::Map(entries) if depth >= DEPTH_MAX => format!("({} items)", entries.len()).into(),
        Value::Array(items) => list(items, |item| json(item, depth + 1)),
        Value::Map(entries) => dictionary(entries, |value| json(value, depth + 1)),
    }
}

fn redacted(value: &Value, depth: usize) -> Json {
    match value {
        Value::Array(items) if depth < DEPTH_MAX => list(items, |item| redacted(item, depth + 1)),
        Value::Map(entries) if depth < DEPTH_MAX => {
            dictionary(entries, |_| HIDDEN.to_owned().into())
        }
        _ => match value.as_str().and_then(name_of) {
            Some(name) => format!("{name}={HIDDEN}").into(),
            None => HIDDEN.into(),
        },
    }
}

/// The name in `name=value`, if it is one that Python could give to an argument.
fn name_of(text: &str) -> Option<&str> {
    let (name, _) = text.split_once('=')?;
    let mut chars = name.chars();
    let begins = chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let fits = begins && name.len() <= 64 && chars.all(|c| c.is_ascii_alphanumeric() || c == '_');
    fits.then_some(name)
}

fn list(items: &[Value], each: impl Fn(&Value) -> Json) -> Json {
    let mut told: Vec<Json> = items.iter().take(ITEMS_MAX).map(each).collect();
    if items.len() > ITEMS_MAX {
        told.push(format!("({} more)", items.len() - ITEMS_MAX).into());
    }
    told.into()
}

fn dictionary(entries: &[(Value, Value)], each: impl Fn(&Value) -> Json) -> Json {
    let named = entries.iter().take(ITEMS_MAX).filter_map(|(key, value)| {
        let key = match json(key, DEPTH_MAX) {
            Json::String(key) => key,
            other => other.to_string(),
        };
        (key != KWARG_MARK).then(|| (key, each(value)))
    });
    Json::Object(named.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn arguments() -> Value {
        let named = Value::map([("password", "hunter2".into()), (KWARG_MARK, true.into())]);
        Value::array([
            "alice".into(),
            "shell=/bin/sh".into(),
            "a b=c".into(),
            Value::Int(7),
            Value::array(["hunter2"]),
            named,
        ])
    }

    #[test]
    fn arguments_are_told_whole_by_their_shape_or_not_at_all() {
        let check = |how: Arguments, expected| assert_eq!(how.told(&arguments()), expected);
        let whole =
            json!(["alice", "shell=/bin/sh", "a b=c", 7, ["hunter2"], {"password": "hunter2"}]);
        check(Arguments::Whole, whole);
        let shape = json!(["***", "shell=***", "***", "***", ["***"], {"password": "***"}]);
        check(Arguments::Redacted, shape);
        check(Arguments::Left, Json::Null);
    }

    #[test]
    fn a_huge_or_deep_argument_stays_a_line() {
        let mut deep = Value::array(vec!["x"; 10_000]);
        for _ in 0..300 {
            deep = Value::Array(vec![deep]);
        }
        for how in [Arguments::Whole, Arguments::Redacted] {
            assert!(how.told(&deep).to_string().len() < 4_000);
        }
        let text = Value::array(["y".repeat(1 << 20)]);
        assert_eq!(Arguments::Whole.told(&text), json!(["(1048576 bytes)"]));
    }
}

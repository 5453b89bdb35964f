//! Jobs and returns in the form in which masters write them.

use salt_wire::msgpack::Value;

/// A jid of Salt's form for a number below 10^12: the same number gives the same jid, and larger numbers sort behind smaller ones.
#[must_use]
pub fn jid(number: u64) -> String {
    format!("20261120{number:012}")
}

/// The load of a job for a glob target, as a master with `order_masters: True` publishes it (without its serial).
#[must_use]
pub fn job(jid: &str, tgt: &str, fun: &str) -> Value {
    Value::map([
        ("ret", "".into()),
        ("jid", jid.into()),
        ("tgt", tgt.into()),
        ("tgt_type", "glob".into()),
        ("fun", fun.into()),
        ("arg", Value::Array(Vec::new())),
        ("user", "root".into()),
        ("auth_list", Value::Array(Vec::new())),
        ("to", Value::Int(5)),
    ])
}

/// The data of an event that a minion fired, as its master puts it on the bus: the minion's whole load.
#[must_use]
pub fn minion_event(tag: &str, minion: &str, data: Value) -> Value {
    Value::map([
        ("id", minion.into()),
        ("cmd", "_minion_event".into()),
        ("pretag", Value::Nil),
        ("tag", tag.into()),
        ("data", data),
        ("_stamp", "2026-11-20T20:00:00.000000".into()),
    ])
}

/// The data of the event `salt/job/<jid>/ret/<minion>`.
#[must_use]
pub fn return_data(jid: &str, minion: &str, fun: &str, ret: Value) -> Value {
    Value::map([
        ("cmd", "_return".into()),
        ("id", minion.into()),
        ("success", true.into()),
        ("return", ret),
        ("retcode", Value::Int(0)),
        ("jid", jid.into()),
        ("fun", fun.into()),
        ("fun_args", Value::Array(Vec::new())),
        ("_stamp", "2026-11-20T20:00:00.000000".into()),
    ])
}

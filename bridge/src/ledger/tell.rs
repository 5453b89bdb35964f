//! The events that the speaker fires on the MoM's bus, and the lines of the audit: what the ledger decided, in words. Pure.

use relay_core::ledger::{SiteMissing, State, Summary};
use salt_wire::{ids::MinionId, msgpack::Value};
use serde_json::{Value as Json, json};

use super::decode::{ANSWERED_BY, EXPECTED_BY};

/// The version of the events and of the audit's lines.
const VERSION: i64 = 1;

/// A tag and its data.
pub(super) type Event = (String, Value);

/// Whom the `salt` command shall wait for, and whom it shall name without waiting.
pub(super) fn expected(
    bridge: &str,
    jid: &str,
    site: &str,
    minions: Vec<String>,
    missing: Vec<String>,
) -> Event {
    let data = Value::map([
        ("jid", jid.into()),
        ("minions", Value::array(minions)),
        ("missing", Value::array(missing)),
        (EXPECTED_BY, bridge.into()),
    ]);
    (format!("syndic/{site}/{jid}"), data)
}

/// The answer under the id of a site that cannot be asked.
pub(super) fn site_missing(bridge: &str, missing: &SiteMissing) -> Event {
    let SiteMissing { jid, fun, site, .. } = missing;
    let data = Value::map([
        ("cmd", "_return".into()),
        ("id", site.as_str().into()),
        ("jid", jid.as_str().into()),
        ("fun", fun.as_str().into()),
        ("fun_args", Value::Array(Vec::new())),
        ("return", missing.text().into()),
        ("retcode", Value::Int(1)),
        ("success", false.into()),
        (ANSWERED_BY, bridge.into()),
    ]);
    (format!("salt/job/{jid}/ret/{site}"), data)
}

/// A site went or came.
pub(super) fn site(site: &str, is_up: bool, since_ms: u64, reason: &str, minions: usize) -> Event {
    let word = if is_up { "up" } else { "down" };
    let data = Value::map([
        ("v", Value::Int(VERSION)),
        ("site", site.into()),
        ("since", seconds(since_ms).into()),
        ("reason", reason.into()),
        ("minions", count(minions)),
    ]);
    (format!("saltway/site/{site}/{word}"), data)
}

/// A job is over.
pub(super) fn ended(state: State, summary: &Summary, missing: &[String]) -> Event {
    let sites = summary.sites.iter().map(|site| {
        let figures = Value::map([
            ("expected", count(site.figures.expected)),
            ("returned", count(site.figures.returned)),
            ("missing", count(site.figures.missing)),
        ]);
        (site.site.as_str(), figures)
    });
    let data = Value::map([
        ("v", Value::Int(VERSION)),
        ("jid", summary.jid.as_str().into()),
        ("fun", summary.fun.as_str().into()),
        ("user", summary.user.as_str().into()),
        ("tgt", summary.tgt.as_str().into()),
        ("tgt_type", summary.tgt_type.as_str().into()),
        ("expected", count(summary.figures.expected)),
        ("returned", count(summary.figures.returned)),
        ("failed", count(summary.figures.failed)),
        ("missing", Value::array(missing.iter().map(String::as_str))),
        ("missing_count", count(summary.figures.missing)),
        ("seconds", seconds(summary.took_ms).into()),
        ("sites", Value::map(sites)),
    ]);
    (
        format!("saltway/job/{}/{}", summary.jid, state.as_str()),
        data,
    )
}

/// The audit's line for a job that appears.
pub(super) fn audit_job(now_ms: u64, job: &AuditJob<'_>) -> Json {
    let mut line = json!({
        "v": VERSION,
        "time": seconds(now_ms),
        "what": "job",
        "jid": job.jid,
        "user": job.user,
        "fun": job.fun,
        "tgt": job.tgt,
        "tgt_type": job.tgt_type,
        "expected": job.expected,
    });
    if let (Some(line), Some(arg)) = (line.as_object_mut(), &job.arg) {
        line.insert("arg".to_owned(), arg.clone());
    }
    line
}

/// What the audit tells of a job that appears.
pub(super) struct AuditJob<'a> {
    pub(super) jid: &'a str,
    pub(super) user: &'a str,
    pub(super) fun: &'a str,
    pub(super) tgt: Json,
    pub(super) tgt_type: &'a str,
    pub(super) arg: Option<Json>,
    pub(super) expected: usize,
}

/// The audit's line for a job that is over.
pub(super) fn audit_end(
    now_ms: u64,
    state: State,
    summary: &Summary,
    unreachable: &[&str],
) -> Json {
    let mut line = json!({
        "v": VERSION,
        "time": seconds(now_ms),
        "what": "end",
        "jid": summary.jid,
        "user": summary.user,
        "fun": summary.fun,
        "state": state.as_str(),
        "expected": summary.figures.expected,
        "returned": summary.figures.returned,
        "failed": summary.figures.failed,
        "missing": summary.figures.missing,
        "seconds": seconds(summary.took_ms),
    });
    if let Some(line) = line.as_object_mut()
        && !unreachable.is_empty()
    {
        line.insert("unreachable".to_owned(), unreachable.into());
    }
    line
}

/// The audit's line for a job that an operator had sent again.
pub(super) fn audit_again(now_ms: u64, jid: &str, user: &str, minions: &[MinionId]) -> Json {
    let named: Vec<&str> = minions.iter().map(MinionId::as_str).collect();
    json!({
        "v": VERSION,
        "time": seconds(now_ms),
        "what": "redeliver",
        "jid": jid,
        "user": user,
        "minions": named,
    })
}

fn count(number: usize) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

fn seconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}

//! The questions, one file each: what is asked, how the answer is shown, what counts as fine.

pub(crate) mod check;
mod job;
mod jobs;
pub(crate) mod roster;
mod sites;
mod status;
mod watch;

use serde_json::Value;

use crate::args::Action;
use crate::client::{Client, escaped};
use crate::output::Output;

/// Answers `action`; whether everything asked for is there.
pub(crate) fn run(action: &Action, client: &Client, out: &mut Output) -> anyhow::Result<bool> {
    match action {
        Action::Status => status::run(client, out),
        Action::Sites => sites::run(client, out),
        Action::Jobs {
            limit,
            before,
            state,
        } => jobs::run(
            client,
            &query(*limit, &[("before", before), ("state", state)]),
            out,
        ),
        Action::Job {
            jid,
            verdict,
            all,
            limit,
        } => {
            let asked = query(*limit, &[("verdict", verdict)]);
            job::run(
                client,
                &format!("jobs/{}{asked}", escaped(jid)),
                *all || verdict.is_some(),
                out,
            )
        }
        Action::Missing { jid } => job::missing(client, jid, out),
        Action::Roster { site } => roster::run(client, site.as_deref(), out),
        Action::Watch { jid, interval } => watch::run(client, jid.as_deref(), *interval, out),
        Action::Check | Action::Placeholders(_) | Action::Redeliver(_) => {
            unreachable!("main answers these itself")
        }
    }
}

fn query(limit: u32, rest: &[(&str, &Option<String>)]) -> String {
    let mut text = format!("?limit={limit}");
    for (key, value) in rest {
        if let Some(value) = value {
            text.push_str(&format!("&{key}={}", escaped(value)));
        }
    }
    text
}

/// Prints the bridge's JSON, if that is wanted.
fn as_json(value: &Value, out: &mut Output) -> anyhow::Result<bool> {
    if out.json {
        out.json(value)?;
    }
    Ok(out.json)
}

//! `saltway jobs`: the newest jobs, one line each.

use serde_json::Value;

use super::as_json;
use crate::client::Client;
use crate::field::Field;
use crate::output::Output;
use crate::paint::{Tone, span};
use crate::table::{Cell, Column, Table};

/// Shows those that `query` names. A job that misses somebody is no failure of this question.
pub(super) fn run(client: &Client, query: &str, out: &mut Output) -> anyhow::Result<bool> {
    let answer = client.get(&format!("jobs{query}"))?;
    if as_json(&answer, out)? {
        return Ok(true);
    }
    let now = client.get("status")?.number("now").unwrap_or_default();
    let jobs = answer.list("jobs");
    if jobs.is_empty() {
        out.line("no such jobs in the ledger")?;
        return Ok(true);
    }
    out.table(&table(jobs, now))?;
    Ok(true)
}

fn table(jobs: &[Value], now: f64) -> Table {
    let mut table = Table::new(vec![
        Column::left("JID"),
        Column::right("AGE").optional(3),
        Column::left("STATE"),
        Column::right("BACK"),
        Column::right("MISSING"),
        Column::right("FAILED").optional(2),
        Column::left("FUNCTION").shrinks(8),
        Column::left("TARGET").shrinks(6),
        Column::left("USER").shrinks(8).optional(1),
    ]);
    for job in jobs {
        let missing = job.count("missing");
        // What an open job misses may still come.
        let missing = match job.text("state") {
            "open" if missing > 0 => Cell::toned(missing.to_string(), Tone::Watch),
            _ => Cell::bad_unless_zero(missing),
        };
        table.row(vec![
            Cell::new(job.text("jid")),
            Cell::new(span(now - job.number("at").unwrap_or(now))),
            Cell::state(job.text("state")),
            Cell::new(format!(
                "{}/{}",
                job.count("returned"),
                job.count("expected")
            )),
            missing,
            Cell::bad_unless_zero(job.count("failed")),
            Cell::new(job.text("fun")),
            Cell::new(target(job)),
            Cell::new(job.text("user")),
        ]);
    }
    table
}

/// The target as it is typed after `salt`: a glob as it is, others behind their option.
pub(super) fn target(job: &Value) -> String {
    let option = match job.text("tgt_type") {
        "" | "glob" => return shown(job.part("tgt")),
        "list" => "-L",
        "pcre" => "-E",
        "grain" => "-G",
        "grain_pcre" => "-P",
        "pillar" => "-I",
        "pillar_pcre" => "-J",
        "nodegroup" => "-N",
        "ipcidr" => "-S",
        "range" => "-R",
        "compound" => "-C",
        other => other,
    };
    format!("{option} {}", shown(job.part("tgt")))
}

/// A target is a text, or a list of ids.
fn shown(tgt: &Value) -> String {
    match tgt {
        Value::String(text) => text.clone(),
        Value::Array(ids) => ids
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(","),
        other => other.to_string(),
    }
}

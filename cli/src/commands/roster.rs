//! `saltway roster`: the minions of the sites, as their masters accept them.

use serde_json::Value;

use super::as_json;
use crate::client::{Client, escaped};
use crate::field::Field;
use crate::output::Output;
use crate::table::{Cell, Column, Table};

/// Shows it, of one site or of all.
pub(super) fn run(client: &Client, site: Option<&str>, out: &mut Output) -> anyhow::Result<bool> {
    let answer = ask(client, site)?;
    if as_json(&answer, out)? {
        return Ok(true);
    }
    let mut table = Table::new(vec![
        Column::left("MINION"),
        Column::left("SITE").shrinks(8),
        Column::left("STATE"),
    ]);
    for site in answer.list("sites") {
        for minion in site.list("minions") {
            table.row(vec![
                Cell::new(minion.text("id")),
                Cell::new(site.text("id")),
                Cell::state(up(minion.part("up"))),
            ]);
        }
    }
    if table.is_empty() {
        out.line("no minions are known; do the master-shims run?")?;
        return Ok(true);
    }
    out.table(&table)?;
    Ok(true)
}

/// The rosters, whole.
pub(crate) fn ask(client: &Client, site: Option<&str>) -> anyhow::Result<Value> {
    // Two million ids is the bridge's own bound.
    let query = site.map_or_else(String::new, |site| format!("&site={}", escaped(site)));
    Ok(client.get(&format!("roster?limit=2000000{query}"))?)
}

/// `up` is true, false, or unknown.
fn up(value: &Value) -> &'static str {
    match value {
        Value::Bool(true) => "up",
        Value::Bool(false) => "down",
        _ => "unknown",
    }
}

//! `saltway sites`: each site, its state, minions, lag, spool and last hop.

use serde_json::Value;

use super::as_json;
use crate::client::Client;
use crate::field::Field;
use crate::output::Output;
use crate::paint::{Tone, clean, millis, size, span};
use crate::table::{Cell, Column, Table};

/// A lag above this is worth a look: heart-beats come each half second.
const LAG_SECONDS_FINE: f64 = 5.0;

/// Shows them. A site that is down is no failure of this question.
pub(super) fn run(client: &Client, out: &mut Output) -> anyhow::Result<bool> {
    let answer = client.get("sites")?;
    if as_json(&answer, out)? {
        return Ok(true);
    }
    let now = client.get("status")?.number("now").unwrap_or_default();
    let sites = answer.list("sites");
    if sites.is_empty() {
        out.line("no site has announced itself yet; do the master-shims run?")?;
        return Ok(true);
    }
    out.table(&table(sites, now))?;
    for site in sites.iter().filter(|site| !site.text("reason").is_empty()) {
        let text = format!("{}: {}", clean(site.text("id")), clean(site.text("reason")));
        out.line(&out.paint(&text, Tone::of(site.text("state"))))?;
    }
    Ok(true)
}

fn table(sites: &[Value], now: f64) -> Table {
    let mut table = Table::new(vec![
        Column::left("SITE").shrinks(8),
        Column::left("STATE"),
        Column::right("SINCE").optional(4),
        Column::right("HEARD").optional(2),
        Column::right("MINIONS"),
        Column::right("UP"),
        Column::right("LAG"),
        Column::right("SPOOL").optional(3),
        Column::right("MISSED").optional(8),
        Column::right("DELAY").optional(7),
        Column::right("EXPIRED").optional(5),
        Column::right("LOST").optional(6),
        Column::left("VERSION").optional(1),
    ]);
    for site in sites {
        let ago = |key| {
            site.number(key)
                .filter(|at| *at > 0.0)
                .map_or_else(|| "-".to_owned(), |at| span(now - at))
        };
        table.row(vec![
            Cell::new(site.text("id")),
            Cell::state(site.text("state")),
            Cell::new(ago("since")),
            Cell::new(ago("heard")),
            figure(site, "minions"),
            figure(site, "minions_up"),
            lag(site),
            Cell::new(spool(site)),
            missed(site),
            delay(site),
            Cell::bad_unless_zero(site.count("expired")),
            Cell::bad_unless_zero(site.count("lost")),
            Cell::new(site.text("version")),
        ]);
    }
    table
}

/// A figure; `-` where no status of the site has told it yet.
fn figure(site: &Value, key: &str) -> Cell {
    match site.part(key) {
        Value::Null => Cell::toned("-", Tone::Faint),
        told => Cell::new(told.to_string()),
    }
}

fn lag(site: &Value) -> Cell {
    if site.part("lag_entries").is_null() {
        return Cell::toned("-", Tone::Faint);
    }
    let seconds = site.number("lag_seconds").unwrap_or_default();
    let entries = site.count("lag_entries");
    let tone = match () {
        () if seconds > LAG_SECONDS_FINE => Tone::Bad,
        () if entries > 0 => Tone::Watch,
        () => Tone::Faint,
    };
    let text = match entries {
        0 => "0".to_owned(),
        _ => format!("{entries}, {}", span(seconds)),
    };
    Cell::toned(text, tone)
}

/// How many deliveries its minions missed at first, of those who would have said that they got them.
fn missed(site: &Value) -> Cell {
    let hop = site.part("last_hop");
    match (hop.count("expected"), hop.count("missed")) {
        (0, _) => Cell::toned("-", Tone::Faint),
        (_, 0) => Cell::toned("0", Tone::Faint),
        (expected, missed) => Cell::toned(format!("{missed}/{expected}"), Tone::Watch),
    }
}

/// From the lower master's publication to the receipt: the median, and what 1 in 100 exceeds.
fn delay(site: &Value) -> Cell {
    let hop = site.part("last_hop");
    let of = |key| hop.part(key).as_u64();
    match (of("after_ms_median"), of("after_ms_p99")) {
        (Some(median), Some(p99)) if hop.count("received") > 0 => {
            Cell::new(format!("{}, {}", millis(median), millis(p99)))
        }
        _ => Cell::toned("-", Tone::Faint),
    }
}

fn spool(site: &Value) -> String {
    match (site.part("spool_entries"), site.count("spool_entries")) {
        (Value::Null, _) => "-".to_owned(),
        (_, 0) => "0".to_owned(),
        (_, entries) => format!("{entries}, {}", size(site.count("spool_bytes"))),
    }
}

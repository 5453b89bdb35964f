//! `saltway job` and `saltway missing`: how far one job got, and who is missing.

use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

use super::{as_json, jobs::target};
use crate::client::{Client, escaped};
use crate::field::Field;
use crate::output::Output;
use crate::paint::{Tone, clean, counted, flow, millis, span};
use crate::table::{Cell, Column, Table, cut};

/// Shows the job at `path`; fine when no minion is missing.
pub(super) fn run(
    client: &Client,
    path: &str,
    all: bool,
    out: &mut Output,
) -> anyhow::Result<bool> {
    let job = client.get(path)?;
    let fine = job.count("missing") == 0;
    if as_json(&job, out)? {
        return Ok(fine);
    }
    for line in summary(&job, out) {
        out.line(&line)?;
    }
    minions(&job, all, out)?;
    Ok(fine)
}

/// Shows the minions that `jid` misses; fine when there are none.
pub(super) fn missing(client: &Client, jid: &str, out: &mut Output) -> anyhow::Result<bool> {
    let answer = client.get(&format!("jobs/{}/missing", escaped(jid)))?;
    let missing = answer.list("missing");
    let sites = answer.list("sites_unreachable");
    let fine = missing.is_empty() && sites.is_empty();
    if as_json(&answer, out)? {
        return Ok(fine);
    }
    if fine {
        let over = answer.text("state") != "open";
        out.line(if over {
            "nobody is missing"
        } else {
            "nobody is missing so far"
        })?;
        return Ok(true);
    }
    let table = minion_table(missing);
    if !table.is_empty() {
        out.table(&table)?;
    }
    let named: Vec<&str> = sites.iter().filter_map(Value::as_str).collect();
    if !named.is_empty() {
        let text = format!("sites that cannot be asked: {}", clean(&named.join(", ")));
        out.line(&out.paint(&text, Tone::Bad))?;
    }
    Ok(false)
}

/// The job's head and its counts per site.
pub(super) fn summary(job: &Value, out: &Output) -> Vec<String> {
    // The target comes last: a list of ids may have any length, and is cut.
    let head = format!("{}  {} {}", job.text("jid"), job.text("fun"), target(job));
    let head = cut(&clean(&head), out.width);
    let word = job.text("state");
    let over = if word == "open" { "for" } else { "after" };
    let seconds = span(job.number("seconds").unwrap_or_default());
    // A job without a user was not published by this MoM: its returns came up from a site.
    let by = match clean(job.text("user")) {
        user if user.is_empty() => "begun at a site".to_owned(),
        user => format!("by {user}"),
    };
    let story = [
        (format!("{} {over} {seconds}", clean(word)), Tone::of(word)),
        (by, Tone::Plain),
        (moment(job.number("at")), Tone::Plain),
    ];
    let mut lines = vec![out.paint(&head, Tone::Strong)];
    lines.extend(flow(&story, out.width, out.colours));
    lines.extend(flow(&figures(job), out.width, out.colours));
    if !job.list("sites").is_empty() {
        lines.push(String::new());
        lines.extend(site_table(job.list("sites")).lines(out.width, out.colours));
        lines.extend(job.list("sites").iter().filter_map(|site| said(site, out)));
    }
    lines
}

fn figures(job: &Value) -> Vec<(String, Tone)> {
    let missing = match job.text("state") {
        "open" => Tone::Watch,
        _ => Tone::Bad,
    };
    [
        ("expected", Tone::Plain),
        ("accepted", Tone::Plain),
        ("received", Tone::Plain),
        ("no_receipts", Tone::Watch),
        ("returned", Tone::Good),
        ("failed", Tone::Bad),
        ("missing", missing),
    ]
    .into_iter()
    .filter(|(key, _)| *key != "no_receipts" || job.count(key) > 0)
    .map(|(key, tone)| (key, key.replace('_', " "), tone))
    .map(|(key, word, tone)| match job.count(key) {
        0 => (format!("{word} 0"), Tone::Plain),
        count => (format!("{word} {count}"), tone),
    })
    .collect()
}

/// What a site did instead of publishing the job.
fn said(site: &Value, out: &Output) -> Option<String> {
    let said = clean(&site.text("said").replace('_', " "));
    let reason = clean(site.text("reason"));
    let told = match (said.as_str(), reason.as_str()) {
        ("", "") => return None,
        (said, "") => said.to_owned(),
        ("", reason) => reason.to_owned(),
        (said, reason) => format!("{said}: {reason}"),
    };
    Some(out.paint(&format!("{}: {told}", named(site.text("id"))), Tone::Bad))
}

/// A site's name; the two that are none are said in words.
pub(super) fn named(id: &str) -> String {
    match id {
        "" => "(no site)".to_owned(),
        "mom" => "(the MoM)".to_owned(),
        id => clean(id),
    }
}

fn site_table(sites: &[Value]) -> Table {
    let mut table = Table::new(vec![
        Column::left("SITE").shrinks(8),
        Column::left("STATE"),
        Column::right("EXPECTED"),
        Column::right("ACCEPTED").optional(2),
        Column::right("RECEIVED").optional(1),
        Column::right("RETURNED"),
        Column::right("FAILED").optional(3),
        Column::right("MISSING"),
    ]);
    for site in sites {
        let figure = |key| Cell::new(site.count(key).to_string());
        // A site that alone can answer the target: how many it expects is not known yet.
        let expected = match site.flag("ask") && site.count("expected") == 0 {
            true => Cell::toned("asked", Tone::Watch),
            false => figure("expected"),
        };
        table.row(vec![
            Cell::new(named(site.text("id"))),
            Cell::state(site.text("state")),
            expected,
            figure("accepted"),
            figure("received"),
            figure("returned"),
            Cell::bad_unless_zero(site.count("failed")),
            Cell::bad_unless_zero(site.count("missing")),
        ]);
    }
    table
}

fn minions(job: &Value, all: bool, out: &mut Output) -> anyhow::Result<()> {
    let shown: Vec<Value> = job
        .list("minions")
        .iter()
        .filter(|minion| all || minion.text("verdict") != "returned")
        .cloned()
        .collect();
    let table = minion_table(&shown);
    if !table.is_empty() {
        out.line("")?;
        out.table(&table)?;
    }
    if job.flag("truncated") {
        let count = counted(job.list("minions").len() as u64, "minion");
        out.line(&format!("there are more than these {count}; see --limit"))?;
    }
    Ok(())
}

fn minion_table(minions: &[Value]) -> Table {
    // A bridge that does not know of receipts yet says nothing of them.
    let told = minions
        .iter()
        .any(|minion| minion.get("receipts").is_some());
    let mut columns = vec![Column::left("MINION"), Column::left("SITE").shrinks(8)];
    if told {
        columns.push(Column::right("RECEIVED"));
    }
    columns.push(Column::left("VERDICT"));
    let mut table = Table::new(columns);
    for minion in minions {
        let mut cells = vec![
            Cell::new(minion.text("id")),
            Cell::new(named(minion.text("site"))),
        ];
        if told {
            cells.push(received(minion));
        }
        cells.push(Cell::state(verdict(minion)));
        table.row(cells);
    }
    table
}

/// How long after the job's appearance it was known that the minion has it.
fn received(minion: &Value) -> Cell {
    match minion.part("received_ms").as_u64() {
        Some(ms) => Cell::new(millis(ms)),
        None => Cell::toned("-", Tone::Faint),
    }
}

/// The verdict; that of a minion which gives no receipts says so: its silence is no evidence.
fn verdict(minion: &Value) -> &str {
    let gives_none = minion.part("receipts").as_bool() == Some(false);
    match minion.text("verdict") {
        "silent" if gives_none => "no_receipts",
        verdict => verdict,
    }
}

/// A moment in this host's time zone.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a moment outside jiff's range is refused below"
)]
fn moment(at: Option<f64>) -> String {
    at.map(|seconds| (seconds * 1000.0) as i64)
        .and_then(|millis| Timestamp::from_millisecond(millis).ok())
        .map_or_else(
            || "at an unknown time".to_owned(),
            |time| {
                time.to_zoned(TimeZone::system())
                    .strftime("%F %T %Z")
                    .to_string()
            },
        )
}

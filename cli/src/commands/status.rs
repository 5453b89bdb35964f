//! `saltway status`: the bridge at a glance.

use serde_json::Value;

use super::as_json;
use crate::client::Client;
use crate::field::Field;
use crate::output::Output;
use crate::paint::{Tone, clean, counted, span};

/// Width of the first words of each line.
const LABEL: usize = 9;

/// Shows it; fine when nothing is down.
pub(super) fn run(client: &Client, out: &mut Output) -> anyhow::Result<bool> {
    let status = client.get("status")?;
    let fine = is_fine(&status);
    if as_json(&status, out)? {
        return Ok(fine);
    }
    show(&status, client.base(), out)?;
    Ok(fine)
}

/// Whether the MoM's bus, Redis and every site are up.
pub(super) fn is_fine(status: &Value) -> bool {
    status.part("mom").text("bus") == "up"
        && redis_is_up(status)
        && status.part("sites").count("down") == 0
}

/// Whether the bridge has its Redis.
pub(super) fn redis_is_up(status: &Value) -> bool {
    status.part("redis").text("state") == "up"
}

fn show(status: &Value, base: &str, out: &mut Output) -> anyhow::Result<()> {
    let role = if status.flag("speaker") {
        "tells the MoM"
    } else {
        "listens; another bridge tells the MoM"
    };
    let name = clean(status.text("bridge"));
    let version = clean(status.text("version"));
    let relay = clean(status.text("relay"));
    line(
        out,
        "relay",
        &format!("{relay}: {name} {version} at {base}, {role}"),
    )?;
    let since = since(status);
    line(
        out,
        "mom",
        &format!(
            "event bus {}{since}",
            state(status.part("mom").text("bus"), out)
        ),
    )?;
    let redis = clean(status.part("redis").text("state"));
    let tone = if redis_is_up(status) {
        Tone::Good
    } else {
        Tone::Bad
    };
    let reason = match clean(status.part("redis").text("reason")) {
        reason if reason.is_empty() => reason,
        reason => format!(": {reason}"),
    };
    line(
        out,
        "redis",
        &format!("{}{reason}", out.paint(&redis, tone)),
    )?;
    line(out, "sites", &sites(status, out))?;
    let minions = status.part("minions");
    line(
        out,
        "minions",
        &format!(
            "{} known, {} up",
            minions.count("known"),
            minions.count("up")
        ),
    )?;
    let jobs = status.part("jobs");
    line(
        out,
        "jobs",
        &format!("{} open, {} kept", jobs.count("open"), jobs.count("kept")),
    )?;
    for lost in status
        .list("lost")
        .iter()
        .filter(|lost| lost.count("count") > 0)
    {
        line(out, "lost", &self::lost(lost, out))?;
    }
    Ok(())
}

fn line(out: &mut Output, label: &str, text: &str) -> anyhow::Result<()> {
    let pad = " ".repeat(LABEL.saturating_sub(label.len()));
    let label = out.paint(label, Tone::Strong);
    Ok(out.line(&format!("{label}{pad}{text}"))?)
}

fn state(word: &str, out: &Output) -> String {
    out.paint(&clean(word), Tone::of(word))
}

fn since(status: &Value) -> String {
    let times = (status.number("now"), status.part("mom").number("since"));
    match times {
        (Some(now), Some(since)) if since > 0.0 => format!(" for {}", span(now - since)),
        _ => String::new(),
    }
}

fn sites(status: &Value, out: &Output) -> String {
    let sites = status.part("sites");
    let (up, down) = (sites.count("up"), sites.count("down"));
    let tone = if down == 0 { Tone::Plain } else { Tone::Bad };
    let unknown = match sites.count("unknown") {
        0 => String::new(),
        count => format!(", {count} not heard of yet"),
    };
    format!(
        "{up} up, {}{unknown}",
        out.paint(&format!("{down} down"), tone)
    )
}

fn lost(lost: &Value, out: &Output) -> String {
    let site = match lost.text("site") {
        "" => String::new(),
        site => format!(" of {}", clean(site)),
    };
    let text = format!(
        "{}{site} at hop {}",
        counted(lost.count("count"), "publication"),
        clean(lost.text("hop"))
    );
    out.paint(&text, Tone::Bad)
}

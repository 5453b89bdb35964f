//! `saltway check`: everything from this command to the sites, one line each.
//!
//! Goes on after a mistake as far as there is something to ask, so that one run tells all.

use serde_json::{Value, json};

use super::status::redis_is_up;
use crate::args::Args;
use crate::client::Client;
use crate::field::Field;
use crate::output::Output;
use crate::paint::{Tone, clean, counted, span};
use crate::settings::{self, Settings};

/// A lag above this is named: it is a heart-beat and some.
const LAG_SECONDS_FINE: f64 = 5.0;

/// One thing that was tried.
struct Trial {
    name: String,
    fine: bool,
    said: String,
}

/// Shows what was tried; fine when all of it is in order.
pub(crate) fn run(args: &Args, out: &mut Output) -> anyhow::Result<bool> {
    let trials = trials(args);
    let fine = trials.iter().all(|trial| trial.fine);
    if out.json {
        let list: Vec<Value> = trials
            .iter()
            .map(|trial| json!({"name": trial.name, "ok": trial.fine, "said": trial.said}))
            .collect();
        out.json(&json!({"ok": fine, "checks": list}))?;
        return Ok(fine);
    }
    let width = trials
        .iter()
        .map(|trial| trial.name.chars().count())
        .max()
        .unwrap_or_default();
    for trial in &trials {
        let pad = " ".repeat(width - trial.name.chars().count());
        let (word, tone) = if trial.fine {
            ("ok  ", Tone::Good)
        } else {
            ("FAIL", Tone::Bad)
        };
        out.line(&format!(
            "{}  {}{pad}  {}",
            out.paint(word, tone),
            trial.name,
            trial.said
        ))?;
    }
    Ok(fine)
}

fn trials(args: &Args) -> Vec<Trial> {
    let mut trials = Vec::new();
    if args.url.is_none() {
        files(args, &mut trials);
    }
    let answer = settings::client(args).and_then(|client| Ok((client.get("status")?, client)));
    match answer {
        Err(err) => note(
            &mut trials,
            "bridge",
            Err(daemon_kit::chain(err.as_ref()).to_string()),
        ),
        Ok((status, client)) => {
            let said = format!(
                "{} {} at {}",
                status.text("bridge"),
                status.text("version"),
                client.base()
            );
            note(&mut trials, "bridge", Ok(said));
            conditions(&client, &mut trials);
            relay(&status, &mut trials);
            sites(&client, &mut trials);
        }
    }
    trials
}

fn note(trials: &mut Vec<Trial>, name: impl Into<String>, said: Result<String, String>) {
    let fine = said.is_ok();
    let said = said.unwrap_or_else(|why| why);
    trials.push(Trial {
        name: clean(&name.into()),
        fine,
        said: clean(&said),
    });
}

fn files(args: &Args, trials: &mut Vec<Trial>) {
    let settings = Settings::load(&args.config);
    let shown = args.config.display().to_string();
    match &settings {
        Ok(_) => note(trials, "configuration", Ok(shown)),
        Err(err) => note(trials, "configuration", Err(err.to_string())),
    }
}

/// The lines of `/readyz`, which end in `ok` or say what is amiss.
fn conditions(client: &Client, trials: &mut Vec<Trial>) {
    let Ok((_, text)) = client.page("/readyz") else {
        return;
    };
    for line in text.lines() {
        let Some((name, said)) = line
            .rsplit_once(": ok")
            .map(|(name, _)| (name, None))
            .or_else(|| {
                line.split_once(": no")
                    .map(|(name, why)| (name, Some(why.trim_start_matches(": "))))
            })
        else {
            continue;
        };
        let said = said.map_or_else(|| Ok("ready".to_owned()), |why| Err(why.to_owned()));
        note(trials, format!("bridge: {name}"), said);
    }
}

fn relay(status: &Value, trials: &mut Vec<Trial>) {
    let bus = status.part("mom").text("bus");
    let bus = match bus {
        "up" => Ok("up: jobs are seen as they are published".to_owned()),
        other => Err(format!(
            "{other}: the ledger sees no jobs; does the MoM run, and may the bridge's user read its sock_dir?"
        )),
    };
    note(trials, "event bus", bus);
    let redis = status.part("redis").text("state");
    let redis = match redis_is_up(status) {
        true => Ok("up".to_owned()),
        false => Err(format!(
            "{redis}: publications wait in the bridge's journal"
        )),
    };
    note(trials, "redis", redis);
    for lost in status
        .list("lost")
        .iter()
        .filter(|lost| lost.count("count") > 0)
    {
        let site = lost.text("site");
        let of = if site.is_empty() {
            String::new()
        } else {
            format!(" of {site}")
        };
        let lost = format!(
            "{} lost at hop {}",
            counted(lost.count("count"), "publication"),
            lost.text("hop")
        );
        note(trials, format!("losses{of}"), Err(lost));
    }
}

fn sites(client: &Client, trials: &mut Vec<Trial>) {
    let answer = match client.get("sites") {
        Ok(answer) => answer,
        Err(err) => return note(trials, "sites", Err(daemon_kit::chain(&err).to_string())),
    };
    if answer.list("sites").is_empty() {
        let said = "none has announced itself; do the master-shims run, with the same `mom`?";
        return note(trials, "sites", Err(said.to_owned()));
    }
    for site in answer.list("sites") {
        note(trials, format!("site {}", site.text("id")), said_of(site));
    }
}

fn said_of(site: &Value) -> Result<String, String> {
    let lag = site.number("lag_seconds").unwrap_or_default();
    if site.text("state") != "up" {
        return Err(format!("{}: {}", site.text("state"), site.text("reason")));
    }
    if lag > LAG_SECONDS_FINE {
        return Err(format!("up, but {} behind", span(lag)));
    }
    let (known, up) = (site.count("minions"), site.count("minions_up"));
    Ok(format!(
        "up, {} of {} connected",
        up,
        counted(known, "minion")
    ))
}

//! `saltway watch`: follows a job until it is over.
//!
//! On a terminal the counts are redrawn in their place; elsewhere each change is a line, and with
//! `--json` a line of JSON. A bridge that restarts meanwhile is waited for, [`PATIENCE`] long.

use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::job::{named, summary};
use crate::client::{AskError, Client, escaped};
use crate::field::Field;
use crate::output::Output;
use crate::paint::clean;

/// How long a bridge may be away: a restart takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Shows `jid`, or the newest open job, or the next one; fine when nobody was missing in the end.
pub(super) fn run(
    client: &Client,
    jid: Option<&str>,
    interval: f64,
    out: &mut Output,
) -> anyhow::Result<bool> {
    let pause = Duration::from_secs_f64(interval);
    let jid = match jid {
        Some(jid) => jid.to_owned(),
        None => next_job(client, pause, out)?,
    };
    let path = format!("jobs/{}?limit=1", escaped(&jid));
    let mut screen = Screen::default();
    loop {
        let job = patiently(client, &path, pause)?;
        screen.show(&job, out)?;
        if job.text("state") != "open" {
            return Ok(job.count("missing") == 0);
        }
        thread::sleep(pause);
    }
}

/// The newest open job; without one, the next that appears.
fn next_job(client: &Client, pause: Duration, out: &mut Output) -> anyhow::Result<String> {
    let open = patiently(client, "jobs?limit=1&state=open", pause)?;
    if let Some(jid) = newest(&open) {
        return Ok(jid);
    }
    if !out.json {
        out.line("no job is open; waiting for the next one")?;
        out.flush()?;
    }
    let before = newest(&patiently(client, "jobs?limit=1", pause)?);
    loop {
        let now = newest(&patiently(client, "jobs?limit=1", pause)?);
        if let Some(jid) = now.filter(|jid| Some(jid) != before.as_ref()) {
            return Ok(jid);
        }
        thread::sleep(pause);
    }
}

fn newest(answer: &Value) -> Option<String> {
    answer
        .list("jobs")
        .first()
        .map(|job| job.text("jid").to_owned())
}

/// Asks again while nobody answers.
fn patiently(client: &Client, path: &str, pause: Duration) -> Result<Value, AskError> {
    let mut waited = Duration::ZERO;
    let mut heard = client.get(path);
    while waited < PATIENCE && matches!(heard, Err(AskError::Unreachable { .. })) {
        thread::sleep(pause);
        waited += pause;
        heard = client.get(path);
    }
    heard
}

/// What was shown last.
#[derive(Debug, Default)]
struct Screen {
    /// Lines on the terminal that the next redraw replaces.
    lines: usize,
    /// The line printed last, or the JSON.
    last: String,
}

impl Screen {
    fn show(&mut self, job: &Value, out: &mut Output) -> anyhow::Result<()> {
        match (out.json, out.terminal) {
            (true, _) => self.line(counts(job).to_string(), job.to_string(), out),
            (false, true) => self.redraw(job, out),
            (false, false) => {
                let line = line(job);
                self.line(line.clone(), line, out)
            }
        }
    }

    /// Prints `text` when what it says has changed.
    fn line(&mut self, said: String, text: String, out: &mut Output) -> anyhow::Result<()> {
        if said != self.last {
            out.line(&text)?;
            out.flush()?;
            self.last = said;
        }
        Ok(())
    }

    fn redraw(&mut self, job: &Value, out: &mut Output) -> anyhow::Result<()> {
        let lines = summary(job, out);
        if self.lines > 0 {
            // Up to the first line of before, and clear from there to the end of the screen.
            out.raw(&format!("\x1b[{}F\x1b[J", self.lines))?;
        }
        for line in &lines {
            out.line(line)?;
        }
        out.flush()?;
        self.lines = lines.iter().map(|line| rows(line, out.width)).sum();
        Ok(())
    }
}

/// The rows that `line` takes on a terminal: one that is too long goes on in the next.
fn rows(line: &str, width: usize) -> usize {
    let codes = line.split('\x1b').skip(1);
    let unseen: usize = codes
        .filter_map(|rest| rest.find('m'))
        .map(|end| end + 2)
        .sum();
    line.chars()
        .count()
        .saturating_sub(unseen)
        .div_ceil(width)
        .max(1)
}

/// The job without what changes although nothing happens.
fn counts(job: &Value) -> Value {
    let mut counts = job.clone();
    if let Some(fields) = counts.as_object_mut() {
        fields.remove("seconds");
        fields.remove("minions");
    }
    counts
}

/// `open 4/11 returned, 7 received, 0 failed, 7 missing: fra1 2/3, sgp1 0/3 down`.
fn line(job: &Value) -> String {
    let part =
        |counts: &Value| format!("{}/{}", counts.count("returned"), counts.count("expected"));
    let sites: Vec<String> = job
        .list("sites")
        .iter()
        .map(|site| {
            let state = match site.text("state") {
                "up" => String::new(),
                other => format!(" {other}"),
            };
            format!("{} {}{state}", named(site.text("id")), part(site))
        })
        .collect();
    let text = format!(
        "{} {} {} returned, {} received, {} failed, {} missing: {}",
        job.text("jid"),
        job.text("state"),
        part(job),
        job.count("received"),
        job.count("failed"),
        job.count("missing"),
        sites.join(", ")
    );
    clean(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_takes_the_rows_of_what_is_seen() {
        for (line, count) in [
            ("", 1),
            ("abcd", 1),
            ("abcde", 2),
            ("\x1b[31mabcd\x1b[0m", 1),
            ("\x1b[2mabcde", 2),
        ] {
            assert_eq!(rows(line, 4), count, "{line:?}");
        }
    }
}

//! What does a fault cost through Saltway, and what through salt-syndic? See `real_tests::faults`.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use real_tests::faults::{Case, Outcome, Stand, json_line, markdown, parse_line, run_case};
use testkit::{Relay, SaltVersion, end_waits_on_signals, interrupted};

/// Breaks links and processes of a relay between real Salt masters, and prints what was lost as a Markdown table.
#[derive(Debug, Parser)]
#[command(name = "faults")]
struct Arguments {
    /// Salt version of every daemon: 3006, 3007 or 3008.
    #[arg(long, default_value = "3008")]
    salt: SaltVersion,
    /// Only this case; may be given several times.
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<Case>,
    /// Only through this relay.
    #[arg(long, value_enum)]
    relay: Option<Through>,
    /// Print each case as one line of JSON instead of the table.
    #[arg(long)]
    json: bool,
    /// Append each case's line of JSON to this file as well.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Run nothing: print the table of such a file (the last line of a case counts).
    #[arg(long, value_name = "FILE", exclusive = true)]
    table: Option<PathBuf>,
    /// Name the cases.
    #[arg(long, exclusive = true)]
    list: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Through {
    Saltway,
    Syndic,
}

#[expect(clippy::print_stdout, reason = "the table is what this program is for")]
fn show(text: &str) {
    println!("{text}");
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match end_waits_on_signals().and_then(|()| faults(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("faults: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn faults(arguments: &Arguments) -> Result<()> {
    if arguments.list {
        for case in Case::ALL {
            show(&format!("{:<22} {}", case.name(), case.text()));
        }
        return Ok(());
    }
    if let Some(path) = &arguments.table {
        let text = fs::read_to_string(path)?;
        let outcomes: Vec<Outcome> = text.lines().map(parse_line).collect::<Result<_>>()?;
        show(&markdown(&outcomes));
        return Ok(());
    }
    let relays = match arguments.relay {
        None => vec![Relay::Saltway, Relay::Syndic],
        Some(Through::Saltway) => vec![Relay::Saltway],
        Some(Through::Syndic) => vec![Relay::Syndic],
    };
    let cases = match arguments.cases.as_slice() {
        [] => Case::ALL,
        some => some,
    };
    let mut outcomes = Vec::new();
    let mut failed = Vec::new();
    for relay in relays {
        series(arguments, relay, cases, &mut outcomes, &mut failed)?;
    }
    if !arguments.json {
        show(&markdown(&outcomes));
    }
    ensure!(
        failed.is_empty(),
        "these could not be run: {}",
        failed.join(" ")
    );
    Ok(())
}

/// The cases through one relay. A stand serves one after the other as long as it comes out of each one well.
fn series(
    arguments: &Arguments,
    relay: Relay,
    cases: &[Case],
    outcomes: &mut Vec<Outcome>,
    failed: &mut Vec<String>,
) -> Result<()> {
    let mut stand: Option<Stand> = None;
    for case in cases.iter().filter(|case| case.applies_to(relay)) {
        let usable = stand.take().filter(|stand| stand.kind() == case.kind());
        let (used, outcome) = match one(arguments, relay, *case, usable) {
            Ok(done) => done,
            Err(error) if interrupted() => return Err(error),
            Err(error) => {
                eprintln!("[faults] {relay:?}: {case} could not be run: {error:#}");
                failed.push(format!("{relay:?}/{case}"));
                continue;
            }
        };
        tell(&outcome, &used.directory());
        if arguments.json {
            show(&json_line(&outcome));
        }
        if let Some(path) = &arguments.log {
            let mut file = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)?;
            writeln!(file, "{}", json_line(&outcome))?;
        }
        if outcome.healthy.is_some() && outcome.recorded == outcome.wanted {
            stand = Some(used);
        }
        outcomes.push(outcome);
    }
    Ok(())
}

fn one(
    arguments: &Arguments,
    relay: Relay,
    case: Case,
    usable: Option<Stand>,
) -> Result<(Stand, Outcome)> {
    let mut stand = match usable {
        Some(stand) => stand,
        None => Stand::start(case.kind(), relay, arguments.salt, |line| {
            eprintln!("[faults] {line}");
        })?,
    };
    eprintln!("[faults] {relay:?}: {case} ...");
    let outcome = run_case(&mut stand, case)
        .with_context(|| format!("see {}", stand.directory().display()))?;
    Ok((stand, outcome))
}

fn tell(outcome: &Outcome, directory: &Path) {
    let healthy = outcome.healthy.map_or("not healthy".to_owned(), |it| {
        format!("healthy after {it:.2} s")
    });
    eprintln!(
        "[faults] {}: {} jobs ({} refused), {}/{} run, {} twice, {}/{} recorded, {} late, {} expired, delivered after {:.2} s, {healthy}, longest {:.1} s, \
         {} returns repeated, control {:?}",
        outcome.case,
        outcome.jobs,
        outcome.refused,
        outcome.run,
        outcome.wanted,
        outcome.twice,
        outcome.recorded,
        outcome.wanted,
        outcome.late,
        outcome.expired,
        outcome.delivered,
        outcome.longest,
        outcome.repeated,
        outcome.control,
    );
    for wrong in &outcome.misjudged {
        eprintln!("[faults]   the ledger is wrong: {wrong}");
    }
    for lost in &outcome.lost {
        eprintln!(
            "[faults]   lost: job {} (jid {}, {:+.1} s) of {}: {}",
            lost.number,
            lost.jid,
            lost.at,
            lost.minion,
            lost.place.text(),
        );
    }
    if !outcome.lost.is_empty() {
        eprintln!("[faults]   logs: {}", directory.display());
    }
}

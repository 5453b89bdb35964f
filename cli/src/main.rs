//! `saltway`: asks a bridge how far each job got, and who is missing.
//!
//! One question, one answer: no daemon, no state but the record of placeholder keys.
//!
//! ```text
//! args ──► settings (saltway.yaml) ──► client ──GET──► bridge /api/v1
//!                                        │ JSON
//!                   commands ◄───────────┘
//!                      └──► table, paint ──► standard output
//! redeliver ──► the MoM's publisher and event bus
//! ```
//! - Exit code 0: fine; 1: something is missing or down; 2: it could not be asked.
//! - What came from a socket or a file is shown without control characters, and never cut a
//!   terminal's line in two. `--json` prints what the bridge said, for programs.

mod args;
mod client;
mod commands;
mod field;
mod output;
mod paint;
mod placeholders;
mod redeliver;
mod settings;
mod table;

use std::io::{self, Write};
use std::process::ExitCode;

use crate::args::{Action, Args};
use crate::output::Output;

/// Something is missing or down.
const MISSING: u8 = 1;
/// The question could not be put, or was wrong: clap's own code, too.
const CANNOT_ASK: u8 = 2;

fn main() -> ExitCode {
    let args = args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(MISSING),
        // Whoever reads has seen enough: `saltway jobs | head`.
        Err(err) if is_closed_pipe(&err) => ExitCode::SUCCESS,
        Err(err) => {
            // Nothing is left to be told when standard error is gone.
            drop(writeln!(io::stderr(), "saltway: {}", told(&err)));
            ExitCode::from(CANNOT_ASK)
        }
    }
}

/// Whether everything asked for is there.
fn run(args: &Args) -> anyhow::Result<bool> {
    let mut out = Output::new(args.json);
    let fine = match &args.action {
        Action::Placeholders(wanted) => placeholders::run(args, wanted, &mut out),
        Action::Redeliver(wanted) => redeliver::run(args, wanted, &mut out),
        Action::Check => commands::check::run(args, &mut out),
        other => commands::run(other, &settings::client(args)?, &mut out),
    }?;
    out.flush()?;
    Ok(fine)
}

fn is_closed_pipe(err: &anyhow::Error) -> bool {
    err.chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

fn told(err: &anyhow::Error) -> String {
    daemon_kit::chain(err.as_ref()).to_string()
}

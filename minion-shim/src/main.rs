//! `saltway-minion-shim`: see the library beside it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use minion_shim::Plan;

/// Stands beside salt-minion and salt-proxy: tells their master which jobs they took
#[derive(Parser)]
#[command(name = "saltway-minion-shim", version)]
struct Arguments {
    /// Configuration of a salt-minion, or of the salt-proxies when the file's name is `proxy`; repeatable
    /// [default: /etc/salt/minion and /etc/salt/proxy]
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Report every mistake of the configuration and what would be watched, and exit
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let plan = match Plan::read(&arguments.config) {
        Ok(plan) => plan,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return ExitCode::from(2);
        }
    };
    if arguments.check {
        eprintln!("{plan}");
        return ExitCode::SUCCESS;
    }
    match minion_shim::run(&plan) {
        Ok(never) => match never {},
        Err(err) => {
            eprintln!("error {err:#}");
            ExitCode::FAILURE
        }
    }
}

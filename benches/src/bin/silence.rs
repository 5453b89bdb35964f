//! Does `salt '*' test.ping` on the MoM name everybody, each time, and how long does it take?
//!
//! Two sites of three minions, real Salt; so many runs of the command in a row. Prints the wall times and each run that
//! missed somebody; any such run fails the program.
#![expect(
    clippy::print_stdout,
    reason = "the figures go to the terminal, and from there into docs/measurements.md"
)]

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Parser;
use real_tests::ledger::wait_for_site;
use testkit::{SaltVersion, Tree};

/// How long the bridge may take to know both sites.
const KNOWN_WITHIN: Duration = Duration::from_secs(20);

const MINIONS: [&str; 6] = ["a1", "a2", "a3", "b1", "b2", "b3"];

/// Runs `salt '*' test.ping` again and again, and counts who was missing.
#[derive(Parser)]
struct Arguments {
    /// Salt version of every daemon: 3006 or 3008.
    #[arg(long, default_value = "3008")]
    salt: String,
    /// How often.
    #[arg(long, default_value_t = 200)]
    runs: usize,
    /// The MoM's `syndic_wait`, in seconds.
    #[arg(long, default_value_t = 1)]
    syndic_wait: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let version = match arguments.salt.as_str() {
        "3006" => SaltVersion::V3006,
        "3008" => SaltVersion::V3008,
        other => bail!("--salt is 3006 or 3008, not {other}"),
    };
    let tree = Tree::with_saltway(version)
        .site("site1", version, &MINIONS[..3])
        .site("site2", version, &MINIONS[3..])
        .syndic_wait(arguments.syndic_wait)
        .daemon_log("warn")
        .start()?;
    for site in ["site1", "site2"] {
        wait_for_site(&tree, site, "up", 3, KNOWN_WITHIN)?;
    }
    let mut walls = Vec::new();
    let mut incomplete = 0;
    for run in 1..=arguments.runs {
        let output = tree.mom.salt(&["*", "test.ping"])?;
        walls.push(output.wall);
        let named = |id: &&&str| output.stdout.lines().any(|line| line == format!("{id}:"));
        let there = MINIONS.iter().filter(named).count();
        if there < MINIONS.len() || output.code != 0 || output.stdout.contains("did not return") {
            incomplete += 1;
            println!("run {run}: exit code {}\n{}", output.code, output.stdout);
        }
    }
    walls.sort_unstable();
    let at = |share: usize| walls[(walls.len() * share / 100).min(walls.len() - 1)].as_secs_f64();
    println!(
        "salt {} '*' test.ping, syndic_wait {}: {} runs, {incomplete} with somebody missing; wall time median {:.2} s, p99 {:.2} s, longest {:.2} s",
        arguments.salt,
        arguments.syndic_wait,
        walls.len(),
        at(50),
        at(99),
        at(100)
    );
    ensure!(incomplete == 0, "{incomplete} runs missed somebody");
    Ok(())
}

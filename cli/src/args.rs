//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use daemon_kit::cli::CONFIG_DEFAULT;

/// Asks a Saltway bridge how far each job got, and who is missing; sends jobs again
///
/// Exit code: 0 fine; 1 something is missing or down; 2 it could not be asked.
#[derive(Debug, Parser)]
#[command(name = "saltway", version)]
pub(crate) struct Args {
    /// Configuration file, shared with the daemons
    #[arg(long, value_name = "FILE", default_value = CONFIG_DEFAULT, global = true)]
    pub(crate) config: PathBuf,
    /// Where the bridge answers, instead of `http.listen` of the file
    #[arg(long, value_name = "URL", env = "SALTWAY_URL", global = true)]
    pub(crate) url: Option<String>,
    /// File with the bridge's token, instead of `http.token_file`
    #[arg(long, value_name = "FILE", env = "SALTWAY_TOKEN_FILE", global = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// PEM file of the authorities to trust for https, instead of `http.tls_cert`
    #[arg(long, value_name = "FILE", env = "SALTWAY_CA_FILE", global = true)]
    pub(crate) ca_file: Option<PathBuf>,
    /// Print the bridge's JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to ask
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What to ask.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// The bridge at a glance; 1 while a site, the MoM's bus or Redis is down
    Status,
    /// Each site: up or down, minions, lag, spool, deliveries that minions missed and how long they take
    Sites,
    /// The newest jobs
    Jobs {
        /// How many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Only jobs older than this one
        #[arg(long, value_name = "JID", value_parser = jid)]
        before: Option<String>,
        /// Only jobs in this state
        #[arg(long, value_parser = ["open", "complete", "incomplete", "expired"])]
        state: Option<String>,
    },
    /// One job: counts per site, and each minion that has not returned; 1 while one is missing
    Job {
        /// The job's id
        #[arg(value_parser = jid)]
        jid: String,
        /// Only minions with this verdict, such as silent or unreachable
        #[arg(long)]
        verdict: Option<String>,
        /// Name the minions that have returned, too
        #[arg(long)]
        all: bool,
        /// At most these many minions
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        limit: u32,
    },
    /// The minions that a job misses, one per line; 1 while there are any
    Missing {
        /// The job's id
        #[arg(value_parser = jid)]
        jid: String,
    },
    /// Send a job again, under its own jid, to minions that did not get it; 1 if somebody was not sent it
    ///
    /// Run it on the MoM's host, as root or as Salt's user. Rules: docs/receipts.md.
    Redeliver(Redeliver),
    /// The minions of the sites, as their masters accept them
    Roster {
        /// Only this site
        #[arg(long)]
        site: Option<String>,
    },
    /// Follow a job until it is over: the one named, else the newest open one, else the next
    Watch {
        /// The job's id
        #[arg(value_parser = jid)]
        jid: Option<String>,
        /// How often to ask, in seconds
        #[arg(long, default_value_t = 0.5, value_parser = interval)]
        interval: f64,
    },
    /// Try everything from here to the sites, one line each, with what to do
    Check,
    /// Keys on the MoM for the minions of the sites, with which nobody can sign in
    ///
    /// For a 3008 MoM whose `salt` shall ask the minions of the sites by `find_job`.
    /// Consequences: docs/placeholder-keys.md.
    Placeholders(Placeholders),
}

/// Arguments of `redeliver`.
#[derive(Debug, clap::Args)]
pub(crate) struct Redeliver {
    /// The job's id
    #[arg(value_parser = jid)]
    pub(crate) jid: String,
    /// To everybody who is missing: what is done without --minions
    #[arg(long, conflicts_with = "minions")]
    pub(crate) missing: bool,
    /// To these
    #[arg(long, value_name = "ID,ID,...", value_delimiter = ',', num_args = 1..)]
    pub(crate) minions: Option<Vec<String>>,
    /// Do not ask: send it although it has expired, and to minions that may have run it
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Arguments of `placeholders`.
#[derive(Debug, clap::Args)]
pub(crate) struct Placeholders {
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do with placeholder keys.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Verb {
    /// Which there are
    List(Scope),
    /// Add one for each minion of the rosters that has no key on the MoM
    Add(Scope),
    /// Take away those that `add` made, and nothing else
    Remove(Scope),
}

/// Which keys.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Scope {
    /// Only minions of this site
    #[arg(long)]
    pub(crate) site: Option<String>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Parses the process's arguments; on `--help`, `--version` or a wrong one it exits.
pub(crate) fn parse() -> Args {
    Args::parse()
}

fn jid(text: &str) -> Result<String, String> {
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    // Salt appends `_<pid>` with `unique_jid`.
    let rest_fits = text
        .chars()
        .skip(digits)
        .all(|letter| letter == '_' || letter.is_ascii_digit());
    if (8..=40).contains(&text.len()) && digits >= 8 && rest_fits {
        return Ok(text.to_owned());
    }
    Err("a jid has 20 digits; `saltway jobs` lists them".to_owned())
}

fn interval(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.1..=60.0).contains(seconds))
        .ok_or_else(|| "write seconds between 0.1 and 60".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn only_jids_are_taken_as_jids() {
        for good in ["20261121173800110002", "20261121173800110002_4711"] {
            jid(good).expect(good);
        }
        for bad in ["", "site1", "2026", "2026112117380011000/../x"] {
            jid(bad).expect_err(bad);
        }
    }
}

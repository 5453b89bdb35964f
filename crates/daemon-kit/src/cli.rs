//! The arguments that every daemon takes.

use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser};

/// Where the packages put the configuration.
pub const CONFIG_DEFAULT: &str = "/etc/salt/saltway.yaml";

/// Which program this is; `main` states it once.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The name of the binary, as in `saltway-bridge`.
    pub name: &'static str,
    /// One line for `--help`.
    pub about: &'static str,
    /// `env!("CARGO_PKG_VERSION")` of the daemon.
    pub version: &'static str,
}

/// The shared arguments; flatten them into a daemon's own, or use [`parse`].
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CommonArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = CONFIG_DEFAULT)]
    pub config: PathBuf,
    /// Report every mistake of the configuration and exit
    #[arg(long)]
    pub check: bool,
}

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    common: CommonArgs,
}

/// Parses the process's arguments; on `--help`, `--version` or a wrong one it exits.
pub fn parse(program: Program) -> CommonArgs {
    parse_from(program, std::env::args_os()).unwrap_or_else(|err| err.exit())
}

fn parse_from<I>(program: Program, args: I) -> Result<CommonArgs, clap::Error>
where
    I: IntoIterator,
    I::Item: Into<std::ffi::OsString> + Clone,
{
    let command = Arguments::command()
        .name(program.name)
        .about(program.about)
        .version(program.version);
    let matches = command.try_get_matches_from(args)?;
    Ok(Arguments::from_arg_matches(&matches)?.common)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: Program = Program {
        name: "saltway-test",
        about: "Tests",
        version: "1.2.3",
    };

    #[test]
    fn the_packaged_configuration_is_the_default() {
        let args = parse_from(PROGRAM, ["x"]).unwrap();
        assert_eq!(
            args,
            CommonArgs {
                config: CONFIG_DEFAULT.into(),
                check: false
            }
        );
    }

    #[test]
    fn a_file_and_check_are_taken() {
        let args = parse_from(PROGRAM, ["x", "--config", "/a", "--check"]).unwrap();
        assert_eq!(
            args,
            CommonArgs {
                config: "/a".into(),
                check: true
            }
        );
    }

    #[test]
    fn the_version_names_the_program() {
        let shown = parse_from(PROGRAM, ["x", "--version"])
            .unwrap_err()
            .to_string();
        assert_eq!(shown.trim(), "saltway-test 1.2.3");
    }

    #[test]
    fn an_unknown_argument_is_refused() {
        parse_from(PROGRAM, ["x", "--chek"]).unwrap_err();
    }
}

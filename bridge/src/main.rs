//! `saltway-bridge`: see the library beside it.

use std::process::ExitCode;

use daemon_kit::cli::Program;

fn main() -> ExitCode {
    let program = Program {
        name: "saltway-bridge",
        about: "Carries publications of a top-level Salt master into Redis, and the sites' requests to it",
        version: env!("CARGO_PKG_VERSION"),
    };
    daemon_kit::run::main(program, bridge::Config::read, |config, context| {
        bridge::run(
            config.expect("a mistake in the configuration ends the process before"),
            context,
        )
    })
}

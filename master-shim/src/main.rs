//! `saltway-master-shim`: see the library beside it.

use std::process::ExitCode;

use daemon_kit::cli::Program;

fn main() -> ExitCode {
    let program = Program {
        name: "saltway-master-shim",
        about: "Stands in place of salt-syndic: carries the top master's jobs to a lower master, and the answers back",
        version: env!("CARGO_PKG_VERSION"),
    };
    daemon_kit::run::main(program, master_shim::Config::read, |config, context| {
        let config = config.expect("a mistake in the configuration ends the process before");
        master_shim::run(config, context)
    })
}

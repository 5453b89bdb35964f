//! Real Salt daemons and commands, of the versions that `versions.env` pins.
//!
//! Each daemon has a directory `<workspace>/<name>/` like a small host: `etc/` (its configuration), `pki/`, `cache/`, `run/` (sockets),
//! `log/`. Keys are in place before a daemon starts, so nothing waits for acceptance. What only costs start-up time is switched off: grains
//! that ask the network, the mine, and above all ZeroMQ's random reconnect delay of up to 10 s.

mod config;
mod master;
mod minion;
mod syndic;
mod version;

pub use master::{Master, MasterBuilder};
pub use minion::{Minion, MinionBuilder};
pub use syndic::Syndic;
pub use version::SaltVersion;

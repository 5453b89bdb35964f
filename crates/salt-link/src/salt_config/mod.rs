//! Salt's own configuration, read as Salt reads it, so that nothing is asked twice.
//!
//! ```text
//! /etc/salt/master + master.d/*.conf ──► MasterConfig   (the bridge: the MoM's)
//!        │
//!        ├── over it: /etc/salt/minion + minion.d/*.conf
//!        └── over it: syndic_* ──► SyndicConfig         (the shim: in place of salt-syndic)
//! ```
//! - What both read is checked against records of the real `salt.config.syndic_config`
//!   (`tests/data/salt_config`).
//! - Keys that are not ours are not looked at; every mistake in ours is told at once.
//! - Salt's file is not ours to correct: where Salt takes a value, we take it as Salt does.

mod master;
mod syndic;
#[cfg(test)]
mod tests;
mod upstream;

use salt_options::{files, identity, options, paths};

pub use identity::IdSource;
pub use master::{IpcMode, MasterConfig};
pub use syndic::{MasterId, SyndicConfig, SyndicFailover, SyndicMode};
pub use upstream::Upstream;

//! Salt's own configuration files, read as Salt reads them, and what each option means.
//!
//! ```text
//! /etc/salt/minion + minion.d/*.conf ──► files::Overrides ──► options::Options ──► MinionConfig
//!                                                                    └──► salt-link: MasterConfig, SyndicConfig
//! ```
//! - Keys that nobody asks for are not looked at; every mistake in the others is told at once.
//! - Salt's file is not ours to correct: where Salt takes a value, we take it as Salt does.

pub mod files;
pub mod identity;
mod minion;
pub mod options;
pub mod paths;

pub use minion::{MinionConfig, MinionDirs, MinionKind};

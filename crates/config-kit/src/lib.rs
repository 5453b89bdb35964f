//! Reads YAML configuration files and tells every mistake in them.
//!
//! ```text
//! file ──► yaml::parse ──► Document ──► config::Section ──► a program's own configuration, or Mistakes
//!                              └──────► salt-options (Salt's own files)
//! ```
//! A crate of its own, as small programs read configuration too: it knows no runtime, no Salt and no Redis.

pub mod config;
pub mod yaml;

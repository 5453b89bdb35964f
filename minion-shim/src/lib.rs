//! Stands beside salt-minion and salt-proxy: sees them take jobs, and has them tell their master so.
//!
//! ```text
//! <cachedir>/proc/<jid>  ──inotify──┐                              ┌──► fire_master: receipts
//! <sock_dir>/minion_event_*_pub.ipc ┴─► run ──► Minion ──────────► minion_event_*_pull.ipc
//! /proc/<pid>/fd (its connection) ────┘         │ Jobs, Returns, Report   └──► requests: what happened, returns once more
//! ```
//! | module | holds |
//! |---|---|
//! | `plan` | the minions of this host, from Salt's own configuration |
//! | `run`, `watch` | one thread, epoll and inotify |
//! | `minion` | one minion |
//! | `jobs`, `returns`, `report`, `probe` | decisions, without I/O and clock |
//! | `bus`, `frames`, `files`, `process` | what is read and written |
//!
//! - It holds no key, opens no port, writes no file and asks no master anything but through the minion.
//! - It is small: one thread, less than 4 MiB, and asleep while nothing happens.
//! - What it reads may be hostile: every file, list and buffer has a bound.

mod bus;
mod files;
mod frames;
mod jobs;
mod log;
mod minion;
mod plan;
mod probe;
mod process;
mod report;
mod returns;
mod run;
mod watch;

pub use plan::{MINIONS_MAX, Place, Plan};
pub use run::run;

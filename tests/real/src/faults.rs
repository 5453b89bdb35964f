//! What a fault costs: jobs that did not run, ran twice or late, returns that did not arrive, and the time until all is well again.
//!
//! The same cases through Saltway and through salt-syndic, on real Salt and real Redis. Ground truth are the minions: a module of theirs writes
//! number, jid and time of each job into a file of its minion. `benches/src/bin/faults.rs` prints the table (`make faults`);
//! `tests/faults.rs` asserts it for the short half.
//!
//! ```text
//! Case ──► Stand (tree, two bridges, proxies) ──► inject: breaks and mends ──► Outcome ──► table
//!             ▲                                                            ▲
//!             └── JobStream: two jobs a second through it all ──► minions' files, MoM's bus and job cache
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`Case`] | the faults by name, and what each needs |
//! | [`Stand`] | everything that runs, and how it is broken |
//! | [`run_case`] | one case from the quiet before to the last return |
//! | [`Outcome`] | its figures, and where each lost job was lost |
//! | [`markdown`] | both relays' figures in one table |

mod case;
mod inject;
mod jobs;
mod outcome;
mod run;
mod stand;
mod table;
mod verdicts;

pub use case::{Case, Kind};
pub use outcome::{Control, Lost, Outcome, Place};
pub use run::run_case;
pub use stand::Stand;
pub use table::{json_line, markdown, parse_line};

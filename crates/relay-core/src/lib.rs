//! The decisions of a relay: events in, actions out. No I/O, no clock.
//!
//! Time, where it matters, comes in as a value. What is here can be driven by a list of events in
//! a test exactly as a daemon drives it.
//!
//! - [`entry`]: the numbers of the publications stream.
//! - [`backlog`]: what a bridge's journal holds for Redis.
//! - [`clock`]: how old is a publication, when clocks differ?
//! - [`lease`]: which of several shims of a site works?
//! - [`intake`]: is a publication to be published, known, or too old?
//! - [`sequence`]: pub/sub, heart-beats and pages of the stream become one ordered delivery.
//! - [`serials`]: which publications never came?
//! - [`target`]: does a job's target match one minion id?
//! - [`jobs`]: when and what a site answers under its own id.
//! - [`names`], [`roster`]: which minions each site has.
//! - [`expect`]: whom does a job mean?
//! - [`ledger`]: how far each job got with each minion.
//! - [`redelivery`]: which minions are sent a job again, and when.

pub mod backlog;
pub mod clock;
mod codec;
pub mod entry;
pub mod expect;
pub mod intake;
pub mod jobs;
pub mod lease;
pub mod ledger;
pub mod names;
pub mod redelivery;
pub mod roster;
pub mod sequence;
pub mod serials;
pub mod target;

pub use entry::{EntryId, Publication};

//! The decisions of a relay: events in, actions out. No I/O, no clock.
//!
//! Time, where it matters, comes in as a value. What is here can be driven by a list of events in
//! a test exactly as a daemon drives it.
//!
//! - [`entry`]: the numbers of the publications stream.
//! - [`sequence`]: pub/sub, heart-beats and pages of the stream become one ordered delivery.
//! - [`target`]: does a job's target match one minion id?
//! - [`jobs`]: when and what a site answers under its own id.

pub mod entry;
pub mod jobs;
pub mod sequence;
pub mod target;

pub use entry::{EntryId, Publication};

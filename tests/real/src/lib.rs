//! Tests of the whole relay with real Salt daemons, real Redis and the real `salt` command; see `tests/`.
//!
//! What several of them need is here.

pub mod answers;
pub mod away;
pub mod distant;
pub mod faults;
pub mod invocations;
pub mod ledger;
pub mod stream;

//! The same `salt` command lines on the top master and on the sites' own masters.
//!
//! [`Invocation`] is such a command line; [`Printed`] is what it printed, sorted by minion; [`Comparison`] types it everywhere and says
//! what differs.

mod comparison;
mod invocation;
mod printed;

pub use comparison::Comparison;
pub use invocation::{Form, Invocation, Sites};
pub use printed::Printed;

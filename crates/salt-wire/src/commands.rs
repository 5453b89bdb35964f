//! The commands that a relay gives: jobs down, returns and events up.
//!
//! ```text
//! publication ──► Publish ──► lower master ──► PublishReply
//! return event ─► ReturnEvent ─► SyndicReturn ─► top master        MinionEvents, Return likewise
//! ```
//! - Each type becomes the map of one command; [`request`](crate::request) wraps it.
//! - Values of a job or return pass through unread: their bytes arrive as they came.

mod events;
mod publish;
mod returns;
mod runner;

pub use events::{MinionEvent, MinionEvents};
pub use publish::{Publish, PublishReply, PublishReplyError, RootKey, RootKeyError};
pub use returns::{Return, ReturnEvent, ReturnEventError, SyndicReturn, SyndicReturnElement};
pub use runner::{Runner, RunnerReply};

#[cfg(test)]
mod tests;

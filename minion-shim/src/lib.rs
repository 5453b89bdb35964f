//! Stands beside salt-minion: sees it take a job, and tells its master.

mod plan;

use std::convert::Infallible;

pub use plan::{MINIONS_MAX, Place, Plan};

/// Watches until the process is ended.
///
/// # Errors
/// When the system refuses what it needs.
pub fn run(plan: Plan) -> anyhow::Result<Infallible> {
    for place in plan.places()? {
        eprintln!("info joined the event bus of minion={}", place.id);
    }
    loop {
        std::thread::park();
    }
}

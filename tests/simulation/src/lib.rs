//! A seeded world in which the relay's pure code lives through what may go wrong.
//!
//! [`run`] builds a world from a seed: a top master, bridges with journals, a Redis with a replica,
//! sites with shims, lower masters and minions; draws faults; and checks every promise by the
//! world's own time. Nothing here has a clock, a thread or a socket.
//!
//! ```text
//!  Mom ──frames──► Bridge (Backlog) ──append──► Redis ──pub/sub, pages──► Shim (Clocks, Lease, Sequencer, judge, Serials)
//!   ▲                 │                                                     │ ▲
//!   └── requests ─────┘◄──────────────── requests, replies ────────────────┘ └──► Lower ──► Minion
//! ```
//! - The same seed gives the same run, to the last event: [`Outcome::hash`].
//! - The glue between the pure parts follows the daemons'; [`Mutation`] breaks it on purpose.

mod book;
mod bridge;
mod disk;
mod faults;
mod havoc;
mod host;
mod lower;
mod message;
mod mom;
mod mutation;
mod network;
mod plan;
mod redis;
mod shim;
mod stats;
mod trace;
mod verdict;
mod world;

pub use book::{CLOCK_ERROR_MS, Invariant};
pub use mutation::Mutation;
pub use plan::Family;
pub use stats::Stats;

use fastrand::Rng;

use crate::plan::Plan;
use crate::trace::Trace;
use crate::world::World;

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// The seed that gives the same run again.
    pub seed: u64,
    /// What kind of second site it had.
    pub family: Family,
    /// Over every step of the run.
    pub hash: u64,
    /// What was broken, in the order in which it was seen.
    pub violations: Vec<(Invariant, String)>,
    /// What happened.
    pub stats: Stats,
    /// Every step, when asked for.
    pub lines: Vec<String>,
}

impl Outcome {
    /// One line for each violation, and the command that replays the run.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = format!("seed {} ({:?}):", self.seed, self.family);
        for (invariant, what) in &self.violations {
            text.push_str(&format!(" [{invariant:?} at {what}]"));
        }
        text.push_str(&format!(" -- replay: make soak SEED={}", self.seed));
        text
    }
}

/// One run.
#[must_use]
pub fn run(seed: u64, mutation: Option<Mutation>, trace: bool) -> Outcome {
    let mut rng = Rng::with_seed(seed);
    let plan = Plan::new(&mut rng);
    let family = plan.family;
    let mut world = World::new(rng, plan, mutation, Trace::new(trace));
    world.run();
    let (hash, lines) = world.trace.finish();
    Outcome {
        seed,
        family,
        hash,
        violations: world.book.violations,
        stats: world.book.stats,
        lines,
    }
}

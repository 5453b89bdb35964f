//! Real servers for tests, benches and the demo: Salt of three versions, Redis, Saltway's own daemons, and the links between them.
//!
//! Plain blocking code: a test calls it from its own thread. Everything runs on leased loopback addresses ([`Address`]) below a directory of its
//! own ([`Workspace`]), logs to files there, and is ended by pid when its owner is dropped, by a guardian when the whole test process is
//! killed. Nothing waits for time to pass: [`wait_until`] polls conditions. `scripts/setup` installs the servers.
//!
//! ```no_run
//! use testkit::{SaltVersion, Tree};
//!
//! # fn main() -> anyhow::Result<()> {
//! let mut tree = Tree::with_saltway(SaltVersion::V3008)
//!     .site("site1", SaltVersion::V3006, &["a1", "a2", "a3"])
//!     .site("site2", SaltVersion::V3008, &["b1", "b2", "b3"])
//!     .proxied(true)
//!     .start()?;
//! let output = tree.mom.salt(&["--out=json", "--static", "*", "test.ping"])?;
//! assert_eq!(output.json()?["a1"], true);
//!
//! let mut events = tree.mom.record()?;
//! let job = events.publish("*", "glob", "test.ping", serde_json::json!([]))?;
//! let jid = job.jid.expect("`*` matches");
//! let returns = events.wait_for_returns(&jid, 6, std::time::Duration::from_secs(10))?;
//! println!("{:.3} s", returns[5].at - job.began);
//!
//! tree.sites[0].redis_link.as_ref().expect("proxied").cut();
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`Workspace`], [`Process`], [`run`] | directories, processes, commands, their memory and processor time |
//! | [`Address`], [`Proxy`] | loopback addresses, links that can be cut, silenced, stalled, slowed |
//! | [`RedisServer`], [`SentinelServer`] | a real redis-server, alone or as primary and replicas under Sentinel |
//! | [`Master`], [`Minion`], [`Syndic`], [`EventRecorder`] | real Salt |
//! | [`Daemon`] | `saltway-bridge`, `saltway-master-shim` |
//! | [`MinionShim`] | `saltway-minion-shim` |
//! | [`Tree`] | all of it together |

mod address;
mod daemon;
mod keys;
mod minion_shim;
mod process;
mod proxy;
mod recorder;
mod redis;
mod redis_program;
mod redis_sentinel;
mod salt;
mod tree;
mod wait;
mod workspace;

pub use address::{Address, shared_dir};
pub use daemon::{Daemon, DaemonBuilder, metric};
pub use keys::KeyPair;
pub use minion_shim::MinionShim;
pub use process::{Output, Process, Usage, run, usage};
pub use proxy::{Direction, Proxy};
pub use recorder::{EventRecorder, Published, RecordedEvent};
pub use redis::{RedisBuilder, RedisServer};
pub use redis_sentinel::{MASTER, SentinelBuilder, SentinelServer};
/// Signals for [`Process::signal`].
pub use rustix::process::Signal;
pub use salt::{Master, MasterBuilder, Minion, MinionBuilder, SaltVersion, Syndic};
pub use tree::{Relay, Site, Tree, TreeBuilder};
pub use wait::{await_that, end_waits_on_signals, interrupted, now, wait_until};
pub use workspace::{MARK, Workspace};

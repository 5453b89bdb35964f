//! Stand-ins for Salt's masters: they speak its protocol from the other side, without Salt, and as fast as a test or bench needs.
//!
//! Real Salt shows that Saltway does the right thing; stand-ins show what it does with 10,000 publications in a second, with a master
//! that lies, and with a master that never answers. Plain threads and ZeroMQ; every wait has a deadline.
//!
//! ```text
//! StandinMom ──XPUB 4505──► bridge ──► Redis ──► master-shim ──► ROUTER 4506 of a StandinLowerMaster, which records jobs
//!    ▲  ROUTER 4506 ◄────── bridge ◄── Redis ◄── master-shim ◄── its event bus (unix socket), which fires what it is told
//!    └─ records what arrives
//! ```
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let relay = standin::Relay::builder().site("site1", &["a1", "a2"]).start()?;
//! let jid = standin::jid(1);
//! relay.mom.publish(standin::job(&jid, "*", "test.ping"))?;
//! let site = relay.site(0)?;
//! site.lower.await_jobs(1, std::time::Duration::from_secs(10))?;
//! site.lower.bus.fire_return(&jid, "a1", "test.ping", true.into())?;
//! relay.mom.await_returns(1, std::time::Duration::from_secs(10))?;
//! # Ok(())
//! # }
//! ```
//! | item | holds |
//! |---|---|
//! | [`StandinMom`] | a top master: keys, publications with serials, sign-in, and what it was sent |
//! | [`StandinLowerMaster`] | a lower master: answers `publish`, keeps the jobs in their order |
//! | [`EventBus`] | its `master_event_pub.ipc`, in either framing |
//! | [`PublishPull`] | its `publish_pull.ipc`, which takes publications past the request port |
//! | [`MomBus`] | the event bus of a top master, for reading and firing |
//! | [`Relay`] | Redis, a bridge and master-shims between them |
//!
//! They are not what is measured: `cargo run -p standin --example rates` gave, in a debug build on two busy cores, 59,000
//! unsigned publications made and sent a second, 174,000 events fired and 181,000 returns taken in batches. A signed
//! publication costs an RSA operation: make its frame with [`StandinMom::frame`] before the clock runs.

mod bus;
mod jobs;
mod lower;
mod mom;
mod mom_bus;
mod port;
mod publisher;
mod relay;

pub use bus::EventBus;
pub use jobs::{jid, job, minion_event, return_data};
pub use lower::{PublishAnswer, StandinLowerMaster};
pub use mom::{Door, EventSeen, ReturnSeen, Seen, StandinMom};
pub use mom_bus::{MomBus, cachedir};
pub use publisher::PublishPull;
pub use relay::{Relay, RelayBuilder, Site};
pub use salt_wire::bus::Framing;

//! Salt's event bus on the master's unix sockets: every event in, our own events out.
//!
//! ```text
//! <sock_dir>/master_event_pub.ipc  ──► EventReader ──filter──► queue ──► Receiver<BusEvent>
//! <sock_dir>/master_event_pull.ipc ◄── EventWriter ◄── fire(tag, data)
//! ```
//! - The framing differs by version of Salt and by direction; the reader finds it out from the first
//!   byte, the writer by a probe event that must come back (see [`EventWriter`]).
//! - Whoever may open these sockets is root or Salt's user, yet nothing they send can crash, block
//!   or grow the reader: frames and queues are bounded.
//! - When the consumer is slow the reader stops reading. The master then buffers for this reader:
//!   without limit, or up to `ipc_write_buffer`, beyond which events are lost.

/// Tags of the probes that an [`EventWriter`] fires. Readers never pass them on.
pub const PROBE_TAG_PREFIX: &str = "saltway/probe/";

mod reader;
mod stamp;
mod writer;

pub use reader::{BusEvent, EventReader, EventReaderConfig};
pub use writer::{EventWriter, EventWriterConfig, FireError};

//! I/O with Salt: publish and request sockets, sign-in, event bus, configuration.
//!
//! ```text
//! master 4505 ──► subscriber ──┐                  ┌── event_bus ◄──► master_event_{pub,pull}.ipc
//! master 4506 ◄─► requester  ──┼── bounded queues ┤
//!                 sign_in, session, local_master  └── salt_config ◄── /etc/salt/{master,minion}
//! master publish_pull.ipc ◄── direct
//! ```
//! - ZeroMQ is libzmq (docs/decisions/0001-libzmq.md): its sockets live on threads of their own and
//!   reach tokio through bounded queues. Nothing here spawns a task; whoever uses the crate does.
//! - What comes from a socket is hostile until `salt-wire` has verified it.

pub mod direct;
pub mod event_bus;
pub mod job_cache;
pub mod local_master;
pub mod queue;
pub mod requester;
pub mod salt_config;
pub mod session;
pub mod sign_in;
pub mod socket;
pub mod subscriber;

pub use direct::{DirectPublishError, DirectPublisher};

/// An error with all its causes, for logs and health pages.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

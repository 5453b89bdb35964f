//! I/O with Salt: publish and request sockets, sign-in, event bus, configuration.
//!
//! ```text
//! master 4505 ──► subscriber ──┐                  ┌── event_bus ◄──► master_event_{pub,pull}.ipc
//! master 4506 ◄─► requester  ──┼── bounded queues ┤
//!                 sign_in, session, local_master  └── salt_config ◄── /etc/salt/{master,minion}
//! ```
//! - ZeroMQ is libzmq (docs/decisions/0001-libzmq.md): its sockets live on threads of their own and
//!   reach tokio through bounded queues. Nothing here spawns a task; whoever uses the crate does.
//! - What comes from a socket is hostile until `salt-wire` has verified it.

pub mod event_bus;
pub mod local_master;
pub mod queue;
pub mod requester;
pub mod salt_config;
pub mod socket;
pub mod subscriber;

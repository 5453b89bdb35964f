//! Salt messages as types: bytes in, values out. No I/O, no clock.
//!
//! Everything that Saltway says to Salt, and understands of it, is here: the two dialects of
//! msgpack, the cryptography, the sign-in, publications, requests and the framings of the event
//! bus. What comes in is hostile until it is verified: no input panics, recurses without bound or
//! allocates more than a fixed multiple of its own size.
//!
//! ```text
//! master 4505 ──► publication ──► crypticle ──► PublicationLoad ──► commands::Publish ──► 4506
//! master 4506 ◄── request, auth ◄── crypticle ◄── commands (returns, events)   gate: what may pass
//! event bus   ◄─► bus ◄─► msgpack
//! ```
//! Cryptography is libcrypto's; no primitive is written here. Without the feature `crypto` there is none: what is left are
//! msgpack, ids, event buses and Saltway's own events, which is what a program beside a minion needs.

#[cfg(feature = "crypto")]
pub mod auth;
pub mod bus;
#[cfg(feature = "crypto")]
pub mod commands;
#[cfg(feature = "crypto")]
pub mod crypticle;
#[cfg(feature = "crypto")]
pub mod gate;
#[cfg(feature = "crypto")]
pub mod hostile;
pub mod ids;
#[cfg(feature = "crypto")]
pub mod keys;
pub mod msgpack;
#[cfg(feature = "crypto")]
pub mod publication;
#[cfg(feature = "crypto")]
pub mod request;
pub mod saltway;
#[cfg(feature = "crypto")]
pub mod standin;

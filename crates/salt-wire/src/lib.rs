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
//! Cryptography is libcrypto's; no primitive is written here.

pub mod auth;
pub mod bus;
pub mod commands;
pub mod crypticle;
pub mod gate;
pub mod hostile;
pub mod ids;
pub mod keys;
pub mod msgpack;
pub mod publication;
pub mod request;
pub mod saltway;
pub mod standin;

//! The command as a program: its questions, and its placeholder keys on real Salt.

mod by_hand;
mod common;
mod placeholders;
mod questions;
mod redeliver;
mod tls;

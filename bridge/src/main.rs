//! Daemon beside the top master.
fn main() {}

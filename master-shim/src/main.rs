//! Daemon beside a lower master.
fn main() {}

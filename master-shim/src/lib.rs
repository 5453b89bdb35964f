//! Daemon beside a lower master.

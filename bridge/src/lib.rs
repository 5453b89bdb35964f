//! Daemon beside the top master.

//! The decisions of a relay: events in, actions out. No I/O, no clock.

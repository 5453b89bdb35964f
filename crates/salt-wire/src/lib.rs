//! Salt messages as types: bytes in, values out. No I/O, no clock.

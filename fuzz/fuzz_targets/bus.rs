//! `cargo +nightly fuzz run bus`; what must hold is said at [`salt_wire::hostile::bus`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| salt_wire::hostile::bus(input));

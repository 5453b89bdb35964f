//! `cargo +nightly fuzz run gate`; what must hold is said at [`salt_wire::hostile::gate`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| salt_wire::hostile::gate(input));

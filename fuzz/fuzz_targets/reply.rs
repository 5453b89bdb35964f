//! `cargo +nightly fuzz run reply`; what must hold is said at [`salt_wire::hostile::reply`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| salt_wire::hostile::reply(input));

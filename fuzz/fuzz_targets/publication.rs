//! `cargo +nightly fuzz run publication`; what must hold is said at [`salt_wire::hostile::publication`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| salt_wire::hostile::publication(input));

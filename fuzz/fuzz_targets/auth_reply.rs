//! `cargo +nightly fuzz run auth_reply`; what must hold is said at [`salt_wire::hostile::auth_reply`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| salt_wire::hostile::auth_reply(input));

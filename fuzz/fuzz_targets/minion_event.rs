//! `cargo +nightly fuzz run minion_event`; what must hold is said at [`salt_wire::hostile::minion_event`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| salt_wire::hostile::minion_event(input));

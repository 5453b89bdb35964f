//! `cargo +nightly fuzz run msgpack`; what must hold is said at [`salt_wire::hostile::msgpack`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| salt_wire::hostile::msgpack(input));

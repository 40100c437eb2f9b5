//! Any bytes as a layer: the same harness that the crate's tests run over damaged streams.
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run layer` in this directory's parent.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/support/mod.rs"]
mod support;

fuzz_target!(|bytes: &[u8]| support::fuzz_layer(bytes, true));

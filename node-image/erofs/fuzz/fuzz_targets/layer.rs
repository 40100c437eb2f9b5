//! Any bytes as a layer: the same harness that the crate's tests run over damaged streams.
//! `ci/fuzz 60 layer` runs it.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/support/mod.rs"]
mod support;

fuzz_target!(|bytes: &[u8]| support::fuzz_layer(bytes, true));

//! Validation rules in CEL.

#![no_main]

use bulkhead_control_plane_fuzz::cel;

libfuzzer_sys::fuzz_target!(|text: &str| cel::drive(text));

//! SPDY/3.1 frames.

#![no_main]

use bulkhead_control_plane_fuzz::spdy;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spdy::drive(bytes));

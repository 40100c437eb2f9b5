//! Paths, query strings, selectors.

#![no_main]

use bulkhead_control_plane_fuzz::api_server;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| api_server::queries::drive(bytes));

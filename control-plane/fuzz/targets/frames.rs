//! Frames between a host and an agent.

#![no_main]

use bulkhead_control_plane_fuzz::agent_protocol;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent_protocol::drive(bytes));

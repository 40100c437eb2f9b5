//! A hostile driver on the entropy device.
#![no_main]

use bulkhead_vmm::virtio::hostile::{Target, drive};

libfuzzer_sys::fuzz_target!(|script: &[u8]| drive(Target::Entropy, script));

//! A hostile driver that never gets a device going by the book: registers and rings only.
#![no_main]

use bulkhead_vmm::virtio::hostile::{Target, drive};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    // An odd first byte leaves the set-up to the script.
    let script = [&[1], script].concat();
    drive(Target::Entropy, &script);
});

//! What is fuzzed: any bytes, taken for a layer, end in an error or in an image that reads back.

use std::io::Cursor;

use bulkhead_erofs::{Limits, convert};

const LIMITS: Limits = Limits { entries: 1000, memory: 1 << 20, size: 4 << 20 };

/// Converts `bytes`; with `fix`, each block that could be a header gets a right checksum first, so
/// that damage reaches what lies behind that check.
pub(crate) fn fuzz_layer(bytes: &[u8], fix: bool) {
    let mut tar = bytes.to_vec();
    if fix {
        for block in tar.chunks_exact_mut(512).filter(|block| block[0] != 0) {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    if let Ok((out, summary)) = convert(&tar[..], Cursor::new(Vec::new()), LIMITS) {
        let image = out.into_inner();
        assert_eq!(image.len() as u64, summary.size);
        super::read(&image);
    }
}

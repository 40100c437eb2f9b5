//! Directories on disk: blocks of sorted entries, each block's names behind its entries.

use crate::format::{BLOCK, DIRENT, FileType};

/// One name in a directory.
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) nid: u64,
    pub(crate) file_type: FileType,
}

/// How a directory's entries spread over blocks.
pub(crate) struct Layout {
    /// Bytes of the directory (`i_size`).
    pub(crate) size: u64,
    /// How many entries each block holds.
    counts: Vec<usize>,
}

impl Layout {
    /// Lays out entries whose names have these lengths, in order.
    pub(crate) fn new(lengths: impl Iterator<Item = usize>) -> Self {
        let mut layout = Self { size: 0, counts: Vec::new() };
        let (mut count, mut used) = (0, 0);
        for length in lengths {
            let size = DIRENT + length;
            if used + size > BLOCK {
                layout.counts.push(count);
                layout.size += BLOCK as u64;
                (count, used) = (0, 0);
            }
            count += 1;
            used += size;
        }
        layout.counts.push(count);
        layout.size += used as u64;
        layout
    }

    /// The blocks, each without its padding, from as many entries as were laid out.
    pub(crate) fn blocks<'a>(
        &'a self,
        mut entries: &'a [Entry<'a>],
    ) -> impl Iterator<Item = Vec<u8>> + 'a {
        self.counts.iter().map(move |count| {
            let (block, rest) = entries.split_at(*count);
            entries = rest;
            encode(block)
        })
    }
}

fn encode(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK);
    let mut name_at = entries.len() * DIRENT;
    for entry in entries {
        block.extend(entry.nid.to_le_bytes());
        block.extend((name_at as u16).to_le_bytes());
        block.extend([entry.file_type.dirent(), 0]);
        name_at += entry.name.len();
    }
    for entry in entries {
        block.extend(entry.name);
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_filled_to_its_last_byte_and_not_beyond() {
        let full = BLOCK / 16;
        assert_eq!(Layout::new(std::iter::repeat_n(4, full)).counts, [full]);
        let spilled = Layout::new(std::iter::repeat_n(4, full + 1));
        assert_eq!(spilled.counts, [full, 1]);
        assert_eq!(spilled.size, BLOCK as u64 + 16);
    }
}

//! The memory map that the guest is told of.

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::layout::{EBDA, FIRMWARE_TABLES, HIGH_MEMORY};
use crate::memory::GuestMemory;

/// What a range is for. The numbers are E820's, which PVH shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum RangeKind {
    Ram = 1,
    Reserved = 2,
}

/// One entry of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) kind: RangeKind,
}

/// All of guest memory, except the EBDA and the BIOS area, where the tables for the guest lie.
pub(super) fn memory_map(memory: &GuestMemory) -> Vec<Range> {
    let range = |start, end, kind| Range { start, size: end - start, kind };
    let mut map = vec![
        range(0, EBDA, RangeKind::Ram),
        range(FIRMWARE_TABLES, HIGH_MEMORY, RangeKind::Reserved),
    ];
    for region in memory.iter() {
        let GuestAddress(start) = region.start_addr();
        map.push(range(start.max(HIGH_MEMORY), start + region.len(), RangeKind::Ram));
    }
    map
}

/// Where memory below the hole ends.
pub(super) fn low_memory_end(memory: &GuestMemory) -> u64 {
    memory.iter().next().map_or(0, GuestMemoryRegion::len)
}

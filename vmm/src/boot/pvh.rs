//! The PVH boot protocol's `hvm_start_info` (Xen's `public/arch-x86/hvm/start_info.h`).

use linux_loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::BootError;
use super::initrd::Initrd;
use super::ranges::memory_map;
use crate::layout::{CMDLINE, PVH_MEMORY_MAP, PVH_MODULES, PVH_START_INFO};
use crate::memory::GuestMemory;

const MAGIC: u32 = 0x336e_c578;

#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct StartInfo(hvm_start_info);
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct Module(hvm_modlist_entry);
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct MapEntry(hvm_memmap_table_entry);

// SAFETY: plain integers without padding, in the layout that the protocol gives.
unsafe impl ByteValued for StartInfo {}
// SAFETY: as above.
unsafe impl ByteValued for Module {}
// SAFETY: as above.
unsafe impl ByteValued for MapEntry {}

/// Writes the start info at [`PVH_START_INFO`], with what it points to.
pub(super) fn write_start_info(
    memory: &GuestMemory,
    initrd: Option<Initrd>,
    rsdp: u64,
) -> Result<(), BootError> {
    let map = memory_map(memory);
    let mut info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        cmdline_paddr: CMDLINE,
        rsdp_paddr: rsdp,
        memmap_paddr: PVH_MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    if let Some(Initrd { address, size }) = initrd {
        let module = hvm_modlist_entry { paddr: address, size, ..Default::default() };
        memory.write_obj(Module(module), GuestAddress(PVH_MODULES))?;
        info.nr_modules = 1;
        info.modlist_paddr = PVH_MODULES;
    }
    let mut address = PVH_MEMORY_MAP;
    for range in map {
        let entry = hvm_memmap_table_entry {
            addr: range.start,
            size: range.size,
            type_: range.kind as u32,
            ..Default::default()
        };
        memory.write_obj(MapEntry(entry), GuestAddress(address))?;
        address += size_of::<hvm_memmap_table_entry>() as u64;
    }
    Ok(memory.write_obj(StartInfo(info), GuestAddress(PVH_START_INFO))?)
}

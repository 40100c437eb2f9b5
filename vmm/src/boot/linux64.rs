//! Linux' 64-bit boot protocol: `boot_params`, and the page tables that the entry expects.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::BootError;
use super::initrd::Initrd;
use super::ranges::memory_map;
use crate::layout::{CMDLINE, PAGE_TABLES, ZERO_PAGE};
use crate::memory::GuestMemory;

/// The 64-bit entry point lies so far behind the start of the protected-mode kernel.
pub(super) const ENTRY_OFFSET: u64 = 0x200;

const PROTOCOL_2_12: u16 = 0x020c;
const XLF_KERNEL_64: u16 = 1;
/// A boot loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;

const TABLE: u64 = 0x1000;
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;
const DIRECTORIES: u64 = 4;

#[derive(Clone, Copy)]
#[repr(transparent)]
struct BootParams(boot_params);

// SAFETY: `boot_params` is packed and made of integers; every bit pattern is one.
unsafe impl ByteValued for BootParams {}

/// Whether the kernel may be entered in 64-bit mode.
pub(super) fn has_entry(header: &setup_header) -> bool {
    header.version >= PROTOCOL_2_12 && header.xloadflags & XLF_KERNEL_64 != 0
}

/// First byte after the memory in which the kernel, loaded at `load`, decompresses itself.
pub(super) fn decompressed_end(header: &setup_header, load: u64) -> u64 {
    let start = if header.relocatable_kernel == 0 {
        header.pref_address
    } else {
        let align = u64::from(header.kernel_alignment).max(1);
        load.max(header.pref_address).div_ceil(align).saturating_mul(align)
    };
    start.saturating_add(u64::from(header.init_size))
}

/// Writes `boot_params` at [`ZERO_PAGE`] and the page tables at [`PAGE_TABLES`].
pub(super) fn write_boot_params(
    memory: &GuestMemory,
    header: setup_header,
    cmdline_length: usize,
    initrd: Option<Initrd>,
    rsdp: u64,
) -> Result<(), BootError> {
    let mut params = boot_params { hdr: header, acpi_rsdp_addr: rsdp, ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = CMDLINE as u32;
    params.hdr.cmdline_size = cmdline_length as u32;
    if let Some(Initrd { address, size }) = initrd {
        params.hdr.ramdisk_image = address as u32;
        params.hdr.ramdisk_size = size as u32;
        params.ext_ramdisk_size = (size >> 32) as u32;
    }
    for (index, range) in memory_map(memory).into_iter().enumerate() {
        params.e820_table[index] =
            boot_e820_entry { addr: range.start, size: range.size, r#type: range.kind as u32 };
        params.e820_entries = index as u8 + 1;
    }
    memory.write_obj(BootParams(params), GuestAddress(ZERO_PAGE))?;
    write_page_tables(memory)
}

/// Maps the first 4 GiB one to one in pages of 2 MiB.
fn write_page_tables(memory: &GuestMemory) -> Result<(), BootError> {
    let (pdpt, directories) = (PAGE_TABLES + TABLE, PAGE_TABLES + 2 * TABLE);
    memory.write_obj(pdpt | PRESENT_WRITABLE, GuestAddress(PAGE_TABLES))?;
    for directory in 0..DIRECTORIES {
        let table = directories + directory * TABLE;
        memory.write_obj(table | PRESENT_WRITABLE, GuestAddress(pdpt + directory * 8))?;
        for entry in 0..512 {
            let page = ((directory * 512 + entry) << 21) | PRESENT_WRITABLE | LARGE;
            memory.write_obj(page, GuestAddress(table + entry * 8))?;
        }
    }
    Ok(())
}

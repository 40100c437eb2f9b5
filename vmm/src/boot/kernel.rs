//! The kernel image: which kind it is, whether it is whole, and its way into guest memory.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use vm_memory::GuestAddress;

use super::ranges::low_memory_end;
use super::{BootError, linux64};
use crate::layout::{HIGH_MEMORY, HOLE_START};
use crate::memory::{self, GuestMemory};

const ELF_MAGIC: &[u8; 4] = b"\x7fELF";
const ELF_HEADER: usize = 64;
const ELF_PROGRAM_HEADER: usize = 56;
const ELF_LOAD: u32 = 1;
/// Linux has five segments; a hostile file may claim 65535.
const ELF_SEGMENTS_MAX: u16 = 128;
const BZIMAGE_MAGIC: &[u8; 4] = b"HdrS";
const BZIMAGE_MAGIC_OFFSET: u64 = 0x202;

pub(super) enum Kind {
    Elf { entry: u64 },
    BzImage { header: Box<setup_header>, load: u64 },
}

/// A kernel in guest memory.
pub(super) struct Kernel {
    pub(super) kind: Kind,
    /// Where it lies, with the memory that it clears first thing.
    pub(super) place: Vec<Range<u64>>,
    /// First byte after the memory that it needs before it looks at the memory map.
    pub(super) end: u64,
}

impl Kernel {
    /// The highest byte that the initrd may occupy.
    pub(super) fn initrd_max(&self) -> u64 {
        match &self.kind {
            Kind::Elf { .. } => HOLE_START - 1,
            Kind::BzImage { header, .. } => u64::from(header.initrd_addr_max),
        }
    }
}

pub(super) fn load(memory: &GuestMemory, file: &mut File) -> Result<Kernel, BootError> {
    let read_error = |error| BootError::Read { what: "kernel", error };
    let length = file.metadata().map_err(read_error)?.len();
    let mut head =
        vec![0; usize::try_from(length).map_or(ELF_HEADER, |bytes| bytes.min(ELF_HEADER))];
    file.read_exact_at(&mut head, 0).map_err(read_error)?;
    if head.starts_with(ELF_MAGIC) {
        return load_elf(memory, file, &head, length);
    }
    let mut magic = [0; 4];
    match file.read_exact_at(&mut magic, BZIMAGE_MAGIC_OFFSET) {
        Ok(()) if &magic == BZIMAGE_MAGIC => load_bzimage(memory, file, length),
        _ => {
            head.truncate(4);
            Err(BootError::NotAKernel(head))
        }
    }
}

fn load_elf(
    memory: &GuestMemory,
    file: &mut File,
    head: &[u8],
    length: u64,
) -> Result<Kernel, BootError> {
    let extent = elf_extent(file, head, length)?;
    if extent.file_end > length {
        return Err(BootError::Truncated { length, expected: extent.file_end });
    }
    require_memory(memory, "a kernel", extent.memory_end)?;
    extent.place.iter().for_each(|segment| memory::populate(memory, segment));
    let loaded = Elf::load(memory, None, file, Some(GuestAddress(HIGH_MEMORY)))?;
    match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(GuestAddress(entry)) => {
            Ok(Kernel { kind: Kind::Elf { entry }, place: extent.place, end: extent.memory_end })
        }
        _ => Err(BootError::NoPvhEntry),
    }
}

struct Extent {
    file_end: u64,
    memory_end: u64,
    /// Each segment's.
    place: Vec<Range<u64>>,
}

/// Where the segments end, in the file and in memory: the loader itself does not tell a file that is
/// too short from a guest that is too small.
fn elf_extent(file: &File, head: &[u8], length: u64) -> Result<Extent, BootError> {
    let truncated = |expected| BootError::Truncated { length, expected };
    let header: &[u8; ELF_HEADER] = head.try_into().map_err(|_| truncated(ELF_HEADER as u64))?;
    let offset = u64_at(header, 32);
    let count = u16::from_le_bytes([header[56], header[57]]);
    if count > ELF_SEGMENTS_MAX {
        return Err(BootError::Load(
            linux_loader::loader::elf::Error::InvalidProgramHeaderSize.into(),
        ));
    }
    let mut table = vec![0; usize::from(count) * ELF_PROGRAM_HEADER];
    let end = offset.saturating_add(table.len() as u64);
    if end > length {
        return Err(truncated(end));
    }
    file.read_exact_at(&mut table, offset)
        .map_err(|error| BootError::Read { what: "kernel", error })?;
    let mut extent = Extent { file_end: end, memory_end: HIGH_MEMORY, place: Vec::new() };
    for segment in table.chunks_exact(ELF_PROGRAM_HEADER) {
        if u32::from_le_bytes([segment[0], segment[1], segment[2], segment[3]]) != ELF_LOAD {
            continue;
        }
        let (in_file, address) = (u64_at(segment, 8), u64_at(segment, 24));
        let (bytes, in_memory) = (u64_at(segment, 32), u64_at(segment, 40));
        extent.file_end = extent.file_end.max(in_file.saturating_add(bytes));
        let address_end = address.saturating_add(in_memory.max(bytes));
        extent.memory_end = extent.memory_end.max(address_end);
        extent.place.push(address..address_end);
    }
    Ok(extent)
}

/// The little-endian number at `offset` of a header that is known to be longer.
fn u64_at(header: &[u8], offset: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[offset..offset + 8]);
    u64::from_le_bytes(bytes)
}

fn load_bzimage(memory: &GuestMemory, file: &mut File, length: u64) -> Result<Kernel, BootError> {
    let mut sizes = [0; 7];
    file.read_exact_at(&mut sizes, 0x1f1)
        .map_err(|error| BootError::Read { what: "kernel", error })?;
    let setup = (u64::from(if sizes[0] == 0 { 4 } else { sizes[0] }) + 1) * 512;
    let body = u64::from(u32::from_le_bytes([sizes[3], sizes[4], sizes[5], sizes[6]])) * 16;
    if setup + body > length {
        return Err(BootError::Truncated { length, expected: setup + body });
    }
    require_memory(memory, "a kernel", HIGH_MEMORY + (length - setup))?;
    let place = HIGH_MEMORY..HIGH_MEMORY + (length - setup);
    memory::populate(memory, &place);
    let loaded = BzImage::load(memory, Some(GuestAddress(HIGH_MEMORY)), file, None)?;
    let header = loaded.setup_header.ok_or(BootError::No64BitEntry)?;
    if !linux64::has_entry(&header) {
        return Err(BootError::No64BitEntry);
    }
    let end = loaded.kernel_end.max(linux64::decompressed_end(&header, HIGH_MEMORY));
    require_memory(memory, "a kernel", end)?;
    let kind = Kind::BzImage { header: Box::new(header), load: HIGH_MEMORY };
    Ok(Kernel { kind, place: vec![place], end })
}

fn require_memory(memory: &GuestMemory, what: &'static str, end: u64) -> Result<(), BootError> {
    let low = low_memory_end(memory);
    if end > low {
        return Err(BootError::TooLarge { what, size: end - HIGH_MEMORY, memory: low });
    }
    Ok(())
}

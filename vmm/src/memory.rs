//! Guest memory: one memfd, mapped shared, in one region or two around the hole below 4 GiB.
//!
//! The file has a name and is mapped shared, so that `/proc/PID/smaps` tells the guest's pages
//! (`/memfd:guest-memory`) from the monitor's own. It is sparse and mapped without reservation: a page
//! costs something once the guest has touched it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::FromRawFd;
use std::sync::Arc;

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion,
};

use crate::layout::{HOLE_END, HOLE_START};

/// The guest's memory. Cheap to clone: all clones are the same mapping.
pub type GuestMemory = GuestMemoryMmap<()>;

const PAGE: u64 = 4096;
/// Least memory of a machine, in bytes.
pub const MIN_MEMORY: u64 = 64 << 20;
/// Most memory of a machine, in bytes: what guest-physical addresses of 40 bits, the least any
/// KVM host has, leave room for.
pub const MAX_MEMORY: u64 = 512 << 30;

/// Why there is no guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The size is not one that a machine can have.
    #[error(
        "guest memory of {0} bytes: it must be a multiple of 4096, from {MIN_MEMORY} (64 MiB) to {MAX_MEMORY} (512 GiB)"
    )]
    Size(u64),
    /// The host refused the memfd.
    #[error("cannot make a memfd of {size} bytes for guest memory: {error}")]
    Memfd {
        /// Bytes asked for.
        size: u64,
        /// The host's reason.
        error: io::Error,
    },
    /// The host refused the mapping.
    #[error("cannot map {size} bytes of guest memory: {error}")]
    Map {
        /// Bytes asked for.
        size: u64,
        /// The host's reason.
        error: String,
    },
}

/// The guest-physical ranges, as (start, length), of a machine with `size` bytes of memory.
///
/// # Errors
/// [`MemoryError::Size`].
pub fn regions(size: u64) -> Result<Vec<(u64, u64)>, MemoryError> {
    if !size.is_multiple_of(4096) || !(MIN_MEMORY..=MAX_MEMORY).contains(&size) {
        return Err(MemoryError::Size(size));
    }
    let low = size.min(HOLE_START);
    let mut regions = vec![(0, low)];
    if size > low {
        regions.push((HOLE_END, size - low));
    }
    Ok(regions)
}

/// Makes and maps `size` bytes of guest memory.
///
/// # Errors
/// When the size is not one a machine can have, or the host has no memory or address space.
pub fn create(size: u64) -> Result<GuestMemory, MemoryError> {
    let ranges = regions(size)?;
    let file = Arc::new(memfd(size).map_err(|error| MemoryError::Memfd { size, error })?);
    let mut offset = 0;
    let mut mapped = Vec::new();
    for (start, length) in ranges {
        let map_error = |error: &dyn ToString| MemoryError::Map { size, error: error.to_string() };
        let bytes = usize::try_from(length).map_err(|error| map_error(&error))?;
        let mapping = MmapRegionBuilder::new(bytes)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
            .with_file_offset(FileOffset::from_arc(file.clone(), offset))
            .build()
            .map_err(|error| map_error(&error))?;
        advise_huge_pages(&mapping);
        let region = GuestRegionMmap::new(mapping, GuestAddress(start))
            .ok_or_else(|| map_error(&"the region passes the end of the address space"))?;
        mapped.push(region);
        offset += length;
    }
    GuestMemory::from_regions(mapped)
        .map_err(|error| MemoryError::Map { size, error: error.to_string() })
}

/// Asks for transparent huge pages: a guest boots with some 20 faults on its memory instead of some
/// 5,500, each of which is an exit, and page walks are shorter ever after. Whether shared memory gets
/// any is the host's decision (`/sys/kernel/mm/transparent_hugepage/shmem_enabled`), and a host
/// without them works as well.
fn advise_huge_pages(mapping: &MmapRegion) {
    // SAFETY: the range is one whole mapping of ours, and the advice changes none of its content.
    let _ = unsafe { libc::madvise(mapping.as_ptr().cast(), mapping.size(), libc::MADV_HUGEPAGE) };
}

/// Makes the pages of a range of guest-physical addresses, all at once, for whoever is about to fill
/// them; a page fault each is several times as dear. What cannot be made so is made by the first access.
pub fn populate(memory: &GuestMemory, range: &Range<u64>) {
    let Some(start) = range.start.checked_next_multiple_of(PAGE) else { return };
    let size = (range.end - range.end % PAGE).saturating_sub(start);
    let Ok(bytes) = usize::try_from(size) else { return };
    let Ok(slice) = memory.get_slice(GuestAddress(start), bytes) else { return };
    let pages = slice.ptr_guard_mut();
    // SAFETY: the range lies in one mapping, and the advice changes none of its content.
    let _ = unsafe { libc::madvise(pages.as_ptr().cast(), pages.len(), libc::MADV_POPULATE_WRITE) };
}

fn memfd(size: u64) -> io::Result<File> {
    // SAFETY: the name is a NUL-terminated string that lives for the call.
    let fd = unsafe {
        libc::memfd_create(c"guest-memory".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above returned a new descriptor, which nothing else owns.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: a plain fcntl on a descriptor that `file` owns; no pointers are passed.
    if unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemoryRegion};

    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_goes_around_the_hole() {
        assert_eq!(regions(64 << 20).unwrap(), [(0, 64 << 20)]);
        assert_eq!(regions(3 * GIB).unwrap(), [(0, 3 * GIB)]);
        assert_eq!(regions(3 * GIB + 4096).unwrap(), [(0, 3 * GIB), (4 * GIB, 4096)]);
        assert_eq!(regions(5 * GIB).unwrap(), [(0, 3 * GIB), (4 * GIB, 2 * GIB)]);
    }

    #[test]
    fn sizes_no_machine_can_have_are_refused() {
        for size in [0, 1, (64 << 20) - 4096, (64 << 20) + 1, MAX_MEMORY + 4096, u64::MAX] {
            assert!(matches!(regions(size), Err(MemoryError::Size(refused)) if refused == size));
        }
    }

    #[test]
    fn huge_pages_are_asked_for() {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            return;
        }
        let memory = create(MIN_MEMORY).unwrap();
        let start = format!("{:x}-", memory.iter().next().unwrap().as_ptr() as u64);
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mapping = smaps.lines().skip_while(|line| !line.starts_with(&start));
        let flags = mapping.skip(1).find(|line| line.starts_with("VmFlags:")).unwrap();
        assert!(flags.split_whitespace().any(|flag| flag == "hg"), "{flags}");
    }

    #[test]
    fn what_is_populated_is_there_and_zero() {
        let memory = create(MIN_MEMORY).unwrap();
        populate(&memory, &(0x1000..0x5800));
        populate(&memory, &(MIN_MEMORY - 0x1000..MIN_MEMORY + 0x1000));
        populate(&memory, &(u64::MAX - 1..u64::MAX));
        let file = memory.iter().next().unwrap().file_offset().unwrap().file();
        let blocks = std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
        assert_eq!(blocks * 512, 4 * PAGE);
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0x1000)).unwrap(), 0);
    }

    #[test]
    fn all_of_it_can_be_written_and_costs_nothing_before() {
        let memory = create(5 * GIB).unwrap();
        assert_eq!(memory.iter().map(|region| region.len()).sum::<u64>(), 5 * GIB);
        for address in [0, 3 * GIB - 8, 4 * GIB, 6 * GIB - 8] {
            memory.write_obj(address ^ 0x5a, GuestAddress(address)).unwrap();
        }
        for address in [0, 3 * GIB - 8, 4 * GIB, 6 * GIB - 8] {
            assert_eq!(memory.read_obj::<u64>(GuestAddress(address)).unwrap(), address ^ 0x5a);
        }
        assert!(memory.write_obj(0_u8, GuestAddress(3 * GIB)).is_err());
        assert!(memory.write_obj(0_u8, GuestAddress(6 * GIB)).is_err());
    }
}

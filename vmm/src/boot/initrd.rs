//! The initrd: at the end of memory below the hole, as far from the kernel as can be.

use std::fs::File;
use std::io::Seek;

use vm_memory::{Bytes, GuestAddress};

use super::BootError;
use super::ranges::low_memory_end;
use crate::memory::GuestMemory;

const PAGE: u64 = 4096;

/// An initrd in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Initrd {
    pub(super) address: u64,
    pub(super) size: u64,
}

/// Loads `file` as high as possible, above `kernel_end` and not beyond `max`.
pub(super) fn load(
    memory: &GuestMemory,
    file: &mut File,
    kernel_end: u64,
    max: u64,
) -> Result<Initrd, BootError> {
    let read_error = |error| BootError::Read { what: "initrd", error };
    let size = file.metadata().map_err(read_error)?.len();
    if size == 0 {
        return Err(BootError::EmptyInitrd);
    }
    let low = low_memory_end(memory);
    let address = low
        .min(max.saturating_add(1))
        .checked_sub(size)
        .map(|address| address & !(PAGE - 1))
        .filter(|address| *address >= kernel_end)
        .ok_or(BootError::TooLarge { what: "an initrd beside the kernel,", size, memory: low })?;
    file.rewind().map_err(read_error)?;
    let bytes = usize::try_from(size).map_err(|error| read_error(std::io::Error::other(error)))?;
    memory.read_exact_volatile_from(GuestAddress(address), file, bytes)?;
    Ok(Initrd { address, size })
}

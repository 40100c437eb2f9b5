//! Loading a kernel, its initrd and its command line into guest memory.
//!
//! An uncompressed ELF `vmlinux` is entered by the PVH protocol (32-bit, paging off), a `bzImage` by
//! the 64-bit boot protocol of Linux' `Documentation/arch/x86/boot.rst`. Files are read straight into
//! guest memory.

mod initrd;
mod kernel;
mod linux64;
mod pvh;
mod ranges;

use std::fs::File;
use std::io;
use std::ops::Range;

use vm_memory::{Bytes, GuestAddress};

use crate::layout::{CMDLINE, CMDLINE_MAX};
use crate::memory::GuestMemory;

/// How the kernel is entered, and so how the first vCPU's registers look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// PVH: 32-bit protected mode without paging, `hvm_start_info` in EBX.
    Pvh,
    /// Linux' 64-bit boot protocol: long mode, `boot_params` in RSI.
    Linux64,
}

/// Where the first vCPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// By which protocol.
    pub protocol: Protocol,
    /// The first instruction's guest-physical address.
    pub address: u64,
}

/// A machine's memory after [`load`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Where to start.
    pub entry: Entry,
    /// Guest-physical addresses that the kernel was loaded to, and those that it clears first thing: it
    /// soon touches most of them.
    pub kernel: Vec<Range<u64>>,
}

/// What to boot.
#[derive(Debug)]
pub struct Boot<'a> {
    /// A `vmlinux` or `bzImage`.
    pub kernel: &'a mut File,
    /// An initial RAM file system.
    pub initrd: Option<&'a mut File>,
    /// The whole command line.
    pub cmdline: &'a str,
    /// Where the ACPI root pointer lies.
    pub rsdp: u64,
}

/// Why a kernel cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file cannot be read.
    #[error("cannot read the {what}: {error}")]
    Read {
        /// `kernel` or `initrd`.
        what: &'static str,
        /// The host's reason.
        error: io::Error,
    },
    /// The file is no kernel.
    #[error(
        "the kernel is neither an ELF vmlinux nor a bzImage (it starts with {0:02x?}): name an uncompressed vmlinux or a distribution's vmlinuz"
    )]
    NotAKernel(Vec<u8>),
    /// The file ends too early.
    #[error("the kernel is truncated: {length} bytes, its headers speak of {expected}")]
    Truncated {
        /// Bytes there are.
        length: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// The ELF file has no PVH entry point.
    #[error("the kernel has no PVH entry point: build it with CONFIG_PVH=y, or boot its bzImage")]
    NoPvhEntry,
    /// The bzImage cannot be entered in 64-bit mode.
    #[error(
        "the bzImage has no 64-bit entry point: it is older than boot protocol 2.12, or 32-bit"
    )]
    No64BitEntry,
    /// The kernel's headers make no sense.
    #[error("the kernel cannot be loaded: {0}")]
    Load(#[from] linux_loader::loader::Error),
    /// The guest has not enough memory.
    #[error("{what} of {size} bytes does not fit into {memory} bytes of guest memory below 3 GiB")]
    TooLarge {
        /// What does not fit.
        what: &'static str,
        /// Its bytes.
        size: u64,
        /// The guest's.
        memory: u64,
    },
    /// The initrd is empty.
    #[error("the initrd is empty")]
    EmptyInitrd,
    /// The command line is too long or not text.
    #[error(
        "the kernel command line, devices included, has {0} bytes: at most {max} are allowed",
        max = CMDLINE_MAX - 1
    )]
    CmdlineTooLong(usize),
    /// The command line has a character that no kernel takes.
    #[error("the kernel command line has a NUL or a character that is not ASCII")]
    CmdlineCharacter,
    /// A write into guest memory failed.
    #[error("cannot write boot data into guest memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// Loads everything into `memory` and says where to start.
///
/// # Errors
/// When a file is unreadable, damaged or of another kind, or does not fit.
pub fn load(memory: &GuestMemory, boot: Boot<'_>) -> Result<Loaded, BootError> {
    write_cmdline(memory, boot.cmdline)?;
    let kernel = kernel::load(memory, boot.kernel)?;
    let initrd = boot
        .initrd
        .map(|file| initrd::load(memory, file, kernel.end, kernel.initrd_max()))
        .transpose()?;
    let entry = match kernel.kind {
        kernel::Kind::Elf { entry } => {
            pvh::write_start_info(memory, initrd, boot.rsdp)?;
            Entry { protocol: Protocol::Pvh, address: entry }
        }
        kernel::Kind::BzImage { header, load } => {
            linux64::write_boot_params(memory, *header, boot.cmdline.len(), initrd, boot.rsdp)?;
            Entry { protocol: Protocol::Linux64, address: load + linux64::ENTRY_OFFSET }
        }
    };
    Ok(Loaded { entry, kernel: kernel.place })
}

fn write_cmdline(memory: &GuestMemory, cmdline: &str) -> Result<(), BootError> {
    if !cmdline.is_ascii() || cmdline.contains('\0') {
        return Err(BootError::CmdlineCharacter);
    }
    if cmdline.len() >= CMDLINE_MAX {
        return Err(BootError::CmdlineTooLong(cmdline.len()));
    }
    memory.write_slice(cmdline.as_bytes(), GuestAddress(CMDLINE))?;
    Ok(memory.write_obj(0_u8, GuestAddress(CMDLINE + cmdline.len() as u64))?)
}

#[cfg(test)]
mod tests;

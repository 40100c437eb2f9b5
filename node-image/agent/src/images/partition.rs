//! Partitions without a table: `BLKPG` (`include/uapi/linux/blkpg.h`).

use std::{
    fs::File,
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use bulkhead_agent_protocol::AttachRange;

const BLKPG: libc::c_ulong = 0x1269;
const ADD_PARTITION: libc::c_int = 1;
const DELETE_PARTITION: libc::c_int = 2;

/// `struct blkpg_partition`.
#[repr(C)]
struct Partition {
    start: libc::c_longlong,
    length: libc::c_longlong,
    number: libc::c_int,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct Argument {
    operation: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    data: *mut Partition,
}

/// A partition's device node.
pub(super) fn device(disk: &Path, number: u32) -> PathBuf {
    PathBuf::from(format!("{}{number}", disk.display()))
}

/// Makes a range a partition.
pub(super) fn add(disk: &Path, range: AttachRange) -> io::Result<()> {
    blkpg(disk, ADD_PARTITION, range)
}

/// Removes a partition.
pub(super) fn remove(disk: &Path, number: u32) -> io::Result<()> {
    blkpg(disk, DELETE_PARTITION, AttachRange { partition: number, offset: 0, length: 0 })
}

fn blkpg(disk: &Path, operation: libc::c_int, range: AttachRange) -> io::Result<()> {
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut partition = Partition {
        start: range.offset.try_into().map_err(too_large)?,
        length: range.length.try_into().map_err(too_large)?,
        number: range.partition.try_into().map_err(too_large)?,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let argument = Argument {
        operation,
        flags: 0,
        length: size_of::<Partition>().try_into().map_err(too_large)?,
        data: &raw mut partition,
    };
    let disk = File::open(disk)?;
    // SAFETY: `argument` and what it points to are laid out as BLKPG expects and outlive the call.
    let result = unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG, &raw const argument) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

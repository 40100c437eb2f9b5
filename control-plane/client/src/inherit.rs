//! Files that a process was started with.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// A copy of a file that this process was started with: taking the descriptor itself over would
/// need unsafe code.
///
/// # Errors
/// If there is no such file descriptor.
pub fn inherit(fd: RawFd) -> io::Result<OwnedFd> {
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(this, fd, PidfdGetfdFlags::empty())?)
}

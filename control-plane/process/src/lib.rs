//! What a process of the control plane does with what it was started with: standard error
//! ([`log`]), the files that it was handed ([`inherit`]), and how many it may have open
//! ([`raise_descriptor_limit`]).

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal as _};
use std::os::fd::{OwnedFd, RawFd};

use rustix::process::{
    PidfdFlags, PidfdGetfdFlags, Resource, getpid, getrlimit, pidfd_getfd, pidfd_open, setrlimit,
};
use tracing_subscriber::EnvFilter;

/// Has events written to standard error, in colours if that is a terminal: those that `RUST_LOG`
/// asks for, or else `filter`, which is of the same form (`info`, `info,hickory=error`).
///
/// # Panics
/// If it was called before.
pub fn log(filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

/// A copy of a file that this process was started with: taking the descriptor itself over would
/// need unsafe code.
///
/// # Errors
/// If there is no such file descriptor.
pub fn inherit(fd: RawFd) -> io::Result<OwnedFd> {
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(this, fd, PidfdGetfdFlags::empty())?)
}

/// Lets the process have as many descriptors as it may, and says how many that is: each connection
/// takes one, and the limit is low for the sake of programs that use `select`.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "raising the limit of open files");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Seek as _};
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn what_is_inherited_is_the_same_file() {
        let mut reader = File::open("/proc/self/exe").unwrap();
        reader.seek(io::SeekFrom::Start(1)).unwrap();
        let mut magic = [0; 3];
        File::from(inherit(reader.as_raw_fd()).unwrap()).read_exact(&mut magic).unwrap();
        assert_eq!(&magic, b"ELF", "the copy has the other's position");
        assert_eq!(reader.stream_position().unwrap(), 4);
    }

    #[test]
    fn what_is_not_open_cannot_be_inherited() {
        assert!(inherit(RawFd::MAX).is_err());
    }

    #[test]
    fn the_limit_is_the_highest_that_there_is() {
        let limit = raise_descriptor_limit();
        assert_eq!(limit, getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX));
    }
}

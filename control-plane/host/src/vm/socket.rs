//! Unix sockets in directories whose paths may be longer than the 107 bytes that a socket address
//! holds: they are named through an open file of their directory.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// A directory of sockets, open.
#[derive(Debug)]
pub(crate) struct SocketDir(File);

impl SocketDir {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    /// A short path of a socket in it, good for as long as `self` and in this process.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }

    /// Listens there, in place of whatever was there.
    pub(crate) fn listen(&self, name: &str) -> io::Result<UnixListener> {
        let path = self.path(name);
        crate::home::remove_file(&path)?;
        UnixListener::bind(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_holds_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(200));
        std::fs::create_dir(&long).unwrap();
        let sockets = SocketDir::open(&long).unwrap();
        let _listener = sockets.listen("s").unwrap();
        std::os::unix::net::UnixStream::connect(sockets.path("s")).unwrap();
        let _again = sockets.listen("s").unwrap();
    }
}

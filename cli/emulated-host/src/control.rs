//! The outer end of the control port, and sockets in directories whose paths are too long for one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::spec::{Event, Request};

/// The longest that a machine may take from QEMU's start to its service's or command's.
pub(crate) const BOOT_PATIENCE: Duration = Duration::from_secs(120);

/// Connects to the unix socket `name` in `directory`, whose path may exceed the 107 bytes that a
/// socket's address has room for.
pub(crate) fn connect(directory: &Path, name: &str) -> io::Result<UnixStream> {
    let directory = File::open(directory)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

/// A connection to the machine's inner half.
pub(crate) struct Control {
    reader: BufReader<UnixStream>,
}

impl Control {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { reader: BufReader::new(stream) }
    }

    /// Another handle for sending.
    pub(crate) fn sender(&self) -> io::Result<Sender> {
        Ok(Sender(self.reader.get_ref().try_clone()?))
    }

    /// How long [`Self::event`] waits; forever when none.
    pub(crate) fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        self.reader.get_ref().set_read_timeout(patience)
    }

    /// The next event, or `None` when the machine is gone; `WouldBlock` when patience is at its end.
    pub(crate) fn event(&mut self) -> io::Result<Option<Event>> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            // So it looks when QEMU ends before the machine has taken all that it was sent.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        }
        serde_json::from_str(&line).map(Some).map_err(io::Error::from)
    }
}

/// Sends requests to the machine's inner half.
pub(crate) struct Sender(UnixStream);

impl Sender {
    pub(crate) fn send(&mut self, request: Request) -> io::Result<()> {
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn long_paths_are_reached() {
        let base = tempfile::tempdir().unwrap();
        let deep = base.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let handle = File::open(&deep).unwrap();
        let _listener =
            UnixListener::bind(format!("/proc/self/fd/{}/s", handle.as_raw_fd())).unwrap();
        assert!(UnixStream::connect(deep.join("s")).is_err());
        connect(&deep, "s").unwrap();
    }

    #[test]
    fn events_are_read_until_the_end() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"{\"event\":\"exited\",\"status\":7}\n").unwrap();
        drop(theirs);
        let mut control = Control::new(ours);
        assert_eq!(control.event().unwrap(), Some(Event::Exited { status: 7 }));
        assert_eq!(control.event().unwrap(), None);
    }

    #[test]
    fn a_machine_that_ends_with_requests_unread_is_gone() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut control = Control::new(ours);
        control.sender().unwrap().send(Request::Go).unwrap();
        drop(theirs);
        assert_eq!(control.event().unwrap(), None);
    }
}

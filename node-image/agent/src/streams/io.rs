//! Pipes and terminals, without blocking.

use std::{
    io::{self, IoSliceMut},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    rc::Rc,
};

use rustix::{
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    pipe::{PipeFlags, pipe_with},
    termios::{Winsize, tcsetwinsize},
};
use tokio::io::unix::AsyncFd;

/// One end of a pipe, or a terminal's master.
#[derive(Debug)]
pub(crate) struct AsyncFile(AsyncFd<OwnedFd>);

impl AsyncFile {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        // SAFETY: the descriptor is owned by the `AsyncFd` alone and never exchanged.
        Ok(Self(unsafe { AsyncFd::register(fd) }?))
    }

    /// Reads what is there; 0 at the end.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut *buffer)?)) {
                // A terminal's last user has closed it.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                    return Ok(0);
                }
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// Writes all of it, waiting while the reader does not read.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Ok(written) => bytes = bytes.get(written?..).unwrap_or_default(),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }

    /// Sets a terminal's size.
    pub(crate) fn resize(&self, width: u16, height: u16) -> io::Result<()> {
        let size = Winsize { ws_col: width, ws_row: height, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(self.0.get_ref().as_fd(), size)?)
    }
}

/// A process's streams, seen from outside. A terminal is both `stdin` and `stdout`.
#[derive(Debug)]
pub(crate) struct ProcessIo {
    pub(crate) stdin: Option<Rc<AsyncFile>>,
    pub(crate) stdout: Rc<AsyncFile>,
    pub(crate) stderr: Option<Rc<AsyncFile>>,
}

impl ProcessIo {
    /// Pipes, and their other ends for the process.
    pub(crate) fn pipes(stdin: bool) -> io::Result<(Self, [OwnedFd; 3])> {
        let (stdout, stdout_end) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stdin, stdin_end) = if stdin {
            let (end, stdin) = pipe_with(PipeFlags::CLOEXEC)?;
            (Some(Rc::new(AsyncFile::new(stdin)?)), end)
        } else {
            (None, null()?)
        };
        let io = Self {
            stdin,
            stdout: Rc::new(AsyncFile::new(stdout)?),
            stderr: Some(Rc::new(AsyncFile::new(stderr)?)),
        };
        Ok((io, [stdin_end, stdout_end, stderr_end]))
    }

    /// A terminal's master.
    fn terminal(master: OwnedFd, stdin: bool) -> io::Result<Self> {
        let master = Rc::new(AsyncFile::new(master)?);
        Ok(Self { stdin: stdin.then(|| Rc::clone(&master)), stdout: master, stderr: None })
    }
}

/// `/dev/null`, to read and to write.
pub(crate) fn null() -> io::Result<OwnedFd> {
    let file = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    Ok(file.into())
}

/// Where the runtime sends the master of a terminal that it made in the container
/// (the OCI runtimes' console socket).
#[derive(Debug)]
pub(crate) struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    pub(crate) fn bind(path: PathBuf) -> io::Result<Self> {
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the master, once the runtime has sent it.
    pub(crate) fn receive(self, stdin: bool) -> io::Result<ProcessIo> {
        let (connection, _) = self.listener.accept()?;
        let mut data = [0; 256];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        recvmsg(&connection, &mut [IoSliceMut::new(&mut data)], &mut ancillary, flags)?;
        let master = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let master = master.ok_or_else(|| io::Error::other("the runtime sent no terminal"))?;
        ProcessIo::terminal(master, stdin)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

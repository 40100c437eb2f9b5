//! One client: bytes and files in, requests to the router, bytes out.

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use bulkhead_vmm_api::client::MAX_FILES;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::request::{self, Answer, Parsed, Request};

const CHUNK: usize = 4096;

/// What the connection waits for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Read,
    Write,
    Close,
}

pub(super) struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    files: Vec<OwnedFd>,
    output: Vec<u8>,
    closing: bool,
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl Connection {
    /// `stream` must be non-blocking.
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, input: Vec::new(), files: Vec::new(), output: Vec::new(), closing: false }
    }

    /// Does what can be done now, without waiting.
    pub(super) fn advance(&mut self, mut answer: impl FnMut(Request) -> Answer) -> Next {
        if !self.output.is_empty() {
            return self.flush();
        }
        match self.receive() {
            Ok(0) => return Next::Close,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Read,
            Err(_) => return Next::Close,
        }
        let answer = match request::parse(&self.input) {
            Ok(Parsed::Partial) => {
                return Next::Read;
            }
            Ok(Parsed::Whole { mut request, length, close }) => {
                self.input.drain(..length);
                self.closing = close;
                request.files = std::mem::take(&mut self.files);
                answer(request)
            }
            Err(refused) => {
                self.closing = true;
                refused
            }
        };
        // One request at a time: what a client sends before its answer is not waited for.
        self.closing |= !self.input.is_empty();
        self.output = answer.to_bytes(self.closing);
        self.flush()
    }

    fn flush(&mut self) -> Next {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Next::Close,
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Write,
                Err(_) => return Next::Close,
            }
        }
        if self.closing { Next::Close } else { Next::Read }
    }

    fn receive(&mut self) -> io::Result<usize> {
        let mut chunk = [0; CHUNK];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.stream,
            &mut [IoSliceMut::new(&mut chunk)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.files.extend(files);
            }
        }
        if self.files.len() > MAX_FILES {
            return Err(io::Error::other("too many files"));
        }
        self.input.extend_from_slice(&chunk[..received.bytes]);
        Ok(received.bytes)
    }
}

//! A blocking client: one connection for each request, files by `SCM_RIGHTS`.
//!
//! Nothing but the standard library and system calls; from an async program call it through
//! `spawn_blocking`.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{ErrorBody, Metrics, RangeConfig, VmConfig, VmInfo};

/// Most files that one request hands over.
pub const MAX_FILES: usize = 64;

/// An answer's largest size in bytes.
const MAX_ANSWER: u64 = 1 << 20;
const MAX_HEADERS: usize = 32;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The monitor cannot be reached, or went away.
    #[error("monitor at {socket}: {error}", socket = socket.display())]
    Io {
        /// Its socket.
        socket: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// The monitor refused.
    #[error("monitor: {message} ({status})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The answer is not one of a monitor.
    #[error("monitor: unintelligible answer: {0}")]
    Answer(String),
    /// More files than a request can carry.
    #[error("{0} files in one request: at most {MAX_FILES} go")]
    TooManyFiles(usize),
}

/// A monitor's API.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// The API at the unix socket `socket`. No connection is made yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), timeout: Duration::from_secs(10) }
    }

    /// Waits for each answer for so long, instead of 10 s.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Configures the machine. `files` are those that `config` names by `fd`, counted from 0.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn configure(
        &self,
        config: &VmConfig,
        files: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        self.put("/vm", Some(config), files)
    }

    /// Starts the configured machine.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn start(&self) -> Result<(), ClientError> {
        self.put("/vm/start", None::<&()>, &[])
    }

    /// Stops the vCPUs.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn pause(&self) -> Result<(), ClientError> {
        self.put("/vm/pause", None::<&()>, &[])
    }

    /// Lets the vCPUs go on.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn resume(&self) -> Result<(), ClientError> {
        self.put("/vm/resume", None::<&()>, &[])
    }

    /// Ends the monitor with exit code 0.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn shutdown(&self) -> Result<(), ClientError> {
        self.put("/vm/shutdown", None::<&()>, &[])
    }

    /// Adds a range to disk `id`. `range.file` is `Fd(0)` when `file` is handed over.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn add_range(
        &self,
        id: &str,
        range: &RangeConfig,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<(), ClientError> {
        self.put(&format!("/disks/{id}/ranges"), Some(range), file.as_slice())
    }

    /// What the machine is doing.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn info(&self) -> Result<VmInfo, ClientError> {
        self.get("/vm")
    }

    /// Counters.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn metrics(&self) -> Result<Metrics, ClientError> {
        self.get("/metrics")
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.request("GET", path, b"", &[])?;
        serde_json::from_slice(&body).map_err(|error| ClientError::Answer(error.to_string()))
    }

    fn put(
        &self,
        path: &str,
        body: Option<&impl Serialize>,
        files: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        let body = body.map(serde_json::to_vec).transpose();
        let body = body.map_err(|error| ClientError::Answer(error.to_string()))?;
        self.request("PUT", path, &body.unwrap_or_default(), files).map(drop)
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> Result<Vec<u8>, ClientError> {
        if files.len() > MAX_FILES {
            return Err(ClientError::TooManyFiles(files.len()));
        }
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: monitor\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        let answer = self
            .exchange(&request, files)
            .map_err(|error| ClientError::Io { socket: self.socket.clone(), error })?;
        parse(&answer)
    }

    fn exchange(&self, request: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::Error::other("too many files"));
        }
        let sent = sendmsg(&stream, &[IoSlice::new(request)], &mut ancillary, SendFlags::NOSIGNAL)?;
        stream.write_all(request.get(sent..).unwrap_or_default())?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
        Ok(answer)
    }
}

fn parse(answer: &[u8]) -> Result<Vec<u8>, ClientError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let (length, status) = match (response.parse(answer), response.code) {
        (Ok(httparse::Status::Complete(length)), Some(status)) => (length, status),
        (Ok(_), _) => return Err(ClientError::Answer("it ends too early".to_owned())),
        (Err(error), _) => return Err(ClientError::Answer(error.to_string())),
    };
    let body = answer.get(length..).unwrap_or_default().to_vec();
    if (200..300).contains(&status) {
        return Ok(body);
    }
    let message = serde_json::from_slice::<ErrorBody>(&body)
        .map_or_else(|_| String::from_utf8_lossy(&body).into_owned(), |body| body.error);
    Err(ClientError::Refused { status, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n{}").unwrap(), b"{}");
        let refused = parse(b"HTTP/1.1 409 Conflict\r\n\r\n{\"error\": \"no\"}").unwrap_err();
        assert_eq!(refused.to_string(), "monitor: no (409)");
        assert!(matches!(parse(b"HTTP/1.1 200"), Err(ClientError::Answer(_))));
        assert!(matches!(parse(b"\0\0"), Err(ClientError::Answer(_))));
    }

    #[test]
    fn an_absent_monitor_is_named() {
        let error = Client::new(Path::new("/nonexistent/vmm.sock")).info().unwrap_err();
        assert!(error.to_string().contains("/nonexistent/vmm.sock"));
    }
}

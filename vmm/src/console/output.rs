//! The way of the guest's output to a file that may be slow: a terminal, a pipe.
//!
//! A byte is written by the vCPU that produces it, at once, as long as that does not block. What a
//! full pipe or a stopped terminal does not take waits in a bounded backlog, which the device thread
//! writes when the other end reads on. Beyond the bound output is lost, and a line says how much: a
//! guest is never held up by whoever looks at it.
//!
//! Readiness is asked for with `poll`: `O_NONBLOCK` would hold for all who share the terminal.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::bus::lock;

/// Bytes that wait at most.
const BACKLOG_MAX: usize = 256 << 10;
/// A writable pipe has room for as many bytes.
const PIPE_ROOM: usize = 4096;
/// How long the rest of the output may be in the way of the monitor's end while nobody takes any.
const PATIENCE: Duration = Duration::from_secs(1);

/// Output to one file. Clones are the same output.
#[derive(Clone)]
pub(super) struct Output {
    file: Arc<File>,
    backlog: Arc<Mutex<Backlog>>,
    waiting: Arc<EventFd>,
    /// Bytes that can be written without blocking when there is room at all.
    room: usize,
}

#[derive(Default)]
struct Backlog {
    bytes: VecDeque<u8>,
    lost: usize,
}

impl Output {
    /// Output to `file`.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let room = if file.is_terminal() { 1 } else { PIPE_ROOM };
        let waiting = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let (file, waiting) = (Arc::new(file), Arc::new(waiting));
        Ok(Self { file, backlog: Arc::default(), waiting, room })
    }

    /// Readable when output has begun to wait.
    pub(super) fn waiting(&self) -> &EventFd {
        &self.waiting
    }

    /// Writes what waits, as far as that does not block. Returns whether some waits on.
    pub(super) fn drain(&self) -> bool {
        let mut backlog = lock(&self.backlog);
        while !backlog.bytes.is_empty() && self.is_ready(Duration::ZERO) {
            let (first, _) = backlog.bytes.as_slices();
            let piece = &first[..first.len().min(self.room)];
            match (&*self.file).write(piece) {
                Ok(count @ 1..) => {
                    backlog.bytes.drain(..count);
                    backlog.tell_loss();
                }
                Err(error) if is_passing(&error) => return true,
                // The other end is gone for good.
                Ok(0) | Err(_) => backlog.bytes.clear(),
            }
        }
        !backlog.bytes.is_empty()
    }

    /// Writes what waits, until nobody has taken any of it for a while.
    pub(super) fn finish(&self) {
        while self.drain() && self.is_ready(PATIENCE) {}
    }

    fn is_ready(&self, timeout: Duration) -> bool {
        let timeout = timeout.as_millis() as libc::c_int;
        let mut poll = libc::pollfd { fd: self.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        loop {
            // SAFETY: the pointer is to one `pollfd` that lives for the call.
            match unsafe { libc::poll(&raw mut poll, 1, timeout) } {
                // The monitor pauses vCPUs by signals.
                -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                // An error or a hang-up is ready as well: the write tells of it.
                count => return count > 0,
            }
        }
    }
}

impl AsRawFd for Output {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut backlog = lock(&self.backlog);
        let was_empty = backlog.bytes.is_empty();
        if was_empty && bytes.len() <= self.room && self.is_ready(Duration::ZERO) {
            match (&*self.file).write(bytes) {
                Err(error) if is_passing(&error) => {}
                result => return result,
            }
        }
        backlog.push(bytes);
        if was_empty {
            self.waiting.write(1)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Backlog {
    /// Takes `bytes` if there is room, and if none was lost that has not been told of.
    fn push(&mut self, bytes: &[u8]) {
        if self.lost == 0 && self.bytes.len() + bytes.len() <= BACKLOG_MAX {
            self.bytes.extend(bytes);
        } else {
            self.lost += bytes.len();
        }
    }

    /// Tells of what was lost, once half of the room is free again.
    fn tell_loss(&mut self) {
        if self.lost > 0 && self.bytes.len() <= BACKLOG_MAX / 2 {
            let lost = std::mem::take(&mut self.lost);
            let line = format!("\r\n[bulkhead-vmm: {lost} bytes of output were not taken]\r\n");
            self.bytes.extend(line.as_bytes());
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read};
    use std::os::fd::OwnedFd;

    use super::*;

    fn pipe() -> (PipeReader, Output) {
        let (reader, writer) = io::pipe().unwrap();
        (reader, Output::new(File::from(OwnedFd::from(writer))).unwrap())
    }

    /// Writes as the serial port does, byte by byte: the numbers from 0 on, a line each.
    fn write_lines(output: &mut Output, count: usize) -> Vec<u8> {
        let text: Vec<u8> = (0..count).flat_map(|line| format!("{line}\n").into_bytes()).collect();
        for byte in &text {
            output.write_all(&[*byte]).unwrap();
        }
        text
    }

    #[test]
    fn a_reader_that_comes_late_misses_nothing() {
        let (mut reader, mut output) = pipe();
        let written = write_lines(&mut output, 30_000);
        assert!(written.len() > 128 << 10, "more than a pipe holds");
        assert_eq!(output.waiting().read().unwrap(), 1);
        let end = output.clone();
        drop(output);
        let writer = std::thread::spawn(move || end.finish());
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        writer.join().unwrap();
        assert!(read == written, "{} bytes of {}", read.len(), written.len());
    }

    #[test]
    fn beyond_the_bound_output_is_lost_and_told() {
        let (mut reader, mut output) = pipe();
        let written = write_lines(&mut output, 100_000);
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        output.finish();
        output.write_all(b"after").unwrap();
        output.finish();
        drop(output);
        let text = reading.join().unwrap();
        let (kept, rest) = text.split_once("\r\n[bulkhead-vmm: ").unwrap();
        let (lost, after) = rest.split_once(" bytes of output were not taken]\r\n").unwrap();
        assert!(written.starts_with(kept.as_bytes()));
        assert_eq!(kept.len() + lost.parse::<usize>().unwrap(), written.len());
        assert_eq!(after, "after");
    }

    #[test]
    fn the_end_waits_only_a_while_for_a_reader_and_not_for_one_that_has_gone() {
        let (reader, mut output) = pipe();
        write_lines(&mut output, 30_000);
        output.finish();
        assert!(output.drain(), "nobody has read it");
        drop(reader);
        output.finish();
        assert!(!output.drain(), "nobody ever will");
        assert!(output.write(b"x").is_err());
    }
}

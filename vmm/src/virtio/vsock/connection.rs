//! One connection: a stream socket on the host, the guest's packets on the other side, and the
//! credit between them (§5.10.6.3).

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::Shutdown;
use std::num::Wrapping;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use crate::event_loop::EventSet;
use crate::virtio::buffers::Buffers;
use crate::virtio::vsock::packet::{
    HEADER, Header, Operation, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND,
};

/// Bytes that are held of one connection when the host does not read: what the guest is told as
/// its credit.
pub(super) const BUFFER: u32 = 128 << 10;
/// Bytes of data in one packet to the guest at most.
const MAX_DATA: usize = 64 << 10;

/// What names a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) host_port: u32,
    pub(super) guest_port: u32,
}

/// How far the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The host has asked; the guest has not answered.
    Connecting,
    /// Data may flow.
    Established,
    /// To be reset: the reset packet is all that is still to be sent.
    Closed,
}

/// Packets without data that wait to be sent, each at most once.
#[derive(Debug, Clone, Copy, Default)]
struct Pending {
    request: bool,
    response: bool,
    shutdown: bool,
    credit_update: bool,
    credit_request: bool,
}

/// A packet that [`Connection::next_packet`] has put into the guest's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    /// Bytes of the buffer used.
    pub(super) length: usize,
    /// Bytes of data among them.
    pub(super) data: usize,
    /// Whether it was a reset: the connection is over.
    pub(super) reset: bool,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) key: Key,
    pub(super) token: u32,
    pub(super) stream: UnixStream,
    pub(super) state: State,
    /// What the stream is watched for at present.
    pub(super) watched: Option<EventSet>,
    /// Whether it stands in the muxer's queue of connections with something to send.
    pub(super) queued: bool,
    pending: Pending,
    /// Data from the guest that the host has not taken yet.
    buffer: VecDeque<u8>,
    /// Bytes received from the guest, passed on to the host, and last told to the guest as passed
    /// on.
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    announced: Wrapping<u32>,
    /// Bytes sent to the guest, and what the guest said of its buffer and its progress.
    sent: Wrapping<u32>,
    guest_buffer: u32,
    guest_forwarded: Wrapping<u32>,
    credit_requested: bool,
    /// Whether the stream is known to have data, or to have ended.
    readable: bool,
    /// What either side has shut down, as the flags of its shutdown packet.
    host_shutdown: u32,
    guest_shutdown: u32,
}

impl Connection {
    /// A connection that the host opens.
    pub(super) fn from_host(key: Key, token: u32, stream: UnixStream) -> Self {
        let pending = Pending { request: true, ..Pending::default() };
        Self::new(key, token, stream, State::Connecting, pending)
    }

    /// A connection that the guest has opened with `request`.
    pub(super) fn from_guest(key: Key, token: u32, stream: UnixStream, request: &Header) -> Self {
        let pending = Pending { response: true, ..Pending::default() };
        let mut connection = Self::new(key, token, stream, State::Established, pending);
        connection.take_credit(request);
        connection
    }

    fn new(key: Key, token: u32, stream: UnixStream, state: State, pending: Pending) -> Self {
        Self {
            key,
            token,
            stream,
            state,
            watched: None,
            queued: false,
            pending,
            buffer: VecDeque::new(),
            received: Wrapping(0),
            forwarded: Wrapping(0),
            announced: Wrapping(0),
            sent: Wrapping(0),
            guest_buffer: 0,
            guest_forwarded: Wrapping(0),
            credit_requested: false,
            readable: false,
            host_shutdown: 0,
            guest_shutdown: 0,
        }
    }

    /// What the stream is to be watched for. With nothing, it must not be watched at all: a
    /// hang-up would be reported without end.
    pub(super) fn interest(&self) -> Option<EventSet> {
        let mut events = EventSet::empty();
        events.set(EventSet::IN, self.may_read() && !self.readable);
        events.set(EventSet::OUT, !self.buffer.is_empty());
        match self.state {
            // Nothing but the host giving up.
            State::Connecting => Some(EventSet::empty()),
            State::Established => Some(events).filter(|events| !events.is_empty()),
            State::Closed => None,
        }
    }

    /// Whether there may be something to send to the guest.
    pub(super) fn has_packets(&self) -> bool {
        let Pending { request, response, shutdown, credit_update, credit_request } = self.pending;
        let control = request || response || shutdown || credit_update || credit_request;
        control || self.state == State::Closed || self.has_data()
    }

    /// Whether data can be read and sent now.
    fn has_data(&self) -> bool {
        self.readable && self.may_read() && self.credit() > 0
    }

    /// Whether data from the host is still wanted.
    fn may_read(&self) -> bool {
        self.state == State::Established
            && self.host_shutdown & SHUTDOWN_SEND == 0
            && self.guest_shutdown & SHUTDOWN_RECEIVE == 0
    }

    /// Bytes that the guest has room for. What it says cannot make that more than it says.
    fn credit(&self) -> u32 {
        self.guest_buffer.saturating_sub((self.sent - self.guest_forwarded).0)
    }

    /// Whether data of the guest waits for the host to read.
    pub(super) fn has_unwritten(&self) -> bool {
        self.state == State::Established && !self.buffer.is_empty()
    }

    /// Whether the guest has closed both directions.
    pub(super) fn is_shut_down(&self) -> bool {
        self.guest_shutdown == SHUTDOWN_BOTH
    }

    pub(super) fn close(&mut self) {
        self.state = State::Closed;
        self.pending = Pending::default();
    }

    /// The stream is ready for `events`.
    pub(super) fn ready(&mut self, events: EventSet) {
        let gone = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        if self.state == State::Connecting {
            if gone {
                self.close();
            }
            return;
        }
        if events.contains(EventSet::IN) || gone {
            self.set_readable();
        }
        if events.contains(EventSet::OUT) || (gone && self.has_unwritten()) {
            self.flush();
        }
    }

    fn set_readable(&mut self) {
        self.readable = true;
        self.request_credit();
    }

    /// Asks for credit, once, when there is something to send and no room for it.
    fn request_credit(&mut self) {
        if self.readable && self.may_read() && self.credit() == 0 && !self.credit_requested {
            self.credit_requested = true;
            self.pending.credit_request = true;
        }
    }

    /// Serves a packet of the guest's, with its data in `data`.
    pub(super) fn receive(&mut self, operation: Operation, header: &Header, data: &mut Buffers) {
        self.take_credit(header);
        match (self.state, operation) {
            (State::Closed, _) => {}
            (State::Connecting, Operation::Response) => {
                self.state = State::Established;
                let greeting = format!("OK {}\n", self.key.host_port);
                if self.stream.write_all(greeting.as_bytes()).is_err() {
                    self.close();
                }
            }
            (State::Established, Operation::Data) => self.receive_data(data),
            (State::Established, Operation::Shutdown) => self.shut_down(header.flags),
            (State::Established, Operation::CreditUpdate) => {}
            (State::Established, Operation::CreditRequest) => self.pending.credit_update = true,
            _ => self.close(),
        }
    }

    fn take_credit(&mut self, header: &Header) {
        self.guest_buffer = header.buffer;
        self.guest_forwarded = Wrapping(header.forwarded);
        if self.credit() > 0 {
            self.credit_requested = false;
        }
    }

    fn receive_data(&mut self, data: &mut Buffers) {
        // The guest knows its credit; one that goes on without is broken or hostile.
        let held = (self.received - self.forwarded).0;
        let room = BUFFER.saturating_sub(held) as usize;
        if data.len() > room || self.guest_shutdown & SHUTDOWN_SEND != 0 {
            self.close();
            return;
        }
        // Fits, as the room does.
        self.received += Wrapping(data.len() as u32);
        if self.buffer.is_empty() {
            match data.send(self.stream.as_fd(), data.len()) {
                Ok(count) => {
                    data.advance(count);
                    self.forwarded += Wrapping(count as u32);
                }
                Err(error) if is_transient(&error) => {}
                Err(_) => {
                    self.close();
                    return;
                }
            }
        }
        let mut block = [0; 4096];
        while !data.is_empty() {
            let count = data.read_at(0, &mut block);
            self.buffer.extend(block.get(..count).unwrap_or_default());
            data.advance(count);
        }
        self.announce_credit();
    }

    /// Passes on to the host what it did not take before.
    pub(super) fn flush(&mut self) {
        while !self.buffer.is_empty() {
            let (front, _) = self.buffer.as_slices();
            match self.stream.write(front) {
                Ok(count) if count > 0 => {
                    self.buffer.drain(..count);
                    self.forwarded += Wrapping(count as u32);
                }
                Err(error) if is_transient(&error) => break,
                _ => {
                    self.close();
                    return;
                }
            }
        }
        if self.buffer.is_empty() {
            // An idle connection holds no memory.
            self.buffer.shrink_to_fit();
            if self.guest_shutdown & SHUTDOWN_SEND != 0 {
                self.shut_stream(Shutdown::Write);
            }
        }
        self.announce_credit();
    }

    /// Tells the guest of room before it believes that there is less than half.
    fn announce_credit(&mut self) {
        let believed = BUFFER.saturating_sub((self.received - self.announced).0);
        if believed < BUFFER / 2 && self.forwarded != self.announced {
            self.pending.credit_update = true;
        }
    }

    fn shut_down(&mut self, flags: u32) {
        let new = flags & SHUTDOWN_BOTH & !self.guest_shutdown;
        self.guest_shutdown |= new;
        if new & SHUTDOWN_RECEIVE != 0 {
            self.shut_stream(Shutdown::Read);
        }
        if new & SHUTDOWN_SEND != 0 && self.buffer.is_empty() {
            self.shut_stream(Shutdown::Write);
        }
    }

    fn shut_stream(&self, how: Shutdown) {
        // Fails only when the host has closed its end, which is what is asked for.
        let _ = self.stream.shutdown(how);
    }

    /// Puts the next packet into the guest's buffer. `None`: there is none after all.
    pub(super) fn next_packet(&mut self, guest_cid: u64, room: &mut Buffers) -> Option<Sent> {
        let mut header = Header {
            src_cid: super::packet::HOST_CID,
            dst_cid: guest_cid,
            src_port: self.key.host_port,
            dst_port: self.key.guest_port,
            kind: super::packet::STREAM,
            buffer: BUFFER,
            forwarded: self.forwarded.0,
            ..Header::default()
        };
        // What reading finds out may be that the connection is over: so it comes before that.
        let data =
            if self.pending.request || self.pending.response { None } else { self.read(room) };
        let operation = if self.state == State::Closed {
            Operation::Reset
        } else if std::mem::take(&mut self.pending.request) {
            Operation::Request
        } else if std::mem::take(&mut self.pending.response) {
            Operation::Response
        } else if let Some(count) = data {
            header.length = count;
            Operation::Data
        } else if std::mem::take(&mut self.pending.shutdown) {
            header.flags = self.host_shutdown;
            Operation::Shutdown
        } else if std::mem::take(&mut self.pending.credit_update) {
            Operation::CreditUpdate
        } else if std::mem::take(&mut self.pending.credit_request) {
            Operation::CreditRequest
        } else {
            return None;
        };
        header.operation = operation as u16;
        room.write_at(0, &header.to_bytes());
        self.announced = self.forwarded;
        // Every packet carries the credit.
        self.pending.credit_update = false;
        let data = header.length as usize;
        Some(Sent { length: HEADER + data, data, reset: operation == Operation::Reset })
    }

    /// Reads data of the host's behind where the header goes. Returns how much there was.
    fn read(&mut self, room: &mut Buffers) -> Option<u32> {
        if !self.has_data() {
            return None;
        }
        let space = room.len().saturating_sub(HEADER).min(MAX_DATA).min(self.credit() as usize);
        match room.read_stream(self.stream.as_fd(), HEADER, space) {
            Ok(0) => {
                self.end_of_stream();
                None
            }
            Ok(count) => {
                // A short read has emptied the stream; if not, the stream says so again.
                self.readable = count == space;
                self.sent += Wrapping(count as u32);
                self.request_credit();
                Some(count as u32)
            }
            Err(error) if is_transient(&error) => {
                self.readable = false;
                None
            }
            Err(_) => {
                self.close();
                None
            }
        }
    }

    /// The host sends no more; if it has gone altogether, it receives no more either.
    fn end_of_stream(&mut self) {
        self.readable = false;
        let mut poll = libc::pollfd { fd: self.stream.as_raw_fd(), events: 0, revents: 0 };
        // SAFETY: `poll` is one valid pollfd.
        let gone = unsafe { libc::poll(&raw mut poll, 1, 0) } > 0
            && poll.revents & (libc::POLLHUP | libc::POLLERR) != 0;
        self.host_shutdown |= if gone { SHUTDOWN_BOTH } else { SHUTDOWN_SEND };
        self.pending.shutdown = true;
        if gone {
            self.buffer = VecDeque::new();
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

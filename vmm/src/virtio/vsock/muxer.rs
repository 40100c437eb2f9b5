//! All connections of a guest, and the host's ways in and out: Firecracker's hybrid protocol.
//!
//! - The host connects to a unix socket and says `CONNECT <port>\n`. When the guest accepts, it
//!   reads `OK <host port>\n`, and the stream is the connection. When it does not, the stream closes.
//! - A guest's connection to port P of the host goes to the unix socket `<path>_P`; if none listens
//!   there, it is reset.
//!
//! Memory is bounded by the number of connections times what each may hold. A reset for a
//! connection that is not there is queued, and when that queue is full, no more packets are taken
//! from the guest until it takes some.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::event_loop::{EventSet, Sources};
use crate::virtio::buffers::Buffers;
use crate::virtio::vsock::connection::{Connection, Key};
use crate::virtio::vsock::packet::{HEADER, HOST_CID, Header, Operation, STREAM};
use crate::virtio::worker::DEVICE_TOKENS;

/// Streams of the host at most: connections, and those that are not there yet or no longer.
pub(super) const MAX_STREAMS: usize = 512;
/// Resets that wait for room at most.
const MAX_RESETS: usize = 256;
/// Clients accepted for one event.
const ACCEPT_BATCH: usize = 32;
/// Longest greeting, `CONNECT 4294967295\n`, and as much again for blanks.
const MAX_GREETING: usize = 38;
/// Ports that the host's connections come from.
const FIRST_HOST_PORT: u32 = 1 << 30;
const LISTENER: u32 = DEVICE_TOKENS;

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: u64,
    pub(super) refused: u64,
    pub(super) rx_packets: u64,
    pub(super) rx_bytes: u64,
    pub(super) tx_packets: u64,
    pub(super) tx_bytes: u64,
    pub(super) errors: u64,
}

/// What a token stands for.
#[derive(Debug)]
enum Stream {
    /// A client that has not said its whole greeting.
    Greeting(UnixStream, Vec<u8>),
    /// A connection in the table.
    Connected(Key),
    /// A connection that is over for the guest, with data that the host has not read yet.
    Lingering(Box<Connection>),
}

#[derive(Debug)]
pub(super) struct Muxer {
    guest_cid: u64,
    listener: UnixListener,
    guest_connections: Option<PathBuf>,
    streams: HashMap<u32, Stream>,
    connections: HashMap<Key, Connection>,
    /// Connections with something to send, each once.
    ready: VecDeque<Key>,
    resets: VecDeque<Header>,
    /// Tokens whose stream may have to be watched for something else.
    touched: Vec<u32>,
    /// Streams to be closed, with whether they are watched.
    closing: Vec<(UnixStream, bool)>,
    next_token: u32,
    next_port: u32,
    listening: bool,
    listener_failed: bool,
    watches_listener: bool,
    pub(super) counters: Counters,
}

impl Muxer {
    pub(super) fn new(
        guest_cid: u64,
        listener: UnixListener,
        guest_connections: Option<PathBuf>,
    ) -> Self {
        Self {
            guest_cid,
            listener,
            guest_connections,
            streams: HashMap::new(),
            connections: HashMap::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            touched: Vec::new(),
            closing: Vec::new(),
            next_token: LISTENER,
            next_port: FIRST_HOST_PORT,
            listening: false,
            listener_failed: false,
            watches_listener: false,
            counters: Counters::default(),
        }
    }

    /// Starts to accept the host's clients.
    pub(super) fn start(&mut self) {
        self.listening = true;
    }

    /// Closes everything and accepts no clients. [`Muxer::watch`] must follow.
    pub(super) fn stop(&mut self) {
        self.listening = false;
        for (_, stream) in self.streams.drain() {
            match stream {
                Stream::Greeting(stream, _) => self.closing.push((stream, true)),
                Stream::Lingering(connection) => {
                    self.closing.push((connection.stream, connection.watched.is_some()));
                }
                Stream::Connected(key) => {
                    if let Some(connection) = self.connections.remove(&key) {
                        self.closing.push((connection.stream, connection.watched.is_some()));
                    }
                }
            }
        }
        self.ready.clear();
        self.resets.clear();
        self.touched.clear();
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Whether the guest's packets may be taken: there is room for what they may lead to.
    pub(super) fn has_room(&self) -> bool {
        self.resets.len() < MAX_RESETS
    }

    /// Whether something may have to be sent to the guest.
    pub(super) fn has_packets(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// Takes a packet of the guest's: its header and data lie in `packet`.
    pub(super) fn receive(&mut self, packet: &mut Buffers) {
        self.counters.tx_packets += 1;
        let Some(bytes) = packet.read_array::<HEADER>() else {
            self.counters.errors += 1;
            return;
        };
        packet.advance(HEADER);
        let header = Header::from_bytes(&bytes);
        let length = header.length as usize;
        if length > packet.len() {
            self.counters.errors += 1;
            return;
        }
        packet.truncate(length);
        // A packet that claims another sender is not answered: the answer would go to that one.
        if header.src_cid != self.guest_cid {
            self.counters.errors += 1;
            return;
        }
        let key = Key { host_port: header.dst_port, guest_port: header.src_port };
        let operation = Operation::parse(header.operation)
            .filter(|_| header.kind == STREAM && header.dst_cid == HOST_CID);
        self.counters.tx_bytes += length as u64;
        match (operation, self.connections.get_mut(&key)) {
            (Some(Operation::Reset), Some(_)) => self.remove(key),
            (Some(Operation::Reset), None) => {}
            (Some(Operation::Request), None) => self.connect_to_host(key, &header),
            (Some(operation), Some(connection)) => {
                connection.receive(operation, &header, packet);
                let token = connection.token;
                if connection.is_shut_down() {
                    self.finish(key);
                    self.reset(&header);
                }
                self.touched.push(token);
                self.enqueue(key);
            }
            (None, Some(connection)) => {
                self.counters.errors += 1;
                connection.close();
                self.enqueue(key);
            }
            (_, None) => self.reset(&header),
        }
    }

    /// Answers `header` with a reset.
    fn reset(&mut self, header: &Header) {
        self.resets.push_back(Header {
            src_cid: header.dst_cid,
            dst_cid: header.src_cid,
            src_port: header.dst_port,
            dst_port: header.src_port,
            kind: header.kind,
            operation: Operation::Reset as u16,
            ..Header::default()
        });
    }

    /// Puts the next packet for the guest into `room`. Returns the bytes used, or `None` when there
    /// is no packet.
    pub(super) fn send(&mut self, room: &mut Buffers) -> Option<usize> {
        if room.len() <= HEADER {
            // The chain is given back empty; a driver that goes on with these gets nothing.
            self.counters.errors += 1;
            return Some(0);
        }
        if let Some(header) = self.resets.pop_front() {
            room.write_at(0, &header.to_bytes());
            self.counters.rx_packets += 1;
            return Some(HEADER);
        }
        while let Some(key) = self.ready.pop_front() {
            let Some(connection) = self.connections.get_mut(&key) else { continue };
            connection.queued = false;
            let sent = connection.next_packet(self.guest_cid, room);
            self.touched.push(connection.token);
            // To the back: the others come first.
            self.enqueue(key);
            let Some(sent) = sent else { continue };
            self.counters.rx_packets += 1;
            self.counters.rx_bytes += sent.data as u64;
            if sent.reset {
                self.remove(key);
            }
            return Some(sent.length);
        }
        None
    }

    fn enqueue(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(&key)
            && !connection.queued
            && connection.has_packets()
        {
            connection.queued = true;
            self.ready.push_back(key);
        }
    }

    /// Forgets a connection and closes its stream.
    fn remove(&mut self, key: Key) {
        if let Some(connection) = self.connections.remove(&key) {
            self.streams.remove(&connection.token);
            self.closing.push((connection.stream, connection.watched.is_some()));
        }
    }

    /// The guest has closed the connection: what it has sent still goes to the host.
    fn finish(&mut self, key: Key) {
        let lingers = self.connections.get(&key).is_some_and(Connection::has_unwritten);
        if !lingers {
            self.remove(key);
        } else if let Some(connection) = self.connections.remove(&key) {
            self.streams.insert(connection.token, Stream::Lingering(Box::new(connection)));
        }
    }

    fn connect_to_host(&mut self, key: Key, request: &Header) {
        let stream = match &self.guest_connections {
            Some(path) if self.streams.len() < MAX_STREAMS => connect(path, key.host_port),
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        };
        match stream {
            Ok(stream) => {
                let token = self.token();
                self.insert(Connection::from_guest(key, token, stream, request));
            }
            Err(_) => {
                self.counters.refused += 1;
                self.reset(request);
            }
        }
    }

    fn insert(&mut self, connection: Connection) {
        let (key, token) = (connection.key, connection.token);
        self.counters.connections += 1;
        self.streams.insert(token, Stream::Connected(key));
        self.connections.insert(key, connection);
        self.touched.push(token);
        self.enqueue(key);
    }

    /// The descriptor added with `token` is ready.
    pub(super) fn ready(&mut self, token: u32, events: EventSet, sources: &mut Sources<'_>) {
        if token == LISTENER {
            self.accept(sources);
            return;
        }
        match self.streams.get_mut(&token) {
            None => {}
            Some(Stream::Greeting(stream, line)) => match greet(stream, line) {
                Ok(None) => {}
                Ok(Some(guest_port)) => self.connect_to_guest(token, guest_port, sources),
                Err(_) => {
                    self.counters.refused += 1;
                    self.close_greeting(token);
                }
            },
            Some(Stream::Connected(key)) => {
                let key = *key;
                if let Some(connection) = self.connections.get_mut(&key) {
                    connection.ready(events);
                }
                self.touched.push(token);
                self.enqueue(key);
            }
            Some(Stream::Lingering(connection)) => {
                connection.flush();
                if connection.has_unwritten() {
                    self.touched.push(token);
                } else if let Some(Stream::Lingering(connection)) = self.streams.remove(&token) {
                    self.closing.push((connection.stream, connection.watched.is_some()));
                }
            }
        }
    }

    fn accept(&mut self, sources: &mut Sources<'_>) {
        for _ in 0..ACCEPT_BATCH {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    eprintln!("bulkhead-vmm: vsock cannot accept a client: {error}");
                    // Until a stream is closed there are no descriptors for another.
                    self.listener_failed = true;
                    return;
                }
            };
            let token = self.token();
            let watched = self.streams.len() < MAX_STREAMS
                && stream.set_nonblocking(true).is_ok()
                && sources.add(stream.as_raw_fd(), token, EventSet::IN).is_ok();
            if watched {
                self.streams.insert(token, Stream::Greeting(stream, Vec::new()));
            } else {
                self.counters.refused += 1;
            }
        }
    }

    fn connect_to_guest(&mut self, token: u32, guest_port: u32, sources: &mut Sources<'_>) {
        let Some(Stream::Greeting(stream, _)) = self.streams.remove(&token) else { return };
        // The connection is watched for something else.
        if sources.remove(stream.as_raw_fd()).is_err() {
            self.counters.refused += 1;
            return;
        }
        let mut key = Key { host_port: self.next_port, guest_port };
        while self.connections.contains_key(&key) {
            key.host_port = following_port(key.host_port);
        }
        self.next_port = following_port(key.host_port);
        self.insert(Connection::from_host(key, token, stream));
    }

    fn close_greeting(&mut self, token: u32) {
        if let Some(Stream::Greeting(stream, _)) = self.streams.remove(&token) {
            self.closing.push((stream, true));
        }
    }

    fn token(&mut self) -> u32 {
        loop {
            self.next_token = self.next_token.wrapping_add(1).max(LISTENER + 1);
            if !self.streams.contains_key(&self.next_token) {
                return self.next_token;
            }
        }
    }

    /// Brings what the loop watches up to date, and closes what is over.
    pub(super) fn watch(&mut self, sources: &mut Sources<'_>) {
        let mut failed = Vec::new();
        for token in std::mem::take(&mut self.touched) {
            let connection = match self.streams.get_mut(&token) {
                Some(Stream::Connected(key)) => self.connections.get_mut(key),
                Some(Stream::Lingering(connection)) => Some(&mut **connection),
                _ => None,
            };
            if let Some(connection) = connection
                && update(connection, sources).is_err()
            {
                connection.close();
                failed.push(connection.key);
            }
        }
        for key in failed {
            self.enqueue(key);
        }
        self.listener_failed &= self.closing.is_empty();
        for (stream, watched) in self.closing.drain(..) {
            if watched {
                // It is closed next, which removes it in any case.
                let _ = sources.remove(stream.as_raw_fd());
            }
        }
        let listener = self.listener.as_raw_fd();
        match (self.watches_listener, self.listening && !self.listener_failed) {
            (false, true) => {
                self.watches_listener = sources.add(listener, LISTENER, EventSet::IN).is_ok();
            }
            (true, false) => self.watches_listener = sources.remove(listener).is_err(),
            _ => {}
        }
    }
}

fn update(connection: &mut Connection, sources: &mut Sources<'_>) -> io::Result<()> {
    let wanted = connection.interest();
    let stream = connection.stream.as_raw_fd();
    match (connection.watched, wanted) {
        (old, new) if old == new => {}
        (None, Some(events)) => sources.add(stream, connection.token, events)?,
        (Some(_), Some(events)) => sources.modify(stream, connection.token, events)?,
        (_, None) => sources.remove(stream)?,
    }
    connection.watched = wanted;
    Ok(())
}

fn following_port(port: u32) -> u32 {
    if port == FIRST_HOST_PORT * 2 - 1 { FIRST_HOST_PORT } else { port + 1 }
}

/// Connects to the host's socket for `port`, without waiting for its listener.
fn connect(path: &Path, port: u32) -> io::Result<UnixStream> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("_{port}"));
    super::socket::connect_nonblocking(Path::new(&name))
}

/// Reads on in a client's greeting. Returns the guest's port when it is complete.
fn greet(stream: &mut UnixStream, line: &mut Vec<u8>) -> io::Result<Option<u32>> {
    // Byte by byte: what follows the line belongs to the guest.
    loop {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) if byte == *b"\n" => break,
            Ok(_) if line.len() == MAX_GREETING => return Err(io::ErrorKind::InvalidData.into()),
            Ok(_) => line.extend_from_slice(&byte),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let line = str::from_utf8(line).map_err(|_| invalid())?;
    let mut words = line.split_ascii_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(verb), Some(port), None) if verb.eq_ignore_ascii_case("connect") => {
            port.parse().map(Some).map_err(|_| invalid())
        }
        _ => Err(invalid()),
    }
}

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::*;
use crate::virtio::testing::{DATA, Driver, SIZE, WRITE};
use crate::virtio::vsock::packet::{
    HEADER, HOST_CID, Header, Operation, SHUTDOWN_BOTH, SHUTDOWN_SEND, STREAM,
};

const CID: u64 = 3;
const PORT: u32 = 1024;
const CREDIT: u32 = 1 << 20;
const ROOM: u32 = 0x1_0000 + HEADER as u32;

/// A guest with a vsock driver, and its host.
struct Machine {
    driver: Driver,
    directory: TempDir,
    received: u32,
    slots: u16,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vsock");
        let listener = UnixListener::bind(&path).unwrap();
        let cid = GuestCid::try_from(3).unwrap();
        let device = Vsock::new(cid, listener, Some(path)).unwrap();
        let driver = Driver::started(Arc::new(Mutex::new(device)), u64::MAX);
        let mut machine = Self { driver, directory, received: 0, slots: 0 };
        for _ in 0..SIZE {
            machine.refill();
        }
        machine.driver.notify(0);
        machine
    }

    fn refill(&mut self) {
        let slot = u64::from(self.slots % SIZE);
        self.slots += 1;
        self.driver.offer(0, &[(DATA + slot * 0x1_1000, ROOM, WRITE)]);
    }

    /// The next packet for the guest, if there is one.
    fn packet(&mut self) -> Option<(Header, Vec<u8>)> {
        self.driver.run();
        let (head, length) = self.driver.used(0)?;
        let address = DATA + u64::from(head) * 0x1_1000;
        let bytes = self.driver.get(address, length as usize);
        let header = Header::from_bytes(bytes[..HEADER].try_into().unwrap());
        assert_eq!(header.length as usize, bytes.len() - HEADER);
        assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID));
        self.received += header.length;
        self.refill();
        self.driver.notify(0);
        Some((header, bytes[HEADER..].to_vec()))
    }

    fn expect(&mut self, operation: Operation) -> (Header, Vec<u8>) {
        let (header, data) = self.packet().expect("no packet came");
        assert_eq!(Operation::parse(header.operation), Some(operation));
        (header, data)
    }

    fn send(&mut self, host_port: u32, operation: Operation, flags: u32, data: &[u8]) {
        let header = Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: PORT,
            dst_port: host_port,
            length: data.len() as u32,
            kind: STREAM,
            operation: operation as u16,
            flags,
            buffer: CREDIT,
            forwarded: self.received,
        };
        self.send_raw(&header, data);
    }

    fn send_raw(&mut self, header: &Header, data: &[u8]) {
        let address = DATA + 0x20_0000;
        self.driver.put(address, &header.to_bytes());
        self.driver.put(address + HEADER as u64, data);
        let length = (HEADER + data.len()) as u32;
        self.driver.request(1, &[(address, 7, 0), (address + 7, length - 7, 0)]);
    }

    fn client(&mut self, greeting: &str) -> UnixStream {
        let path = self.directory.path().join("vsock");
        let mut client = UnixStream::connect(path).unwrap();
        client.write_all(greeting.as_bytes()).unwrap();
        client.set_nonblocking(true).unwrap();
        client
    }

    /// A connection from the host, with the host's port.
    fn connected(&mut self) -> (UnixStream, u32) {
        let mut client = self.client("CONNECT 1024\n");
        let (request, _) = self.expect(Operation::Request);
        assert_eq!((request.dst_port, request.kind), (PORT, STREAM));
        self.send(request.src_port, Operation::Response, 0, &[]);
        let greeting = format!("OK {}\n", request.src_port);
        assert_eq!(read(&mut client), greeting.as_bytes());
        (client, request.src_port)
    }
}

/// What can be read now.
fn read(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => bytes.extend_from_slice(b"<end>"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
    }
    bytes
}

#[test]
fn the_host_connects_and_both_talk() {
    let mut machine = Machine::new();
    let (mut client, port) = machine.connected();
    client.write_all(b"hello").unwrap();
    let (header, data) = machine.expect(Operation::Data);
    assert_eq!((header.src_port, header.dst_port, &data[..]), (port, PORT, &b"hello"[..]));
    machine.send(port, Operation::Data, 0, b"world");
    assert_eq!(read(&mut client), b"world");
    machine.send(port, Operation::CreditRequest, 0, &[]);
    let (header, _) = machine.expect(Operation::CreditUpdate);
    assert_eq!(header.forwarded, 5);
}

#[test]
fn what_follows_the_greeting_is_data() {
    let mut machine = Machine::new();
    let _client = machine.client("connect 1024\nearly");
    let (request, _) = machine.expect(Operation::Request);
    machine.send(request.src_port, Operation::Response, 0, &[]);
    assert_eq!(machine.expect(Operation::Data).1, b"early");
}

#[test]
fn bad_greetings_are_closed_and_slow_ones_are_not() {
    let mut machine = Machine::new();
    let long = "CONNECT ".to_owned() + &"1".repeat(40);
    for greeting in ["HELLO 1\n", "CONNECT\n", "CONNECT x\n", "CONNECT 4294967296\n", &long] {
        let mut client = machine.client(greeting);
        assert!(machine.packet().is_none());
        let closed = match client.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        assert!(closed, "{greeting}");
    }
    let mut slow = machine.client("CONN");
    assert!(machine.packet().is_none());
    slow.write_all(b"ECT 1024\n").unwrap();
    machine.expect(Operation::Request);
}

#[test]
fn a_refused_connection_is_closed() {
    let mut machine = Machine::new();
    let mut client = machine.client("CONNECT 1024\n");
    let (request, _) = machine.expect(Operation::Request);
    machine.send(request.src_port, Operation::Reset, 0, &[]);
    assert_eq!(read(&mut client), b"<end>");
}

#[test]
fn a_client_that_gives_up_is_reset() {
    let mut machine = Machine::new();
    let client = machine.client("CONNECT 1024\n");
    machine.expect(Operation::Request);
    drop(client);
    machine.expect(Operation::Reset);
    assert!(machine.packet().is_none());
}

#[test]
fn the_guest_connects_where_someone_listens() {
    let mut machine = Machine::new();
    machine.send(80, Operation::Request, 0, &[]);
    machine.expect(Operation::Reset);

    let listener = UnixListener::bind(machine.directory.path().join("vsock_80")).unwrap();
    machine.send(80, Operation::Request, 0, &[]);
    let (response, _) = machine.expect(Operation::Response);
    assert_eq!((response.src_port, response.dst_port), (80, PORT));
    let (mut server, _) = listener.accept().unwrap();
    server.set_nonblocking(true).unwrap();
    machine.send(80, Operation::Data, 0, b"request");
    assert_eq!(read(&mut server), b"request");
    server.write_all(b"answer").unwrap();
    assert_eq!(machine.expect(Operation::Data).1, b"answer");
}

#[test]
fn each_direction_ends_by_itself() {
    let mut machine = Machine::new();
    let (mut client, port) = machine.connected();
    client.write_all(b"last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(machine.expect(Operation::Data).1, b"last");
    let (header, _) = machine.expect(Operation::Shutdown);
    assert_eq!(header.flags, SHUTDOWN_SEND);
    machine.send(port, Operation::Data, 0, b"still");
    assert_eq!(read(&mut client), b"still");
    machine.send(port, Operation::Shutdown, SHUTDOWN_SEND, &[]);
    assert_eq!(read(&mut client), b"<end>");
    machine.send(port, Operation::Shutdown, SHUTDOWN_BOTH, &[]);
    machine.expect(Operation::Reset);
    assert!(machine.packet().is_none());
}

#[test]
fn a_closed_host_shuts_both_down() {
    let mut machine = Machine::new();
    let (client, port) = machine.connected();
    drop(client);
    let (header, _) = machine.expect(Operation::Shutdown);
    assert_eq!(header.flags, SHUTDOWN_BOTH);
    machine.send(port, Operation::Reset, 0, &[]);
    assert!(machine.packet().is_none());
    machine.send(port, Operation::Data, 0, b"x");
    machine.expect(Operation::Reset);
}

#[test]
fn data_of_a_guest_that_has_closed_still_arrives() {
    let mut machine = Machine::new();
    let (mut client, port) = machine.connected();
    let block = [7; 0x4000];
    // More than the socket holds, within the credit.
    let mut sent = 0;
    while machine.driver.used(0).is_none() && sent < 64 {
        machine.send(port, Operation::Data, 0, &block);
        sent += 1;
        if sent >= 16 {
            break;
        }
    }
    machine.send(port, Operation::Shutdown, SHUTDOWN_BOTH, &[]);
    let mut total = 0;
    loop {
        let bytes = read(&mut client);
        machine.driver.run();
        if bytes.ends_with(b"<end>") {
            total += bytes.len() - 5;
            break;
        }
        assert!(!bytes.is_empty());
        total += bytes.len();
    }
    assert_eq!(total, sent * block.len());
}

#[test]
fn the_guest_s_credit_is_kept_to() {
    let mut machine = Machine::new();
    let (mut client, port) = machine.connected();
    // The guest has room for 1000 bytes.
    let mut header = Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: PORT,
        dst_port: port,
        kind: STREAM,
        operation: Operation::CreditUpdate as u16,
        buffer: 1000,
        ..Header::default()
    };
    machine.send_raw(&header, &[]);
    client.write_all(&[1; 3000]).unwrap();
    assert_eq!(machine.expect(Operation::Data).1.len(), 1000);
    machine.expect(Operation::CreditRequest);
    assert!(machine.packet().is_none());
    header.forwarded = 600;
    machine.send_raw(&header, &[]);
    assert_eq!(machine.expect(Operation::Data).1.len(), 600);
    machine.expect(Operation::CreditRequest);
    // Nonsense gives none.
    header.forwarded = 5000;
    machine.send_raw(&header, &[]);
    assert!(machine.packet().is_none_or(|packet| packet.1.is_empty()));
}

#[test]
fn a_guest_that_overruns_its_credit_is_reset() {
    let mut machine = Machine::new();
    let (_client, port) = machine.connected();
    for _ in 0..64 {
        machine.send(port, Operation::Data, 0, &[0; 0x8000]);
    }
    let mut reset = false;
    while let Some((header, _)) = machine.packet() {
        reset |= header.operation == Operation::Reset as u16;
    }
    assert!(reset);
}

#[test]
fn a_stream_of_any_size_passes_both_ways() {
    let mut machine = Machine::new();
    let (mut client, port) = machine.connected();
    let pattern: Vec<u8> = (0..500_000_u32).map(|index| (index * 7 / 8) as u8).collect();
    let (mut written, mut echoed) = (0, Vec::new());
    let mut waiting: Vec<u8> = Vec::new();
    let mut forwarded = 0_u32;
    let mut sent = 0_u32;
    while echoed.len() < pattern.len() {
        written += client.write(&pattern[written..]).unwrap_or(0);
        while let Some((header, data)) = machine.packet() {
            forwarded = header.forwarded;
            assert_ne!(header.operation, Operation::Reset as u16);
            waiting.extend(data);
        }
        let room = (header_buffer() - (sent - forwarded)) as usize;
        let count = waiting.len().min(room).min(0x8000);
        let chunk: Vec<u8> = waiting.drain(..count).collect();
        machine.send(port, Operation::Data, 0, &chunk);
        sent += chunk.len() as u32;
        echoed.extend(read(&mut client));
    }
    assert!(echoed == pattern);
}

fn header_buffer() -> u32 {
    connection::BUFFER
}

#[test]
fn strangers_and_nonsense_are_reset_or_ignored() {
    let mut machine = Machine::new();
    let header = Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: 1,
        dst_port: 2,
        kind: STREAM,
        operation: Operation::Data as u16,
        ..Header::default()
    };
    machine.send_raw(&header, &[]);
    machine.expect(Operation::Reset);
    machine.send_raw(&Header { kind: 9, ..header }, &[]);
    machine.expect(Operation::Reset);
    for ignored in [
        Header { src_cid: 7, ..header },
        Header { operation: Operation::Reset as u16, ..header },
        Header { length: u32::MAX, ..header },
    ] {
        machine.send_raw(&ignored, &[]);
        assert!(machine.packet().is_none(), "{ignored:?}");
    }
}

#[test]
fn the_number_of_streams_is_bounded() {
    let mut machine = Machine::new();
    let mut clients = Vec::new();
    for _ in 0..muxer::MAX_STREAMS {
        clients.push(machine.client("CONNECT"));
        machine.driver.run();
    }
    let mut refused = machine.client("");
    machine.driver.run();
    assert_eq!(refused.read(&mut [0]).unwrap(), 0);
    clients.pop();
    machine.driver.run();
    let mut accepted = machine.client("CONNECT 1024");
    machine.driver.run();
    assert_eq!(accepted.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_reset_closes_everything() {
    let mut machine = Machine::new();
    let (mut client, _) = machine.connected();
    machine.driver.write(0x70, 0);
    machine.driver.run();
    assert_eq!(read(&mut client), b"<end>");
}

//! The guest's half of `tests/virtio_vsock.rs`: a program for its initrd.
//!
//! It echoes on port 5000 and takes without answering on port 5001. Meanwhile it sends to an echo on
//! the host's port 6000, and looks what becomes of a port where nobody listens. A connection to port
//! 5999 ends it when its own calls are done.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockListener, VsockStream};

const CONNECTIONS: u8 = 3;
const LENGTH: usize = 3 << 20;

fn main() {
    serve(5000, echo);
    serve(5001, |mut stream| {
        stream.write_all(b"all I say").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut taken = Vec::new();
        stream.read_to_end(&mut taken).unwrap();
        println!("TAKEN {}", taken.len());
    });
    let end = listener(5999);
    let calls = thread::spawn(|| {
        let clients: Vec<_> =
            (0..CONNECTIONS).map(|seed| thread::spawn(move || call(seed))).collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        println!("ECHOED BY THE HOST");
        let refused = VsockStream::connect_with_cid_port(VMADDR_CID_HOST, 6001).unwrap_err();
        println!("NOBODY THERE: {:?}", refused.kind());
    });
    end.accept().unwrap();
    calls.join().unwrap();
}

fn listener(port: u32) -> VsockListener {
    VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port).unwrap()
}

/// Serves each connection to `port` on a thread.
fn serve(port: u32, serve: fn(VsockStream)) {
    let listener = listener(port);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || serve(stream));
        }
    });
}

/// Until the host has said all; one that goes away in the middle ends it as well.
fn echo(mut stream: VsockStream) {
    let mut block = vec![0; 64 << 10];
    while let Ok(count @ 1..) = stream.read(&mut block) {
        if stream.write_all(&block[..count]).is_err() {
            return;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

/// Sends to the host's echo and compares what comes back.
fn call(seed: u8) {
    let mut stream = VsockStream::connect_with_cid_port(VMADDR_CID_HOST, 6000).unwrap();
    let data: Vec<u8> = (0..LENGTH).map(|index| (index / 7) as u8 ^ seed).collect();
    let mut writer = stream.try_clone().unwrap();
    let sent = data.clone();
    let sender = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    sender.join().unwrap();
    assert!(received == data, "connection {seed}: {} bytes came back", received.len());
}

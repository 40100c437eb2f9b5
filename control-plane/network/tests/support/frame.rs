//! Ethernet frames by hand.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What a tap with `IFF_VNET_HDR` puts before a frame.
const HEADER: usize = 10;

pub fn write(mut tap: &File, frame: &[u8]) {
    let mut bytes = vec![0; HEADER];
    bytes.extend(frame);
    tap.write_all(&bytes).unwrap();
}

/// The next frame, if one comes in time.
pub fn read(mut tap: &File, limit: Duration) -> Option<Vec<u8>> {
    let end = Instant::now() + limit;
    let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).unwrap();
    if poll(&mut [PollFd::new(tap, PollFlags::IN)], Some(&left)).unwrap() == 0 {
        return None;
    }
    let mut buffer = vec![0; 4096];
    let length = tap.read(&mut buffer).unwrap();
    Some(buffer[HEADER..length].to_vec())
}

pub fn parse_mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// A datagram that says one word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Udp {
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub ports: (u16, u16),
    pub word: String,
}

#[derive(Debug, Clone)]
pub struct Frame {
    pub destination: [u8; 6],
    pub source: [u8; 6],
    pub udp: Udp,
}

impl Frame {
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.destination, self.source].concat();
        bytes.extend([0x08, 0x00]);
        bytes.extend(self.udp.packet());
        bytes
    }
}

impl Udp {
    fn packet(&self) -> Vec<u8> {
        let data = self.word.as_bytes();
        let udp_length = u16::try_from(8 + data.len()).unwrap();
        let mut ip = vec![0x45, 0];
        ip.extend((20 + udp_length).to_be_bytes());
        ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        ip.extend(self.from.octets());
        ip.extend(self.to.octets());
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        ip.extend(self.ports.0.to_be_bytes());
        ip.extend(self.ports.1.to_be_bytes());
        ip.extend(udp_length.to_be_bytes());
        // No checksum, as IPv4 allows.
        ip.extend([0, 0]);
        ip.extend(data);
        ip
    }

    /// The datagram in a frame, if it is one.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = frame.strip_prefix(frame.get(..12)?)?.strip_prefix(&[0x08, 0x00])?;
        if packet.first()? != &0x45 || packet.get(9)? != &17 {
            return None;
        }
        let address = |at: usize| {
            let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
            Some(Ipv4Addr::from(bytes))
        };
        let number = |at: usize| {
            let bytes: [u8; 2] = packet.get(at..at + 2)?.try_into().ok()?;
            Some(u16::from_be_bytes(bytes))
        };
        let end = 20 + usize::from(number(24)?);
        Some(Self {
            from: address(12)?,
            to: address(16)?,
            ports: (number(20)?, number(22)?),
            word: String::from_utf8_lossy(packet.get(28..end)?).into_owned(),
        })
    }
}

fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// An ARP packet: `operation` 1 asks, 2 answers.
pub fn arp(
    operation: u8,
    sender: ([u8; 6], Ipv4Addr),
    target: ([u8; 6], Ipv4Addr),
    to: [u8; 6],
) -> Vec<u8> {
    let mut bytes = [to, sender.0].concat();
    bytes.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation]);
    bytes.extend(sender.0);
    bytes.extend(sender.1.octets());
    bytes.extend(target.0);
    bytes.extend(target.1.octets());
    bytes
}

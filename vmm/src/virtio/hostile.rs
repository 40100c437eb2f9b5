//! A driver that does whatever a string of bytes says: shared by the property tests and the fuzz
//! targets of `vmm/fuzz`.
//!
//! Whatever happened, three things must hold at the end: the monitor is still there, the event
//! loop came to rest, and after a reset the device serves a well-behaved driver.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::tempfile::TempFile;

use crate::bus::{BusDevice, lock};
use crate::virtio::VirtioDevice;
use crate::virtio::block::{Block, DiskId};
use crate::virtio::entropy::Entropy;
use crate::virtio::net::{MacAddress, Net};
use crate::virtio::testing::{DATA, Driver, SocketLink, WRITE};
use crate::virtio::vsock::{GuestCid, Vsock};

/// The device to be driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// [`Entropy`].
    Entropy,
    /// A writable [`Block`] of two ranges with a gap.
    Block,
    /// [`Net`] on a socket.
    Net,
    /// [`Vsock`] with a client.
    Vsock,
}

/// Bytes, used up from the front; zero when there are none left.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn word(&mut self) -> u32 {
        let mut word = [0; 4];
        for (to, from) in word.iter_mut().zip(self.bytes(4)) {
            *to = *from;
        }
        u32::from_le_bytes(word)
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        front
    }

    /// An address that is often a good one.
    fn address(&mut self) -> u64 {
        let word = u64::from(self.word());
        match word & 7 {
            0 => word << 32 | word,
            1 => u64::MAX - (word >> 8),
            2 => word,
            _ => DATA + (word >> 3 & 0x3_ffff),
        }
    }

    /// A length that is often a small one.
    fn length(&mut self) -> u32 {
        let word = self.word();
        match word & 3 {
            0 => word,
            1 => word >> 3 & 0x3f,
            _ => word >> 3 & 0x3fff,
        }
    }
}

/// The host's ends of what a device is connected to.
struct Host {
    frames: Option<UnixDatagram>,
    listener: Option<SocketAddr>,
    clients: Vec<UnixStream>,
}

/// Drives a new `target` by `script`.
///
/// # Panics
/// When what must hold does not, or the host has no sockets or files for the test.
pub fn drive(target: Target, script: &[u8]) {
    let mut host = Host { frames: None, listener: None, clients: Vec::new() };
    let device = device(target, &mut host);
    let mut driver = Driver::new(device.clone());
    let mut script = Script(script);
    // A script that starts with an even byte skips what every driver does first.
    if script.byte() % 2 == 0 {
        let features = u64::from(script.word()) | u64::from(script.byte()) << 32;
        driver.start(features);
    }
    while !script.0.is_empty() {
        step(&mut driver, &mut host, &mut script);
    }
    driver.run();
    assert!(driver.is_idle(), "the device does not come to rest");
    let _ = lock(&device).metrics();
    recover(target, &mut driver);
}

fn step(driver: &mut Driver, host: &mut Host, script: &mut Script<'_>) {
    let queues = driver.queues();
    match script.byte() % 10 {
        0 => driver.write(u64::from(script.byte()), script.word()),
        1 => {
            let offset = u64::from(script.byte()) | u64::from(script.byte() & 0xf) << 8;
            let mut data = [0; 8];
            let width = 1 << (script.byte() & 3);
            driver.transport.read(offset, &mut data[..width]);
        }
        2 => {
            let offset = u64::from(script.byte()) | u64::from(script.byte() & 0xf) << 8;
            let width = 1 << (script.byte() & 3);
            let data = script.bytes(width);
            driver.transport.write(offset, data);
        }
        3 => {
            let length = usize::from(script.byte());
            let address = GuestAddress(script.address());
            // Outside of memory there is nothing to write.
            let _ = driver.memory.write_slice(script.bytes(length), address);
        }
        4 => {
            // Into the rings themselves.
            let queue = usize::from(script.byte()) % queues;
            let offset = u64::from(script.word() & 0x3fff);
            let length = usize::from(script.byte() & 31);
            let address = GuestAddress(driver.ring(queue) + offset);
            let _ = driver.memory.write_slice(script.bytes(length), address);
        }
        5 | 6 => {
            let queue = usize::from(script.byte()) % queues;
            let count = usize::from(script.byte() & 7) + 1;
            let chain: Vec<_> = (0..count)
                .map(|_| (script.address(), script.length(), u16::from(script.byte()) & 7))
                .collect();
            driver.offer(queue, &chain);
            driver.notify(queue as u32);
        }
        7 => {
            // A request that is nearly right: a header of the script's and room behind it.
            let queue = usize::from(script.byte()) % queues;
            let header = script.bytes(44);
            driver.put(DATA, header);
            let length = script.length() & 0xffff;
            let data = (DATA + 0x1000, length, u16::from(script.byte()) & WRITE);
            let chain = [(DATA, header.len() as u32, 0), data, (DATA + 0x2_0000, 1, WRITE)];
            driver.offer(queue, &chain[..1 + usize::from(script.byte()) % 3]);
            driver.notify(queue as u32);
        }
        8 => host.act(script),
        _ => driver.run(),
    }
}

impl Host {
    fn act(&mut self, script: &mut Script<'_>) {
        let length = script.length() as usize & 0x3fff;
        // Full, or refused: what matters is the device.
        if let Some(frames) = &self.frames {
            let _ = frames.send(&vec![0x5a; length]);
        }
        if let Some(address) = &self.listener {
            use std::io::Write;
            match script.byte() % 4 {
                0 if self.clients.len() < 16 => {
                    if let Ok(mut client) = UnixStream::connect_addr(address) {
                        let _ = client.set_nonblocking(true);
                        let _ = client.write_all(b"CONNECT 1024\n");
                        self.clients.push(client);
                    }
                }
                1 => drop(self.clients.pop()),
                _ => {
                    if let Some(client) = self.clients.last_mut() {
                        let _ = client.write(&vec![0x5a; length]);
                    }
                }
            }
        }
    }
}

/// A reset, and then a driver that knows its business.
fn recover(target: Target, driver: &mut Driver) {
    driver.write(0x70, 0);
    driver.run();
    assert_eq!(driver.read(0x70), 0, "the device is not reset");
    driver.forget();
    driver.start(u64::MAX);
    match target {
        Target::Entropy => assert_eq!(driver.request(0, &[(DATA, 100, WRITE)]), 100),
        Target::Block => {
            driver.put(DATA, &[0; 16]);
            let chain = [(DATA, 16, 0), (DATA + 512, 512, WRITE), (DATA + 1024, 1, WRITE)];
            assert_eq!(driver.request(0, &chain), 513);
            assert_eq!(driver.get(DATA + 1024, 1), [0]);
        }
        Target::Net => {
            driver.put(DATA, &[0; 100]);
            assert_eq!(driver.request(1, &[(DATA, 100, 0)]), 0);
        }
        Target::Vsock => {
            // A packet for nobody is answered with a reset.
            let mut header = [0; 44];
            (header[0], header[8], header[28], header[30]) = (3, 2, 1, 5);
            driver.put(DATA, &header);
            driver.offer(0, &[(DATA + 0x1000, 4096, WRITE)]);
            driver.request(1, &[(DATA, 44, 0)]);
            assert_eq!(driver.used(0).map(|used| used.1), Some(44));
        }
    }
}

fn device(target: Target, host: &mut Host) -> Arc<Mutex<dyn VirtioDevice>> {
    static SOCKETS: AtomicU32 = AtomicU32::new(0);
    match target {
        Target::Entropy => Arc::new(Mutex::new(Entropy::new())),
        Target::Block => {
            let id = DiskId::try_from("disk").expect("a legal id");
            let disk = Block::new(id, Some(1 << 30), false);
            for offset in [0, 8192] {
                let file = TempFile::new().expect("a temporary file").into_file();
                file.set_len(4096).expect("room for a sparse file");
                disk.backing().add_range(offset, None, file).expect("a legal range");
            }
            Arc::new(Mutex::new(disk))
        }
        Target::Net => {
            let (link, frames) = SocketLink::pair();
            host.frames = Some(frames);
            let mac = MacAddress::try_from("02:00:00:00:00:01").expect("a legal address");
            Arc::new(Mutex::new(Net::new(link, mac, Some(1500))))
        }
        Target::Vsock => {
            let number = SOCKETS.fetch_add(1, Ordering::Relaxed);
            let name = format!("bulkhead-hostile-{}-{number}", std::process::id());
            let address = SocketAddr::from_abstract_name(name).expect("a legal name");
            let listener = UnixListener::bind_addr(&address).expect("a free name");
            host.listener = Some(address);
            let cid = GuestCid::try_from(3).expect("a guest's id");
            let nowhere = PathBuf::from("/nonexistent/vsock");
            let device = Vsock::new(cid, listener, Some(nowhere)).expect("a listener");
            Arc::new(Mutex::new(device))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn entropy_survives(script in vec(any::<u8>(), 0..600)) {
            drive(Target::Entropy, &script);
        }

        #[test]
        fn block_survives(script in vec(any::<u8>(), 0..600)) {
            drive(Target::Block, &script);
        }

        #[test]
        fn net_survives(script in vec(any::<u8>(), 0..600)) {
            drive(Target::Net, &script);
        }

        #[test]
        fn vsock_survives(script in vec(any::<u8>(), 0..600)) {
            drive(Target::Vsock, &script);
        }
    }
}

//! A driver for tests: it sets a device up through its registers, and offers chains.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};

use crate::bus::BusDevice;
use crate::event_loop::EventLoop;
use crate::memory::GuestMemory;
use crate::virtio::interrupt::Interrupt;
use crate::virtio::mmio::MmioTransport;
use crate::virtio::net::{Link, Offloads};
use crate::virtio::{VirtioDevice, feature};

/// Bytes of memory of a test machine.
pub(crate) const MEMORY: usize = 8 << 20;
/// Descriptors of each queue.
pub(crate) const SIZE: u16 = 16;
/// Where buffers may lie: below are the rings.
pub(crate) const DATA: u64 = 0x10_0000;
const QUEUE_BYTES: u64 = 0x4000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;

/// `VIRTQ_DESC_F_*`.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// A machine with one device.
pub(crate) struct Driver {
    pub(crate) memory: GuestMemory,
    pub(crate) transport: MmioTransport,
    event_loop: EventLoop,
    queues: Vec<Ring>,
}

#[derive(Default, Clone)]
struct Ring {
    next_descriptor: u16,
    available: u16,
    used: u16,
}

impl Driver {
    /// A machine whose driver has not touched the device yet.
    pub(crate) fn new(device: Arc<Mutex<dyn VirtioDevice>>) -> Self {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let interrupt = Interrupt::new().unwrap();
        let (transport, worker) = MmioTransport::new(device, memory.clone(), interrupt).unwrap();
        let mut event_loop = EventLoop::new().unwrap();
        event_loop.add(Box::new(worker)).unwrap();
        let queues = vec![Ring::default(); transport.queue_events().len()];
        Self { memory, transport, event_loop, queues }
    }

    /// A machine whose driver has taken all offered features that are in `features`, and runs.
    pub(crate) fn started(device: Arc<Mutex<dyn VirtioDevice>>, features: u64) -> Self {
        let mut driver = Self::new(device);
        driver.start(features);
        driver
    }

    pub(crate) fn start(&mut self, features: u64) {
        self.write(0x70, 1);
        self.write(0x70, 3);
        let features = self.offered() & features | feature::VERSION_1;
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write(0x24, select);
            self.write(0x20, half);
        }
        self.write(0x70, 11);
        assert_eq!(self.read(0x70), 11, "the features were refused");
        for index in 0..self.queues.len() as u32 {
            self.set_up_queue(index);
        }
        self.write(0x70, 15);
        self.run();
    }

    pub(crate) fn set_up_queue(&mut self, index: u32) {
        let base = self.ring(index as usize) as u32;
        self.write(0x30, index);
        self.write(0x38, u32::from(SIZE));
        for (register, address) in
            [(0x80, base), (0x90, base + AVAILABLE as u32), (0xa0, base + USED as u32)]
        {
            self.write(register, address);
            self.write(register + 4, 0);
        }
        self.write(0x44, 1);
    }

    pub(crate) fn offered(&mut self) -> u64 {
        self.write(0x14, 0);
        let low = self.read(0x10);
        self.write(0x14, 1);
        u64::from(self.read(0x10)) << 32 | u64::from(low)
    }

    pub(crate) fn read(&mut self, register: u64) -> u32 {
        let mut word = [0; 4];
        self.transport.read(register, &mut word);
        u32::from_le_bytes(word)
    }

    pub(crate) fn write(&mut self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    pub(crate) fn queues(&self) -> usize {
        self.queues.len()
    }

    /// Forgets what was offered, as a driver does that starts anew, and clears the rings.
    pub(crate) fn forget(&mut self) {
        for index in 0..self.queues.len() {
            self.put(self.ring(index), &[0; QUEUE_BYTES as usize]);
        }
        self.queues.fill(Ring::default());
    }

    /// Whether the device has nothing to do.
    pub(crate) fn is_idle(&mut self) -> bool {
        (0..10_000).any(|_| {
            let mut poll =
                libc::pollfd { fd: self.event_loop.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: `poll` is one valid pollfd.
            let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
            self.event_loop.run_once(0).unwrap();
            ready == 0
        })
    }

    /// Where queue `index` lies: descriptors, then the rings.
    pub(crate) fn ring(&self, index: usize) -> u64 {
        0x1_0000 + index as u64 * QUEUE_BYTES
    }

    pub(crate) fn descriptor(&self, queue: usize, slot: u16, fields: (u64, u32, u16, u16)) {
        let address = GuestAddress(self.ring(queue) + u64::from(slot) * 16);
        self.memory.write_slice(&descriptor_bytes(fields), address).unwrap();
    }

    /// Makes a chain of (address, length, flags) available. Returns its head.
    pub(crate) fn offer(&mut self, queue: usize, buffers: &[(u64, u32, u16)]) -> u16 {
        let head = self.queues[queue].next_descriptor;
        for (index, (address, length, flags)) in buffers.iter().enumerate() {
            let slot = self.queues[queue].next_descriptor;
            let next = (slot + 1) % SIZE;
            let more = if index + 1 < buffers.len() { NEXT } else { 0 };
            self.descriptor(queue, slot, (*address, *length, flags | more, next));
            self.queues[queue].next_descriptor = next;
        }
        self.offer_head(queue, head);
        head
    }

    pub(crate) fn offer_head(&mut self, queue: usize, head: u16) {
        let base = self.ring(queue) + AVAILABLE;
        let ring = &mut self.queues[queue];
        let slot = u64::from(ring.available % SIZE);
        ring.available = ring.available.wrapping_add(1);
        self.memory.write_obj(head, GuestAddress(base + 4 + 2 * slot)).unwrap();
        self.memory.write_obj(ring.available, GuestAddress(base + 2)).unwrap();
    }

    pub(crate) fn set_available_index(&mut self, queue: usize, index: u16) {
        let address = GuestAddress(self.ring(queue) + AVAILABLE + 2);
        self.memory.write_obj(index, address).unwrap();
    }

    /// Sets `avail.flags` and `used_event`.
    pub(crate) fn set_suppression(&mut self, queue: usize, flags: u16, event: u16) {
        let base = self.ring(queue) + AVAILABLE;
        self.memory.write_obj(flags, GuestAddress(base)).unwrap();
        self.memory.write_obj(event, GuestAddress(base + 4 + 2 * u64::from(SIZE))).unwrap();
    }

    /// Notifies queue `index` and lets the device work.
    pub(crate) fn notify(&mut self, index: u32) {
        self.write(0x50, index);
        self.run();
    }

    /// Lets the device work until it has nothing to do.
    pub(crate) fn run(&mut self) {
        for _ in 0..64 {
            self.event_loop.run_once(0).unwrap();
        }
    }

    /// The next used element, as (head, length).
    pub(crate) fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let base = self.ring(queue) + USED;
        let index: u16 = self.memory.read_obj(GuestAddress(base + 2)).unwrap();
        let ring = &mut self.queues[queue];
        if index == ring.used {
            return None;
        }
        let slot = u64::from(ring.used % SIZE);
        ring.used = ring.used.wrapping_add(1);
        let element: u64 = self.memory.read_obj(GuestAddress(base + 4 + 8 * slot)).unwrap();
        Some((element as u16, (element >> 32) as u32))
    }

    /// Offers a chain, notifies, and expects it back. Returns its used length.
    pub(crate) fn request(&mut self, queue: usize, buffers: &[(u64, u32, u16)]) -> u32 {
        let head = self.offer(queue, buffers);
        self.notify(queue as u32);
        let (used, length) = self.used(queue).expect("the chain was not served");
        assert_eq!(used, head);
        length
    }

    /// Whether an interrupt came since the last call.
    pub(crate) fn interrupted(&mut self) -> bool {
        self.transport.interrupt().line().read().is_ok()
    }

    pub(crate) fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub(crate) fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }
}

/// A link for tests: datagrams for frames.
pub(crate) struct SocketLink(UnixDatagram);

impl SocketLink {
    /// A link and its other end.
    pub(crate) fn pair() -> (Self, UnixDatagram) {
        let (link, other) = UnixDatagram::pair().unwrap();
        link.set_nonblocking(true).unwrap();
        other.set_nonblocking(true).unwrap();
        (Self(link), other)
    }
}

impl AsFd for SocketLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Link for SocketLink {
    fn supported(&self) -> Offloads {
        Offloads::ALL
    }

    fn set_offloads(&self, _offloads: Offloads) -> io::Result<()> {
        Ok(())
    }
}

/// A descriptor's bytes from (address, length, flags, next).
pub(crate) fn descriptor_bytes((address, length, flags, next): (u64, u32, u16, u16)) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}

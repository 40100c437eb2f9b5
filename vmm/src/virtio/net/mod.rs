//! The network device (§5.1) on a tap: one pair of queues, and the tap's offloads.
//!
//! The header before each frame is the tap's own (`IFF_VNET_HDR`), so the kernel reads and writes
//! frame and header together, straight in guest memory, and checks what the guest wrote in it.
//! When the driver has no buffers left, the tap is no longer polled and the host's queue fills.
//! Whether the guest may use the addresses in its frames is decided behind the tap, on the host.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;

pub use self::tap::{HEADER, Link, Offloads, Tap, TapError};

use self::receive::{MAX_FRAME, Received, Receiver};
use crate::event_loop::{EventSet, Sources};
use crate::virtio::queue::{QueueError, VirtQueue};
use crate::virtio::worker::DEVICE_TOKENS;
use crate::virtio::{
    ActivateError, Activation, DeviceType, Metric, Progress, VirtioDevice, feature,
    read_config_space,
};

mod receive;
mod tap;
#[cfg(test)]
mod tests;

const QUEUE_SIZE: u16 = 256;
const RX: usize = 0;
/// Frames moved in one direction for one event.
const BUDGET: usize = 64;
const LINK: u32 = DEVICE_TOKENS;

const F_CSUM: u64 = 1 << 0;
const F_GUEST_CSUM: u64 = 1 << 1;
const F_MTU: u64 = 1 << 3;
const F_MAC: u64 = 1 << 5;
const F_GUEST_TSO4: u64 = 1 << 7;
const F_GUEST_TSO6: u64 = 1 << 8;
const F_GUEST_ECN: u64 = 1 << 9;
const F_HOST_TSO4: u64 = 1 << 11;
const F_HOST_TSO6: u64 = 1 << 12;
const F_HOST_ECN: u64 = 1 << 13;
const F_MRG_RXBUF: u64 = 1 << 15;

/// The guest's features that need an offload of the tap.
const OFFLOADS: [(u64, Offloads); 4] = [
    (F_GUEST_CSUM, Offloads::CSUM),
    (F_GUEST_TSO4, Offloads::TSO4),
    (F_GUEST_TSO6, Offloads::TSO6),
    (F_GUEST_ECN, Offloads::TSO_ECN),
];

/// A unicast Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacAddress([u8; 6]);

/// A string that is no unicast Ethernet address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("MAC address {0:?}: it must be a unicast address like 02:00:00:00:00:01")]
pub struct InvalidMacAddress(pub String);

impl TryFrom<&str> for MacAddress {
    type Error = InvalidMacAddress;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        let invalid = || InvalidMacAddress(text.to_owned());
        let mut parts = text.split(':');
        let mut bytes = [0; 6];
        for byte in &mut bytes {
            let digits = parts.next().filter(|part| part.len() == 2).ok_or_else(invalid)?;
            if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(invalid());
            }
            *byte = u8::from_str_radix(digits, 16).map_err(|_| invalid())?;
        }
        let [first, ..] = bytes;
        if parts.next().is_some() || first & 1 != 0 || bytes == [0; 6] {
            return Err(invalid());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

#[derive(Debug, Default)]
struct Counters {
    rx_frames: u64,
    rx_bytes: u64,
    rx_dropped: u64,
    tx_frames: u64,
    tx_bytes: u64,
    tx_dropped: u64,
    malformed: u64,
}

struct Active {
    receiver: Receiver,
    transmit: VirtQueue,
    /// The driver is out of receive buffers, and will notify when it has some.
    starved: bool,
    /// The link takes no frames for now.
    congested: bool,
    /// The link is broken: watching it would report that without end.
    failed: bool,
}

/// The device.
pub struct Net<L = Tap> {
    link: L,
    mac: MacAddress,
    mtu: Option<u16>,
    active: Option<Active>,
    /// What the link is watched for at present.
    watched: Option<EventSet>,
    counters: Counters,
}

impl<L: Link> Net<L> {
    /// A device on `link`, with the guest's address and, if the guest is to be told, the largest IP
    /// packet in bytes.
    #[must_use]
    pub fn new(link: L, mac: MacAddress, mtu: Option<u16>) -> Self {
        Self { link, mac, mtu, active: None, watched: None, counters: Counters::default() }
    }

    /// Moves frames from the link to the driver.
    fn receive(&mut self) -> Result<Progress, QueueError> {
        let Some(active) = self.active.as_mut().filter(|active| !active.failed) else {
            return Ok(Progress::Done);
        };
        let result = receive_frames(active, &self.link, &mut self.counters);
        active.receiver.queue.signal()?;
        result
    }

    /// Moves frames from the driver to the link.
    fn transmit(&mut self) -> Result<Progress, QueueError> {
        let Some(active) = &mut self.active else { return Ok(Progress::Done) };
        active.congested = false;
        let (link, counters, congested) = (&self.link, &mut self.counters, &mut active.congested);
        active.transmit.serve(BUDGET, |chain| {
            let length = chain.readable.len();
            if !(HEADER..=MAX_FRAME).contains(&length) {
                counters.tx_dropped += 1;
                return Some(0);
            }
            match link.send(&mut chain.readable, length) {
                Ok(_) => {
                    counters.tx_frames += 1;
                    counters.tx_bytes += (length - HEADER) as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    *congested = true;
                    return None;
                }
                Err(_) => counters.tx_dropped += 1,
            }
            Some(0)
        })
    }

    /// Watches the link for what the device waits for.
    fn watch(&mut self, sources: &mut Sources<'_>) {
        let working = self.active.as_ref().filter(|active| !active.failed);
        let wanted = working.map(|active| {
            let mut wanted = EventSet::empty();
            wanted.set(EventSet::IN, !active.starved);
            wanted.set(EventSet::OUT, active.congested);
            wanted
        });
        let wanted = wanted.filter(|events| !events.is_empty());
        let link = self.link.as_fd().as_raw_fd();
        let result = match (self.watched, wanted) {
            (old, new) if old == new => return,
            (None, Some(events)) => sources.add(link, LINK, events),
            (Some(_), Some(events)) => sources.modify(link, LINK, events),
            (_, None) => sources.remove(link),
        };
        match result {
            Ok(()) => self.watched = wanted,
            // Frames wait on the host until the driver's next notification tries again.
            Err(error) => eprintln!("bulkhead-vmm: cannot watch the tap of {}: {error}", self.mac),
        }
    }
}

fn receive_frames(
    active: &mut Active,
    link: &impl Link,
    counters: &mut Counters,
) -> Result<Progress, QueueError> {
    active.starved = false;
    for _ in 0..BUDGET {
        match active.receiver.receive(link.as_fd())? {
            Received::Frame(length) => {
                counters.rx_frames += 1;
                counters.rx_bytes += (length - HEADER) as u64;
            }
            Received::Dropped => counters.rx_dropped += 1,
            Received::Nothing => return Ok(Progress::Done),
            Received::Failed(error) => {
                eprintln!("bulkhead-vmm: the tap is gone, the guest hears no more of it: {error}");
                active.failed = true;
                return Ok(Progress::Done);
            }
            Received::NoBuffers => {
                if !active.receiver.queue.enable_notification()? {
                    active.starved = true;
                    return Ok(Progress::Done);
                }
                active.receiver.queue.disable_notification()?;
            }
        }
    }
    Ok(Progress::More)
}

impl<L: Link> VirtioDevice for Net<L> {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn features(&self) -> u64 {
        let supported = self.link.supported();
        let mut features = feature::INDIRECT_DESC | feature::EVENT_IDX | F_MAC | F_MRG_RXBUF;
        // What the guest leaves to the host, the host's kernel can always do.
        features |= F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN;
        for (bit, offload) in OFFLOADS {
            if supported.contains(offload) {
                features |= bit;
            }
        }
        features | self.mtu.map_or(0, |_| F_MTU)
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // `struct virtio_net_config`, §5.1.4.
        let mut space = [0; 12];
        space[..6].copy_from_slice(&self.mac.0);
        space[10..].copy_from_slice(&self.mtu.unwrap_or_default().to_le_bytes());
        read_config_space(&space, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queues = <[VirtQueue; 2]>::try_from(activation.queues);
        let [receive, transmit] = queues.map_err(|queues| ActivateError::Queues(queues.len()))?;
        let negotiated = |bit| activation.features & bit != 0;
        let mut offloads = 0;
        for (bit, offload) in OFFLOADS {
            // Segmentation needs checksums (§5.1.3.1); a driver may still forget to ask for them.
            if negotiated(bit) && negotiated(F_GUEST_CSUM) {
                offloads |= offload.0;
            }
        }
        self.link
            .set_offloads(Offloads(offloads))
            .map_err(|error| ActivateError::Host { action: "set the tap's offloads", error })?;
        self.active = Some(Active {
            receiver: Receiver::new(receive, negotiated(F_MRG_RXBUF)),
            transmit,
            starved: false,
            congested: false,
            failed: false,
        });
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(active) = self.active.take() {
            self.counters.malformed +=
                active.receiver.queue.malformed() + active.transmit.malformed();
        }
    }

    fn update_sources(&mut self, sources: &mut Sources<'_>) {
        self.watch(sources);
    }

    fn queue_event(
        &mut self,
        index: usize,
        sources: &mut Sources<'_>,
    ) -> Result<Progress, QueueError> {
        let progress = if index == RX { self.receive() } else { self.transmit() }?;
        self.watch(sources);
        Ok(progress)
    }

    fn source_event(
        &mut self,
        _token: u32,
        events: EventSet,
        sources: &mut Sources<'_>,
    ) -> Result<Progress, QueueError> {
        // What remains to be received is announced again: the link is watched level-triggered.
        if events.contains(EventSet::IN) {
            self.receive()?;
        }
        let progress =
            if events.contains(EventSet::OUT) { self.transmit()? } else { Progress::Done };
        self.watch(sources);
        Ok(progress)
    }

    fn halt(&mut self, sources: &mut Sources<'_>) {
        self.reset();
        self.watch(sources);
    }

    fn metrics(&self) -> Vec<Metric> {
        let counters = &self.counters;
        let malformed = self
            .active
            .as_ref()
            .map_or(0, |active| active.receiver.queue.malformed() + active.transmit.malformed());
        vec![
            ("rx_frames", counters.rx_frames),
            ("rx_bytes", counters.rx_bytes),
            ("rx_dropped", counters.rx_dropped),
            ("tx_frames", counters.tx_frames),
            ("tx_bytes", counters.tx_bytes),
            ("tx_dropped", counters.tx_dropped),
            ("errors", counters.malformed + malformed),
        ]
    }
}

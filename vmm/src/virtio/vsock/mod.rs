//! The vsock device (§5.10): stream connections between guest and host, in the hybrid form, where
//! the host's end is a unix socket ([`muxer`] tells the protocol).
//!
//! Data goes between the host's socket and the guest's memory without a copy in between, unless the
//! host is slow to read: then up to 128 KiB for each connection are held, which is the credit the
//! guest gets.

use std::fmt;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use self::muxer::Muxer;
use crate::event_loop::{EventSet, Sources};
use crate::virtio::queue::{Chain, Pop, QueueError, VirtQueue};
use crate::virtio::{
    ActivateError, Activation, DeviceType, Metric, Progress, VirtioDevice, feature,
    read_config_space,
};

mod connection;
mod muxer;
mod packet;
mod socket;
#[cfg(test)]
mod tests;

const QUEUE_SIZE: u16 = 256;
const RX: usize = 0;
const TX: usize = 1;
/// Packets moved in one direction for one event.
const BUDGET: usize = 64;

/// A context id that a guest can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestCid(u32);

/// A number that is no guest's context id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("vsock context id {0}: a guest's is 3 to 4294967294")]
pub struct InvalidCid(pub u32);

impl TryFrom<u32> for GuestCid {
    type Error = InvalidCid;

    fn try_from(cid: u32) -> Result<Self, Self::Error> {
        // 0 to 2 are the hypervisor, the loopback and the host; the last is "any".
        if (3..u32::MAX).contains(&cid) { Ok(Self(cid)) } else { Err(InvalidCid(cid)) }
    }
}

impl fmt::Display for GuestCid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

struct Active {
    receive: VirtQueue,
    transmit: VirtQueue,
    /// For events of the transport, of which there are none yet; kept so that the driver finds all
    /// its queues.
    _events: VirtQueue,
    chain: Chain,
}

/// The device.
pub struct Vsock {
    cid: GuestCid,
    muxer: Muxer,
    active: Option<Active>,
    /// Packets of the guest were left in their queue, for want of room.
    stalled: bool,
    malformed: u64,
}

impl Vsock {
    /// A device for a guest with context id `cid`. Clients of the host come to `listener`;
    /// connections of the guest to port P go to the unix socket `<guest_connections>_P`, or are
    /// reset.
    ///
    /// # Errors
    /// When `listener` cannot be made non-blocking.
    pub fn new(
        cid: GuestCid,
        listener: UnixListener,
        guest_connections: Option<PathBuf>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let muxer = Muxer::new(u64::from(cid.0), listener, guest_connections);
        Ok(Self { cid, muxer, active: None, stalled: false, malformed: 0 })
    }

    /// Takes packets from the guest, then gives it what there is.
    fn exchange(&mut self, take: bool) -> Result<Progress, QueueError> {
        let Some(active) = &mut self.active else { return Ok(Progress::Done) };
        let mut progress = Progress::Done;
        if take || self.stalled {
            let (muxer, stalled) = (&mut self.muxer, &mut self.stalled);
            *stalled = false;
            progress = active.transmit.serve(BUDGET, |chain| {
                if !muxer.has_room() {
                    *stalled = true;
                    return None;
                }
                muxer.receive(&mut chain.readable);
                Some(0)
            })?;
        }
        let result = send(active, &mut self.muxer);
        active.receive.signal()?;
        // Without another notification of the guest's: those it left count as seen.
        let resumable = self.stalled && self.muxer.has_room();
        Ok(if result? == Progress::More || resumable { Progress::More } else { progress })
    }
}

/// Gives the guest the packets that wait, as far as it has buffers.
fn send(active: &mut Active, muxer: &mut Muxer) -> Result<Progress, QueueError> {
    let Active { receive, chain, .. } = active;
    for _ in 0..BUDGET {
        if !muxer.has_packets() {
            return Ok(Progress::Done);
        }
        match receive.pop(chain)? {
            Pop::Malformed => {}
            Pop::Chain => match muxer.send(&mut chain.writable) {
                Some(length) => {
                    receive.complete(chain, length)?;
                    receive.publish()?;
                }
                None => receive.undo_pop(),
            },
            Pop::Empty => {
                if !receive.enable_notification()? {
                    return Ok(Progress::Done);
                }
                receive.disable_notification()?;
            }
        }
    }
    Ok(if muxer.has_packets() { Progress::More } else { Progress::Done })
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> DeviceType {
        DeviceType::Vsock
    }

    fn features(&self) -> u64 {
        feature::INDIRECT_DESC | feature::EVENT_IDX
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_space(&u64::from(self.cid.0).to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queues = <[VirtQueue; 3]>::try_from(activation.queues);
        let [receive, transmit, events] =
            queues.map_err(|queues| ActivateError::Queues(queues.len()))?;
        let chain = receive.new_chain();
        self.active = Some(Active { receive, transmit, _events: events, chain });
        self.muxer.start();
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(active) = self.active.take() {
            self.malformed += active.receive.malformed() + active.transmit.malformed();
        }
        self.stalled = false;
        self.muxer.stop();
    }

    fn update_sources(&mut self, sources: &mut Sources<'_>) {
        self.muxer.watch(sources);
    }

    fn queue_event(
        &mut self,
        index: usize,
        sources: &mut Sources<'_>,
    ) -> Result<Progress, QueueError> {
        let progress = match index {
            RX => self.exchange(false),
            TX => self.exchange(true),
            _ => Ok(Progress::Done),
        }?;
        self.muxer.watch(sources);
        Ok(progress)
    }

    fn source_event(
        &mut self,
        token: u32,
        events: EventSet,
        sources: &mut Sources<'_>,
    ) -> Result<Progress, QueueError> {
        self.muxer.ready(token, events, sources);
        let progress = self.exchange(false)?;
        self.muxer.watch(sources);
        Ok(progress)
    }

    fn halt(&mut self, sources: &mut Sources<'_>) {
        self.reset();
        self.muxer.watch(sources);
    }

    fn metrics(&self) -> Vec<Metric> {
        let malformed = self
            .active
            .as_ref()
            .map_or(0, |active| active.receive.malformed() + active.transmit.malformed());
        let counters = &self.muxer.counters;
        vec![
            ("open_connections", self.muxer.connections() as u64),
            ("connections", counters.connections),
            ("refused_connections", counters.refused),
            ("rx_packets", counters.rx_packets),
            ("rx_bytes", counters.rx_bytes),
            ("tx_packets", counters.tx_packets),
            ("tx_bytes", counters.tx_bytes),
            ("errors", counters.errors + self.malformed + malformed),
        ]
    }
}

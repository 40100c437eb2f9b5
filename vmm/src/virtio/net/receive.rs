//! The receiving half: frames from the link straight into the driver's buffers (§5.1.6.3,
//! §5.1.6.4).

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use crate::virtio::buffers::{MAX_SEGMENTS, PacketReader};
use crate::virtio::net::tap::HEADER;
use crate::virtio::queue::{Chain, Pop, QueueError, VirtQueue};

/// Largest frame with its header: 64 KiB of IP packet, Ethernet header and VLAN tag.
pub(super) const MAX_FRAME: usize = 65_535 + 14 + 4 + HEADER;

/// What one attempt to receive came to.
#[derive(Debug)]
pub(super) enum Received {
    /// A frame of so many bytes, header included.
    Frame(usize),
    /// A frame that was too long for the driver's buffers, or none at all; it is gone.
    Dropped,
    /// The link is broken.
    Failed(io::Error),
    /// The link has nothing.
    Nothing,
    /// The driver has no buffers.
    NoBuffers,
}

/// The receive queue and the buffers taken from it ahead of frames.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) queue: VirtQueue,
    /// Whether a frame may use several buffers (`VIRTIO_NET_F_MRG_RXBUF`).
    mergeable: bool,
    /// Taken from the queue and unused, oldest first.
    taken: VecDeque<Chain>,
    /// Bytes and segments in `taken`.
    room: usize,
    segments: usize,
    spare: Vec<Chain>,
    reader: PacketReader,
}

impl Receiver {
    pub(super) fn new(queue: VirtQueue, mergeable: bool) -> Self {
        Self {
            queue,
            mergeable,
            taken: VecDeque::new(),
            room: 0,
            segments: 0,
            spare: Vec::new(),
            reader: PacketReader::default(),
        }
    }

    /// Receives one frame from `link`.
    pub(super) fn receive(&mut self, link: BorrowedFd<'_>) -> Result<Received, QueueError> {
        if !self.gather()? {
            return Ok(Received::NoBuffers);
        }
        let lists = self.taken.iter().map(|chain| &chain.writable);
        let length = match self.reader.read(link, lists) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Received::Nothing);
            }
            Err(error) => return Ok(Received::Failed(error)),
        };
        if length < HEADER || length > self.room {
            return Ok(if length == 0 { Received::Nothing } else { Received::Dropped });
        }
        self.deliver(length)?;
        Ok(Received::Frame(length))
    }

    /// Takes buffers until any frame fits. Returns whether there are enough.
    fn gather(&mut self) -> Result<bool, QueueError> {
        while self.room < MAX_FRAME && (self.mergeable || self.taken.is_empty()) {
            let mut chain = self.spare.pop().unwrap_or_else(|| self.queue.new_chain());
            match self.queue.pop(&mut chain)? {
                Pop::Empty => {
                    self.spare.push(chain);
                    // A small ring may never have room for the largest frame, and its driver may
                    // refill it only after the next one. It gets those that fit.
                    let many = self.taken.len() > usize::from(self.queue.size() / 4);
                    return Ok(many && self.room > HEADER);
                }
                Pop::Malformed => self.spare.push(chain),
                // Too small for a header, so for any frame (§5.1.6.3.1): not kept, or no other
                // would ever be taken.
                Pop::Chain if chain.writable.len() <= HEADER => {
                    self.queue.complete(&chain, 0)?;
                    self.queue.publish()?;
                    self.spare.push(chain);
                }
                Pop::Chain => {
                    let segments = self.segments + chain.writable.segments();
                    if segments >= MAX_SEGMENTS && !self.taken.is_empty() {
                        self.queue.undo_pop();
                        self.spare.push(chain);
                        return Ok(true);
                    }
                    self.segments = segments;
                    self.room += chain.writable.len();
                    self.taken.push_back(chain);
                }
            }
        }
        Ok(self.room > HEADER)
    }

    /// Hands the buffers over that `length` bytes have filled.
    fn deliver(&mut self, length: usize) -> Result<(), QueueError> {
        let mut left = length;
        let mut buffers: u16 = 0;
        for chain in &self.taken {
            if left == 0 && buffers > 0 {
                break;
            }
            left -= left.min(chain.writable.len());
            buffers = buffers.saturating_add(1);
        }
        // The header may lie across buffers.
        for (offset, byte) in (HEADER - 2..).zip(buffers.to_le_bytes()) {
            self.write_at(offset, byte);
        }
        left = length;
        for _ in 0..buffers {
            let Some(chain) = self.taken.pop_front() else { break };
            let part = left.min(chain.writable.len());
            left -= part;
            self.room -= chain.writable.len();
            self.segments -= chain.writable.segments();
            self.queue.complete(&chain, part)?;
            self.spare.push(chain);
        }
        // All buffers of a frame become visible together: the driver takes them in one go.
        self.queue.publish()
    }

    fn write_at(&self, mut offset: usize, byte: u8) {
        for chain in &self.taken {
            if offset < chain.writable.len() {
                chain.writable.write_at(offset, &[byte]);
                return;
            }
            offset -= chain.writable.len();
        }
    }
}

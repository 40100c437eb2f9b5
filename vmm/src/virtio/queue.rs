//! Split virtqueues (§2.7) on top of the `virtio-queue` crate.
//!
//! The crate walks the available ring and the descriptor tables, and bounds both. Added here are
//! what devices share: a chain as two scatter lists with its order checked, used entries that
//! are published together, and suppression of notifications in both directions.

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestMemory;
use crate::virtio::Progress;
use crate::virtio::buffers::{Buffers, MAX_SEGMENTS};
use crate::virtio::interrupt::Interrupt;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT` (§2.7.7).
const NO_INTERRUPT: u16 = 1;
/// Bytes of the used ring before its elements.
const USED_HEADER: u64 = 4;
/// Bytes of a used ring's element.
const USED_ELEMENT: u64 = 8;

/// The driver has broken the ring itself; nothing on it can be trusted any more.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// An address or a size that no queue can have.
    #[error("virtqueue {index} is not set up: {reason}")]
    Setup {
        /// The queue.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A ring could not be accessed, or its index runs ahead by more than the queue holds.
    #[error("virtqueue is broken: {0}")]
    Ring(virtio_queue::Error),
    /// An available entry that is no descriptor.
    #[error("virtqueue offers descriptor {head}, of {size}")]
    Head {
        /// The entry.
        head: u16,
        /// Descriptors in the table.
        size: u16,
    },
}

/// A request: what the device may read, and what it may write.
#[derive(Debug)]
pub struct Chain {
    /// The driver's bytes.
    pub readable: Buffers,
    /// Room for the device's.
    pub writable: Buffers,
    head: u16,
    // Keeps what the lists point to mapped.
    memory: Arc<GuestMemory>,
}

impl Chain {
    /// An empty chain, to be filled by [`VirtQueue::pop`] of a queue in the same memory.
    fn new(memory: Arc<GuestMemory>) -> Self {
        Self { readable: Buffers::default(), writable: Buffers::default(), head: 0, memory }
    }

    /// Takes over the descriptors. Returns whether they were well-formed: at least one, all in
    /// guest memory, the readable ones first (§2.7.4.2), and an end.
    fn fill(&mut self, descriptors: DescriptorChain<&GuestMemory>) -> bool {
        self.readable.clear();
        self.writable.clear();
        self.head = descriptors.head_index();
        let mut ended = false;
        let mut writable = false;
        // The crate also ends a chain where it is malformed. Its last descriptor tells.
        for descriptor in descriptors.take(MAX_SEGMENTS + 1) {
            let list = if descriptor.is_write_only() {
                writable = true;
                &mut self.writable
            } else if writable {
                return false;
            } else {
                &mut self.readable
            };
            let length = descriptor.len() as usize;
            if list.push(&self.memory, descriptor.addr(), length).is_err() {
                return false;
            }
            ended = !descriptor.has_next();
        }
        ended
    }
}

/// What [`VirtQueue::pop`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pop {
    /// Nothing.
    Empty,
    /// A malformed chain, which has been completed.
    Malformed,
    /// A request.
    Chain,
}

/// A queue that a driver has set up.
#[derive(Debug)]
pub struct VirtQueue {
    queue: Queue,
    memory: Arc<GuestMemory>,
    interrupt: Interrupt,
    /// Used entries written so far.
    written: Wrapping<u16>,
    /// Used entries that the driver had been told of when it was last asked whether it wants to.
    signalled: Wrapping<u16>,
    malformed: u64,
    scratch: Option<Chain>,
}

impl VirtQueue {
    /// Checks what the driver has set up as queue `index`.
    ///
    /// # Errors
    /// When the size is not a power of two up to its largest, or an address is not aligned
    /// (§2.7) or not in guest memory.
    pub fn new(
        index: usize,
        state: QueueState,
        memory: Arc<GuestMemory>,
        interrupt: Interrupt,
    ) -> Result<Self, QueueError> {
        let setup = |reason: String| QueueError::Setup { index, reason };
        let queue = Queue::try_from(state).map_err(|error| setup(error.to_string()))?;
        if !queue.is_valid(&*memory) {
            return Err(setup("its rings are not in guest memory".to_owned()));
        }
        let next_used = Wrapping(queue.next_used());
        Ok(Self {
            queue,
            memory,
            interrupt,
            written: next_used,
            signalled: next_used,
            malformed: 0,
            scratch: None,
        })
    }

    /// Descriptors in the table.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Chains that were refused so far.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// The driver's interrupt.
    #[must_use]
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// An empty chain for [`VirtQueue::pop`].
    #[must_use]
    pub fn new_chain(&self) -> Chain {
        Chain::new(self.memory.clone())
    }

    /// Takes the next available chain, into `chain`.
    ///
    /// # Errors
    /// When the ring is broken.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<Pop, QueueError> {
        let descriptors = {
            let mut available = self.queue.iter(&*self.memory).map_err(QueueError::Ring)?;
            available.next()
        };
        let Some(descriptors) = descriptors else { return Ok(Pop::Empty) };
        let (head, size) = (descriptors.head_index(), self.queue.size());
        if head >= size {
            return Err(QueueError::Head { head, size });
        }
        if !Arc::ptr_eq(&chain.memory, &self.memory) {
            *chain = self.new_chain();
        }
        if chain.fill(descriptors) {
            return Ok(Pop::Chain);
        }
        self.malformed += 1;
        self.push(head, 0)?;
        self.publish()?;
        Ok(Pop::Malformed)
    }

    /// Puts the last chain taken back, to be taken again.
    pub fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Marks `chain` as used with `length` bytes written. The driver sees it after
    /// [`VirtQueue::publish`].
    ///
    /// # Errors
    /// When the ring cannot be written.
    pub fn complete(&mut self, chain: &Chain, length: usize) -> Result<(), QueueError> {
        // A chain of more than 2³² − 1 bytes is never made.
        self.push(chain.head, u32::try_from(length).unwrap_or(u32::MAX))
    }

    fn push(&mut self, head: u16, length: u32) -> Result<(), QueueError> {
        let slot = u64::from(self.written.0 % self.queue.size());
        let mut element = [0; USED_ELEMENT as usize];
        let (id, len) = element.split_at_mut(4);
        id.copy_from_slice(&u32::from(head).to_le_bytes());
        len.copy_from_slice(&length.to_le_bytes());
        let address = self.used_address(USED_HEADER + slot * USED_ELEMENT)?;
        self.memory.write_slice(&element, address).map_err(memory_error)?;
        self.written += 1;
        Ok(())
    }

    /// Shows all completed chains to the driver, at once.
    ///
    /// # Errors
    /// When the ring cannot be written.
    pub fn publish(&mut self) -> Result<(), QueueError> {
        self.queue.set_next_used(self.written.0);
        let address = self.used_address(2)?;
        self.memory.store(self.written.0.to_le(), address, Ordering::Release).map_err(memory_error)
    }

    /// Interrupts the driver, if it wants to hear of what was published since the last call
    /// (§2.7.7, §2.7.10).
    ///
    /// # Errors
    /// When the ring cannot be read.
    pub fn signal(&mut self) -> Result<(), QueueError> {
        let (old, new) = (self.signalled, self.written);
        if old == new {
            return Ok(());
        }
        self.signalled = new;
        // The driver writes its wish and then looks at the used index; here it is the other way
        // round, so one of the two sees the other's.
        fence(Ordering::SeqCst);
        let wanted = if self.queue.event_idx_enabled() {
            let event = Wrapping(self.available_u16(4 + 2 * u64::from(self.queue.size()))?);
            new - event - Wrapping(1) < new - old
        } else {
            self.available_u16(0)? & NO_INTERRUPT == 0
        };
        if wanted {
            self.interrupt.used_buffer();
        }
        Ok(())
    }

    /// Asks for notifications again. Returns whether chains have become available meanwhile.
    ///
    /// # Errors
    /// When the ring cannot be accessed.
    pub fn enable_notification(&mut self) -> Result<bool, QueueError> {
        self.queue.enable_notification(&*self.memory).map_err(QueueError::Ring)
    }

    /// Asks the driver not to notify while the queue is being worked on.
    ///
    /// # Errors
    /// When the ring cannot be written.
    pub fn disable_notification(&mut self) -> Result<(), QueueError> {
        self.queue.disable_notification(&*self.memory).map_err(QueueError::Ring)
    }

    /// Serves available chains, at most `budget` of them. `serve` returns how many bytes it has
    /// written, or `None` when it cannot serve the chain now: it stays available.
    ///
    /// # Errors
    /// When the ring is broken.
    pub fn serve(
        &mut self,
        budget: usize,
        mut serve: impl FnMut(&mut Chain) -> Option<usize>,
    ) -> Result<Progress, QueueError> {
        let mut chain = self.scratch.take().unwrap_or_else(|| self.new_chain());
        let result = self.serve_into(&mut chain, budget, &mut serve);
        self.scratch = Some(chain);
        self.signal()?;
        result
    }

    fn serve_into(
        &mut self,
        chain: &mut Chain,
        budget: usize,
        serve: &mut impl FnMut(&mut Chain) -> Option<usize>,
    ) -> Result<Progress, QueueError> {
        self.disable_notification()?;
        for _ in 0..budget {
            match self.pop(chain)? {
                Pop::Malformed => {}
                Pop::Chain => {
                    let Some(length) = serve(chain) else {
                        self.undo_pop();
                        return Ok(Progress::Done);
                    };
                    self.complete(chain, length)?;
                    self.publish()?;
                }
                Pop::Empty => {
                    if !self.enable_notification()? {
                        return Ok(Progress::Done);
                    }
                    self.disable_notification()?;
                }
            }
        }
        Ok(Progress::More)
    }

    fn available_u16(&self, offset: u64) -> Result<u16, QueueError> {
        let address = self
            .queue
            .avail_ring()
            .checked_add(offset)
            .ok_or(QueueError::Ring(virtio_queue::Error::AddressOverflow))?;
        let value = self.memory.load::<u16>(GuestAddress(address), Ordering::Relaxed);
        Ok(u16::from_le(value.map_err(memory_error)?))
    }

    fn used_address(&self, offset: u64) -> Result<GuestAddress, QueueError> {
        let address = self.queue.used_ring().checked_add(offset);
        address.map(GuestAddress).ok_or(QueueError::Ring(virtio_queue::Error::AddressOverflow))
    }
}

fn memory_error(error: vm_memory::GuestMemoryError) -> QueueError {
    QueueError::Ring(virtio_queue::Error::GuestMemory(error))
}

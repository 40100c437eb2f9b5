//! The entropy device (§5.4): buffers are filled from the host's `getrandom`.

use crate::event_loop::Sources;
use crate::virtio::buffers::Buffers;
use crate::virtio::queue::{QueueError, VirtQueue};
use crate::virtio::{
    ActivateError, Activation, DeviceType, Metric, Progress, VirtioDevice, feature,
};

const QUEUE_SIZE: u16 = 64;
/// Requests served for one event.
const BUDGET: usize = 64;
/// Bytes given for one request at most; the driver asks again for more (§5.4.6).
const MAX_BYTES: usize = 64 << 10;
/// `getrandom` of up to this many bytes is never interrupted and never short.
const BLOCK: usize = 256;

/// The device.
#[derive(Debug, Default)]
pub struct Entropy {
    queue: Option<VirtQueue>,
    bytes: u64,
    requests: u64,
    errors: u64,
}

impl Entropy {
    /// An inactive device.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// Fills the list's start with random bytes. Returns how many.
fn fill(buffers: &Buffers) -> usize {
    let wanted = buffers.len().min(MAX_BYTES);
    let mut done = 0;
    while done < wanted {
        let mut block = [0_u8; BLOCK];
        let count = (wanted - done).min(BLOCK);
        // SAFETY: `block` has room for `count` bytes.
        let result = unsafe { libc::getrandom(block.as_mut_ptr().cast(), count, 0) };
        if usize::try_from(result) != Ok(count) {
            break;
        }
        let part = block.get(..count).unwrap_or_default();
        if buffers.write_at(done, part) != count {
            break;
        }
        done += count;
    }
    done
}

impl VirtioDevice for Entropy {
    fn device_type(&self) -> DeviceType {
        DeviceType::Entropy
    }

    fn features(&self) -> u64 {
        feature::INDIRECT_DESC | feature::EVENT_IDX
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queues = <[VirtQueue; 1]>::try_from(activation.queues);
        let [queue] = queues.map_err(|queues| ActivateError::Queues(queues.len()))?;
        self.queue = Some(queue);
        Ok(())
    }

    fn reset(&mut self) {
        self.errors += self.queue.take().map_or(0, |queue| queue.malformed());
    }

    fn queue_event(
        &mut self,
        _index: usize,
        _sources: &mut Sources<'_>,
    ) -> Result<Progress, QueueError> {
        let Some(queue) = &mut self.queue else { return Ok(Progress::Done) };
        queue.serve(BUDGET, |chain| {
            self.requests += 1;
            let filled = fill(&chain.writable);
            self.bytes += filled as u64;
            self.errors += u64::from(filled == 0);
            Some(filled)
        })
    }

    fn halt(&mut self, _sources: &mut Sources<'_>) {
        self.reset();
    }

    fn metrics(&self) -> Vec<Metric> {
        let malformed = self.queue.as_ref().map_or(0, VirtQueue::malformed);
        vec![
            ("requests", self.requests),
            ("bytes", self.bytes),
            ("errors", self.errors + malformed),
        ]
    }
}

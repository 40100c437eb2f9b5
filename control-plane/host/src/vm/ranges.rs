//! Which layer lies where on a node's `images` disk: slots of 1 GiB, given out from 1 on.

use std::collections::BTreeMap;

use bulkhead_agent_protocol::AttachRange;

/// The size of a slot in bytes.
pub(crate) const SLOT: u64 = 1 << 30;

/// How many slots the disk has; slot 0 stays empty, since partitions count from 1.
pub(crate) const SLOTS: u32 = 1024;

/// The last slot that a layer may begin at: it names the layer's partition, and the guest's kernel
/// numbers a disk's partitions up to this (`DISK_MAX_PARTS` less one).
const LAST_START: u32 = 255;

/// The disk's size in bytes.
pub(crate) const DISK_SIZE: u64 = SLOT * SLOTS as u64;

/// Why a layer found no place.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "layer {layer} of {length} bytes does not fit on the node's image disk any more: \
     restart the node, or spread its pods' images over more nodes"
)]
pub(crate) struct Full {
    layer: String,
    length: u64,
}

/// The table of one running node's `images` disk.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    layers: BTreeMap<String, AttachRange>,
}

impl Ranges {
    /// Notes where a layer lies, as an earlier daemon put it.
    pub(crate) fn restore(&mut self, layer: String, slot: u32, length: u64) {
        self.layers.insert(layer, range(slot, length));
    }

    /// Where a layer lies, if it is there.
    pub(crate) fn get(&self, layer: &str) -> Option<AttachRange> {
        self.layers.get(layer).copied()
    }

    /// A place for a layer of `length` bytes (a multiple of 4096), not yet taken.
    pub(crate) fn propose(&self, layer: &str, length: u64) -> Result<AttachRange, Full> {
        let wanted = slots(length);
        let mut start = 1;
        let mut taken: Vec<_> =
            self.layers.values().map(|r| (r.partition, slots(r.length))).collect();
        taken.sort_unstable();
        for (slot, count) in taken {
            if u64::from(slot - start) >= wanted {
                break;
            }
            start = slot.saturating_add(u32::try_from(count).unwrap_or(SLOTS));
        }
        if start > LAST_START || u64::from(start) + wanted > u64::from(SLOTS) {
            return Err(Full { layer: layer.to_owned(), length });
        }
        Ok(range(start, length))
    }

    /// Takes a proposed place.
    pub(crate) fn take(&mut self, layer: String, place: AttachRange) {
        self.layers.insert(layer, place);
    }
}

fn range(slot: u32, length: u64) -> AttachRange {
    AttachRange { partition: slot, offset: u64::from(slot) * SLOT, length }
}

const fn slots(length: u64) -> u64 {
    let slots = length.div_ceil(SLOT);
    if slots == 0 { 1 } else { slots }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(ranges: &mut Ranges, layer: &str, length: u64) -> Result<u32, Full> {
        let place = ranges.propose(layer, length)?;
        ranges.take(layer.to_owned(), place);
        Ok(place.partition)
    }

    #[test]
    fn layers_lie_side_by_side_and_large_ones_take_several_slots() {
        let mut ranges = Ranges::default();
        assert_eq!(put(&mut ranges, "a", 4096), Ok(1));
        assert_eq!(put(&mut ranges, "b", SLOT + 4096), Ok(2));
        assert_eq!(put(&mut ranges, "c", SLOT), Ok(4));
        assert_eq!(ranges.get("b").unwrap().offset, 2 * SLOT);
        assert_eq!(ranges.get("b").unwrap().length, SLOT + 4096);
        assert_eq!(ranges.get("d"), None);
    }

    #[test]
    fn gaps_are_filled_if_they_are_large_enough() {
        let mut ranges = Ranges::default();
        ranges.restore("x".into(), 3, 4096);
        assert_eq!(put(&mut ranges, "large", 3 * SLOT), Ok(4));
        assert_eq!(put(&mut ranges, "two", 2 * SLOT), Ok(1));
        assert_eq!(put(&mut ranges, "one", 1), Ok(7));
    }

    #[test]
    fn a_layer_beyond_the_last_partition_that_the_kernel_numbers_is_an_error_that_names_it() {
        let mut ranges = Ranges::default();
        for slot in 1..=LAST_START {
            assert_eq!(put(&mut ranges, &slot.to_string(), 1), Ok(slot));
        }
        let error = put(&mut ranges, "more", 1).unwrap_err();
        assert!(error.to_string().contains("layer more"), "{error}");
    }

    #[test]
    fn a_full_disk_is_an_error_that_names_the_layer() {
        let mut ranges = Ranges::default();
        assert_eq!(put(&mut ranges, "first", SLOT), Ok(1));
        let error = put(&mut ranges, "large", 1023 * SLOT).unwrap_err();
        assert!(error.to_string().contains("layer large"), "{error}");
        assert_eq!(put(&mut ranges, "rest", 1022 * SLOT), Ok(2));
        assert!(put(&mut ranges, "more", 1).is_err());
    }
}

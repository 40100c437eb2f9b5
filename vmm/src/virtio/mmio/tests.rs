use std::sync::{Arc, Mutex};

use crate::bus::BusDevice;
use crate::virtio::VirtioDevice;
use crate::virtio::entropy::Entropy;
use crate::virtio::feature;
use crate::virtio::testing::{DATA, Driver, INDIRECT, MEMORY, NEXT, SIZE, WRITE, descriptor_bytes};

const NEEDS_RESET: u32 = 64;

fn entropy() -> Arc<Mutex<Entropy>> {
    Arc::new(Mutex::new(Entropy::new()))
}

#[test]
fn the_registers_say_what_the_device_is() {
    let mut driver = Driver::new(entropy());
    assert_eq!(driver.read(0x00).to_le_bytes(), *b"virt");
    assert_eq!((driver.read(0x04), driver.read(0x08)), (2, 4));
    assert_eq!(driver.offered(), feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT_DESC);
    assert_eq!(driver.read(0x34), 64);
    driver.write(0x30, 1);
    assert_eq!(driver.read(0x34), 0);
    assert_eq!(driver.read(0xb0), u32::MAX);
}

#[test]
fn accesses_of_another_width_or_place_do_nothing() {
    let mut driver = Driver::new(entropy());
    for length in [1, 2, 8] {
        let mut data = vec![0xff; length];
        driver.transport.read(0, &mut data);
        assert!(data.iter().all(|byte| *byte == 0));
        driver.transport.write(0x70, &vec![1; length]);
    }
    driver.write(0x71, 1);
    driver.write(0xfff, 1);
    assert_eq!(driver.read(0x70), 0);
    assert_eq!(driver.read(0x02), 0);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    for (select, bits) in [(0, 1_u32), (1, 3), (2, 1)] {
        let mut driver = Driver::new(entropy());
        driver.write(0x70, 1);
        driver.write(0x70, 3);
        driver.write(0x24, 1);
        driver.write(0x20, 1);
        driver.write(0x24, select);
        driver.write(0x20, bits);
        driver.write(0x70, 11);
        assert_eq!(driver.read(0x70), 3, "{select} {bits}");
    }
}

#[test]
fn a_legacy_driver_is_refused() {
    let mut driver = Driver::new(entropy());
    for status in [1, 3, 11, 15] {
        driver.write(0x70, status);
    }
    assert_eq!(driver.read(0x70), 3);
}

#[test]
fn steps_out_of_order_and_cleared_bits_are_ignored() {
    let mut driver = Driver::new(entropy());
    for status in [2, 4, 8, 12, 0x100] {
        driver.write(0x70, status);
        assert_eq!(driver.read(0x70), 0, "{status}");
    }
    driver.start(u64::MAX);
    driver.write(0x70, 3);
    assert_eq!(driver.read(0x70), 15);
}

#[test]
fn a_running_device_s_queues_do_not_move() {
    let mut driver = Driver::started(entropy(), u64::MAX);
    driver.write(0x38, 4);
    driver.write(0x80, 0xdead_0000);
    driver.write(0x44, 0);
    assert_eq!(driver.read(0x44), 1);
    assert_eq!(driver.request(0, &[(DATA, 64, WRITE)]), 64);
}

#[test]
fn impossible_queues_do_not_start() {
    let end = MEMORY as u32;
    for (register, value) in [
        (0x38, 0),
        (0x38, 3),
        (0x38, 128),
        (0x38, 0x1_0010),
        (0x80, 8),
        (0x90, 1),
        (0xa0, 2),
        (0x80, end - 16),
        (0x84, 1),
        (0x94, u32::MAX),
        (0xa4, 0x8000_0000),
    ] {
        let mut driver = Driver::new(entropy());
        driver.write(0x70, 3);
        driver.write(0x24, 1);
        driver.write(0x20, 1);
        driver.write(0x70, 11);
        driver.set_up_queue(0);
        driver.write(0x44, 0);
        driver.write(register, value);
        driver.write(0x44, 1);
        driver.write(0x70, 15);
        assert_eq!(driver.read(0x70), 15 | NEEDS_RESET, "{register:#x} {value:#x}");
        driver.notify(0);
        driver.write(0x70, 0);
        assert_eq!(driver.read(0x70), 0);
        driver.start(0);
        assert_eq!(driver.request(0, &[(DATA, 64, WRITE)]), 64);
    }
}

#[test]
fn a_broken_ring_stops_the_device_until_it_is_reset() {
    let breaks: [fn(&mut Driver); 2] =
        [|driver| driver.set_available_index(0, SIZE + 1), |driver| driver.offer_head(0, SIZE)];
    for break_ring in breaks {
        let mut driver = Driver::started(entropy(), u64::MAX);
        break_ring(&mut driver);
        driver.notify(0);
        assert_eq!(driver.read(0x70), 15 | NEEDS_RESET);
        assert_eq!(driver.read(0x60) & 2, 2);
        assert!(driver.used(0).is_none());
        driver.write(0x70, 0);
        assert_eq!((driver.read(0x70), driver.read(0x60)), (0, 0));
    }
}

#[test]
fn malformed_chains_come_back_unused() {
    let end = MEMORY as u64;
    let table = DATA + 0x8000;
    let device = entropy();
    let mut driver = Driver::started(device.clone(), u64::MAX);
    // A loop, in the queue and in a table; a table in a table; tables of wrong sizes.
    driver.put(table, &descriptor_bytes((DATA, 16, WRITE | NEXT, 0)));
    driver.put(table + 16, &descriptor_bytes((table, 16, INDIRECT, 0)));
    let chains: &[&[(u64, u32, u16)]] = &[
        &[(end, 1, WRITE)],
        &[(end - 1, 2, WRITE)],
        &[(u64::MAX, u32::MAX, WRITE)],
        &[(DATA, 16, WRITE), (DATA, 16, 0)],
        &[(table, 16, INDIRECT)],
        &[(table + 16, 16, INDIRECT)],
        &[(table, 15, INDIRECT)],
        &[(table, 0, INDIRECT)],
        &[(table, 16 << 20, INDIRECT)],
        &[(end - 8, 16, INDIRECT)],
        &[(u64::MAX - 8, 16, INDIRECT)],
    ];
    for chain in chains {
        assert_eq!(driver.request(0, chain), 0, "{chain:x?}");
    }
    driver.descriptor(0, 15, (DATA, 16, WRITE | NEXT, 15));
    driver.offer_head(0, 15);
    driver.notify(0);
    assert_eq!(driver.used(0), Some((15, 0)));
    assert_eq!(driver.read(0x70), 15);
    let metrics = crate::bus::lock(&device).metrics();
    assert!(metrics.contains(&("errors", chains.len() as u64 + 1)), "{metrics:?}");
    assert_eq!(driver.request(0, &[(DATA, 16, WRITE)]), 16);
}

#[test]
fn random_bytes_arrive_in_every_part_of_a_chain() {
    let mut driver = Driver::started(entropy(), u64::MAX);
    driver.put(DATA, &[0; 4096]);
    let length = driver.request(0, &[(DATA, 300, WRITE), (DATA + 1024, 1000, WRITE)]);
    assert_eq!(length, 1300);
    assert!(driver.get(DATA + 200, 100).iter().any(|byte| *byte != 0));
    assert!(driver.get(DATA + 1024 + 900, 100).iter().any(|byte| *byte != 0));
    assert!(driver.get(DATA + 300, 724).iter().all(|byte| *byte == 0));
    // More than it gives at once.
    assert_eq!(driver.request(0, &[(DATA, 1 << 20, WRITE)]), 64 << 10);
}

#[test]
fn the_driver_says_when_it_wants_interrupts() {
    // By flag.
    let mut driver = Driver::started(entropy(), 0);
    assert!(!driver.interrupted());
    driver.request(0, &[(DATA, 16, WRITE)]);
    assert!(driver.interrupted());
    assert_eq!(driver.read(0x60), 1);
    driver.write(0x64, 1);
    assert_eq!(driver.read(0x60), 0);
    driver.set_suppression(0, 1, 0);
    driver.request(0, &[(DATA, 16, WRITE)]);
    assert!(!driver.interrupted());

    // By index: after the third.
    let mut driver = Driver::started(entropy(), feature::EVENT_IDX);
    driver.set_suppression(0, 0, 2);
    for wanted in [false, false, true, false] {
        driver.request(0, &[(DATA, 16, WRITE)]);
        assert_eq!(driver.interrupted(), wanted);
    }
    // Several at once pass the index.
    driver.set_suppression(0, 0, 5);
    for _ in 0..4 {
        driver.offer(0, &[(DATA, 16, WRITE)]);
    }
    driver.notify(0);
    assert!(driver.interrupted());
}

#[test]
fn more_work_than_one_event_allows_is_done_in_several() {
    let mut driver = Driver::started(entropy(), u64::MAX);
    for round in 0..40 {
        for slot in 0..SIZE {
            driver.offer(0, &[(DATA + u64::from(slot) * 8, 8, WRITE)]);
        }
        driver.notify(0);
        for _ in 0..SIZE {
            assert_eq!(driver.used(0).map(|used| used.1), Some(8), "round {round}");
        }
    }
}

#[test]
fn a_reset_device_leaves_memory_alone() {
    let mut driver = Driver::started(entropy(), u64::MAX);
    driver.offer(0, &[(DATA, 16, WRITE)]);
    driver.write(0x50, 0);
    driver.write(0x70, 0);
    driver.run();
    assert!(driver.used(0).is_none());
    assert!(driver.get(DATA, 16).iter().all(|byte| *byte == 0));
}

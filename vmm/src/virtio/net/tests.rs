use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};

use super::*;
use crate::virtio::testing::{DATA, Driver, SIZE, SocketLink, WRITE};

fn machine(features: u64) -> (Driver, UnixDatagram, Arc<Mutex<Net<SocketLink>>>) {
    let (link, host) = SocketLink::pair();
    let mac = MacAddress::try_from("02:00:00:aa:bb:cc").unwrap();
    let device = Arc::new(Mutex::new(Net::new(link, mac, Some(1400))));
    let driver = Driver::started(device.clone(), features);
    (driver, host, device)
}

/// A frame with its header.
fn frame(length: usize, fill: u8) -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    frame.resize(HEADER + length, fill);
    frame
}

fn metric(device: &Arc<Mutex<Net<SocketLink>>>, name: &str) -> u64 {
    let metrics = device.lock().unwrap().metrics();
    metrics.into_iter().find(|metric| metric.0 == name).unwrap().1
}

#[test]
fn the_configuration_names_address_and_mtu() {
    let (mut driver, _host, _) = machine(u64::MAX);
    assert_eq!(driver.read(0x100).to_le_bytes(), [2, 0, 0, 0xaa]);
    assert_eq!(driver.read(0x108) >> 16, 1400);
    for text in [
        "",
        "02:00:00:00:00",
        "01:00:00:00:00:00",
        "00:00:00:00:00:00",
        "02:00:00:00:00:0g",
        "02:00:00:00:00:01:02",
        "+2:00:00:00:00:01",
    ] {
        assert!(MacAddress::try_from(text).is_err(), "{text}");
    }
}

#[test]
fn frames_leave_whole() {
    let (mut driver, host, device) = machine(u64::MAX);
    let sent = frame(300, 7);
    driver.put(DATA, &sent);
    driver.request(1, &[(DATA, 5, 0), (DATA + 5, 200, 0), (DATA + 205, 107, 0)]);
    let mut received = [0; 1000];
    assert_eq!(host.recv(&mut received).unwrap(), sent.len());
    assert_eq!(received[..sent.len()], sent);
    // Too short for a header, too long for a frame.
    driver.request(1, &[(DATA, 11, 0)]);
    driver.request(1, &[(DATA, 70_000, 0)]);
    assert!(host.recv(&mut received).is_err());
    assert_eq!((metric(&device, "tx_frames"), metric(&device, "tx_dropped")), (1, 2));
}

#[test]
fn a_frame_fills_as_many_buffers_as_it_needs() {
    let (mut driver, host, _) = machine(u64::MAX);
    for slot in 0..u64::from(SIZE) {
        driver.offer(0, &[(DATA + slot * 0x1000, 1000, WRITE)]);
    }
    driver.notify(0);
    host.send(&frame(2500, 9)).unwrap();
    host.send(&frame(10, 8)).unwrap();
    driver.run();
    assert_eq!(driver.used(0), Some((0, 1000)));
    assert_eq!(driver.used(0), Some((1, 1000)));
    assert_eq!(driver.used(0), Some((2, 512)));
    assert_eq!(driver.get(DATA + 10, 2), [3, 0]);
    assert_eq!(driver.get(DATA + 0x2000 + 511, 1), [9]);
    assert_eq!(driver.used(0), Some((3, 22)));
    assert_eq!(driver.get(DATA + 0x3000 + 10, 3), [1, 0, 8]);
    assert!(driver.used(0).is_none());
}

#[test]
fn without_mergeable_buffers_a_frame_fits_one_or_is_dropped() {
    let (mut driver, host, device) = machine(!F_MRG_RXBUF);
    driver.offer(0, &[(DATA, 12, WRITE), (DATA + 0x1000, 100, WRITE)]);
    driver.notify(0);
    host.send(&frame(101, 1)).unwrap();
    driver.run();
    assert!(driver.used(0).is_none());
    host.send(&frame(100, 2)).unwrap();
    driver.run();
    assert_eq!(driver.used(0), Some((0, 112)));
    assert_eq!(driver.get(DATA + 10, 2), [1, 0]);
    assert_eq!(metric(&device, "rx_dropped"), 1);
}

#[test]
fn frames_wait_on_the_host_until_there_are_buffers() {
    let (mut driver, host, _) = machine(u64::MAX);
    for fill in 1..4 {
        host.send(&frame(100, fill)).unwrap();
    }
    driver.run();
    assert!(driver.is_idle());
    for slot in 0..8 {
        driver.offer(0, &[(DATA + slot * 0x4000, 0x3000, WRITE)]);
    }
    driver.notify(0);
    for fill in 1..4_u64 {
        assert_eq!(driver.used(0).unwrap().1, 112);
        assert_eq!(driver.get(DATA + (fill - 1) * 0x4000 + 111, 1), [fill as u8]);
    }
}

#[test]
fn a_congested_link_is_tried_again() {
    let (mut driver, host, _) = machine(u64::MAX);
    driver.put(DATA, &frame(1000, 1));
    let mut offered = 0;
    loop {
        driver.offer(1, &[(DATA, 1012, 0)]);
        driver.notify(1);
        offered += 1;
        if driver.used(1).is_none() {
            break;
        }
        assert!(offered < 100_000);
    }
    assert!(driver.is_idle());
    let mut received = 0;
    while host.recv(&mut [0; 2000]).is_ok() {
        received += 1;
        driver.run();
    }
    assert_eq!(received, offered);
    assert!(driver.used(1).is_some());
}

#[test]
fn a_reset_device_leaves_the_link_alone() {
    let (mut driver, host, _) = machine(u64::MAX);
    for slot in 0..8 {
        driver.offer(0, &[(DATA + slot * 0x4000, 0x3000, WRITE)]);
    }
    driver.notify(0);
    driver.write(0x70, 0);
    driver.run();
    host.send(&frame(10, 1)).unwrap();
    driver.run();
    assert!(driver.is_idle());
    assert!(driver.used(0).is_none());
}

#[test]
fn files_that_are_no_taps_are_refused() {
    assert!(matches!(Tap::new(tempfile::tempfile().unwrap()), Err(TapError::NotATap(_))));
}

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex};

use super::*;
use crate::virtio::testing::{DATA, Driver, WRITE};

const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 0x100;
const BUFFER: u64 = DATA + 0x1000;
const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

fn file(length: u64) -> (File, File) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(length).unwrap();
    (file.try_clone().unwrap(), file)
}

fn disk(size: Option<u64>, read_only: bool) -> Arc<Mutex<Block>> {
    Arc::new(Mutex::new(Block::new(DiskId::try_from("scratch").unwrap(), size, read_only)))
}

fn backing(disk: &Arc<Mutex<Block>>) -> Arc<Backing> {
    disk.lock().unwrap().backing().clone()
}

fn add(disk: &Arc<Mutex<Block>>, offset: u64, file: File) {
    backing(disk).add_range(offset, None, file).unwrap();
}

/// Makes a request with `data` behind the header. Returns (used length, status).
fn request(driver: &mut Driver, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> (u32, u8) {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    driver.put(HEADER, &header);
    driver.put(STATUS, &[0xaa]);
    let mut chain = vec![(HEADER, 16, 0)];
    chain.extend_from_slice(data);
    chain.push((STATUS, 1, WRITE));
    let used = driver.request(0, &chain);
    (used, driver.get(STATUS, 1)[0])
}

#[test]
fn what_is_written_is_in_the_file_and_comes_back() {
    let disk = disk(None, false);
    let (backing, copy) = file(1 << 20);
    add(&disk, 0, copy);
    let mut driver = Driver::started(disk.clone(), u64::MAX);
    driver.put(BUFFER, &[7; 1024]);
    driver.put(BUFFER + 0x2000, &[9; 512]);
    let data = [(BUFFER, 1024, 0), (BUFFER + 0x2000, 512, 0)];
    assert_eq!(request(&mut driver, 1, 3, &data), (1, OK));
    let mut content = [0; 1536];
    backing.read_exact_at(&mut content, 3 * 512).unwrap();
    assert_eq!(content[..1024], [7; 1024]);
    assert_eq!(content[1024..], [9; 512]);

    let data = [(BUFFER + 0x4000, 100, WRITE), (BUFFER + 0x5000, 924, WRITE)];
    assert_eq!(request(&mut driver, 0, 4, &data), (1025, OK));
    assert_eq!(driver.get(BUFFER + 0x4000, 100), [7; 100]);
    assert_eq!(driver.get(BUFFER + 0x5000 + 412, 512), [9; 512]);
    assert_eq!(request(&mut driver, 4, 0, &[]), (1, OK));
    let metrics = disk.lock().unwrap().metrics();
    for metric in [("reads", 1), ("read_bytes", 1024), ("writes", 1), ("flushes", 1), ("errors", 0)]
    {
        assert!(metrics.contains(&metric), "{metrics:?}");
    }
}

#[test]
fn a_request_may_span_ranges_but_not_a_gap() {
    let disk = disk(Some(1 << 30), false);
    let (first, copy) = file(1024);
    add(&disk, 4096, copy);
    let (second, copy) = file(1024);
    add(&disk, 5120, copy);
    let mut driver = Driver::started(disk, u64::MAX);
    driver.put(BUFFER, &[5; 2048]);
    assert_eq!(request(&mut driver, 1, 9, &[(BUFFER, 1024, 0)]), (1, OK));
    let mut content = [0; 512];
    first.read_exact_at(&mut content, 512).unwrap();
    assert_eq!(content, [5; 512]);
    second.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(content, [5; 512]);
    let data = [(BUFFER + 0x2000, 2048, WRITE)];
    assert_eq!(request(&mut driver, 0, 8, &data), (2049, OK));
    for sector in [7, 9, 0, 100] {
        assert_eq!(request(&mut driver, 0, sector, &data).1, IO_ERROR, "{sector}");
    }
    // Nothing is written when not all can be.
    assert_eq!(request(&mut driver, 1, 11, &[(BUFFER, 1024, 0)]).1, IO_ERROR);
    second.read_exact_at(&mut content, 512).unwrap();
    assert_eq!(content, [0; 512]);
}

#[test]
fn a_range_arrives_while_the_guest_runs() {
    let disk = disk(None, true);
    add(&disk, 0, file(512).0);
    let mut driver = Driver::started(disk.clone(), u64::MAX);
    let generation = driver.read(0xfc);
    assert_eq!((driver.read(0x100), driver.read(0x104)), (1, 0));
    let data = [(BUFFER, 512, WRITE)];
    assert_eq!(request(&mut driver, 0, 2048, &data).1, IO_ERROR);
    let (backing, copy) = file(1000);
    backing.write_all_at(&[3; 1000], 0).unwrap();
    driver.interrupted();
    driver.write(0x64, 3);
    add(&disk, 1 << 20, copy);
    assert_ne!(driver.read(0xfc), generation);
    assert!(driver.interrupted());
    assert_eq!(driver.read(0x60), 2);
    assert_eq!(driver.read(0x100), 2050);
    assert_eq!(request(&mut driver, 0, 2049, &data), (513, OK));
    // The file's last sector is not whole.
    assert_eq!(driver.get(BUFFER, 488), [3; 488]);
    assert_eq!(driver.get(BUFFER + 488, 24), [0; 24]);
    // It was cut short under the disk.
    backing.set_len(512).unwrap();
    assert_eq!(request(&mut driver, 0, 2049, &data).1, IO_ERROR);
}

#[test]
fn a_request_under_way_is_not_waited_for() {
    let disk = disk(None, true);
    let backing = backing(&disk);
    // Whoever serves the disk holds it locked, for as long as its files take.
    let serving = disk.lock().unwrap();
    backing.add_range(0, None, file(1024).0).unwrap();
    assert_eq!(backing.capacity(), 1024);
    assert!(backing.metrics().contains(&("reads", 0)));
    drop(serving);
    let mut driver = Driver::started(disk, u64::MAX);
    assert_eq!(request(&mut driver, 0, 1, &[(BUFFER, 512, WRITE)]), (513, OK));
}

#[test]
fn a_read_only_disk_is_not_written() {
    let disk = disk(None, true);
    let (backing, copy) = file(4096);
    add(&disk, 0, copy);
    let mut driver = Driver::started(disk, u64::MAX);
    assert_ne!(driver.offered() & F_RO, 0);
    driver.put(BUFFER, &[1; 512]);
    for kind in [1, 11, 13] {
        assert_eq!(request(&mut driver, kind, 0, &[(BUFFER, 512, 0)]).1, IO_ERROR);
    }
    assert_eq!(request(&mut driver, 4, 0, &[]).1, OK);
    let mut content = [1; 4096];
    backing.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(content, [0; 4096]);
}

#[test]
fn impossible_requests_are_io_errors() {
    let disk = disk(None, false);
    add(&disk, 0, file(4096).1);
    let mut driver = Driver::started(disk, u64::MAX);
    let read = |length| [(BUFFER, length, WRITE)];
    for (sector, length) in
        [(0, 511), (0, 513), (8, 512), (7, 1024), (u64::MAX, 512), (1 << 55, 512)]
    {
        assert_eq!(request(&mut driver, 0, sector, &read(length)).1, IO_ERROR, "{sector} {length}");
        let write = [(BUFFER, length, 0)];
        assert_eq!(request(&mut driver, 1, sector, &write).1, IO_ERROR, "{sector} {length}");
    }
    assert_eq!(request(&mut driver, 77, 0, &[]).1, UNSUPPORTED);
    // No header, a short one, no room for the status.
    assert_eq!(driver.request(0, &[(STATUS, 1, WRITE)]), 1);
    assert_eq!(driver.get(STATUS, 1), [IO_ERROR]);
    assert_eq!(driver.request(0, &[(HEADER, 15, 0), (STATUS, 1, WRITE)]), 1);
    assert_eq!(driver.get(STATUS, 1), [IO_ERROR]);
    assert_eq!(driver.request(0, &[(HEADER, 16, 0)]), 0);
}

#[test]
fn a_request_has_at_most_64_mib() {
    let disk = disk(None, false);
    add(&disk, 0, file(128 << 20).1);
    let mut driver = Driver::started(disk, u64::MAX);
    // The same memory over and over.
    let many = [(DATA, 6 << 20, 0); 11];
    assert!(many.len() as u64 * (6 << 20) > 64 << 20);
    assert_eq!(request(&mut driver, 1, 0, &many).1, IO_ERROR);
    assert_eq!(request(&mut driver, 1, 0, &many[..10]).1, OK);
}

#[test]
fn the_id_is_the_serial() {
    let disk = disk(None, false);
    let mut driver = Driver::started(disk, u64::MAX);
    assert_eq!(request(&mut driver, 8, 0, &[(BUFFER, 20, WRITE)]), (21, OK));
    assert_eq!(driver.get(BUFFER, 20), *b"scratch\0\0\0\0\0\0\0\0\0\0\0\0\0");
    for id in ["", "a b", "ü", "123456789012345678901"] {
        assert_eq!(DiskId::try_from(id), Err(InvalidDiskId(id.to_owned())));
    }
}

#[test]
fn extents_are_cleared_and_given_back() {
    let disk = disk(None, false);
    let (backing, copy) = file(1 << 20);
    backing.write_all_at(&[1; 1 << 20], 0).unwrap();
    let blocks = backing.metadata().unwrap().blocks();
    add(&disk, 0, copy);
    let mut driver = Driver::started(disk, u64::MAX);
    let extent = |sector: u64, sectors: u32, flags: u32| {
        let mut bytes = sector.to_le_bytes().to_vec();
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes
    };
    driver.put(BUFFER, &extent(8, 8, 0));
    driver.put(BUFFER + 16, &extent(64, 1024, 0));
    let is_clear = |sector: u64| {
        let mut content = [9; 512];
        backing.read_exact_at(&mut content, sector * 512).unwrap();
        content == [0; 512]
    };
    assert_eq!(request(&mut driver, 11, 0, &[(BUFFER, 32, 0)]).1, OK);
    assert!(backing.metadata().unwrap().blocks() < blocks);
    assert!(is_clear(8) && is_clear(15) && is_clear(64) && !is_clear(7) && !is_clear(16));
    driver.put(BUFFER, &extent(100 * 16, 16, 1));
    assert_eq!(request(&mut driver, 13, 0, &[(BUFFER, 16, 0)]).1, OK);
    assert!(is_clear(1600) && is_clear(1615) && !is_clear(1616));
    for (bytes, status) in [
        (extent(0, 8, 2), UNSUPPORTED),
        (extent(2048, 1, 0), IO_ERROR),
        (extent(u64::MAX, 1, 0), IO_ERROR),
        (extent(0, u32::MAX, 0), IO_ERROR),
    ] {
        driver.put(BUFFER, &bytes);
        assert_eq!(request(&mut driver, 13, 0, &[(BUFFER, 16, 0)]).1, status, "{bytes:?}");
    }
    assert_eq!(request(&mut driver, 13, 0, &[(BUFFER, 15, 0)]).1, IO_ERROR);
    assert_eq!(request(&mut driver, 13, 0, &[(BUFFER, 17 * 16, 0)]).1, IO_ERROR);
}

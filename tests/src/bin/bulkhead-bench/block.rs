//! Block I/O: fio in the guest, on a file of the host.

use std::path::Path;

use bulkhead_tests::setting;

use crate::machine::{Device, Machine, Monitor};
use crate::{median, table::Table};

/// Runs of each monitor; each takes four patterns of two seconds.
pub(crate) const RUNS: usize = 3;

const PATTERNS: [(&str, &str); 4] = [
    ("read", "block: sequential read, 128 KiB"),
    ("write", "block: sequential write, 128 KiB"),
    ("randread", "block: random read, 4 KiB"),
    ("randwrite", "block: random write, 4 KiB"),
];

/// Compares monitors on all patterns.
pub(crate) fn measure(table: &mut Table) {
    let disk = setting("BULKHEAD_TEST_DIR").join("bench-disk.img");
    let zeros = vec![1_u8; 1 << 20];
    let mut file = std::fs::File::create(&disk).unwrap();
    for _ in 0..256 {
        std::io::Write::write_all(&mut file, &zeros).unwrap();
    }
    file.sync_all().unwrap();

    let mut rates = [[const { Vec::new() }; 4], [const { Vec::new() }; 4]];
    for _ in 0..RUNS {
        for (rates, monitor) in rates.iter_mut().zip(Monitor::BOTH) {
            for (rates, rate) in rates.iter_mut().zip(run(monitor, &disk)) {
                rates.push(rate);
            }
        }
    }
    let _ = std::fs::remove_file(&disk);
    let [ours, peer] = rates;
    for (((_, figure), ours), peer) in PATTERNS.into_iter().zip(ours).zip(peer) {
        table.ratio(figure, median(ours), median(peer), "MiB/s", "≥ 1");
    }
}

/// MiB per second for each pattern.
fn run(monitor: Monitor, disk: &Path) -> [f64; 4] {
    let mut machine = Machine::start(monitor, "disk", Device::Disk(disk));
    let rates = PATTERNS.map(|(pattern, _)| {
        let line = machine.line(&format!("fio {pattern} "));
        let start = line.find('{').unwrap_or(0);
        let report: serde_json::Value = serde_json::from_str(&line[start..])
            .unwrap_or_else(|error| panic!("fio said {line:?}: {error}"));
        let direction = if pattern.ends_with("read") { "read" } else { "write" };
        report["jobs"][0][direction]["bw_bytes"].as_f64().unwrap_or(f64::NAN) / f64::from(1 << 20)
    });
    machine.wait();
    rates
}

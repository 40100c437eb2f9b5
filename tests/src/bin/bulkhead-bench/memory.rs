//! What a monitor costs in memory beside its guest's.

use std::time::Duration;

use crate::machine::{Device, Machine, Monitor};
use crate::table::Table;

/// Compares monitors with an idle guest.
pub(crate) fn measure(table: &mut Table) {
    let [ours, peer] = Monitor::BOTH.map(|monitor| {
        let mut machine = Machine::start(monitor, "idle", Device::None);
        machine.until_init();
        std::thread::sleep(Duration::from_secs(2));
        Overhead::of(machine.pid())
    });
    let row = |value: f64| format!("{value:.2} MiB");
    table.row(
        "monitor's own memory: PSS less guest RAM",
        row(ours.pss),
        row(peer.pss),
        row(ours.pss),
        "≤ 3.3 MiB",
    );
    table.row(
        "of it anonymous",
        row(ours.anonymous),
        row(peer.anonymous),
        row(ours.anonymous),
        "≤ 0.3 MiB",
    );
}

/// In MiB.
struct Overhead {
    pss: f64,
    anonymous: f64,
}

impl Overhead {
    /// Adds up `/proc/PID/smaps`, less the mappings that hold the guest's 128 MiB: those as large
    /// as that.
    fn of(pid: u32) -> Self {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
        let (mut pss, mut anonymous, mut size) = (0, 0, 0);
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
            let Ok(kib) = value.parse::<u32>() else { continue };
            match name {
                "Size:" => size = kib,
                "Pss:" if size < 128 << 10 => pss += kib,
                "Anonymous:" if size < 128 << 10 => anonymous += kib,
                _ => {}
            }
        }
        Self { pss: f64::from(pss) / 1024.0, anonymous: f64::from(anonymous) / 1024.0 }
    }
}

//! What an idle guest costs: VM exits and host CPU time.
//!
//! Here both guests run at once: they hardly do, and whatever else disturbs the host disturbs both.
//! They settle first, since a Linux guest gathers randomness more often in its first minute.

use std::time::Duration;

use crate::machine::{Device, Machine, Monitor};
use crate::median;
use crate::table::Table;

const SETTLE: Duration = Duration::from_secs(60);
const SPAN: Duration = Duration::from_secs(6);
const SPANS: usize = 10;

/// Compares monitors with an idle guest.
pub(crate) fn measure(table: &mut Table) {
    let machines = Monitor::BOTH.map(|monitor| {
        let mut machine = Machine::start(monitor, "idle", Device::None);
        machine.until_init();
        machine
    });
    std::thread::sleep(SETTLE);
    let usage = || [&machines[0], &machines[1]].map(|machine| Usage::of(machine.pid()));
    let mut spans = [const { [Vec::new(), Vec::new()] }; 2];
    let mut before = usage();
    for _ in 0..SPANS {
        std::thread::sleep(SPAN);
        let after = usage();
        for ((spans, before), after) in spans.iter_mut().zip(&before).zip(&after) {
            let seconds = SPAN.as_secs_f64();
            spans[0].push((after.exits - before.exits) / seconds);
            spans[1].push((after.cpu_ms - before.cpu_ms) / seconds);
        }
        before = after;
    }
    let [ours, peer] = spans.map(|spans| spans.map(median));
    table.row(
        "idle guest: VM exits per second",
        format!("{:.1}", ours[0]),
        format!("{:.1}", peer[0]),
        format!("{:.1}", ours[0]),
        "≤ 20",
    );
    table.ratio("idle guest: host CPU per second", ours[1], peer[1], "ms", "≤ 1");
}

struct Usage {
    exits: f64,
    cpu_ms: f64,
}

impl Usage {
    fn of(pid: u32) -> Self {
        Self { exits: exits(pid), cpu_ms: cpu_ms(pid) }
    }
}

/// KVM's own count, from debugfs: `kvm/PID-FD/exits`.
fn exits(pid: u32) -> f64 {
    let root = std::path::Path::new("/sys/kernel/debug/kvm");
    if !root.exists() {
        let _ = std::process::Command::new("mount")
            .args(["-t", "debugfs", "debugfs", "/sys/kernel/debug"])
            .status();
    }
    let prefix = format!("{pid}-");
    let dir = std::fs::read_dir(root)
        .unwrap_or_else(|error| panic!("KVM's counters in {}: {error}", root.display()))
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    let dir = dir.unwrap_or_else(|| panic!("KVM has no counters of process {pid}")).path();
    std::fs::read_to_string(dir.join("exits")).unwrap().trim().parse().unwrap()
}

/// User and system time of the process, in milliseconds: summed over threads in nanoseconds from
/// the scheduler, since an idle guest costs less than a clock tick.
fn cpu_ms(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nanoseconds = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e6
}

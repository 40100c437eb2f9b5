//! Process start to the guest's first userspace act.

use crate::machine::{Device, Machine, Monitor};
use crate::{median, table::Table};

/// Boots `runs` guests of each monitor in turn; gives our median in milliseconds.
pub(crate) fn measure(runs: usize, table: &mut Table) -> f64 {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..runs {
        for (times, monitor) in times.iter_mut().zip(Monitor::BOTH) {
            let mut machine = Machine::start(monitor, "exit", Device::None);
            times.push(machine.until_init());
            machine.wait();
        }
    }
    let [ours, peer] = times.map(median);
    table.ratio("process start to first userspace act", ours, peer, "ms", "≤ 0.65");
    ours
}

//! Measures Bulkhead against Debian's `qemu-system-x86_64 -M microvm` and prints the table.
//!
//! Both sides run in the same place, in turn, with the same kernel and initrd; a figure is the
//! median of its runs, and what counts is the ratio. `ci/bench` prepares the files and sets the
//! environment; in a place without usable KVM it starts this inside an emulated host.

#![forbid(unsafe_code)]

mod block;
mod boot;
mod idle;
mod machine;
mod memory;
mod node;
mod table;

use table::Table;

fn main() {
    let runs = std::env::var("BULKHEAD_BENCH_RUNS").ok().and_then(|text| text.parse().ok());
    let runs = runs.unwrap_or(10);
    let mut table = Table::default();
    eprintln!("boot: {runs} runs of each");
    let boot = boot::measure(runs, &mut table);
    eprintln!("memory and idle");
    memory::measure(&mut table);
    idle::measure(&mut table);
    eprintln!("block: {} runs of each", block::RUNS);
    block::measure(&mut table);
    eprintln!("node and pods: {runs} pods");
    node::measure(runs, boot, &mut table);
    print!("{table}");
}

/// The middle value.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

//! Measures Bulkhead against Debian's `qemu-system-x86_64 -M microvm` and prints the table.
//!
//! Both sides run in the same place, in turn, with the same kernel and initrd; a figure is the
//! median of its runs, and what counts is the ratio. Below the table stands which memory this host
//! gives huge pages: much of a boot's time depends on it. `ci/bench` prepares the files and sets the
//! environment; in a place without usable KVM it starts this inside an emulated host. Arguments
//! select parts (`boot memory idle block node net services`); without any, all but the last two are
//! measured, the network's, which have a table of their own (`ci/bench-net`).

#![forbid(unsafe_code)]

mod block;
mod boot;
mod idle;
mod machine;
mod memory;
mod net;
mod node;
mod table;

use std::process::ExitCode;

use table::Table;

/// What can be measured.
const PARTS: [&str; 7] = ["boot", "memory", "idle", "block", "node", "net", "services"];

fn main() -> ExitCode {
    let asked = std::env::var("BULKHEAD_BENCH_RUNS").ok().and_then(|text| text.parse().ok());
    let runs = asked.unwrap_or(10);
    let parts: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
        eprintln!("bulkhead-bench: there is no part {unknown:?}; there are: {}", PARTS.join(" "));
        return ExitCode::from(2);
    }
    let asked_for = |part: &str| parts.iter().any(|asked| asked == part);
    let wanted = |part: &str| parts.is_empty() || asked_for(part);
    let mut table = Table::default();
    // Pods are compared with a node's boot.
    if wanted("boot") || wanted("node") {
        eprintln!("boot: {runs} runs of each");
        let boot = boot::measure(runs, &mut table);
        if wanted("node") {
            eprintln!("node and pods: {runs} pods");
            node::measure(runs, boot, &mut table);
        }
    }
    if wanted("memory") {
        eprintln!("memory");
        memory::measure(&mut table);
    }
    if wanted("idle") {
        eprintln!("idle");
        idle::measure(&mut table);
    }
    if wanted("block") {
        eprintln!("block: {} runs of each", block::RUNS);
        block::measure(&mut table);
    }
    if asked_for("services") {
        eprintln!("Services");
        net::services(&mut table);
    }
    if asked_for("net") {
        let rounds = asked.unwrap_or(net::ROUNDS);
        eprintln!("network: {rounds} rounds");
        net::measure(rounds, &mut table);
    }
    print!("{table}");
    println!("\n{}", huge_pages());
    ExitCode::SUCCESS
}

/// The host's choices that decide how dear a fault on a guest's memory is.
fn huge_pages() -> String {
    let choice = |file: &str| {
        let path = format!("/sys/kernel/mm/transparent_hugepage/{file}");
        let choices = std::fs::read_to_string(path).unwrap_or_default();
        let chosen = choices.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        chosen.map_or_else(|| "none".to_owned(), |(chosen, _)| chosen.to_owned())
    };
    format!(
        "Huge pages on this host: {:?} for shared memory, which Bulkhead's guests have, {:?} for \
         private memory, which QEMU's have.",
        choice("shmem_enabled"),
        choice("enabled"),
    )
}

/// The middle value.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

//! What the node and its pods use.

use std::{collections::BTreeMap, fs, path::Path};

use bulkhead_agent_protocol::{NodeStats, PodStats, node::ContainerStats};

use super::identity::meminfo;
use crate::{pods::Pods, runtime::node::NodeRuntime};

/// Measures.
pub(crate) fn collect(pods: &Pods<NodeRuntime>, runtime: &NodeRuntime) -> NodeStats {
    let mut by_pod: BTreeMap<String, Vec<ContainerStats>> = BTreeMap::new();
    for (uid, name, id, since) in pods.running() {
        if let Some((cpu_ns, memory)) = runtime.usage(&id) {
            let running_ns = nanoseconds(since.elapsed());
            let container = ContainerStats { name, running_ns, cpu_ns, memory };
            by_pod.entry(uid).or_default().push(container);
        }
    }
    let (scratch_used, scratch_total) = disk(&runtime.directories.data);
    NodeStats {
        uptime_ns: uptime_ns(),
        cpu_ns: cpu_ns(),
        memory: meminfo("MemTotal:").saturating_sub(meminfo("MemAvailable:")),
        agent_rss: resident() + runtime.helpers.waiting().map_or(0, private),
        scratch_used,
        scratch_total,
        pods: by_pod.into_iter().map(|(uid, containers)| PodStats { uid, containers }).collect(),
    }
}

fn nanoseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn uptime_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| nanoseconds(now.into()))
}

/// Busy time of all CPUs since boot: user, nice, system, irq, softirq, steal of `/proc/stat`.
fn cpu_ns() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> = text
        .lines()
        .next()
        .into_iter()
        .flat_map(|line| line.split_ascii_whitespace().skip(1))
        .filter_map(|field| field.parse().ok())
        .collect();
    let ticks: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|index: &usize| fields.get(*index)).sum();
    // USER_HZ is 100 on every x86-64 kernel.
    ticks * 10_000_000
}

/// The agent's own memory.
fn resident() -> u64 {
    memory("self").0
}

/// What a helper has that it does not share with the agent, whose program it is.
fn private(helper: i32) -> u64 {
    let (resident, shared) = memory(&helper.to_string());
    resident.saturating_sub(shared)
}

/// A process's resident memory and what of it are files' pages, in bytes (proc_pid_statm(5)).
fn memory(process: &str) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{process}/statm")).unwrap_or_default();
    let mut fields = text.split_ascii_whitespace().skip(1);
    let mut bytes = || {
        let pages: u64 = fields.next().and_then(|field| field.parse().ok()).unwrap_or(0);
        pages * rustix::param::page_size() as u64
    };
    (bytes(), bytes())
}

/// Bytes used and in all of the file system at `path`.
fn disk(path: &Path) -> (u64, u64) {
    rustix::fs::statvfs(path).map_or((0, 0), |disk| {
        let total = disk.f_blocks * disk.f_frsize;
        (total.saturating_sub(disk.f_bfree * disk.f_frsize), total)
    })
}

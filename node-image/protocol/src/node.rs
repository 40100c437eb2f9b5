//! The node itself: identity, disks' ranges, usage, end.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Who the node is. Nothing of it is known at boot, so that a booted node can be a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeConfig {
    /// The Kubernetes node name; becomes the hostname.
    pub name: String,
    /// The node's own address, a /32 on `eth0`, reached and left through `gateway`.
    pub ip: Option<Ipv4Addr>,
    /// The on-link next hop (`169.254.1.1`) for everything.
    pub gateway: Option<Ipv4Addr>,
    /// Largest IP packet on `eth0`, in bytes.
    pub mtu: Option<u16>,
    /// The wall clock, nanoseconds since the Unix epoch. The agent steps its clock when it is off
    /// by more than 100 ms.
    pub unix_time_ns: u64,
    /// Fresh random bytes for the guest's pool, base64. At most 512 bytes.
    pub entropy: String,
    /// Memory, in bytes, that the node keeps from pods (capacity less allocatable).
    pub reserved_memory: u64,
}

/// What the agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// [`crate::VERSION`].
    pub protocol: u32,
    /// The agent's own version.
    pub agent: String,
    /// `uname -r`.
    pub kernel: String,
    /// Random per boot (`/proc/sys/kernel/random/boot_id`): tells a host that the node rebooted.
    pub boot_id: String,
    /// Online CPUs.
    pub cpus: u32,
    /// `MemTotal`, in bytes.
    pub memory: u64,
    /// The name from [`NodeConfig`], if the node is configured.
    pub name: Option<String>,
}

/// A file system in a range of the image disk, to be made a partition (`BLKPG_ADD_PARTITION`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachRange {
    /// The partition's number, from 1.
    pub partition: u32,
    /// Where the range starts on the disk, in bytes; a multiple of 4096.
    pub offset: u64,
    /// Its length in bytes; a multiple of 4096.
    pub length: u64,
}

/// How a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ShutdownMode {
    /// Power off: the monitor ends.
    PowerOff,
    /// Reset: the monitor ends with the exit code for a reset, and its supervisor starts it anew.
    Reboot,
}

/// What the node and its pods use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStats {
    /// When this was measured, in nanoseconds since boot: what a rate is taken over.
    pub uptime_ns: u64,
    /// CPU time of everything since boot, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory in use (total less available), in bytes.
    pub memory: u64,
    /// The agent's own resident set, in bytes.
    pub agent_rss: u64,
    /// Bytes of the scratch disk in use, and in all.
    pub scratch_used: u64,
    /// Size of the scratch disk's file system, in bytes.
    pub scratch_total: u64,
    /// Every pod's share.
    pub pods: Vec<PodStats>,
}

/// What one pod uses, per container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStats {
    /// The pod's uid.
    pub uid: String,
    /// Per container: name, CPU time in nanoseconds, working set in bytes.
    pub containers: Vec<ContainerStats>,
}

/// What one container uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStats {
    /// The container's name.
    pub name: String,
    /// How long it has run, in nanoseconds.
    pub running_ns: u64,
    /// CPU time since it started, in nanoseconds.
    pub cpu_ns: u64,
    /// Working set (usage less inactive file pages), in bytes.
    pub memory: u64,
}

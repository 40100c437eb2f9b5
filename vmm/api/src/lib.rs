//! Types and client of the monitor's HTTP API (`vmm/openapi.yaml`), for whoever starts monitors.
//!
//! The monitor serves it on a unix socket. A file that a request hands over travels as
//! `SCM_RIGHTS` on the request's first byte; the JSON body names it `{"fd": n}`, where `n` counts
//! the files of that request from 0. On the command line and in a configuration file the number
//! is an inherited file descriptor's instead.

pub mod client;
pub mod tap;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A whole machine: the body of `PUT /vm`, and what `bulkhead-vmm --config` reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmConfig {
    /// Virtual CPUs, 1 to 32.
    #[serde(default = "one")]
    pub cpus: u8,
    /// Guest memory in bytes: a multiple of 4096, 64 MiB or more.
    pub memory: u64,
    /// An uncompressed ELF `vmlinux` with a PVH note, or a `bzImage`.
    pub kernel: FileSource,
    /// An initial RAM file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<FileSource>,
    /// The kernel's command line; the devices' parameters are appended to it.
    #[serde(default)]
    pub cmdline: String,
    /// Block devices, in order: `/dev/vda`, `/dev/vdb` …
    #[serde(default)]
    pub disks: Vec<DiskConfig>,
    /// Network devices, in order: `eth0` …
    #[serde(default)]
    pub nets: Vec<NetConfig>,
    /// The vsock device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockConfig>,
    /// Where the serial console goes.
    #[serde(default)]
    pub console: ConsoleConfig,
}

const fn one() -> u8 {
    1
}

/// A file by path, or handed in open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FileSource {
    /// Opened by the monitor at start.
    Path(PathBuf),
    /// An inherited file descriptor, or the n-th file of an API request.
    Fd(i32),
}

/// A virtio block device: a table of ranges, in all `size` bytes; what no range covers reads as
/// an I/O error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskConfig {
    /// Names the disk in the API, and is its virtio serial (`VIRTIO_BLK_T_GET_ID`): 1 to 20 bytes
    /// of `[a-zA-Z0-9._-]`.
    pub id: String,
    /// The device's capacity in bytes, a multiple of 512. Unset: the end of the last range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Whether the guest may not write.
    #[serde(default)]
    pub read_only: bool,
    /// What is there at start. `PUT /disks/{id}/ranges` adds more.
    #[serde(default)]
    pub ranges: Vec<RangeConfig>,
}

/// A range of a disk, backed by a file from its start on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RangeConfig {
    /// Where it starts on the disk, in bytes; a multiple of 512.
    #[serde(default)]
    pub offset: u64,
    /// Its length in bytes, a multiple of 512. Unset: the file's length, rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// What backs it.
    pub file: FileSource,
}

/// A virtio network device on a tap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetConfig {
    /// Names the device in the API.
    pub id: String,
    /// The tap: an open `/dev/net/tun` after `TUNSETIFF` with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`.
    pub tap: FileSource,
    /// The guest's MAC address, `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// Largest IP packet, in bytes, told to the guest (`VIRTIO_NET_F_MTU`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// The vsock device, in the hybrid form: see [`VsockConfig::listener`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VsockConfig {
    /// The guest's context id, 3 to 2³²−2.
    pub cid: u32,
    /// The unix socket on which the host connects and says `CONNECT <port>\n`: a path to bind, or
    /// a listening socket handed in.
    pub listener: FileSource,
    /// A connection of the guest to host port P goes to the unix socket `<path>_P`. Unset, or the
    /// path when `listener` is one: without it the guest's connections are reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_connections: Option<PathBuf>,
}

/// Where the serial console goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ConsoleConfig {
    /// Nowhere.
    #[default]
    Off,
    /// The process's standard input and output; raw, with Ctrl-A X to leave, on a terminal.
    Stdio,
    /// Output is appended to the file; there is no input.
    File(FileSource),
    /// A listening unix socket: every client sees output and may type.
    Socket(FileSource),
}

/// What a machine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VmState {
    /// Nothing has been configured.
    Empty,
    /// Configured: memory, devices and kernel are in place, no guest instruction has run.
    Configured,
    /// Its vCPUs run.
    Running,
    /// Its vCPUs are stopped.
    Paused,
}

/// The answer to `GET /vm`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmInfo {
    /// What it is doing.
    pub state: VmState,
    /// The monitor's process id, in its own PID namespace.
    pub pid: u32,
    /// Virtual CPUs; 0 before configuration.
    pub cpus: u8,
    /// Guest memory in bytes; 0 before configuration.
    pub memory: u64,
    /// Milliseconds from the monitor's start until the guest wrote to the boot timer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_milliseconds: Option<f64>,
}

/// The answer to `GET /metrics`: counters since the monitor started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// vCPUs' exits to the monitor, by reason.
    pub exits: BTreeMap<String, u64>,
    /// Each virtio device's counters, by the device's name.
    pub devices: BTreeMap<String, BTreeMap<String, u64>>,
}

/// The body of every answer that is not 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ErrorBody {
    /// What failed, on what, and what to do.
    pub error: String,
}

//! What the machine does once it is up: written by the outer half as a JSON file, read by the inner
//! half over the shared root.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The whole of what the inner half is told before it starts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) mode: Mode,
    /// Program and arguments, never empty.
    pub(crate) command: Vec<String>,
    /// The command's whole environment.
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) directory: PathBuf,
    pub(crate) disk: Option<Disk>,
}

/// How the command is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// Once, with pipes for its standard streams; the machine ends with it.
    Pipes,
    /// Once, on a terminal; the machine ends with it.
    Terminal,
    /// As a service: started again when it dies, until the machine is told to stop.
    Service,
}

/// The machine's writable disk, an ext4 file system on the first virtio-blk device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Disk {
    pub(crate) mount_point: PathBuf,
}

/// What the outer half says over the control port, one JSON object a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Everything is connected: run the command. A service's first request too; answered with `Up`.
    Go,
    /// The terminal has a new size.
    Resize { rows: u16, columns: u16 },
    /// End the command, sync and power off.
    Stop,
}

/// What the inner half says over the control port, one JSON object a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// The command has been started.
    Up,
    /// The command has ended; 128 + n when signal n killed it.
    Exited { status: i32 },
    /// The machine could not do as it was told.
    Failed { message: String },
}

/// The names of the virtio-serial ports, the same on both sides.
pub(crate) mod port {
    pub(crate) const CONTROL: &str = "control";
    pub(crate) const STDIN: &str = "stdin";
    pub(crate) const STDOUT: &str = "stdout";
    pub(crate) const STDERR: &str = "stderr";
    pub(crate) const LOG: &str = "log";
}

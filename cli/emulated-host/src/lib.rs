//! A machine with real KVM on hosts that have none.
//!
//! The *emulated host* is a QEMU TCG machine with AMD SVM that runs Debian's own kernel. Inside,
//! `/dev/kvm` is the kvm-amd driver, and this machine's files are seen at their own paths:
//! read-only over 9p, under an overlay in memory that takes writes. It needs QEMU, and no privilege.
//!
//! - [`prepare`] fetches the kernel and makes the initrd, once, into a cache.
//! - [`start`], [`status`], [`forward`] and [`stop`] keep one machine running behind a directory of
//!   its own: that is where the CLI runs `bulkhead-host` when KVM is missing. Its state lies on a
//!   disk image, for 9p is unfit for databases and sockets.
//! - [`run`] boots one machine for one command, in the foreground, and returns its exit status.
//!
//! The initrd's script (`init.sh`) loads the modules, stacks the root and hands over to
//! `bulkhead-emulated-host guest`, read from this machine's own disk: [`guest`] is PID 1 from there.
//!
//! What is shared is cached inside without being checked again: files that change on this machine
//! while an emulated host runs are not to be relied on there.

#![forbid(unsafe_code)]

pub mod guest;

/// The address at which the inside reaches the loopback of the machine around it.
pub const OUTSIDE: &str = "10.0.2.2";

mod control;
mod cpio;
mod daemon;
mod prepare;
mod qemu;
mod qmp;
mod run;
mod spec;
mod terminal;
mod work;

pub use daemon::{
    DaemonError, Forward, Running, StartOptions, Status, forward, start, status, stop, unforward,
};
pub use prepare::{Boot, PrepareError, Progress, default_cache, prepare};
pub use run::{RunError, RunOptions, run};

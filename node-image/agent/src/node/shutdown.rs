//! The node's end: pods stopped, disks written, then power off or reset.

use std::{path::Path, time::Duration};

use bulkhead_agent_protocol::ShutdownMode;
use rustix::{
    mount::{MountFlags, mount_remount},
    system::{RebootCommand, reboot},
};

use crate::{pods::Pods, runtime::node::NodeRuntime};

/// Ends the node; as PID 1 it does not return.
pub(crate) async fn run(
    pods: &Pods<NodeRuntime>,
    scratch: &Path,
    mode: ShutdownMode,
    grace: Duration,
    pid1: bool,
) {
    pods.stop_all(grace).await;
    rustix::fs::sync();
    if !pid1 {
        std::process::exit(0);
    }
    // A read-only file system is clean; one that stays busy was synced above.
    if let Err(error) = mount_remount(scratch, MountFlags::RDONLY, c"") {
        eprintln!("agent: {} stays writable: {error}", scratch.display());
    }
    let command = match mode {
        ShutdownMode::PowerOff => {
            power_off_by_port();
            RebootCommand::PowerOff
        }
        ShutdownMode::Reboot => RebootCommand::Restart,
    };
    if let Err(error) = reboot(command) {
        eprintln!("agent: the node does not go down: {error}");
    }
}

/// Powers the monitor off by its sleep control register: the kernel has no ACPI that would know
/// it. Returns where there is no such register, or no leave to write to it.
pub(crate) fn power_off_by_port() {
    const SLEEP_CONTROL: u16 = 0x604;
    // SLP_TYP 5 and SLP_EN, ACPI 6.5 §4.8.3.7.
    const POWER_OFF: u8 = 5 << 2 | 1 << 5;
    // SAFETY: ioperm(2) gives leave to use one port; it touches no memory.
    if unsafe { libc::ioperm(SLEEP_CONTROL.into(), 1, 1) } != 0 {
        return;
    }
    // SAFETY: the port may be written to, as ioperm succeeded; the store ends the machine.
    unsafe {
        std::arch::asm!(
            "out dx, al",
            in("dx") SLEEP_CONTROL,
            in("al") POWER_OFF,
            options(nomem, nostack, preserves_flags)
        );
    }
}

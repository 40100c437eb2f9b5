//! The loop of a vCPU's thread.

use std::thread;

use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::Shared;
use crate::exit::Exit;

/// Runs the vCPU until the machine ends, and then parks: the mapping that it shares with
/// `ImmediateExit` lives as long as the process.
pub(super) fn forever(index: u8, mut vcpu: VcpuFd, shared: &Shared) -> ! {
    let exit = run(index, &mut vcpu, shared);
    shared.exit.report(exit);
    loop {
        // A pause that comes now must not wait for this vCPU.
        shared.gate.pass();
        thread::park();
    }
}

fn run(index: u8, vcpu: &mut VcpuFd, shared: &Shared) -> Exit {
    let exits = &shared.exits;
    shared.gate.pass();
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                exits.io_out.count();
                shared.pio.write(port.into(), data);
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                exits.io_in.count();
                shared.pio.read(port.into(), data);
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                exits.mmio_write.count();
                shared.mmio.write(address, data);
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                exits.mmio_read.count();
                shared.mmio.read(address, data);
            }
            Ok(VcpuExit::Shutdown) => return Exit::TripleFault { vcpu: index },
            Ok(VcpuExit::InternalError) => return internal_error(index, vcpu),
            Ok(VcpuExit::FailEntry(reason, _)) => {
                let what = format!("the processor refused to enter the guest, reason {reason:#x}");
                return Exit::Unexpected { vcpu: index, what };
            }
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => exits.other.count(),
            Ok(exit) => {
                return Exit::Unexpected { vcpu: index, what: format!("unexpected exit {exit:?}") };
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                exits.interrupted.count();
                if shared.gate.pass() {
                    // Tells kvm-clock that time stood still, so that no watchdog bites; a guest
                    // without kvm-clock makes this fail, and has no such watchdog.
                    let _ = vcpu.kvmclock_ctrl();
                }
            }
            Err(error) => {
                return Exit::Unexpected { vcpu: index, what: format!("KVM_RUN: {error}") };
            }
        }
    }
}

fn internal_error(index: u8, vcpu: &mut VcpuFd) -> Exit {
    let run: &kvm_run = vcpu.get_kvm_run();
    // SAFETY: KVM has just returned KVM_EXIT_INTERNAL_ERROR, for which it fills this variant; all
    // of its fields are integers.
    let suberror = unsafe { run.__bindgen_anon_1.internal.suberror };
    let rip = vcpu.get_regs().map_or(0, |registers| registers.rip);
    Exit::InternalError { vcpu: index, suberror, rip }
}

//! Whether this machine's `/dev/kvm` is fit to run microVMs, by measurement.
//!
//! Some nested clouds offer a KVM that runs guest user mode on the processor but emulates kernel
//! mode one instruction at a time, at about 2 MIPS, and without many instructions that kernels
//! need. Nothing that KVM reports about itself tells; its speed does. The probe runs a loop in
//! ring 0, in long mode, of a scratch VM: hardware takes less than a millisecond for a million
//! turns, nested paging under QEMU's TCG some 7 ms, an emulating KVM over a second.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use serde::Serialize;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Below this many million instructions per second, kernel mode is taken to be emulated.
pub const EMULATED_BELOW_MIPS: f64 = 50.0;

/// A loop's turns: milliseconds where kernel code is emulated.
const TURNS: u32 = 10_000;
/// How often it is run.
const ROUNDS: usize = 8;
/// The turns of the last loop where KVM is fast: far longer than entering a guest takes.
const MORE_TURNS: u32 = 1_000_000;

const MEMORY: usize = 0x20_0000;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const CODE: u64 = 0x4000;
const PRESENT_WRITABLE: u64 = 0b11;
const HUGE: u64 = 1 << 7;

/// `1: dec %ecx; jnz 1b; hlt`
const LOOP: [u8; 5] = [0xff, 0xc9, 0x75, 0xfc, 0xf4];
const INSTRUCTIONS_PER_TURN: f64 = 2.0;

const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// What the probe found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The finding in one word.
    pub verdict: Verdict,
    /// Speed of guest kernel code in million instructions per second, where it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mips: Option<f64>,
    /// The finding in one line.
    pub message: String,
}

/// What `/dev/kvm` is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It runs guest kernel code at a processor's speed.
    Usable,
    /// It emulates guest kernel code.
    Emulated,
    /// There is none.
    Absent,
    /// This user may not open it.
    Denied,
    /// It is there, but no VM can be made or run with it.
    Broken,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Why the loop could not be run.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("cannot {0}: {1}")]
    Kvm(&'static str, kvm_ioctls::Error),
    #[error("cannot lay out the scratch VM's memory: {0}")]
    Memory(String),
    #[error("the loop ended in {0} instead of HLT")]
    Exit(String),
}

/// Judges `/dev/kvm`. Takes a few milliseconds on hardware, up to 0.2 s where it is emulated.
#[must_use]
pub fn probe() -> Report {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => return unopened(error),
    };
    match measure(&kvm) {
        Ok(mips) => judge(mips),
        Err(error) => Report {
            verdict: Verdict::Broken,
            mips: None,
            message: format!("/dev/kvm is there but does not work: {error}"),
        },
    }
}

fn unopened(error: kvm_ioctls::Error) -> Report {
    let (verdict, message) = match io::Error::from_raw_os_error(error.errno()).kind() {
        io::ErrorKind::NotFound => (Verdict::Absent, "there is no /dev/kvm".to_owned()),
        io::ErrorKind::PermissionDenied => {
            (Verdict::Denied, "no permission to open /dev/kvm".to_owned())
        }
        // A device node without its driver: ENODEV or ENXIO.
        _ => (Verdict::Absent, format!("/dev/kvm cannot be opened: {error}")),
    };
    Report { verdict, mips: None, message }
}

fn judge(mips: f64) -> Report {
    let (verdict, message) = if mips < EMULATED_BELOW_MIPS {
        (Verdict::Emulated, format!("/dev/kvm emulates kernel code in software ({mips:.1} MIPS)"))
    } else {
        (Verdict::Usable, format!("/dev/kvm runs kernel code at {mips:.0} MIPS"))
    };
    Report { verdict, mips: Some(mips), message }
}

/// Million instructions per second of the loop.
fn measure(kvm: &Kvm) -> Result<f64, ProbeError> {
    let memory = scratch_memory()?;
    let vm = kvm.create_vm().map_err(|e| ProbeError::Kvm("create a VM", e))?;
    let host_address = memory
        .get_host_address(GuestAddress(0))
        .map_err(|error| ProbeError::Memory(error.to_string()))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: host_address as u64,
    };
    // SAFETY: the region is exactly the mapping that `memory` owns, which outlives `vm`: locals
    // are dropped in reverse order.
    unsafe { vm.set_user_memory_region(region) }
        .map_err(|e| ProbeError::Kvm("give a VM memory", e))?;
    let mut vcpu = vm.create_vcpu(0).map_err(|e| ProbeError::Kvm("create a vCPU", e))?;
    // Without CPUID the vCPU has no long mode to enter.
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|e| ProbeError::Kvm("read the supported CPUID", e))?;
    vcpu.set_cpuid2(&cpuid).map_err(|e| ProbeError::Kvm("set CPUID", e))?;
    enter_long_mode(&vcpu)?;

    let mut rate = |turns| -> Result<f64, ProbeError> {
        let took = run_loop(&mut vcpu, turns)?;
        Ok(INSTRUCTIONS_PER_TURN * f64::from(turns) / took.as_secs_f64() / 1e6)
    };
    // A busy machine only ever makes the loop look slower than it is: the best of several counts.
    let mut mips = 0.0_f64;
    for _ in 0..ROUNDS {
        mips = mips.max(rate(TURNS)?);
    }
    if mips >= EMULATED_BELOW_MIPS {
        mips = mips.max(rate(MORE_TURNS)?);
    }
    Ok(mips)
}

/// 2 MiB mapped one to one by a single page (pages of 1 GiB are not everywhere), and the loop.
fn scratch_memory() -> Result<GuestMemoryMmap, ProbeError> {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)])
        .map_err(|error| ProbeError::Memory(error.to_string()))?;
    let write = |address, bytes: &[u8]| {
        memory
            .write_slice(bytes, GuestAddress(address))
            .map_err(|error| ProbeError::Memory(error.to_string()))
    };
    write(PML4, &(PDPT | PRESENT_WRITABLE).to_le_bytes())?;
    write(PDPT, &(DIRECTORY | PRESENT_WRITABLE).to_le_bytes())?;
    write(DIRECTORY, &(PRESENT_WRITABLE | HUGE).to_le_bytes())?;
    write(CODE, &LOOP)?;
    Ok(memory)
}

/// Sets segments and control registers as after a switch to 64-bit mode. The descriptors live in
/// KVM's cache of them only: the loop loads no segment, so no GDT is needed.
fn enter_long_mode(vcpu: &VcpuFd) -> Result<(), ProbeError> {
    let code = kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: 0x8,
        type_: 0xb,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment { selector: 0x10, type_: 0x3, l: 0, db: 1, ..code };
    let mut sregs = vcpu.get_sregs().map_err(|e| ProbeError::Kvm("read registers", e))?;
    sregs.cs = code;
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = data;
    }
    sregs.cr3 = PML4;
    sregs.cr4 |= CR4_PAE;
    sregs.cr0 |= CR0_PE | CR0_PG;
    sregs.efer |= EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs).map_err(|e| ProbeError::Kvm("set registers", e))
}

fn run_loop(vcpu: &mut VcpuFd, turns: u32) -> Result<Duration, ProbeError> {
    let regs = kvm_regs { rip: CODE, rcx: u64::from(turns), rflags: 2, ..Default::default() };
    vcpu.set_regs(&regs).map_err(|e| ProbeError::Kvm("set registers", e))?;
    let start = Instant::now();
    loop {
        match vcpu.run() {
            Ok(VcpuExit::Hlt) => return Ok(start.elapsed()),
            Ok(other) => return Err(ProbeError::Exit(format!("{other:?}"))),
            // EINTR: a signal came; the loop goes on where it was.
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(ProbeError::Kvm("run a vCPU", error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_decides() {
        assert_eq!(judge(1.7).verdict, Verdict::Emulated);
        assert_eq!(judge(49.9).verdict, Verdict::Emulated);
        assert_eq!(judge(285.0).verdict, Verdict::Usable);
    }

    #[test]
    fn a_report_names_its_verdict_in_json() {
        let report = unopened(kvm_ioctls::Error::new(libc::ENOENT));
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"verdict":"absent","message":"there is no /dev/kvm"}"#
        );
        assert_eq!(unopened(kvm_ioctls::Error::new(libc::EACCES)).verdict, Verdict::Denied);
        assert_eq!(unopened(kvm_ioctls::Error::new(libc::ENXIO)).verdict, Verdict::Absent);
    }

    #[test]
    #[ignore = "needs KVM: run by ci/test-vms"]
    fn the_loop_runs_where_kvm_is_usable() {
        let report = probe();
        assert_eq!(report.verdict, Verdict::Usable, "{report}");
    }
}

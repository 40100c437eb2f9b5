//! A vCPU's state before its first instruction.

use kvm_bindings::{
    Msrs, kvm_cpuid_entry2, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment, kvm_xcrs,
};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::VcpuError;
use crate::boot::{Entry, Protocol};
use crate::layout::{BOOT_STACK, GDT, PAGE_TABLES, PVH_START_INFO, ZERO_PAGE};
use crate::memory::GuestMemory;

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE_WRITE_BACK: u64 = (1 << 11) | 6;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const CPUID_XSAVE: u32 = 1 << 26;
const XCR0_X87_SSE_AVX: u64 = 7;
const RFLAGS_RESERVED: u64 = 1 << 1;

/// Code, data and task segments' indices in the GDT: Linux' `__BOOT_CS` and `__BOOT_DS`.
const CODE: u16 = 2;
const DATA: u16 = 3;
const TASK: u16 = 4;

const LAPIC_LINT0: usize = 0x350;
const LAPIC_LINT1: usize = 0x360;
const LAPIC_MODE_NMI: u32 = 4 << 8;
const LAPIC_MODE_EXTINT: u32 = 7 << 8;

/// Sets what every vCPU with the CPUID `leaves` starts with: MSRs, the FPU and the local APIC's pins.
pub(super) fn setup_any(vcpu: &VcpuFd, leaves: &[kvm_cpuid_entry2]) -> Result<(), VcpuError> {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let msrs = Msrs::from_entries(&[
        entry(MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLE_WRITE_BACK),
    ])
    .map_err(|_| VcpuError::Setup("MSRs", kvm_ioctls::Error::new(libc::EINVAL)))?;
    vcpu.set_msrs(&msrs).map_err(|error| VcpuError::Setup("MSRs", error))?;

    let fpu = kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(|error| VcpuError::Setup("FPU", error))?;

    let xcr0 = xcr0(leaves);
    if xcr0 != 0 {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0].value = xcr0;
        vcpu.set_xcrs(&xcrs).map_err(|error| VcpuError::Setup("XCR0", error))?;
    }

    let mut lapic = vcpu.get_lapic().map_err(|error| VcpuError::Setup("local APIC", error))?;
    for (register, mode) in [(LAPIC_LINT0, LAPIC_MODE_EXTINT), (LAPIC_LINT1, LAPIC_MODE_NMI)] {
        let bytes = mode.to_le_bytes();
        for (target, byte) in lapic.regs[register..register + 4].iter_mut().zip(bytes) {
            *target = byte as _;
        }
    }
    vcpu.set_lapic(&lapic).map_err(|error| VcpuError::Setup("local APIC", error))
}

/// The extended state that is switched on from the start: x87, SSE and AVX, as far as there is XSAVE
/// with them (Intel's SDM volume 1, 13.3); 0 without XSAVE.
///
/// A processor starts with x87 alone, and kernels switch the rest on. But QEMU's emulation of a
/// processor does not let a hypervisor in it see them do so: KVM would put the value that it knows back
/// at every entry, and the guest's kernel would no longer switch its programs' SSE registers.
fn xcr0(leaves: &[kvm_cpuid_entry2]) -> u64 {
    let xsave = leaves.iter().any(|leaf| leaf.function == 1 && leaf.ecx & CPUID_XSAVE != 0);
    let supported = leaves.iter().find(|leaf| leaf.function == 0xd && leaf.index == 0);
    supported.filter(|_| xsave).map_or(0, |leaf| u64::from(leaf.eax) & XCR0_X87_SSE_AVX)
}

/// Sets the first vCPU to the kernel's entry point, in the state that the protocol asks for.
pub(super) fn setup_first(
    vcpu: &VcpuFd,
    memory: &GuestMemory,
    entry: Entry,
) -> Result<(), VcpuError> {
    let long = entry.protocol == Protocol::Linux64;
    let code = segment(CODE, 0xb, !long, long, 0xffff_ffff);
    let data = segment(DATA, 0x3, true, false, 0xffff_ffff);
    let task = kvm_segment { s: 0, g: 0, db: 0, ..segment(TASK, 0xb, false, false, 0x67) };
    let table = [0, 0, descriptor(&code), descriptor(&data), descriptor(&task)];
    for (index, descriptor) in table.iter().enumerate() {
        memory.write_obj(*descriptor, GuestAddress(GDT + 8 * index as u64))?;
    }

    let mut special = vcpu.get_sregs().map_err(|error| VcpuError::Setup("registers", error))?;
    special.gdt.base = GDT;
    special.gdt.limit = (size_of_val(&table) - 1) as u16;
    special.idt.base = 0;
    special.idt.limit = 0;
    special.cs = code;
    (special.ds, special.es, special.fs) = (data, data, data);
    (special.gs, special.ss) = (data, data);
    special.tr = task;
    special.cr0 = CR0_PE | CR0_ET;
    special.cr4 = 0;
    if long {
        special.cr0 |= CR0_PG;
        special.cr3 = PAGE_TABLES;
        special.cr4 = CR4_PAE;
        special.efer |= EFER_LME | EFER_LMA;
    }
    vcpu.set_sregs(&special).map_err(|error| VcpuError::Setup("registers", error))?;

    let mut general =
        kvm_regs { rip: entry.address, rflags: RFLAGS_RESERVED, ..Default::default() };
    match entry.protocol {
        Protocol::Pvh => general.rbx = PVH_START_INFO,
        Protocol::Linux64 => {
            general.rsi = ZERO_PAGE;
            general.rsp = BOOT_STACK;
            general.rbp = BOOT_STACK;
        }
    }
    vcpu.set_regs(&general).map_err(|error| VcpuError::Setup("registers", error))
}

fn segment(index: u16, kind: u8, db: bool, long: bool, limit: u32) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit,
        selector: index * 8,
        type_: kind,
        present: 1,
        dpl: 0,
        db: db.into(),
        s: 1,
        l: long.into(),
        g: 1,
        ..Default::default()
    }
}

/// The segment as the GDT holds it (Intel's SDM volume 3, 3.4.5).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.l) << 1 | u64::from(segment.db) << 2 | u64::from(segment.g) << 3;
    (limit & 0xffff)
        | (segment.base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (segment.base >> 24 & 0xff) << 56
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_the_usual_flat_ones() {
        assert_eq!(descriptor(&segment(CODE, 0xb, true, false, u32::MAX)), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&segment(CODE, 0xb, false, true, u32::MAX)), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&segment(DATA, 0x3, true, false, u32::MAX)), 0x00cf_9300_0000_ffff);
    }
    #[test]
    fn extended_state_is_on_as_far_as_there_is_any() {
        let leaf =
            |function, eax, ecx| kvm_cpuid_entry2 { function, eax, ecx, ..Default::default() };
        assert_eq!(xcr0(&[leaf(1, 0, CPUID_XSAVE), leaf(0xd, 0x207, 0)]), 7);
        assert_eq!(xcr0(&[leaf(1, 0, CPUID_XSAVE), leaf(0xd, 3, 0)]), 3);
        assert_eq!(xcr0(&[leaf(1, 0, 0), leaf(0xd, 7, 0)]), 0);
        assert_eq!(xcr0(&[leaf(1, 0, CPUID_XSAVE)]), 0);
    }
}

//! Mapping guest memory for the processor before the guest touches it (`KVM_PRE_FAULT_MEMORY`, KVM's
//! API documentation, 4.143).
//!
//! Memory that the monitor has filled is there, but not yet in the tables by which the processor
//! translates guest addresses: each page's first access would be an exit.

use std::io;
use std::ops::Range;

use kvm_bindings::{KVMIO, kvm_pre_fault_memory};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;

const PAGE: u64 = 4096;

ioctl_iowr_nr!(KVM_PRE_FAULT_MEMORY, KVMIO, 0xd5, kvm_pre_fault_memory);

/// Has KVM map the whole pages of a range of guest-physical addresses. A host that cannot (Linux before
/// 6.11, no nested paging) maps them one by one as the guest goes.
pub(super) fn prefault(vcpu: &VcpuFd, range: &Range<u64>) {
    let start = range.start.next_multiple_of(PAGE);
    let size = (range.end - range.end % PAGE).saturating_sub(start);
    let mut rest = kvm_pre_fault_memory { gpa: start, size, ..Default::default() };
    while rest.size > 0 {
        // SAFETY: the descriptor is a vCPU's, and the call reads and writes one structure of its own
        // kind, which lives as long: KVM leaves there what it has not come to.
        if unsafe { ioctl_with_mut_ref(vcpu, KVM_PRE_FAULT_MEMORY(), &mut rest) } < 0
            && !is_passing(&io::Error::last_os_error())
        {
            return;
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}

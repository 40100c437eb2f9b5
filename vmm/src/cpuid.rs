//! What a vCPU says of itself: the processor that KVM supports, with this machine's topology.
//!
//! One package, one core per vCPU, one thread per core, all sharing the last-level cache; the APIC
//! id is the vCPU's number. Intel's SDM volume 2 (CPUID) and AMD's APM volume 3, appendix E, say
//! which leaf tells what. No performance counters: they would cost exits and boot time.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;

const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
const HTT: u32 = 1 << 28;
const CMP_LEGACY: u32 = 1 << 1;
const ENERGY_PERFORMANCE_BIAS: u32 = 1 << 3;
const TURBO: u32 = 1 << 1;
/// Leaf 0xb's types of level.
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;
const KVM_CPUID_FLAG_SIGNIFICANT_INDEX: u32 = 1;

/// What KVM supports on this host.
///
/// # Errors
/// As `KVM_GET_SUPPORTED_CPUID`.
pub fn supported(kvm: &Kvm) -> Result<CpuId, kvm_ioctls::Error> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
}

/// The leaves of vCPU `index` of `cpus`.
#[must_use]
pub fn for_vcpu(supported: &[kvm_cpuid_entry2], index: u8, cpus: u8) -> Vec<kvm_cpuid_entry2> {
    let apic_id = u32::from(index);
    let count = u32::from(cpus.max(1));
    let bits = count.next_power_of_two().trailing_zeros();
    let max_basic = supported.iter().find(|leaf| leaf.function == 0).map_or(0, |leaf| leaf.eax);
    let mut leaves: Vec<_> =
        supported.iter().filter(|leaf| !matches!(leaf.function, 0xb | 0x1f)).copied().collect();

    for leaf in &mut leaves {
        match leaf.function {
            1 => {
                leaf.ebx = (leaf.ebx & 0xffff) | (apic_id << 24) | (count << 16);
                leaf.ecx |= TSC_DEADLINE | HYPERVISOR;
                set(&mut leaf.edx, HTT, count > 1);
            }
            4 if leaf.eax & 0x1f != 0 => {
                let level = (leaf.eax >> 5) & 7;
                let sharing = if level >= 3 { (1 << bits) - 1 } else { 0 };
                leaf.eax = (leaf.eax & 0x3fff) | (sharing << 14) | (((1 << bits) - 1) << 26);
            }
            6 => {
                leaf.eax &= !TURBO;
                leaf.ecx &= !ENERGY_PERFORMANCE_BIAS;
            }
            0xa => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0),
            0x8000_0001 => set(&mut leaf.ecx, CMP_LEGACY, count > 1 && is_amd(supported)),
            0x8000_0008 if is_amd(supported) => {
                leaf.ecx = (leaf.ecx & !0xf0ff) | (bits << 12) | (count - 1);
            }
            0x8000_001d if leaf.eax & 0x1f != 0 => {
                let level = (leaf.eax >> 5) & 7;
                let sharing = if level >= 3 { count - 1 } else { 0 };
                leaf.eax = (leaf.eax & !(0xfff << 14)) | (sharing << 14);
            }
            0x8000_001e => (leaf.eax, leaf.ebx, leaf.ecx) = (apic_id, apic_id, 0),
            _ => {}
        }
    }
    for function in [0xb, 0x1f] {
        if function <= max_basic {
            leaves.extend(topology(function, apic_id, count, bits));
        }
    }
    leaves
}

/// Leaf 0xb or 0x1f: a level of threads, a level of cores, and the level that ends the list.
fn topology(function: u32, apic_id: u32, count: u32, bits: u32) -> [kvm_cpuid_entry2; 3] {
    [(0, 1, LEVEL_THREAD), (bits, count, LEVEL_CORE | 1), (0, 0, 2)].map(|(eax, ebx, ecx)| {
        kvm_cpuid_entry2 {
            function,
            index: ecx & 0xff,
            flags: KVM_CPUID_FLAG_SIGNIFICANT_INDEX,
            eax,
            ebx,
            ecx,
            edx: apic_id,
            ..Default::default()
        }
    })
}

fn is_amd(leaves: &[kvm_cpuid_entry2]) -> bool {
    leaves.iter().any(|leaf| {
        let name = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat();
        leaf.function == 0 && matches!(&name[..], b"AuthenticAMD" | b"HygonGenuine")
    })
}

fn set(register: &mut u32, bit: u32, on: bool) {
    if on {
        *register |= bit;
    } else {
        *register &= !bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, eax: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, eax, ..Default::default() }
    }

    fn amd() -> Vec<kvm_cpuid_entry2> {
        let name = |text: &[u8; 4]| u32::from_le_bytes(*text);
        let vendor = kvm_cpuid_entry2 {
            eax: 0xd,
            ebx: name(b"Auth"),
            edx: name(b"enti"),
            ecx: name(b"cAMD"),
            ..leaf(0, 0)
        };
        vec![
            vendor,
            kvm_cpuid_entry2 { ebx: 0xff04_0800, ..leaf(1, 0) },
            leaf(0xa, 7),
            leaf(0xb, 99),
            leaf(0x8000_0001, 0),
            leaf(0x8000_0008, 0x3028),
            leaf(0x8000_001d, 0x63),
            leaf(0x8000_001e, 99),
        ]
    }

    fn find(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut found =
            leaves.iter().filter(|leaf| leaf.function == function && leaf.index == index);
        let leaf = found.next().copied().unwrap();
        assert!(found.next().is_none(), "leaf {function:#x} is there twice");
        leaf
    }

    #[test]
    fn each_vcpu_has_its_own_apic_id_everywhere() {
        let leaves = for_vcpu(&amd(), 5, 6);
        assert_eq!(find(&leaves, 1, 0).ebx, 0x0506_0800);
        assert_eq!(find(&leaves, 0x8000_001e, 0).eax, 5);
        for level in 0..3 {
            assert_eq!(find(&leaves, 0xb, level).edx, 5);
        }
    }

    #[test]
    fn the_package_has_a_core_for_each_vcpu() {
        let leaves = for_vcpu(&amd(), 0, 6);
        let core = find(&leaves, 0xb, 1);
        assert_eq!((core.eax, core.ebx, core.ecx), (3, 6, 0x201));
        let thread = find(&leaves, 0xb, 0);
        assert_eq!((thread.eax, thread.ebx, thread.ecx), (0, 1, 0x100));
        assert_eq!(find(&leaves, 0x8000_0008, 0).ecx, (3 << 12) | 5);
        assert_eq!(find(&leaves, 0x8000_0001, 0).ecx & CMP_LEGACY, CMP_LEGACY);
        assert_eq!(find(&leaves, 0x8000_001d, 0).eax >> 14, 5);
        assert_ne!(find(&leaves, 1, 0).edx & HTT, 0);
        assert!(leaves.iter().all(|leaf| leaf.function != 0x1f), "above the highest basic leaf");
    }

    #[test]
    fn a_single_vcpu_has_no_siblings() {
        let leaves = for_vcpu(&amd(), 0, 1);
        assert_eq!(find(&leaves, 1, 0).edx & HTT, 0);
        assert_eq!(find(&leaves, 0xb, 1).eax, 0);
        assert_eq!(find(&leaves, 0x8000_0001, 0).ecx & CMP_LEGACY, 0);
    }

    #[test]
    fn there_are_no_performance_counters() {
        assert_eq!(find(&for_vcpu(&amd(), 0, 1), 0xa, 0).eax, 0);
    }
}

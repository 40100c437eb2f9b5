//! The MP table (Intel MultiProcessor Specification 1.4), for kernels without ACPI.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::layout::{IO_APIC, IRQ_PINS, LOCAL_APIC, MP_TABLE};
use crate::memory::GuestMemory;

const APIC_VERSION: u8 = 0x14;
const CPU_ENABLED: u8 = 1;
const CPU_BOOTSTRAP: u8 = 2;
/// Family 6, with an APIC and an FPU: nothing reads it further.
const CPU_SIGNATURE: u32 = 0x600;
const CPU_FEATURES: u32 = 0x201;
const ISA_BUS: u8 = 0;
const INTERRUPT_NORMAL: u8 = 0;
const INTERRUPT_NMI: u8 = 1;
const INTERRUPT_EXTERNAL: u8 = 3;
const ALL_CPUS: u8 = 0xff;

/// Writes floating pointer and table for `cpus` processors at [`MP_TABLE`].
///
/// # Errors
/// When guest memory does not reach that far.
pub fn write(memory: &GuestMemory, cpus: u8) -> Result<(), GuestMemoryError> {
    memory.write_slice(&build(cpus), GuestAddress(MP_TABLE))
}

fn build(cpus: u8) -> Vec<u8> {
    let io_apic = cpus;
    let mut entries = Vec::new();
    let mut count = 0_u16;
    let mut entry = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    for id in 0..cpus {
        let flags = CPU_ENABLED | if id == 0 { CPU_BOOTSTRAP } else { 0 };
        let [s, f] = [CPU_SIGNATURE, CPU_FEATURES].map(u32::to_le_bytes);
        let head = [0, id, APIC_VERSION, flags];
        entry(&[&head[..], &s, &f, &[0; 8]].concat());
    }
    entry(&[&[1, ISA_BUS][..], b"ISA   "].concat());
    entry(&[&[2, io_apic, APIC_VERSION, 1][..], &IO_APIC.to_le_bytes()].concat());
    for pin in 0..IRQ_PINS as u8 {
        entry(&[3, INTERRUPT_NORMAL, 0, 0, ISA_BUS, pin, io_apic, pin]);
    }
    entry(&[4, INTERRUPT_EXTERNAL, 0, 0, ISA_BUS, 0, 0, 0]);
    entry(&[4, INTERRUPT_NMI, 0, 0, ISA_BUS, 0, ALL_CPUS, 1]);

    let mut table = Vec::from(*b"PCMP");
    table.extend((44 + entries.len() as u16).to_le_bytes());
    table.extend([4, 0]);
    table.extend(b"BULKHEADMICROVM     ");
    table.extend([0; 6]);
    table.extend(count.to_le_bytes());
    table.extend(LOCAL_APIC.to_le_bytes());
    table.extend([0; 4]);
    table.extend(entries);
    table[7] = checksum(&table);

    let mut floating = Vec::from(*b"_MP_");
    floating.extend((MP_TABLE as u32 + 16).to_le_bytes());
    floating.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    floating[10] = checksum(&floating);
    floating.extend(table);
    floating
}

/// The byte that makes the sum of all of them zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole_for_1_to_32_processors() {
        for cpus in 1..=32 {
            let bytes = build(cpus);
            let (floating, table) = bytes.split_at(16);
            assert_eq!(checksum(floating), 0);
            assert_eq!(checksum(table), 0);
            assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
            assert_eq!(table.len(), 44 + 20 * usize::from(cpus) + 8 + 8 + 24 * 8 + 16);
            let entries = u16::from_le_bytes([table[34], table[35]]);
            assert_eq!(entries, u16::from(cpus) + 1 + 1 + 24 + 2);
        }
    }

    #[test]
    fn only_the_first_processor_is_the_bootstrap_processor() {
        let bytes = build(3);
        let flags: Vec<u8> = (0..3).map(|cpu| bytes[16 + 44 + 20 * cpu + 3]).collect();
        assert_eq!(flags, [3, 1, 1]);
    }
}

//! ACPI tables of hardware-reduced ACPI (ACPI 6.5, 4.1), for kernels that have no MP table parser.
//!
//! They name the processors, the I/O APIC, the serial port and the virtio-mmio devices (`LNRO0005`, as
//! distributions' kernels know them), and give a kernel with ACPI its power-off: the sleep control
//! register at [`POWER_PORT`]. The keyboard controller is the reset register.

use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::MmioDevice;
use crate::layout::{
    ACPI_TABLES, I8042_PORT, IO_APIC, LOCAL_APIC, POWER_PORT, SERIAL_IRQ, SERIAL_PORT, VIRTIO_SIZE,
};
use crate::memory::GuestMemory;

const OEM: [u8; 6] = *b"BULKHD";
const OEM_TABLE: [u8; 8] = *b"MICROVM ";
const REVISION: u32 = 1;
const RSDP_ROOM: u64 = 64;
/// FADT boot flags: no VGA, no MSI restrictions named, no CMOS clock.
const NO_VGA_NO_CLOCK: u16 = (1 << 2) | (1 << 5);
const RESET: u8 = 0xfe;

/// Writes the tables for `cpus` processors and `devices`; returns the root pointer's address.
///
/// # Errors
/// When guest memory does not reach that far.
pub fn write(
    memory: &GuestMemory,
    cpus: u8,
    devices: &[MmioDevice],
) -> Result<u64, GuestMemoryError> {
    memory.write_slice(&build(cpus, devices), GuestAddress(ACPI_TABLES))?;
    Ok(ACPI_TABLES)
}

#[derive(Default)]
struct Bytes8(Vec<u8>);

impl AmlSink for Bytes8 {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut sink = Bytes8::default();
    table.to_aml_bytes(&mut sink);
    sink.0
}

/// The root pointer, and after it the tables that it leads to.
fn build(cpus: u8, devices: &[MmioDevice]) -> Vec<u8> {
    let mut tables = Vec::new();
    let mut place = |table: Vec<u8>| {
        let address = ACPI_TABLES + RSDP_ROOM + tables.len() as u64;
        tables.extend(table);
        tables.resize(tables.len().next_multiple_of(16), 0);
        address
    };
    let dsdt = place(dsdt(devices));
    let fadt = place(fadt(dsdt));
    let madt = place(madt(cpus));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(bytes(&xsdt));

    let mut all = bytes(&Rsdp::new(OEM, xsdt));
    all.resize(RSDP_ROOM as usize, 0);
    all.extend(tables);
    all
}

fn io_register(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port))
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd);
    fadt.iapc_boot_arch = NO_VGA_NO_CLOCK.into();
    fadt.reset_reg = io_register(I8042_PORT + 4);
    fadt.reset_value = RESET;
    fadt.sleep_control_reg = io_register(POWER_PORT);
    fadt.sleep_status_reg = io_register(POWER_PORT + 1);
    bytes(&fadt.finalize())
}

fn madt(cpus: u8) -> Vec<u8> {
    let controller = LocalInterruptController::Address(LOCAL_APIC);
    let mut madt = MADT::new(OEM, OEM_TABLE, REVISION, controller);
    for id in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(cpus, IO_APIC, 0));
    bytes(&madt)
}

fn dsdt(devices: &[MmioDevice]) -> Vec<u8> {
    let mut body =
        bytes(&Name::new(Path::new("_S5_"), &Package::new(vec![&5_u8, &0_u8, &0_u8, &0_u8])));
    body.extend(bytes(&Scope::new(
        Path::new("_SB_"),
        vec![&Device::new(
            Path::new("COM1"),
            vec![
                &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
                &Name::new(Path::new("_UID"), &0_u8),
                &Name::new(
                    Path::new("_CRS"),
                    &ResourceTemplate::new(vec![
                        &IO::new(SERIAL_PORT, SERIAL_PORT, 0, 8),
                        &Interrupt::new(true, true, false, false, SERIAL_IRQ),
                    ]),
                ),
            ],
        )],
    )));
    for (index, device) in devices.iter().enumerate() {
        let name = format!("VR{index:02}");
        body.extend(bytes(&Scope::new(
            Path::new("_SB_"),
            vec![&Device::new(
                Path::new(&name),
                vec![
                    &Name::new(Path::new("_HID"), &"LNRO0005"),
                    &Name::new(Path::new("_UID"), &(index as u8)),
                    &Name::new(Path::new("_CCA"), &1_u8),
                    &Name::new(
                        Path::new("_CRS"),
                        &ResourceTemplate::new(vec![
                            &Memory32Fixed::new(true, device.base as u32, VIRTIO_SIZE as u32),
                            &Interrupt::new(true, true, false, false, device.irq),
                        ]),
                    ),
                ],
            )],
        )));
    }
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM, OEM_TABLE, REVISION);
    dsdt.append_slice(&body);
    bytes(&dsdt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::ACPI_TABLES_MAX;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn u64_at(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    fn table(all: &[u8], address: u64) -> &[u8] {
        let start = (address - ACPI_TABLES) as usize;
        let length = u32::from_le_bytes(all[start + 4..start + 8].try_into().unwrap()) as usize;
        let table = &all[start..start + length];
        assert_eq!(sum(table), 0, "checksum of {:?}", &table[..4]);
        table
    }

    #[test]
    fn the_root_leads_to_tables_that_sum_to_zero() {
        let devices: Vec<_> =
            (0..17).map(|index| MmioDevice { base: 0xd000_0000 + index * 4096, irq: 5 }).collect();
        let all = build(32, &devices);
        assert!(all.len() as u64 <= ACPI_TABLES_MAX);
        assert_eq!(&all[..8], b"RSD PTR ");
        assert_eq!(sum(&all[..36]), 0);
        let xsdt = table(&all, u64_at(&all, 24));
        assert_eq!(&xsdt[..4], b"XSDT");
        let fadt = table(&all, u64_at(xsdt, 36));
        assert_eq!(&fadt[..4], b"FACP");
        let madt = table(&all, u64_at(xsdt, 44));
        assert_eq!(&madt[..4], b"APIC");
        assert_eq!(madt.len(), 44 + 32 * 8 + 12);
        let dsdt = table(&all, u64_at(fadt, 140));
        assert_eq!(dsdt.windows(8).filter(|bytes| bytes == b"LNRO0005").count(), 17);
        assert_eq!(fadt[244 + 4], POWER_PORT as u8, "the sleep control register's port");
    }
}

//! Where things lie in guest-physical memory and in the I/O port space.
//!
//! Memory runs from 0 to the 3–4 GiB hole and goes on above it. The first MiB holds what the boot
//! protocols need; the kernel is loaded from 1 MiB on, or wherever its ELF headers say.

/// The kernel's page tables at entry by the 64-bit boot protocol: PML4, PDPT and four page
/// directories, which map the first 4 GiB one to one.
pub const PAGE_TABLES: u64 = 0x9000;
/// The GDT at entry.
pub const GDT: u64 = 0x500;
/// `struct hvm_start_info` of the PVH protocol.
pub const PVH_START_INFO: u64 = 0x6000;
/// `struct hvm_modlist_entry` of the PVH protocol.
pub const PVH_MODULES: u64 = 0x6040;
/// `struct hvm_memmap_table_entry` of the PVH protocol.
pub const PVH_MEMORY_MAP: u64 = 0x7000;
/// `struct boot_params` of the 64-bit boot protocol.
pub const ZERO_PAGE: u64 = 0x7000;
/// The stack pointer at entry by the 64-bit boot protocol.
pub const BOOT_STACK: u64 = 0x8ff0;
/// The kernel's command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Largest command line with its terminating NUL, in bytes: x86 Linux' `COMMAND_LINE_SIZE`.
pub const CMDLINE_MAX: usize = 2048;
/// The extended BIOS data area, where low memory ends and the MP table starts.
pub const EBDA: u64 = 0x9_fc00;
/// First byte that the memory map reserves for the MP table and the ACPI tables.
pub const FIRMWARE_TABLES: u64 = 0xe_0000;
/// The ACPI tables, found by the RSDP at their start.
pub const ACPI_TABLES: u64 = FIRMWARE_TABLES;
/// Room for the ACPI tables, in bytes.
pub const ACPI_TABLES_MAX: u64 = 0x1_0000;
/// The MP floating pointer and table: in the BIOS area that kernels scan.
pub const MP_TABLE: u64 = 0xf_0000;
/// Where memory above the first MiB starts; a bzImage is loaded here.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// Where the hole for MMIO below 4 GiB starts.
pub const HOLE_START: u64 = 0xc000_0000;
/// Where memory goes on after the hole.
pub const HOLE_END: u64 = 0x1_0000_0000;

/// The boot timer's register: a guest writes [`BOOT_TIMER_MAGIC`] when it has reached userspace.
pub const BOOT_TIMER: u64 = HOLE_START;
/// The byte that stops the boot timer.
pub const BOOT_TIMER_MAGIC: u8 = 123;
/// Bytes that the boot timer occupies.
pub const BOOT_TIMER_SIZE: u64 = 0x1000;

/// The first virtio device's registers. Device *n* follows *n* × [`VIRTIO_SIZE`] bytes later.
pub const VIRTIO_BASE: u64 = 0xd000_0000;
/// Bytes of a virtio device's registers.
pub const VIRTIO_SIZE: u64 = 0x1000;
/// The virtio devices' interrupt lines, in the order of the devices: the I/O APIC's pins without
/// the timer, the serial port, the clock and the FPU, which PCs have at fixed places.
pub const VIRTIO_IRQS: [u32; 17] = [5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23];
/// Pins of the I/O APIC.
pub const IRQ_PINS: u32 = 24;

/// The I/O APIC's registers.
pub const IO_APIC: u32 = 0xfec0_0000;
/// The local APICs' registers.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM needs on Intel for real mode.
pub const KVM_TSS: u64 = 0xfffb_d000;
/// One page that KVM needs on Intel for real mode.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// The first serial port (`ttyS0`).
pub const SERIAL_PORT: u16 = 0x3f8;
/// Its interrupt line.
pub const SERIAL_IRQ: u32 = 4;
/// The keyboard controller's data port; its command port is four above.
pub const I8042_PORT: u16 = 0x60;
/// The sleep control register of ACPI's reduced hardware, and the sleep status register after it.
pub const POWER_PORT: u16 = 0x604;
/// What a guest writes to [`POWER_PORT`] to power off: `SLP_TYP` 5 and `SLP_EN`.
pub const POWER_OFF: u8 = (5 << 2) | (1 << 5);

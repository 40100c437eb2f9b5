//! The machine: built once from a checked configuration, then started, paused and resumed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::boot::{self, Boot, BootError};
use crate::bus::{Bus, BusError, lock};
use crate::config::{Machine, Range};
use crate::console::Console;
use crate::cpuid;
use crate::devices::boot_timer::{BootTime, BootTimer};
use crate::devices::i8042::I8042;
use crate::devices::power::Power;
use crate::devices::serial::{Drained, Line, SerialPort};
use crate::event_loop::EventHandler;
use crate::exit::{CODE_CONFIG, CODE_KVM, ExitSink};
use crate::interrupts::{MmioDevice, acpi, mptable};
use crate::layout::{
    BOOT_TIMER, BOOT_TIMER_SIZE, I8042_PORT, KVM_IDENTITY_MAP, KVM_TSS, POWER_PORT, SERIAL_IRQ,
    SERIAL_PORT, VIRTIO_BASE, VIRTIO_IRQS, VIRTIO_SIZE,
};
use crate::memory::{self, GuestMemory, MemoryError};
use crate::vcpu::{self, Shared, VcpuError, Vcpus};
use crate::virtio::VirtioDevice;
use crate::virtio::block::{Backing, Block, RangeError};
use crate::virtio::entropy::Entropy;
use crate::virtio::interrupt::Interrupt;
use crate::virtio::mmio::{MmioTransport, QUEUE_NOTIFY};
use crate::virtio::net::{Net, Tap, TapError};
use crate::virtio::vsock::{GuestCid, InvalidCid, Vsock};
use crate::virtio::worker::Worker;

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// `/dev/kvm` cannot be opened.
    #[error("cannot open /dev/kvm: {0}; see `bulkhead doctor`")]
    NoKvm(kvm_ioctls::Error),
    /// KVM lacks something.
    #[error("this KVM lacks {0}")]
    Capability(&'static str),
    /// KVM refused something.
    #[error("KVM cannot {0}: {1}")]
    Kvm(&'static str, kvm_ioctls::Error),
    /// No guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Kernel, initrd or command line.
    #[error("cannot boot {files}: {error}")]
    Boot {
        /// The kernel, and the initrd if there is one.
        files: String,
        /// What is wrong.
        error: BootError,
    },
    /// Tables for the guest cannot be written.
    #[error("cannot write tables into guest memory: {0}")]
    Tables(#[from] vm_memory::GuestMemoryError),
    /// A vCPU.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// A range of a disk.
    #[error("disk {0}: {1}")]
    Range(String, RangeError),
    /// A tap.
    #[error("network device {0}: {1}")]
    Tap(String, TapError),
    /// The vsock device's context id.
    #[error(transparent)]
    Cid(#[from] InvalidCid),
    /// Two devices at one address: a mistake of this module.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The host refused a file descriptor.
    #[error("cannot {0}: {1}")]
    Host(&'static str, io::Error),
}

impl BuildError {
    /// The process's exit code (see [`crate::exit`]).
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::NoKvm(_) | Self::Capability(_) | Self::Kvm(..) | Self::Vcpu(_) => CODE_KVM,
            Self::Boot { .. } | Self::Range(..) | Self::Tap(..) | Self::Cid(_) => CODE_CONFIG,
            Self::Memory(MemoryError::Size(_)) => CODE_CONFIG,
            Self::Memory(_) | Self::Tables(_) | Self::Bus(_) | Self::Host(..) => 1,
        }
    }
}

/// A device of the device thread that the API knows by name.
struct NamedDevice {
    name: String,
    device: Arc<Mutex<dyn VirtioDevice>>,
}

/// A machine whose vCPUs wait for [`Vm::resume`].
pub struct Vm {
    cpus: u8,
    memory: u64,
    vcpus: Vcpus,
    disks: BTreeMap<String, Arc<Backing>>,
    devices: Vec<NamedDevice>,
    boot_time: BootTime,
    // Guest memory and the VM live as long as the machine.
    _memory: GuestMemory,
    _vm: VmFd,
}

/// Builds `machine`. What it returns beside the machine belongs on the event loop. Boot time counts
/// from `start`.
///
/// # Errors
/// When KVM, the host or the kernel image does not allow it.
pub fn build(
    machine: Machine,
    start: Instant,
    exit: Arc<ExitSink>,
) -> Result<(Vm, Vec<Box<dyn EventHandler>>), BuildError> {
    let kvm = Kvm::new().map_err(BuildError::NoKvm)?;
    let capabilities = [
        (Cap::Irqchip, "an in-kernel interrupt controller"),
        (Cap::Ioeventfd, "ioeventfds"),
        (Cap::Irqfd, "irqfds"),
        (Cap::Pit2, "an in-kernel timer"),
        (Cap::ImmediateExit, "immediate exits"),
    ];
    for (capability, name) in capabilities {
        if !kvm.check_extension(capability) {
            return Err(BuildError::Capability(name));
        }
    }
    let vm = create_vm(&kvm)?;
    let memory = memory::create(machine.memory)?;
    map_memory(&vm, &memory)?;

    let mut builder = Builder {
        vm: &vm,
        memory: &memory,
        exit: &exit,
        mmio: Bus::new(),
        pio: Bus::new(),
        handlers: Vec::new(),
        devices: Vec::new(),
        placed: Vec::new(),
    };
    let boot_time = BootTime::default();
    builder.legacy_devices(machine.console, start, &boot_time)?;
    let mut disks = BTreeMap::new();
    for disk in machine.disks {
        let block = Block::new(disk.id, disk.size, disk.read_only);
        let backing = block.backing().clone();
        for Range { offset, length, file } in disk.ranges {
            backing
                .add_range(offset, length, file)
                .map_err(|error| BuildError::Range(disk.name.clone(), error))?;
        }
        builder
            .place(Arc::new(Mutex::new(block)))?
            .serve_alone(&disk.name, exit.clone())
            .map_err(|error| BuildError::Host("start a disk's thread", error))?;
        disks.insert(disk.name, backing);
    }
    for net in machine.nets {
        let tap = Tap::new(net.tap).map_err(|error| BuildError::Tap(net.name.clone(), error))?;
        let device = Net::new(tap, net.mac, net.mtu);
        builder.virtio(net.name, Arc::new(Mutex::new(device)))?;
    }
    if let Some(vsock) = machine.vsock {
        let cid = GuestCid::try_from(vsock.cid)?;
        let device = Vsock::new(cid, vsock.listener, vsock.guest_connections)
            .map_err(|error| BuildError::Host("listen on the vsock socket", error))?;
        builder.virtio("vsock".to_owned(), Arc::new(Mutex::new(device)))?;
    }
    builder.virtio("entropy".to_owned(), Arc::new(Mutex::new(Entropy::new())))?;

    let Builder { mmio, pio, handlers, devices, placed, .. } = builder;
    mptable::write(&memory, machine.cpus)?;
    let rsdp = acpi::write(&memory, machine.cpus, &placed)?;
    let (mut kernel, mut initrd) = (machine.kernel, machine.initrd);
    let cmdline = with_devices(&machine.cmdline, &placed);
    let loaded = boot::load(
        &memory,
        Boot { kernel: &mut kernel, initrd: initrd.as_mut(), cmdline: &cmdline, rsdp },
    )
    .map_err(|error| BuildError::Boot { files: named(&kernel, initrd.as_ref()), error })?;
    let supported =
        cpuid::supported(&kvm).map_err(|error| BuildError::Kvm("tell its CPUID", error))?;
    let shared = Arc::new(Shared::new(mmio, pio, exit));
    let vcpus = vcpu::start(&vm, machine.cpus, &supported, &memory, &loaded, shared)?;
    let built = Vm {
        cpus: machine.cpus,
        memory: machine.memory,
        vcpus,
        disks,
        devices,
        boot_time,
        _memory: memory,
        _vm: vm,
    };
    Ok((built, handlers))
}

fn create_vm(kvm: &Kvm) -> Result<VmFd, BuildError> {
    // A signal may interrupt the creation; KVM asks for another try.
    let vm = loop {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => break result.map_err(|error| BuildError::Kvm("create a VM", error))?,
        }
    };
    let failed = |what| move |error| BuildError::Kvm(what, error);
    vm.set_identity_map_address(KVM_IDENTITY_MAP).map_err(failed("place its identity map"))?;
    vm.set_tss_address(KVM_TSS as usize).map_err(failed("place its TSS"))?;
    vm.create_irq_chip().map_err(failed("create an interrupt controller"))?;
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(pit).map_err(failed("create a timer"))?;
    Ok(vm)
}

fn map_memory(vm: &VmFd, memory: &GuestMemory) -> Result<(), BuildError> {
    for (slot, region) in memory.iter().enumerate() {
        let mapping = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is mapped, of that length, and stays so: `Vm` owns the memory and the
        // VM together, and the guest's slots do not overlap.
        unsafe { vm.set_user_memory_region(mapping) }
            .map_err(|error| BuildError::Kvm("map guest memory", error))?;
    }
    Ok(())
}

/// The files that are booted, for whoever named them: a jailed monitor sees no names.
fn named(kernel: &File, initrd: Option<&File>) -> String {
    let name = |file: &File| fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok();
    let Some(kernel) = name(kernel) else { return "the kernel".to_owned() };
    match initrd.and_then(name) {
        Some(initrd) => format!("{} with {}", kernel.display(), initrd.display()),
        None => kernel.display().to_string(),
    }
}

/// The command line, with each device for kernels that learn of them there.
fn with_devices(cmdline: &str, devices: &[MmioDevice]) -> String {
    let mut cmdline = cmdline.trim().to_owned();
    for MmioDevice { base, irq } in devices {
        let separator = if cmdline.is_empty() { "" } else { " " };
        // Writing to a String cannot fail.
        let _ = write!(cmdline, "{separator}virtio_mmio.device=4K@{base:#x}:{irq}");
    }
    cmdline
}

struct Builder<'a> {
    vm: &'a VmFd,
    memory: &'a GuestMemory,
    exit: &'a Arc<ExitSink>,
    mmio: Bus,
    pio: Bus,
    handlers: Vec<Box<dyn EventHandler>>,
    devices: Vec<NamedDevice>,
    placed: Vec<MmioDevice>,
}

impl Builder<'_> {
    fn legacy_devices(
        &mut self,
        console: crate::console::Backend,
        start: Instant,
        boot_time: &BootTime,
    ) -> Result<(), BuildError> {
        let (line, drained) = (eventfd()?, eventfd()?);
        let host = |error| BuildError::Host("set up the console", error);
        self.vm
            .register_irqfd(&line, SERIAL_IRQ)
            .map_err(|error| BuildError::Kvm("connect the serial port", error))?;
        let mut console =
            Console::new(console, drained.try_clone().map_err(host)?, self.exit.clone())
                .map_err(host)?;
        let port = SerialPort::new(Line(line), Drained(drained), console.output());
        let port = Arc::new(Mutex::new(port));
        console.connect(port.clone());
        self.handlers.push(Box::new(console));

        self.pio.insert(SERIAL_PORT.into(), SerialPort::SIZE, port)?;
        let i8042 = Arc::new(Mutex::new(I8042::new(self.exit.clone())));
        self.pio.insert(I8042_PORT.into(), I8042::SIZE, i8042)?;
        let power = Arc::new(Mutex::new(Power::new(self.exit.clone())));
        self.pio.insert(POWER_PORT.into(), Power::SIZE, power)?;
        let timer = Arc::new(Mutex::new(BootTimer::new(start, boot_time.clone())));
        Ok(self.mmio.insert(BOOT_TIMER, BOOT_TIMER_SIZE, timer)?)
    }

    /// A device that the device thread serves.
    fn virtio(
        &mut self,
        name: String,
        device: Arc<Mutex<dyn VirtioDevice>>,
    ) -> Result<(), BuildError> {
        let worker = self.place(device.clone())?;
        self.handlers.push(Box::new(worker));
        self.devices.push(NamedDevice { name, device });
        Ok(())
    }

    /// Gives a device its registers and interrupt; what it returns is to be served.
    fn place(&mut self, device: Arc<Mutex<dyn VirtioDevice>>) -> Result<Worker, BuildError> {
        let index = self.placed.len();
        let irq = *VIRTIO_IRQS
            .get(index)
            .ok_or(BuildError::Capability("interrupt lines for so many devices"))?;
        let base = VIRTIO_BASE + index as u64 * VIRTIO_SIZE;
        let host = |error| BuildError::Host("make a device's eventfds", error);
        let interrupt = Interrupt::new().map_err(host)?;
        self.vm
            .register_irqfd(interrupt.line(), irq)
            .map_err(|error| BuildError::Kvm("connect a device's interrupt", error))?;
        let (transport, worker) =
            MmioTransport::new(device, self.memory.clone(), interrupt).map_err(host)?;
        let notify = IoEventAddress::Mmio(base + QUEUE_NOTIFY);
        for (queue, event) in transport.queue_events().iter().enumerate() {
            self.vm
                .register_ioevent(event, &notify, queue as u32)
                .map_err(|error| BuildError::Kvm("connect a device's queue", error))?;
        }
        self.mmio.insert(base, VIRTIO_SIZE, Arc::new(Mutex::new(transport)))?;
        self.placed.push(MmioDevice { base, irq });
        Ok(worker)
    }
}

fn eventfd() -> Result<EventFd, BuildError> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
        .map_err(|error| BuildError::Host("make an eventfd", error))
}

/// Why a range was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddRangeError {
    /// There is no such disk.
    #[error("there is no disk {0}")]
    NoDisk(String),
    /// The disk refuses it.
    #[error("disk {0}: {1}")]
    Range(String, RangeError),
}

impl Vm {
    /// Lets the vCPUs run, for the first time or after a pause.
    pub fn resume(&self) {
        self.vcpus.resume();
    }

    /// Stops the vCPUs; returns when none executes guest code.
    pub fn pause(&self) {
        self.vcpus.pause();
    }

    /// Whether disk `name` is read-only, if there is one.
    #[must_use]
    pub fn disk_read_only(&self, name: &str) -> Option<bool> {
        self.disks.get(name).map(|disk| disk.is_read_only())
    }

    /// Adds a range to disk `name`. The guest may run.
    ///
    /// # Errors
    /// When there is no such disk, or the range is not possible.
    pub fn add_range(&self, name: &str, range: Range) -> Result<(), AddRangeError> {
        let disk = self.disks.get(name).ok_or_else(|| AddRangeError::NoDisk(name.to_owned()))?;
        let Range { offset, length, file } = range;
        disk.add_range(offset, length, file)
            .map_err(|error| AddRangeError::Range(name.to_owned(), error))
    }

    /// Number of vCPUs.
    #[must_use]
    pub fn cpus(&self) -> u8 {
        self.cpus
    }

    /// Guest memory in bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// When the guest reached userspace, if it has said so.
    #[must_use]
    pub fn boot_time(&self) -> Option<std::time::Duration> {
        self.boot_time.get().copied()
    }

    /// Counters: vCPUs' exits, and each device's by its name.
    #[must_use]
    pub fn metrics(&self) -> bulkhead_vmm_api::Metrics {
        let exits = self.vcpus.exits();
        let devices =
            self.devices.iter().map(|NamedDevice { name, device }| (name, lock(device).metrics()));
        let disks = self.disks.iter().map(|(name, disk)| (name, disk.metrics()));
        let named = devices.chain(disks).map(|(name, counters)| {
            let counters = counters.into_iter().map(|(key, value)| (key.to_owned(), value));
            (name.clone(), counters.collect())
        });
        bulkhead_vmm_api::Metrics {
            exits: [
                ("ioIn", &exits.io_in),
                ("ioOut", &exits.io_out),
                ("mmioRead", &exits.mmio_read),
                ("mmioWrite", &exits.mmio_write),
                ("interrupted", &exits.interrupted),
                ("other", &exits.other),
            ]
            .map(|(name, counter)| (name.to_owned(), counter.get()))
            .into(),
            devices: named.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_appended_to_the_command_line() {
        let devices =
            [MmioDevice { base: 0xd000_0000, irq: 5 }, MmioDevice { base: 0xd000_1000, irq: 6 }];
        assert_eq!(
            with_devices(" quiet ", &devices),
            "quiet virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6"
        );
        assert_eq!(with_devices("", &[]), "");
    }
}

//! Virtual CPUs: a thread each, from `KVM_RUN` to the bus and back.
//!
//! A vCPU is stopped by setting `immediate_exit` in the page it shares with KVM and then sending its
//! thread a signal: the signal ends a `KVM_RUN` that is under way, the flag one that is about to begin.

mod prefault;
mod registers;
mod run;

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use crate::boot::Loaded;
use crate::bus::Bus;
use crate::cpuid;
use crate::exit::ExitSink;
use crate::memory::GuestMemory;
use crate::metrics::VcpuExits;

/// Why a vCPU could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// KVM refused to create it.
    #[error("KVM cannot create vCPU {0}: {1}")]
    Create(u8, kvm_ioctls::Error),
    /// KVM refused a part of its state.
    #[error("KVM refuses the vCPU's {0}: {1}")]
    Setup(&'static str, kvm_ioctls::Error),
    /// The host refused its thread.
    #[error("cannot start a vCPU's thread: {0}")]
    Thread(io::Error),
    /// Boot structures cannot be written.
    #[error("cannot write boot data into guest memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// What all vCPUs share.
pub struct Shared {
    /// MMIO devices.
    pub mmio: Bus,
    /// I/O port devices.
    pub pio: Bus,
    /// Where the machine's end is reported.
    pub exit: Arc<ExitSink>,
    /// Counters of exits.
    pub exits: VcpuExits,
    gate: Gate,
}

impl Shared {
    /// For vCPUs that wait until [`Vcpus::resume`].
    #[must_use]
    pub fn new(mmio: Bus, pio: Bus, exit: Arc<ExitSink>) -> Self {
        Self { mmio, pio, exit, exits: VcpuExits::default(), gate: Gate::default() }
    }
}

/// Whether vCPUs may run, and how many do not.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    open: bool,
    waiting: usize,
}

impl Gate {
    /// Waits until the gate is open. Returns whether it was shut.
    fn pass(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.open {
            return false;
        }
        state.waiting += 1;
        self.changed.notify_all();
        while !state.open {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        true
    }

    fn set(&self, open: bool) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).open = open;
        self.changed.notify_all();
    }

    /// Waits until `count` vCPUs wait.
    fn wait_for(&self, count: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.waiting < count {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// `immediate_exit` of a vCPU's `kvm_run` page.
#[derive(Clone, Copy)]
struct ImmediateExit(*const AtomicU8);

// SAFETY: the pointer is only used for atomic accesses, and what it points to outlives every use:
// the thread that owns the mapping never ends before the process (see `run::forever`).
unsafe impl Send for ImmediateExit {}

impl ImmediateExit {
    fn of(vcpu: &mut VcpuFd) -> Self {
        Self((&raw mut vcpu.get_kvm_run().immediate_exit).cast_const().cast())
    }

    fn set(self, value: u8) {
        // SAFETY: see the type; an `AtomicU8` has a byte's layout, and KVM reads the field as a byte.
        unsafe { &*self.0 }.store(value, Ordering::SeqCst);
    }
}

/// The machine's vCPUs, from outside.
pub struct Vcpus {
    shared: Arc<Shared>,
    threads: Vec<(libc::pthread_t, ImmediateExit)>,
}

/// Creates `cpus` vCPUs, the first at the kernel's entry, on threads that wait for [`Vcpus::resume`].
///
/// # Errors
/// When KVM or the host refuses.
pub fn start(
    vm: &VmFd,
    cpus: u8,
    supported: &CpuId,
    memory: &GuestMemory,
    loaded: &Loaded,
    shared: Arc<Shared>,
) -> Result<Vcpus, VcpuError> {
    extern "C" fn interrupt(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(SIGRTMIN(), interrupt)
        .map_err(|error| VcpuError::Thread(error.into()))?;

    let mut threads = Vec::new();
    for index in 0..cpus {
        let mut vcpu =
            vm.create_vcpu(index.into()).map_err(|error| VcpuError::Create(index, error))?;
        let leaves = cpuid::for_vcpu(supported.as_slice(), index, cpus);
        let leaves = CpuId::from_entries(&leaves)
            .map_err(|_| VcpuError::Setup("CPUID", kvm_ioctls::Error::new(libc::E2BIG)))?;
        vcpu.set_cpuid2(&leaves).map_err(|error| VcpuError::Setup("CPUID", error))?;
        registers::setup_any(&vcpu, leaves.as_slice())?;
        if index == 0 {
            registers::setup_first(&vcpu, memory, loaded.entry)?;
        }
        let immediate_exit = ImmediateExit::of(&mut vcpu);
        let shared = shared.clone();
        let kernel = (index == 0).then(|| loaded.kernel.clone());
        let thread = thread::Builder::new()
            .name(format!("vcpu{index}"))
            .stack_size(128 << 10)
            .spawn(move || {
                for segment in kernel.iter().flatten() {
                    prefault::prefault(&vcpu, segment);
                }
                run::forever(index, vcpu, &shared)
            })
            .map_err(VcpuError::Thread)?;
        threads
            .push((std::os::unix::thread::JoinHandleExt::into_pthread_t(thread), immediate_exit));
    }
    Ok(Vcpus { shared, threads })
}

impl Vcpus {
    /// Lets the vCPUs run.
    pub fn resume(&self) {
        for (_, immediate_exit) in &self.threads {
            immediate_exit.set(0);
        }
        self.shared.gate.set(true);
    }

    /// Stops the vCPUs; returns when none executes guest code any more.
    pub fn pause(&self) {
        self.shared.gate.set(false);
        for (thread, immediate_exit) in &self.threads {
            immediate_exit.set(1);
            // SAFETY: the thread never ends before the process; the signal has a handler.
            unsafe { libc::pthread_kill(*thread, SIGRTMIN()) };
        }
        self.shared.gate.wait_for(self.threads.len());
    }

    /// Counters of exits to the monitor.
    #[must_use]
    pub fn exits(&self) -> &VcpuExits {
        &self.shared.exits
    }
}

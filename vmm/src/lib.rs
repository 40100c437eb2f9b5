//! A minimal KVM monitor: one process, one Linux microVM.
//!
//! The story of a machine, in the order of the modules:
//!
//! 1. [`config`] checks what was asked for (`bulkhead_vmm_api::VmConfig`) and opens its files; after
//!    that nothing is ever looked up by path.
//! 2. [`vm`] builds the machine: [`memory`] in a memfd, the addresses of [`layout`], [`boot`] loads
//!    kernel and initrd into it on a thread beside the rest, [`cpuid`] and [`interrupts`] describe the
//!    processors, [`devices`] and [`virtio`] hang on a [`bus`].
//! 3. [`vcpu`] runs each virtual CPU on a thread of its own. Port and MMIO exits are served there,
//!    through the bus.
//! 4. [`event_loop`] is where everything else happens: queues' work, the console and the HTTP [`api`] on
//!    one thread, each disk's requests on one of its own.
//! 5. [`exit`] says how it ended: an exit code and one line. [`termination`] lets signals end it in
//!    the same way.
//!
//! Guest bytes are hostile. A device never panics on them, never allocates by a number they name,
//! and never waits for the guest.

pub mod api;
pub mod boot;
pub mod bus;
pub mod config;
pub mod console;
pub mod cpuid;
pub mod devices;
pub mod event_loop;
pub mod exit;
pub mod interrupts;
pub mod layout;
pub mod memory;
pub mod metrics;
pub mod probe;
pub mod termination;
pub mod vcpu;
pub mod virtio;
pub mod vm;

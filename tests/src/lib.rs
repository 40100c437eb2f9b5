//! What the end-to-end tests share: the programs under test, a home of their own, kubectl, a
//! registry.
//!
//! The tests drive Bulkhead as a user does: through the `bulkhead` command and, with the
//! kubeconfig that it gives, through kubectl. They look at the host (processes, network
//! namespaces, files) only to see that nothing is left there. Nothing of the project is linked in.
//!
//! To start a kubectl takes an emulated processor a second, so it is not started for what is none of its
//! user's business: what becomes of a pod while a test waits is asked of the API server itself ([`api`]),
//! and the scripts that a test runs in a pod ([`Kubectl::sh`]) share one `kubectl exec`.
//!
//! They need a usable KVM and root, so they carry `#[ignore]`; `ci/test-vms` runs them, inside an
//! emulated host where the machine itself has no usable KVM. The environment names what they use
//! (`ci/in-kvm-host` sets it):
//!
//! | variable | what |
//! | --- | --- |
//! | `BULKHEAD_BIN_DIR` | where `bulkhead` and its companions lie |
//! | `BULKHEAD_KUBECTL` | the kubectl to use; older ones lie beside it |
//! | `BULKHEAD_BUSYBOX` | what `ci/make-busybox-image` made |
//! | `BULKHEAD_IMAGES` | what `ci/make-test-images` made |
//! | `BULKHEAD_KERNEL`, `BULKHEAD_DEBIAN_KERNEL` | our kernel, a stock Debian cloud kernel |
//! | `BULKHEAD_NODE_IMAGE_DIR` | what nodes boot: `vmlinux` and `root.erofs` |
//! | `BULKHEAD_TEST_DIR` | a directory for state, on a real file system |

#![forbid(unsafe_code)]

pub mod api;
pub mod home;
pub mod image;
pub mod initrd;
pub mod kubectl;
pub mod load;
pub mod output;
pub mod pod;
pub mod port_forward;
pub mod registry;
mod shell;
pub mod terminal;
pub mod wait;

pub use home::{Cluster, Home};
pub use initrd::initrd;
pub use kubectl::Kubectl;
pub use output::Outcome;
pub use pod::pod;
pub use port_forward::PortForward;
pub use registry::Registry;
pub use terminal::Terminal;
pub use wait::until;

use std::path::PathBuf;

/// The value of a variable that `ci/test-vms` sets.
///
/// # Panics
/// If it is not set.
#[must_use]
pub fn setting(name: &str) -> PathBuf {
    std::env::var_os(name)
        .unwrap_or_else(|| panic!("{name} is not set: run these tests with ci/test-vms"))
        .into()
}

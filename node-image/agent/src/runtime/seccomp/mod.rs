//! Seccomp: `securityContext.seccompProfile`
//! (<https://kubernetes.io/docs/tutorials/security/seccomp/>).
//!
//! A filter is installed by the container's own first process, last of all: whatever made the
//! container needed calls that the filter forbids. Unless that process is to gain no privileges,
//! which is the pod's to say, installing takes CAP_SYS_ADMIN, so the process keeps that
//! ([`raised`]) until it has installed the filter ([`Filtered`]).

mod profile;

use std::io;

use bulkhead_agent_protocol::pod::{Pod, SeccompProfile, SeccompProfileType, SecurityContext};
use libcontainer::{
    capabilities::drop_privileges,
    oci_spec::runtime::{LinuxCapabilities, Spec},
    syscall::syscall::create_syscall,
    workload::{Executor, ExecutorError, ExecutorValidationError, default::DefaultExecutor},
};
use seccompiler::BpfProgram;
use serde_json::{Value, json};

/// What installing a filter, and giving that right up again, takes.
const TO_INSTALL: [&str; 2] = ["CAP_SYS_ADMIN", "CAP_SETPCAP"];

/// Whether a container is to run under `RuntimeDefault`: its own profile counts before its pod's,
/// and a privileged one has none.
pub(super) fn is_wanted(pod: &Pod, context: &SecurityContext) -> bool {
    let of_pod = pod.spec.security_context.as_ref().and_then(|pod| pod.seccomp_profile.as_ref());
    let profile = context.seccomp_profile.as_ref().or(of_pod);
    let runtime_default =
        |profile: &SeccompProfile| profile.kind == SeccompProfileType::RuntimeDefault;
    context.privileged != Some(true) && profile.is_some_and(runtime_default)
}

/// A specification's process with what installing a filter takes added to its capabilities.
pub(super) fn raised(process: &Value) -> Value {
    let mut process = process.clone();
    for set in ["bounding", "effective", "permitted"] {
        if let Some(set) = process["capabilities"][set].as_array_mut() {
            let missing = TO_INSTALL.iter().map(|name| json!(name));
            let missing: Vec<Value> = missing.filter(|name| !set.contains(name)).collect();
            set.extend(missing);
        }
    }
    process
}

/// Executes a process under a filter, with the capabilities that it is to have.
#[derive(Clone)]
pub(super) struct Filtered {
    capabilities: LinuxCapabilities,
    programs: Vec<BpfProgram>,
}

impl Filtered {
    /// What `capabilities`, a specification's, make of the profile.
    ///
    /// # Errors
    /// If they are no capabilities.
    pub(super) fn new(capabilities: &Value) -> Result<Self, String> {
        let names = |set: &Value| {
            let names = set.as_array().into_iter().flatten().filter_map(Value::as_str);
            names.map(str::to_owned).collect::<Vec<_>>()
        };
        let programs = profile::runtime_default(&names(&capabilities["bounding"]))
            .map_err(|error| format!("the seccomp profile: {error}"))?;
        let capabilities = serde_json::from_value(capabilities.clone())
            .map_err(|error| format!("the process's capabilities: {error}"))?;
        Ok(Self { capabilities, programs })
    }
}

impl Executor for Filtered {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        for program in &self.programs {
            install(program).map_err(|error| {
                ExecutorError::Other(format!("install the seccomp filter: {error}"))
            })?;
        }
        drop_privileges(&self.capabilities, create_syscall().as_ref())
            .map_err(|error| ExecutorError::Other(format!("drop capabilities: {error}")))?;
        DefaultExecutor {}.exec(spec)
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        DefaultExecutor {}.validate(spec)
    }
}

/// Puts the calling thread under a filter (seccomp(2)).
fn install(program: &BpfProgram) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel reads `len` instructions of `program`, whose layout is the kernel's own,
    // before the call returns; it writes nothing.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The errors of calls made by a thread under the profile of these capabilities.
    fn errors(
        capabilities: &[&str],
        calls: &'static [(libc::c_long, [libc::c_long; 3])],
    ) -> Vec<i32> {
        let capabilities: Vec<String> = capabilities.iter().map(|&name| name.into()).collect();
        let programs = profile::runtime_default(&capabilities).unwrap();
        let thread = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            for program in &programs {
                install(program).unwrap();
            }
            let call = |(number, [a, b, c]): &(libc::c_long, [libc::c_long; 3])| {
                // SAFETY: the calls below touch no memory: their arguments are invalid.
                match unsafe { libc::syscall(*number, *a, *b, *c) } {
                    -1 => io::Error::last_os_error().raw_os_error().unwrap(),
                    _ => 0,
                }
            };
            calls.iter().map(call).collect()
        });
        thread.join().unwrap()
    }

    #[test]
    fn what_the_profile_does_not_list_fails_and_capabilities_widen_it() {
        use libc::{CLONE_NEWUSER, EBADF, EFAULT, EINVAL, ENOSYS, EPERM};
        const NEW_USER: libc::c_long = CLONE_NEWUSER as libc::c_long;
        const CALLS: &[(libc::c_long, [libc::c_long; 3])] = &[
            (libc::SYS_getpid, [0, 0, 0]),
            (libc::SYS_setns, [-1, 0, 0]),
            (libc::SYS_clone3, [0, 0, 0]),
            (libc::SYS_clone, [NEW_USER | libc::CLONE_FS as libc::c_long, 0, 0]),
            (libc::SYS_io_uring_setup, [0, 0, 0]),
            (libc::SYS_socket, [libc::AF_VSOCK as libc::c_long, -1, -1]),
            (libc::SYS_personality, [0xffff_ffff, 0, 0]),
            (libc::SYS_personality, [4, 0, 0]),
        ];
        assert_eq!(errors(&[], CALLS), [0, EPERM, ENOSYS, EPERM, EPERM, EPERM, 0, EPERM]);
        let admin = errors(&["CAP_SYS_ADMIN"], CALLS);
        assert_eq!(admin[1], EBADF);
        assert!([EINVAL, EFAULT].contains(&admin[2]) && admin[3] == EINVAL, "{admin:?}");
        assert_eq!(admin[5], EPERM);
    }

    #[test]
    fn the_process_holds_what_it_takes_to_install_until_then() {
        let process = json!({"capabilities": {
            "bounding": ["CAP_CHOWN", "CAP_SETPCAP"], "effective": [], "permitted": [],
            "inheritable": [], "ambient": [],
        }});
        let raised = raised(&process);
        let sets = &raised["capabilities"];
        assert_eq!(sets["bounding"], json!(["CAP_CHOWN", "CAP_SETPCAP", "CAP_SYS_ADMIN"]));
        assert_eq!(sets["effective"], json!(["CAP_SYS_ADMIN", "CAP_SETPCAP"]));
        assert_eq!(sets["ambient"], json!([]));
        assert!(Filtered::new(&process["capabilities"]).is_ok());
    }
}

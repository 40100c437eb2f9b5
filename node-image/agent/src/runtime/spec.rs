//! The OCI runtime specification (`config.json`) of a container.

use std::path::{Path, PathBuf};

use bulkhead_agent_protocol::pod::SecurityContext;
use serde_json::{Value, json};

use super::users::User;

/// What a specification is made from.
pub(crate) struct SpecInput<'a> {
    pub(crate) args: &'a [String],
    pub(crate) env: &'a [String],
    pub(crate) cwd: &'a str,
    pub(crate) user: &'a User,
    pub(crate) terminal: bool,
    pub(crate) rootfs: &'a Path,
    pub(crate) context: &'a SecurityContext,
    pub(crate) capabilities: &'a [String],
    pub(crate) oom_score_adj: i32,
    pub(crate) cgroup: &'a str,
    /// The namespaces that it joins, those of its pod: kind and path.
    pub(crate) namespaces: &'a [(&'static str, PathBuf)],
    /// What is bound into it: from, to, read-only.
    pub(crate) binds: &'a [(PathBuf, String, bool)],
}

const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A process, for a container's first or for exec.
pub(crate) fn process(input: &SpecInput<'_>) -> Value {
    let privileged = input.context.privileged == Some(true);
    let no_new_privileges = !privileged && input.context.allow_privilege_escalation == Some(false);
    let capabilities = input.capabilities;
    // A process that is not root holds capabilities only as its programs' files grant them.
    let held: &[String] = if input.user.uid == 0 { capabilities } else { &[] };
    json!({
        "terminal": input.terminal,
        "user": {
            "uid": input.user.uid,
            "gid": input.user.gid,
            "additionalGids": input.user.groups,
        },
        "args": input.args,
        "env": input.env,
        "cwd": input.cwd,
        "capabilities": {
            "bounding": capabilities,
            "effective": held,
            "permitted": held,
            "inheritable": [],
            "ambient": [],
        },
        "noNewPrivileges": no_new_privileges,
        "oomScoreAdj": input.oom_score_adj,
    })
}

/// The whole specification, of a container whose first process is `process`.
pub(crate) fn container(input: &SpecInput<'_>, process: Value) -> Value {
    let privileged = input.context.privileged == Some(true);
    let sys = if privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("proc", "/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("tmpfs", "/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "devpts",
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("mqueue", "/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("sysfs", "/sys", "sysfs", &["nosuid", "noexec", "nodev", sys]),
        mount(
            "cgroup",
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", sys],
        ),
    ];
    for (from, to, read_only) in input.binds {
        let mode = if *read_only { "ro" } else { "rw" };
        mounts.push(mount(&from.display().to_string(), to, "bind", &["rbind", "rprivate", mode]));
    }
    let joined = |kind: &str| input.namespaces.iter().any(|(joined, _)| *joined == kind);
    let own = ["pid", "mount", "cgroup"].into_iter().filter(|kind| !joined(kind));
    let mut namespaces: Vec<Value> = own.map(|kind| json!({"type": kind})).collect();
    namespaces
        .extend(input.namespaces.iter().map(|(kind, path)| json!({"type": kind, "path": path})));
    let (masked, read_only): (&[&str], &[&str]) =
        if privileged { (&[], &[]) } else { (&MASKED, &READ_ONLY) };
    json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": {
            "path": input.rootfs,
            "readonly": input.context.read_only_root_filesystem == Some(true),
        },
        "mounts": mounts,
        "linux": {
            "cgroupsPath": input.cgroup,
            "namespaces": namespaces,
            "maskedPaths": masked,
            "readonlyPaths": read_only,
        },
    })
}

fn mount(source: &str, destination: &str, kind: &str, options: &[&str]) -> Value {
    json!({"source": source, "destination": destination, "type": kind, "options": options})
}

#[cfg(test)]
mod tests {
    use libcontainer::oci_spec::runtime::Spec;

    use super::*;

    #[test]
    fn it_is_a_specification_and_unprivileged_by_default() {
        let user = User { uid: 7, gid: 8, groups: vec![8], home: String::from("/") };
        let strict = SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        };
        let input = SpecInput {
            args: &[String::from("true")],
            env: &[],
            cwd: "/",
            user: &user,
            terminal: false,
            rootfs: Path::new("/r"),
            context: &strict,
            capabilities: &[String::from("CAP_CHOWN")],
            oom_score_adj: 5,
            cgroup: "/bulkhead/u/c",
            namespaces: &[("network", PathBuf::from("/n"))],
            binds: &[(PathBuf::from("/a"), String::from("/b"), true)],
        };
        let spec: Spec = serde_json::from_value(container(&input, process(&input))).unwrap();
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.no_new_privileges(), Some(true));
        assert_eq!(process.user().uid(), 7);
        let capabilities = process.capabilities().as_ref().unwrap();
        assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 1);
        assert!(capabilities.effective().as_ref().unwrap().is_empty());
        assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.masked_paths().as_ref().unwrap().contains(&String::from("/proc/kcore")));
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), 4);
        let bound = spec.mounts().as_ref().unwrap().last().unwrap();
        assert!(bound.options().as_ref().unwrap().contains(&String::from("ro")));
    }
}

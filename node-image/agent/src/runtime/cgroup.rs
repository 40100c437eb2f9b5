//! Cgroups (v2, `Documentation/admin-guide/cgroup-v2.rst`): `pods/POD/CONTAINER` below the root.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::pods::resources::{CPU_PERIOD, CgroupLimits};

const ROOT: &str = "/sys/fs/cgroup";
const PODS: &str = "bulkhead";
const CONTROLLERS: &str = "+cpu +memory +pids";
/// Processes and threads that one container may have.
const PIDS_MAX: u32 = 4096;

/// A cgroup directory.
#[derive(Debug, Clone)]
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// The one that holds all pods.
    pub(crate) fn pods() -> Self {
        Self(Path::new(ROOT).join(PODS))
    }

    pub(crate) fn pod(uid: &str) -> Self {
        Self(Self::pods().0.join(uid))
    }

    pub(crate) fn container(uid: &str, id: &str) -> Self {
        Self(Self::pod(uid).0.join(id))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The path as a container's specification names it.
    pub(crate) fn below_root(&self) -> String {
        self.0.strip_prefix(ROOT).map(|p| format!("/{}", p.display())).unwrap_or_default()
    }

    /// Makes the cgroup that holds all pods, with its controllers.
    pub(crate) fn create_pods() -> io::Result<Self> {
        fs::write(Path::new(ROOT).join("cgroup.subtree_control"), CONTROLLERS)?;
        let pods = Self::pods();
        pods.create_inner()?;
        Ok(pods)
    }

    /// Makes a cgroup whose children hold the processes.
    pub(crate) fn create_inner(&self) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        self.write("cgroup.subtree_control", CONTROLLERS)
    }

    /// Makes a container's cgroup: its end by memory takes it whole.
    pub(crate) fn create_leaf(&self, limits: CgroupLimits) -> io::Result<()> {
        fs::create_dir(&self.0)?;
        self.limit(limits)?;
        self.write("pids.max", &PIDS_MAX.to_string())?;
        self.write("memory.oom.group", "1")
    }

    /// Sets its limits.
    pub(crate) fn limit(&self, limits: CgroupLimits) -> io::Result<()> {
        self.write("cpu.weight", &limits.cpu_weight.to_string())?;
        let quota = limits.cpu_quota.map_or_else(|| String::from("max"), |us| us.to_string());
        self.write("cpu.max", &format!("{quota} {CPU_PERIOD}"))?;
        self.limit_memory(limits.memory_max)
    }

    /// Sets `memory.max`.
    pub(crate) fn limit_memory(&self, bytes: Option<u64>) -> io::Result<()> {
        let max = bytes.map_or_else(|| String::from("max"), |bytes| bytes.to_string());
        self.write("memory.max", &max)
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        let path = self.0.join(file);
        fs::write(&path, value)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }

    /// Kills every process in it.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// Whether the kernel has killed in it for memory.
    pub(crate) fn oom_killed(&self) -> bool {
        let events = fs::read_to_string(self.0.join("memory.events")).unwrap_or_default();
        keyed(&events, "oom_kill").is_some_and(|count| count > 0)
    }

    /// CPU time in nanoseconds and working set in bytes.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let read = |file: &str| fs::read_to_string(self.0.join(file)).unwrap_or_default();
        let cpu = keyed(&read("cpu.stat"), "usage_usec").unwrap_or(0).saturating_mul(1000);
        let memory: u64 = read("memory.current").trim().parse().unwrap_or(0);
        let inactive = keyed(&read("memory.stat"), "inactive_file").unwrap_or(0);
        (cpu, memory.saturating_sub(inactive))
    }

    /// Removes it and what is below it; its processes must be gone.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.0)?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                Self(entry.path()).remove()?;
            }
        }
        fs::remove_dir(&self.0)
    }
}

/// The number behind a key in a flat keyed file.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::keyed;

    #[test]
    fn a_key_is_matched_whole() {
        let text = "oom 3\noom_kill 1\noom_group_kill 2\n";
        assert_eq!(keyed(text, "oom_kill"), Some(1));
        assert_eq!(keyed(text, "oom_"), None);
    }
}

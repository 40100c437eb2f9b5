//! A home (`$BULKHEAD_HOME`) of a test's own, and clusters in it, both gone when dropped.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Kubectl, Outcome, setting};

/// A state directory with its own host daemon.
pub struct Home {
    dir: tempfile::TempDir,
    /// A file system of its own lies there.
    mounted: bool,
}

impl Home {
    /// An empty home; the first command starts its daemon.
    ///
    /// # Panics
    /// If the directory cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let parent = setting("BULKHEAD_TEST_DIR");
        let dir = tempfile::Builder::new().prefix("home-").tempdir_in(parent).unwrap();
        Self { dir, mounted: false }
    }

    /// An empty home on a file system of its own that holds no more than `mib` MiB.
    ///
    /// # Panics
    /// If it cannot be mounted.
    #[must_use]
    pub fn of_size(mib: u32) -> Self {
        let mut home = Self::new();
        let options = format!("size={mib}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "bulkhead-test"]).arg(home.path());
        Outcome::of(&mut mount).ok();
        home.mounted = true;
        home
    }

    /// Makes the home's own file system hold `mib` MiB.
    ///
    /// # Panics
    /// If that fails.
    pub fn resize(&self, mib: u32) {
        let options = format!("remount,size={mib}m");
        Outcome::of(Command::new("mount").args(["-o", &options]).arg(self.path())).ok();
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `bulkhead ARGS…` in this home, not yet started.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(setting("BULKHEAD_BIN_DIR").join("bulkhead"));
        command.args(args).env("BULKHEAD_HOME", self.path()).env("NO_COLOR", "1");
        // Where these tests run KVM is usable: a busy moment must not lead elsewhere.
        command.env("BULKHEAD_HOST", "local");
        command
    }

    /// Runs `bulkhead ARGS…` to its end.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(args))
    }

    /// Creates a cluster of `nodes` small nodes.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn cluster(&self, name: &str, nodes: u32) -> Cluster<'_> {
        let nodes = nodes.to_string();
        self.run(&["cluster", "create", name, "--nodes", &nodes, "--memory", "192M"]).ok();
        Cluster { home: self, name: name.to_owned() }
    }

    /// Makes a cluster of a backup.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn restored(&self, name: &str, backup: &Path) -> Cluster<'_> {
        self.run(&["cluster", "restore", name, backup.to_str().unwrap()]).ok();
        Cluster { home: self, name: name.to_owned() }
    }

    /// Processes that serve this home, as `pid command line`: those whose command line names it, and
    /// the monitors, which say in their environment whose they are.
    #[must_use]
    pub fn processes(&self) -> Vec<String> {
        let home = self.path().to_string_lossy().into_owned();
        let owner = format!("BULKHEAD_OWNER={home}");
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| {
                let pid = entry.file_name().to_string_lossy().parse::<u32>().ok()?;
                let read = |name: &str| -> Option<String> {
                    let raw = std::fs::read(entry.path().join(name)).ok()?;
                    Some(String::from_utf8_lossy(&raw).replace('\0', " "))
                };
                let (line, environment) = (read("cmdline")?, read("environ")?);
                let ours = line.contains(&home) || environment.contains(&owner);
                (ours && pid != std::process::id()).then(|| format!("{pid} {line}"))
            })
            .collect()
    }

    /// The process ids of a program's processes that serve this home.
    #[must_use]
    pub fn pids(&self, program: &str) -> Vec<String> {
        let lines = self.processes();
        let ours = lines.iter().filter(|line| line.contains(program));
        ours.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
    }

    /// Kills a program's processes that serve this home, with no chance to end in order.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn kill(&self, program: &str) {
        let pids = self.pids(program);
        assert!(!pids.is_empty(), "no {program} runs: {:?}", self.processes());
        Outcome::of(Command::new("kill").arg("-9").args(pids)).ok();
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        let clusters = std::fs::read_dir(self.path().join("clusters"));
        for entry in clusters.into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let _ = self.run(&["cluster", "delete", &name]);
        }
        let _ = self.run(&["host", "stop"]);
        if self.mounted {
            let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
        }
    }
}

impl Home {
    /// The ends of the logs, for whoever reads why a test failed.
    fn show_logs(&self) {
        for log in logs_below(self.path()) {
            let text = std::fs::read(&log).unwrap_or_default();
            let tail = &text[text.len().saturating_sub(3000)..];
            eprintln!("--- {}\n{}", log.display(), String::from_utf8_lossy(tail));
        }
    }
}

fn logs_below(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => logs_below(&entry.path()),
            _ if entry.path().extension().is_some_and(|end| end == "log") => vec![entry.path()],
            _ => Vec::new(),
        })
        .collect()
}

/// A cluster, deleted when dropped.
pub struct Cluster<'a> {
    home: &'a Home,
    /// Its name.
    pub name: String,
}

impl Cluster<'_> {
    /// kubectl with this cluster's kubeconfig.
    ///
    /// # Panics
    /// If `bulkhead kubeconfig` fails.
    #[must_use]
    pub fn kubectl(&self) -> Kubectl {
        let kubeconfig = self.home.path().join(format!("{}.kubeconfig", self.name));
        std::fs::write(&kubeconfig, self.home.run(&["kubeconfig", &self.name]).ok()).unwrap();
        Kubectl::new(kubeconfig)
    }

    /// Puts the busybox image, as `localhost/busybox:test`, into the home's image store.
    ///
    /// # Panics
    /// If that fails.
    pub fn load_busybox(&self) {
        let archive = crate::registry::busybox_archive();
        self.home.run(&["image", "load", archive.to_str().unwrap()]).ok();
    }

    /// Puts an image that `ci/make-test-images` made, as `localhost/NAME:test` and `:next`, into the
    /// home's image store.
    ///
    /// # Panics
    /// If that fails.
    pub fn load_image(&self, name: &str) {
        let archive = setting("BULKHEAD_IMAGES").join(format!("{name}.tar"));
        self.home.run(&["image", "load", archive.to_str().unwrap()]).ok();
    }

    /// The cluster's address as its host sees it, where node ports are open: what its uplink has.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn outside_address(&self) -> Ipv4Addr {
        let namespace = format!("bulkhead-{}", self.name);
        let show = ["-n", &namespace, "-o", "-4", "addr", "show", "dev", "uplink"];
        let line = Outcome::of(Command::new("ip").args(show)).ok();
        let address = line.split_whitespace().nth(3).and_then(|network| network.split('/').next());
        address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    }

    /// The monitor's process id of a node.
    ///
    /// # Panics
    /// If the node is unknown or has none.
    #[must_use]
    pub fn monitor_pid(&self, node: usize) -> i32 {
        let status = self.home.run(&["cluster", "status", &self.name, "-o", "json"]).json();
        let pid = status["nodes"][node]["pid"].as_i64();
        pid.and_then(|pid| pid.try_into().ok()).unwrap_or_else(|| panic!("no pid in {status}"))
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        let _ = self.home.run(&["cluster", "delete", &self.name]);
    }
}

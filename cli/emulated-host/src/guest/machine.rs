//! Mounts, network and power of the machine.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, sync};

use crate::spec::{Disk, Spec};

/// How long everything inside has to end after SIGTERM.
const TERM_PATIENCE: Duration = Duration::from_secs(10);
const DISK_DEVICE: &str = "/dev/vda";
/// QEMU's user network always has these addresses.
const ADDRESS: &str = "10.0.2.15/24";
const GATEWAY: &str = "10.0.2.2";
const NAME_SERVER: &str = "10.0.2.3";

/// Makes of the stacked root a machine that programs know.
pub(super) fn set_up(spec: &Spec) -> Result<(), String> {
    let nodev = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    attach("devpts", "/dev/pts", "devpts", MsFlags::MS_NOSUID, "gid=5,mode=620,ptmxmode=666")?;
    attach("shm", "/dev/shm", "tmpfs", nodev, "mode=1777")?;
    attach("run", "/run", "tmpfs", nodev, "mode=755")?;
    attach("cgroup", "/sys/fs/cgroup", "cgroup2", nodev | MsFlags::MS_NOEXEC, "")?;
    for (link, target) in [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        match symlink(format!("/proc/self/{target}"), Path::new("/dev").join(link)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(format!("/dev/{link}: {error}"));
            }
            _ => {}
        }
    }
    if let Ok(name) = fs::read_to_string("/etc/hostname") {
        write("/proc/sys/kernel/hostname", name.trim())?;
    }
    set_up_network()?;
    spec.disk.as_ref().map_or(Ok(()), set_up_disk)
}

fn set_up_network() -> Result<(), String> {
    for line in [
        "link set lo up".to_owned(),
        "link set eth0 up".to_owned(),
        format!("address add {ADDRESS} dev eth0"),
        format!("route add default via {GATEWAY}"),
    ] {
        let output = Command::new("ip")
            .args(line.split(' '))
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .output();
        let output =
            output.map_err(|error| format!("ip {line}: {error}; install Debian's iproute2"))?;
        if !output.status.success() {
            return Err(format!("ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
    }
    // Often a link to a resolver that listens on the other side's loopback.
    let _ = fs::remove_file("/etc/resolv.conf");
    write("/etc/resolv.conf", &format!("nameserver {NAME_SERVER}\n"))
}

fn set_up_disk(disk: &Disk) -> Result<(), String> {
    let path = &disk.mount_point;
    fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))?;
    mount(Some(DISK_DEVICE), path, Some("ext4"), MsFlags::MS_NOATIME, Some("discard"))
        .map_err(|errno| format!("mounting the disk at {}: {errno}", path.display()))
}

fn attach(
    source: &str,
    target: &str,
    kind: &str,
    flags: MsFlags,
    data: &str,
) -> Result<(), String> {
    fs::create_dir_all(target).map_err(|error| format!("{target}: {error}"))?;
    mount(Some(source), target, Some(kind), flags, Some(data))
        .map_err(|errno| format!("mounting {target}: {errno}"))
}

fn write(path: &str, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{path}: {error}"))
}

/// Ends every process, leaves the disk clean, and switches the machine off.
pub(super) fn power_off() {
    for (signal, patience) in
        [(Signal::SIGTERM, TERM_PATIENCE), (Signal::SIGKILL, Duration::from_secs(2))]
    {
        // ESRCH: nothing is left to be told.
        if kill(Pid::from_raw(-1), signal).is_err() || all_ended(patience) {
            break;
        }
    }
    sync();
    for path in disk_mounts() {
        if let Err(errno) = umount2(path.as_str(), MntFlags::empty()) {
            eprintln!(
                "emulated host: {path} is still in use ({errno}): its journal will be replayed"
            );
        }
    }
    sync();
    let errno = reboot(RebootMode::RB_POWER_OFF).unwrap_err();
    eprintln!("emulated host: cannot power off: {errno}");
}

/// Reaps until no process is left. Kernel threads are not children, so they do not count.
fn all_ended(patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return true,
            Ok(WaitStatus::StillAlive) | Err(_) => std::thread::sleep(Duration::from_millis(10)),
            Ok(_) => {}
        }
    }
    false
}

/// Where the disk is mounted, the last mount first.
fn disk_mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let on_disk =
        |line: &str| line.strip_prefix(DISK_DEVICE)?.split_whitespace().next().map(str::to_owned);
    let mut mounts: Vec<_> = table.lines().filter_map(on_disk).collect();
    mounts.reverse();
    mounts
}

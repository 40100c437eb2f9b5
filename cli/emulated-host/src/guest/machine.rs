//! Mounts, network and power of the machine.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, sync};

use crate::OUTSIDE;
use crate::spec::{Disk, Spec};

/// How long everything inside has to end after SIGTERM.
const TERM_PATIENCE: Duration = Duration::from_secs(10);
const DISK_DEVICE: &str = "/dev/vda";
/// QEMU's user network always has these addresses, and [`OUTSIDE`].
const ADDRESS: &str = "10.0.2.15/24";
const NAME_SERVER: &str = "10.0.2.3";

/// VMs that never run, to be kept for as long as the machine runs.
///
/// The kernel patches its own code when the first of something is made and when the last is gone:
/// VMs (the static key of preemption notifiers, in the scheduler), vCPUs without a local APIC, and
/// vCPUs whose local APIC is off, as it is until the guest turns it on (both keys in every entry to a
/// guest). QEMU's emulation with several processors can keep what it translated from the breakpoint
/// of a patch after that is gone, and whoever comes by later ends the machine in a panic ("int3" in
/// `__schedule` or `kvm_arch_vcpu_ioctl_run`). With one of each there, the patches are made once,
/// before anything else runs.
pub(super) fn keep_vms() -> Result<[(VmFd, VcpuFd); 2], String> {
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm: {error}"))?;
    let keep = |apic: bool| {
        let vm = kvm.create_vm()?;
        if apic {
            vm.create_irq_chip()?;
        }
        let vcpu = vm.create_vcpu(0)?;
        Ok((vm, vcpu))
    };
    let failed = |error: kvm_ioctls::Error| format!("/dev/kvm creates no VM: {error}");
    Ok([keep(true).map_err(failed)?, keep(false).map_err(failed)?])
}

/// Makes of the stacked root a machine that programs know. `outside` is the machine's directory on
/// the other side, which stays in sight.
pub(super) fn set_up(spec: &Spec, outside: &Path) -> Result<(), String> {
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
    spec.disk.as_ref().map_or(Ok(()), |disk| set_up_disk(disk, outside))
}

fn set_up_network() -> Result<(), String> {
    for line in [
        "link set lo up".to_owned(),
        "link set eth0 up".to_owned(),
        format!("address add {ADDRESS} dev eth0"),
        format!("route add default via {OUTSIDE}"),
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
    reach_loopback()?;
    // Often a link to a resolver that listens on the other side's loopback.
    let _ = fs::remove_file("/etc/resolv.conf");
    write("/etc/resolv.conf", &format!("nameserver {NAME_SERVER}\n"))
}

/// Leads what QEMU forwards to services that listen on this machine's loopback, as API servers do:
/// whoever reaches the outer port is on the other machine's loopback already.
fn reach_loopback() -> Result<(), String> {
    const RULES: &str = "add table ip emulated-host; \
        add chain ip emulated-host in { type nat hook prerouting priority -100; }; \
        add rule ip emulated-host in iifname eth0 ip daddr 10.0.2.15 meta l4proto tcp dnat to 127.0.0.1";
    write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1")?;
    let output = Command::new("nft")
        .arg(RULES)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .map_err(|error| format!("nft: {error}; install Debian's nftables"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("nft: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn set_up_disk(disk: &Disk, outside: &Path) -> Result<(), String> {
    let path = &disk.mount_point;
    fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let said = |error: io::Error| format!("{}: {error}", outside.display());
    let hidden =
        outside.starts_with(path).then(|| fs::File::open(outside)).transpose().map_err(said)?;
    mount(Some(DISK_DEVICE), path, Some("ext4"), MsFlags::MS_NOATIME, Some("discard"))
        .map_err(|errno| format!("mounting the disk at {}: {errno}", path.display()))?;
    let Some(directory) = hidden else { return Ok(()) };
    // The service's token is in it.
    fs::create_dir_all(outside).map_err(said)?;
    let source = format!("/proc/self/fd/{}", directory.as_raw_fd());
    mount(Some(source.as_str()), outside, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|errno| said(errno.into()))
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

/// Where the disk is mounted, and what is mounted below it, the last mount first.
fn disk_mounts() -> Vec<String> {
    mounts_on_disk(&fs::read_to_string("/proc/self/mounts").unwrap_or_default())
}

fn mounts_on_disk(table: &str) -> Vec<String> {
    let mut mounts: Vec<String> = Vec::new();
    for line in table.lines() {
        let mut words = line.split(' ');
        let (Some(source), Some(target)) = (words.next(), words.next()) else { continue };
        let below = mounts.iter().any(|mount| Path::new(target).starts_with(mount));
        if source == DISK_DEVICE || below {
            mounts.push(target.to_owned());
        }
    }
    mounts.reverse();
    mounts
}

#[cfg(test)]
mod tests {
    use super::mounts_on_disk;

    #[test]
    fn what_lies_on_the_disk_is_unmounted_from_the_top() {
        let table = "root / overlay rw 0 0\n/dev/vda /state ext4 rw 0 0\nroot /state/machine overlay rw 0 0\n\
                     run /run tmpfs rw 0 0\ntmpfs /stateless tmpfs rw 0 0\n";
        assert_eq!(mounts_on_disk(table), ["/state/machine", "/state"]);
    }
}

//! What PID 1 mounts.

use std::{ffi::CStr, fs, path::Path};

use anyhow::Context as _;
use rustix::{
    io::Errno,
    mount::{MountFlags, mount},
};

const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// The kernel's file systems and those on memory.
pub(super) fn essential() -> anyhow::Result<()> {
    let table: [(&str, &str, MountFlags, &CStr); 8] = [
        ("/proc", "proc", PLAIN, c""),
        ("/sys", "sysfs", PLAIN, c""),
        ("/dev", "devtmpfs", MountFlags::NOSUID, c"mode=0755"),
        (
            "/dev/pts",
            "devpts",
            MountFlags::NOSUID.union(MountFlags::NOEXEC),
            c"gid=5,mode=620,ptmxmode=666",
        ),
        ("/dev/shm", "tmpfs", MountFlags::NOSUID.union(MountFlags::NODEV), c"mode=1777"),
        ("/run", "tmpfs", MountFlags::NOSUID.union(MountFlags::NODEV), c"mode=0755"),
        ("/tmp", "tmpfs", MountFlags::NOSUID.union(MountFlags::NODEV), c"mode=1777"),
        ("/sys/fs/cgroup", "cgroup2", PLAIN, c"nsdelegate,memory_recursiveprot"),
    ];
    for (at, kind, flags, options) in table {
        // The root image has the mount points; below a file system just mounted they are made.
        if !Path::new(at).exists() {
            fs::create_dir_all(at).with_context(|| format!("make {at}"))?;
        }
        match mount(kind, at, kind, flags, Some(options)) {
            // The kernel may have mounted /dev itself.
            Err(Errno::BUSY) => {}
            other => other.with_context(|| format!("mount {kind} at {at}"))?,
        }
    }
    Ok(())
}

/// The scratch disk.
pub(super) fn scratch(disk: &Path, at: &Path) -> anyhow::Result<()> {
    // Set-uid programs in containers' writable layers work as on any file system: no NOSUID.
    let flags = MountFlags::NODEV | MountFlags::NOATIME;
    mount(disk, at, "ext4", flags, None)
        .with_context(|| format!("mount {} at {}", disk.display(), at.display()))
}

/// Memory in the scratch disk's stead.
pub(super) fn memory(at: &Path) -> anyhow::Result<()> {
    mount("tmpfs", at, "tmpfs", MountFlags::NODEV, Some(c"mode=0755"))
        .with_context(|| format!("mount tmpfs at {}", at.display()))
}

//! PID 1's first steps: mounts, the scratch disk.

mod disks;
mod mounts;

use std::{fs, path::Path};

pub(crate) use disks::find as find_disk;

/// Where the scratch disk is mounted.
pub(crate) const SCRATCH: &str = "/var/lib/node";

/// Makes a freshly booted machine one that can run pods.
///
/// # Errors
/// What could not be mounted.
pub(crate) fn run() -> anyhow::Result<()> {
    mounts::essential()?;
    let scratch = Path::new(SCRATCH);
    match disks::find("scratch") {
        Some(disk) => mounts::scratch(&disk, scratch)?,
        // A node without a disk (a bench, a first look) runs on memory.
        None => mounts::memory(scratch)?,
    }
    forget_containers(&scratch.join("pods"));
    Ok(())
}

/// Writable layers of an earlier boot's containers: nobody will come back to them.
fn forget_containers(pods: &Path) {
    let Ok(entries) = fs::read_dir(pods) else { return };
    for entry in entries.flatten() {
        let _ = fs::remove_dir_all(entry.path().join("containers"));
    }
}

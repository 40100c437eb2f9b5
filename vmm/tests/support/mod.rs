//! Guests for the tests: an initrd around busybox, and kernels of a few instructions.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The monitor's binary.
pub(crate) const MONITOR: &str = env!("CARGO_BIN_EXE_bulkhead-vmm");
/// A command line for a Linux guest that prints little.
pub(crate) const CMDLINE: &str = "console=ttyS0 quiet reboot=k panic=-1";

const BUSYBOX: &str = "/bin/busybox";

/// A vmlinux to boot.
pub(crate) fn kernel() -> PathBuf {
    std::env::var_os("BULKHEAD_KERNEL").expect("BULKHEAD_KERNEL must name a vmlinux").into()
}

/// An initrd whose `/init` is the shell script `script`, in `directory`.
pub(crate) fn initrd(directory: &TempDir, script: &str) -> PathBuf {
    initrd_with(directory, script, &[])
}

/// The same, with `programs` by their names in its root, and the libraries that they need.
pub(crate) fn initrd_with(
    directory: &TempDir,
    script: &str,
    programs: &[(&str, &Path)],
) -> PathBuf {
    let busybox = fs::read(BUSYBOX).expect("the tests need busybox-static");
    let init = format!(
        "#!/bin/busybox sh\n/bin/busybox --install -s /bin\nmount -t proc p /proc\n\
         mount -t sysfs s /sys\n{script}\n"
    );
    let mut archive = Vec::new();
    for name in ["bin", "proc", "sys", "dev"] {
        cpio_entry(&mut archive, name, 0o040_755, b"");
    }
    cpio_entry(&mut archive, "bin/busybox", 0o100_755, &busybox);
    cpio_entry(&mut archive, "init", 0o100_755, init.as_bytes());
    let mut there = BTreeSet::new();
    for (name, program) in programs {
        cpio_entry(&mut archive, name, 0o100_755, &fs::read(program).unwrap());
        for library in libraries(program) {
            for parent in library.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
                if there.insert(parent.to_owned()) {
                    cpio_entry(&mut archive, in_archive(parent), 0o040_755, b"");
                }
            }
            if there.insert(library.clone()) {
                let content = fs::read(&library).unwrap();
                cpio_entry(&mut archive, in_archive(&library), 0o100_755, &content);
            }
        }
    }
    cpio_entry(&mut archive, "TRAILER!!!", 0, b"");
    write(directory, "initrd", &archive)
}

/// What a program is linked with, its loader included.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

fn in_archive(path: &Path) -> &str {
    match path.to_str().unwrap().trim_start_matches('/') {
        "" => ".",
        name => name,
    }
}

/// One entry of a "newc" archive.
fn cpio_entry(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
    write!(archive, "070701").unwrap();
    for field in [0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
        write!(archive, "{field:08x}").unwrap();
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// A PVH kernel that consists of `code`, 32-bit, in `directory`.
pub(crate) fn tiny_kernel(directory: &TempDir, code: &[u8]) -> PathBuf {
    const ADDRESS: u32 = 0x10_0000;
    let mut file = vec![0; 0x200];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[16..20].copy_from_slice(&[2, 0, 62, 0]);
    file[20] = 1;
    file[24..28].copy_from_slice(&ADDRESS.to_le_bytes());
    file[32] = 64;
    file[52..58].copy_from_slice(&[64, 0, 56, 0, 2, 0]);
    let header = |kind: u32, offset: u64, size: usize| {
        let mut bytes = [kind.to_le_bytes(), 7_u32.to_le_bytes()].concat();
        for field in [offset, ADDRESS.into(), ADDRESS.into(), size as u64, size as u64, 4] {
            bytes.extend(u64::to_le_bytes(field));
        }
        bytes
    };
    file[64..120].copy_from_slice(&header(1, 0x200, code.len()));
    file[120..176].copy_from_slice(&header(4, 0x100, 20));
    let note = [&[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0][..], b"Xen\0", &ADDRESS.to_le_bytes()];
    file[0x100..0x114].copy_from_slice(&note.concat());
    file.extend_from_slice(code);
    write(directory, "tiny", &file)
}

fn write(directory: &TempDir, name: &str, content: &[u8]) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

/// `bulkhead-vmm run` with `kernel` and further arguments.
pub(crate) fn run(kernel: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(MONITOR);
    command.arg("run").arg("--kernel").arg(kernel).args(arguments).stdin(Stdio::null());
    command
}

/// What the process printed, and its exit code.
pub(crate) fn ended(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

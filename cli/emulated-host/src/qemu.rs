//! QEMU's command line.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use crate::daemon::Forward;
use crate::prepare::{Boot, sbin};

pub(crate) const PROGRAM: &str = "qemu-system-x86_64";
/// The user network's name, as `hostfwd_add` wants it.
pub(crate) const NETWORK: &str = "net0";

/// A processor that gets nowhere for a minute does not come back: QEMU's emulation of SVM was seen to
/// hang so. The machine then ends, and whoever waits for it learns that it did.
const LOCKUP: &str = "watchdog_thresh=30 softlockup_panic=1";

/// The kernel tries the timer's interrupt for some ticks, which a busy machine may not emulate in time,
/// and would go on without a timer.
const TIMER: &str = "no_timer_check";

/// Why a disk for the machine could not be made.
#[derive(Debug, Error)]
pub enum DiskError {
    /// A file could not be written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// mkfs.ext4 failed or is missing.
    #[error("mkfs.ext4 on {path}: {reason}", path = path.display())]
    Format {
        /// Which image.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
}

/// The image of a machine's disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drive<'a> {
    pub(crate) path: &'a Path,
    /// Whether its content is of use after the machine.
    pub(crate) lasts: bool,
}

/// One machine. Sockets and files are named relative to the directory in which QEMU is started.
pub(crate) struct Machine<'a> {
    pub(crate) boot: &'a Boot,
    /// This program, which is PID 1's second half.
    pub(crate) program: &'a Path,
    pub(crate) spec: &'a Path,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    pub(crate) disk: Option<Drive<'a>>,
    pub(crate) forwards: &'a [Forward],
    /// Ports that are unix sockets on this side.
    pub(crate) sockets: &'a [&'a str],
    /// A port whose output goes to a file: (port, file).
    pub(crate) log: Option<(&'a str, &'a str)>,
}

impl Machine<'_> {
    /// QEMU's arguments, apart from those that decide who looks after the process.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut words = Words::default();
        words.add("-accel tcg,thread=multi -cpu EPYC,+svm,+npt -M q35 -nodefaults -no-user-config -no-reboot");
        words.add("-display none -serial file:console.log -qmp unix:qmp.sock,server=on,wait=off");
        words.add(&format!("-m {} -smp {}", self.memory_mib, self.cpus));
        words.path("-kernel", "", &self.boot.kernel);
        words.path("-initrd", "", &self.boot.initrd);
        words.pair("-append", format!(
            "console=ttyS0 panic=-1 reboot=t {LOCKUP} quiet mitigations=off tsc=reliable {TIMER} bulkhead.program={} bulkhead.spec={}",
            escaped(self.program), escaped(self.spec),
        ));
        words.add(
            "-virtfs local,path=/,mount_tag=host,security_model=none,multidevs=remap,readonly=on",
        );
        words.add("-device virtio-rng-pci");

        let mut network = format!("user,id={NETWORK}");
        for forward in self.forwards {
            network.push_str(&format!(",hostfwd={}", forward.rule()));
        }
        words.pair("-netdev", network);
        words.pair("-device", format!("virtio-net-pci,netdev={NETWORK},romfile="));
        if let Some(Drive { path, lasts }) = self.disk {
            // Nobody waits for the writes of a disk that goes with its machine.
            let cache = if lasts { "writeback" } else { "unsafe" };
            let drive = format!("if=none,id=disk,format=raw,discard=unmap,cache={cache},file=");
            words.path("-drive", &drive, path);
            words.add("-device virtio-blk-pci,drive=disk");
        }

        words.add("-device virtio-serial");
        for port in self.sockets {
            words.pair("-chardev", format!("socket,id={port},path={port}.sock,server=on,wait=off"));
            words.pair("-device", format!("virtserialport,chardev={port},name={port}"));
        }
        if let Some((port, file)) = self.log {
            words.pair("-chardev", format!("file,id={port},path={file},append=on"));
            words.pair("-device", format!("virtserialport,chardev={port},name={port}"));
        }
        words.0
    }
}

#[derive(Default)]
struct Words(Vec<OsString>);

impl Words {
    fn add(&mut self, line: &str) {
        self.0.extend(line.split_whitespace().map(OsString::from));
    }

    fn pair(&mut self, option: &str, value: String) {
        self.0.push(option.into());
        self.0.push(value.into());
    }

    /// Within an option's value QEMU reads two commas as one that does not separate.
    fn path(&mut self, option: &str, before: &str, path: &Path) {
        let mut value = OsString::from(before);
        if before.is_empty() {
            value.push(path);
        } else {
            value.push(path.to_string_lossy().replace(',', ",,"));
        }
        self.0.push(option.into());
        self.0.push(value);
    }
}

/// A path that survives the kernel's command line, as printf's %b reads it.
fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("\\0{byte:03o}"));
        }
    }
    text
}

/// Makes a sparse ext4 image of `size` bytes. A half-made one is never left under `path`.
pub(crate) fn make_disk(path: &Path, size: u64) -> Result<(), DiskError> {
    let io = |source| DiskError::Io { path: path.to_owned(), source };
    let partial = path.with_extension("partial");
    let file = std::fs::File::create(&partial).map_err(io)?;
    file.set_len(size).map_err(io)?;
    let output = Command::new(sbin("mkfs.ext4"))
        .args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"])
        .arg(&partial)
        .output()
        .map_err(|error| DiskError::Format {
            path: path.to_owned(),
            reason: format!("{error}; install Debian's e2fsprogs"),
        })?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(DiskError::Format { path: path.to_owned(), reason });
    }
    std::fs::rename(&partial, path).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(disk: Option<Drive<'_>>, forwards: &[Forward]) -> Vec<String> {
        let boot = Boot { kernel: "/c/vmlinuz".into(), initrd: "/c/initrd".into() };
        let machine = Machine {
            boot: &boot,
            program: Path::new("/opt/bulk head/bin"),
            spec: Path::new("/s/spec.json"),
            memory_mib: 4096,
            cpus: 2,
            disk,
            forwards,
            sockets: &["control"],
            log: None,
        };
        machine.arguments().into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn the_kernel_keeps_time_and_finds_the_program() {
        let words = arguments(None, &[]);
        let append = &words[words.iter().position(|word| word == "-append").unwrap() + 1];
        assert!(append.contains("mitigations=off tsc=reliable"), "{append}");
        assert!(append.contains("bulkhead.program=/opt/bulk\\0040head/bin "), "{append}");
    }

    #[test]
    fn the_root_is_shared_read_only() {
        let words = arguments(None, &[]);
        let share = &words[words.iter().position(|word| word == "-virtfs").unwrap() + 1];
        assert!(share.ends_with("readonly=on"), "{share}");
    }

    #[test]
    fn forwards_are_on_loopback_and_commas_are_doubled() {
        let disk = Drive { path: Path::new("/a,b/disk"), lasts: true };
        let words = arguments(Some(disk), &[Forward { outside: 7001, inside: 7000 }]);
        assert!(words.contains(&"user,id=net0,hostfwd=tcp:127.0.0.1:7001-:7000".to_owned()));
        assert!(words.iter().any(|word| word.ends_with("file=/a,,b/disk")));
    }

    #[test]
    fn only_writes_to_a_disk_that_lasts_are_waited_for() {
        for (lasts, cache) in [(true, ",cache=writeback,"), (false, ",cache=unsafe,")] {
            let words = arguments(Some(Drive { path: Path::new("/disk"), lasts }), &[]);
            assert!(words.iter().any(|word| word.contains(cache)), "{words:?}");
        }
    }

    #[test]
    fn a_disk_is_sparse_and_never_half_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.img");
        make_disk(&path, 256 << 20).unwrap();
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), 256 << 20);
        assert!(metadata.blocks() * 512 < 64 << 20);
        assert!(make_disk(&directory.path().join("small.img"), 100).is_err());
        assert!(!directory.path().join("small.img").exists());
    }
}

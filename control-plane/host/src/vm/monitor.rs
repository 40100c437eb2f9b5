//! A node's monitor process: started with everything it uses as open files.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bulkhead_agent_protocol::AttachRange;

use bulkhead_host_api::{ApiError, NodeShape};
use bulkhead_vmm_api::client::{Client, ClientError};
use bulkhead_vmm_api::{
    ConsoleConfig, DiskConfig, FileSource, NetConfig, RangeConfig, VmConfig, VsockConfig,
};
use command_fds::{CommandFdExt as _, FdMapping};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::process::Command;

use super::ranges::DISK_SIZE;
use super::socket::SocketDir;
use crate::fault;
use crate::node_image::NodeImage;
use crate::process::Process;

/// The guest's vsock address; every monitor is a world of its own.
const GUEST_CID: u32 = 3;

/// What every node's kernel is told. Nothing of it names the node. `noreplace-smp` shortens the boot
/// of a node with one vCPU, whose kernel would patch 8,000 locked instructions one by one; expedited
/// grace periods spare it waits of 20 ms each, at boot and whenever mounts and namespaces come and
/// go. Without the clock's watchdog and proactive compaction an idle node wakes half as often.
const CMDLINE: &str = "console=ttyS0 root=/dev/vda rootfstype=erofs ro init=/sbin/agent \
     reboot=k panic=1 8250.nr_uarts=1 swiotlb=noforce noreplace-smp \
     rcupdate.rcu_expedited=1 tsc=nowatchdog \
     sysctl.vm.compaction_proactiveness=0 quiet";

/// The largest IP packet on the nodes' network.
pub(super) const MTU: u16 = 1500;

/// The monitor's exit code for a guest that rebooted.
const RESET_EXIT_CODE: i32 = 10;

/// The files in a node's directory.
pub(super) const VMM_SOCKET: &str = "vmm.sock";
pub(super) const VSOCK_SOCKET: &str = "vsock.sock";
pub(super) const SCRATCH: &str = "scratch.img";
pub(super) const CONSOLE: &str = "console.log";
pub(super) const VMM_LOG: &str = "vmm.log";

/// What a monitor is started with.
pub(super) struct Start<'a> {
    pub(super) program: &'a Path,
    pub(super) image: &'a NodeImage,
    pub(super) dir: &'a Path,
    pub(super) shape: &'a NodeShape,
    pub(super) mac: String,
    pub(super) tap: OwnedFd,
}

/// The files to hand over, numbered from 3 on in the child.
#[derive(Default)]
struct Files(Vec<FdMapping>);

impl Files {
    fn add(&mut self, file: impl Into<OwnedFd>) -> i32 {
        let child_fd = 3 + i32::try_from(self.0.len()).unwrap_or(i32::MAX - 3);
        self.0.push(FdMapping { parent_fd: file.into(), child_fd });
        child_fd
    }
}

/// Starts the monitor; the guest boots at once.
pub(super) fn start(what: Start<'_>) -> Result<Process, ApiError> {
    let sockets = SocketDir::open(what.dir).map_err(|error| failed(what.dir, &error))?;
    let mut files = Files::default();
    let config = config(&what, &sockets, &mut files)?;
    let config_fd = files.add(in_memory(&config).map_err(|error| failed(what.dir, &error))?);
    let api = sockets.listen(VMM_SOCKET).map_err(|error| failed(what.dir, &error))?;
    let api_fd = files.add(api);
    let mut command = Command::new(what.program);
    command
        .arg("--config-fd")
        .arg(config_fd.to_string())
        .arg("--api-fd")
        .arg(api_fd.to_string())
        .env_clear()
        .current_dir("/");
    command
        .as_std_mut()
        .fd_mappings(files.0)
        .map_err(|error| fault::internal(format!("the monitor's files: {error}")))?;
    Process::start(command, what.dir, &what.dir.join(VMM_LOG))
        .map_err(|error| failed(what.program, &error))
}

fn config(what: &Start<'_>, sockets: &SocketDir, files: &mut Files) -> Result<VmConfig, ApiError> {
    let open = |path: &Path| File::open(path).map_err(|error| failed(path, &error));
    let scratch = what.dir.join(SCRATCH);
    let scratch = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&scratch)
        .map_err(|error| failed(&scratch, &error))?;
    let console = what.dir.join(CONSOLE);
    let console = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&console)
        .map_err(|error| failed(&console, &error))?;
    let vsock = sockets.listen(VSOCK_SOCKET).map_err(|error| failed(what.dir, &error))?;
    let disk = |id: &str, read_only, file| DiskConfig {
        id: id.to_owned(),
        size: None,
        read_only,
        ranges: vec![RangeConfig { offset: 0, length: None, file: FileSource::Fd(file) }],
    };
    let initrd = what.image.initrd.as_deref().map(open).transpose()?;
    Ok(VmConfig {
        cpus: what.shape.cpus,
        memory: what.shape.memory,
        kernel: FileSource::Fd(files.add(open(&what.image.kernel)?)),
        initrd: initrd.map(|initrd| FileSource::Fd(files.add(initrd))),
        cmdline: CMDLINE.to_owned(),
        disks: vec![
            disk("root", true, files.add(open(&what.image.root)?)),
            DiskConfig {
                id: "images".to_owned(),
                size: Some(DISK_SIZE),
                read_only: true,
                ranges: Vec::new(),
            },
            disk("scratch", false, files.add(scratch)),
        ],
        nets: vec![NetConfig {
            id: "eth0".to_owned(),
            tap: FileSource::Fd(files.add(what.tap.try_clone().map_err(|e| failed(what.dir, &e))?)),
            mac: what.mac.clone(),
            mtu: Some(MTU),
        }],
        vsock: Some(VsockConfig {
            cid: GUEST_CID,
            listener: FileSource::Fd(files.add(vsock)),
            guest_connections: None,
        }),
        console: ConsoleConfig::File(FileSource::Fd(files.add(console))),
    })
}

fn in_memory(config: &VmConfig) -> io::Result<File> {
    let mut file = File::from(memfd_create("vm-config", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(config)?)?;
    file.rewind()?;
    Ok(file)
}

fn failed(path: &Path, error: &io::Error) -> ApiError {
    let message = format!("{}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull => fault::insufficient(message),
        _ => fault::internal(message),
    }
}

/// The last line of a monitor's log or a guest's console that says something.
fn last_line(log: &Path) -> Option<String> {
    tail(log)?.lines().rev().find_map(readable)
}

/// What a guest said last on its console: its kernel's panic, else the last line.
pub(super) fn last_words(console: &Path) -> Option<String> {
    let tail = tail(console)?;
    let panic = tail.lines().rev().find(|line| line.contains("Kernel panic"));
    panic.and_then(readable).or_else(|| tail.lines().rev().find_map(readable))
}

fn tail(log: &Path) -> Option<String> {
    const TAIL: u64 = 4096;
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    Some(String::from_utf8_lossy(&tail).into_owned())
}

/// A line without what could act on a terminal, if anything is left of it.
fn readable(line: &str) -> Option<String> {
    const LONGEST: usize = 300;
    let line: String = line.trim().chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    (!line.is_empty()).then_some(line)
}

/// How a node's run ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As was wanted.
    Asked,
    /// The guest rebooted.
    Reset,
    /// Otherwise; why, in one line.
    Failed(String),
}

/// What became of a monitor that ended by itself.
pub(super) fn end(dir: &Path, status: Option<std::process::ExitStatus>) -> End {
    use std::os::unix::process::ExitStatusExt as _;
    if status.and_then(|status| status.code()) == Some(RESET_EXIT_CODE) {
        return End::Reset;
    }
    let how = match status {
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("the monitor ended with exit code {code}"),
            (None, Some(signal)) => format!("the monitor was ended by signal {signal}"),
            (None, None) => "the monitor ended".to_owned(),
        },
        None => "the monitor ended".to_owned(),
    };
    End::Failed(match last_line(&dir.join(VMM_LOG)) {
        Some(line) => format!("{how}: {line}"),
        None => how,
    })
}

/// Adds a range to the `images` disk of the monitor behind `socket`. With `again` it may be there
/// already: an earlier daemon may have ended before it could note that it was added.
pub(super) async fn add_range(
    socket: PathBuf,
    range: AttachRange,
    file: File,
    again: bool,
) -> Result<(), ApiError> {
    let body =
        RangeConfig { offset: range.offset, length: Some(range.length), file: FileSource::Fd(0) };
    let added = tokio::task::spawn_blocking(move || {
        Client::new(&socket).add_range("images", &body, Some(file.as_fd()))
    });
    match added.await.map_err(fault::internal)? {
        Ok(()) => Ok(()),
        Err(ClientError::Refused { status: 400..=499, .. }) if again => Ok(()),
        Err(error) => Err(fault::internal(format!("adding a layer to the node: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_last_words_are_its_panic_and_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let console = dir.path().join(CONSOLE);
        assert_eq!(last_words(&console), None);
        std::fs::write(&console, "\n \r\n").unwrap();
        assert_eq!(last_words(&console), None);
        std::fs::write(&console, "booting\nfailed: \x1b[2Jx\x07\r\n\n").unwrap();
        assert_eq!(last_words(&console).unwrap(), "failed: [2Jx");
        let panic = "[1.0] Kernel panic - not syncing: no init\r\n[2.0] Rebooting in 1 seconds..";
        std::fs::write(&console, "x\n".repeat(4000) + panic).unwrap();
        assert_eq!(last_words(&console).unwrap(), "[1.0] Kernel panic - not syncing: no init");
        assert_eq!(last_line(&console).unwrap(), "[2.0] Rebooting in 1 seconds..");
        std::fs::write(&console, "y".repeat(9000)).unwrap();
        assert_eq!(last_words(&console).unwrap().len(), 300);
    }

    #[test]
    fn a_reset_is_told_from_a_failure_which_says_what_the_monitor_said() {
        use std::os::unix::process::ExitStatusExt as _;
        let dir = tempfile::tempdir().unwrap();
        let exited = |code| Some(std::process::ExitStatus::from_raw(code << 8));
        assert_eq!(end(dir.path(), exited(RESET_EXIT_CODE)), End::Reset);
        std::fs::write(dir.path().join(VMM_LOG), "triple fault\n\n").unwrap();
        let said = |status| match end(dir.path(), status) {
            End::Failed(message) => message,
            other => panic!("{other:?}"),
        };
        assert_eq!(said(exited(12)), "the monitor ended with exit code 12: triple fault");
        let killed = Some(std::process::ExitStatus::from_raw(9));
        assert_eq!(said(killed), "the monitor was ended by signal 9: triple fault");
        assert_eq!(said(None), "the monitor ended: triple fault");
    }
}

//! From what was asked for to what can be built: every value checked, every file open.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use bulkhead_vmm_api::{
    ConsoleConfig, DiskConfig, FileSource, NetConfig, RangeConfig, VmConfig, VsockConfig,
};

use crate::console::Backend;
use crate::layout::VIRTIO_IRQS;
use crate::memory::{MemoryError, regions};
use crate::virtio::block::{DiskId, InvalidDiskId};
use crate::virtio::net::{InvalidMacAddress, MacAddress};

/// Most vCPUs of a machine.
pub const MAX_CPUS: u8 = 32;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not 1 to 32 vCPUs.
    #[error("{0} vCPUs: a machine has 1 to {MAX_CPUS}")]
    Cpus(u8),
    /// Not a size a machine can have.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A file cannot be opened.
    #[error("cannot open the {what} {path}: {error}", path = path.display())]
    Open {
        /// What it is for.
        what: String,
        /// Its path.
        path: PathBuf,
        /// The host's reason.
        error: io::Error,
    },
    /// A file descriptor was not handed in.
    #[error("the {what} is file descriptor {fd}, which was not handed in")]
    Descriptor {
        /// What it is for.
        what: String,
        /// Its number.
        fd: i32,
    },
    /// A tap can only be handed in.
    #[error("cannot open the tap {name} of {id}: {error}")]
    Tap {
        /// The device.
        id: String,
        /// The tap's name.
        name: String,
        /// The host's reason.
        error: io::Error,
    },
    /// A disk's name is illegal.
    #[error(transparent)]
    DiskId(#[from] InvalidDiskId),
    /// A network device's address is illegal.
    #[error(transparent)]
    Mac(#[from] InvalidMacAddress),
    /// Two devices of one name.
    #[error("two devices are called {0}")]
    Duplicate(String),
    /// More devices than interrupt lines.
    #[error("{0} devices: a machine has at most {max}", max = VIRTIO_IRQS.len())]
    TooManyDevices(usize),
    /// A context id that no guest may have.
    #[error("vsock context id {0}: it must be from 3 to 4294967294")]
    Cid(u32),
}

/// Where `FileSource::Fd` numbers lead.
pub trait Descriptors {
    /// The open file of that number; each can be taken once.
    fn take(&mut self, number: i32) -> Option<OwnedFd>;
}

/// The process's inherited file descriptors.
#[derive(Debug, Default)]
pub struct Inherited {
    taken: Vec<RawFd>,
}

impl Descriptors for Inherited {
    fn take(&mut self, number: i32) -> Option<OwnedFd> {
        // SAFETY: a plain fcntl; a number that is not open makes it fail.
        if number < 0 || unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return None;
        }
        if self.taken.contains(&number) {
            return None;
        }
        self.taken.push(number);
        // SAFETY: open, as was just seen, handed in for this purpose, and taken once.
        Some(unsafe { OwnedFd::from_raw_fd(number) })
    }
}

/// The files of one API request, by position.
#[derive(Debug, Default)]
pub struct Attached(pub Vec<Option<OwnedFd>>);

impl Descriptors for Attached {
    fn take(&mut self, number: i32) -> Option<OwnedFd> {
        self.0.get_mut(usize::try_from(number).ok()?)?.take()
    }
}

/// A range of a disk, open.
#[derive(Debug)]
pub struct Range {
    /// Where it starts on the disk, in bytes.
    pub offset: u64,
    /// Its bytes, if not the file's.
    pub length: Option<u64>,
    /// What backs it.
    pub file: File,
}

/// A disk, open.
#[derive(Debug)]
pub struct Disk {
    /// Its name.
    pub id: DiskId,
    /// Its name, as text.
    pub name: String,
    /// Its capacity, if fixed.
    pub size: Option<u64>,
    /// Whether the guest may not write.
    pub read_only: bool,
    /// What is there at start.
    pub ranges: Vec<Range>,
}

/// A network device, open.
#[derive(Debug)]
pub struct Net {
    /// Its name.
    pub name: String,
    /// The tap.
    pub tap: File,
    /// The guest's address.
    pub mac: MacAddress,
    /// The largest packet, if told.
    pub mtu: Option<u16>,
}

/// The vsock device, open.
#[derive(Debug)]
pub struct Vsock {
    /// The guest's context id.
    pub cid: u32,
    /// Where the host connects.
    pub listener: UnixListener,
    /// The prefix of the sockets that the guest's connections go to.
    pub guest_connections: Option<PathBuf>,
}

/// A machine that can be built.
#[derive(Debug)]
pub struct Machine {
    /// vCPUs.
    pub cpus: u8,
    /// Bytes of guest memory.
    pub memory: u64,
    /// The kernel.
    pub kernel: File,
    /// The initrd.
    pub initrd: Option<File>,
    /// The command line, without the devices' parameters.
    pub cmdline: String,
    /// Block devices.
    pub disks: Vec<Disk>,
    /// Network devices.
    pub nets: Vec<Net>,
    /// The vsock device.
    pub vsock: Option<Vsock>,
    /// The console.
    pub console: Backend,
}

impl Machine {
    /// Checks `config` and opens its files.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn open(config: VmConfig, fds: &mut dyn Descriptors) -> Result<Self, ConfigError> {
        if !(1..=MAX_CPUS).contains(&config.cpus) {
            return Err(ConfigError::Cpus(config.cpus));
        }
        regions(config.memory)?;
        // The entropy device is always there.
        let devices =
            1 + config.disks.len() + config.nets.len() + usize::from(config.vsock.is_some());
        if devices > VIRTIO_IRQS.len() {
            return Err(ConfigError::TooManyDevices(devices));
        }
        let mut names: Vec<&str> = (config.disks.iter().map(|disk| disk.id.as_str()))
            .chain(config.nets.iter().map(|net| net.id.as_str()))
            .collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ConfigError::Duplicate(pair[0].to_owned()));
        }
        let disks = config.disks.into_iter().map(|disk| open_disk(disk, fds));
        let disks = disks.collect::<Result<_, _>>()?;
        let nets = config.nets.into_iter().map(|net| open_net(net, fds));
        let nets = nets.collect::<Result<_, _>>()?;
        Ok(Self {
            cpus: config.cpus,
            memory: config.memory,
            kernel: open(&config.kernel, "kernel", OpenOptions::new().read(true), fds)?,
            initrd: config
                .initrd
                .map(|initrd| open(&initrd, "initrd", OpenOptions::new().read(true), fds))
                .transpose()?,
            cmdline: config.cmdline,
            disks,
            nets,
            vsock: config.vsock.map(|vsock| open_vsock(vsock, fds)).transpose()?,
            console: open_console(config.console, fds)?,
        })
    }
}

fn open(
    source: &FileSource,
    what: &str,
    options: &OpenOptions,
    fds: &mut dyn Descriptors,
) -> Result<File, ConfigError> {
    match source {
        FileSource::Path(path) => options.open(path).map_err(|error| ConfigError::Open {
            what: what.to_owned(),
            path: path.clone(),
            error,
        }),
        FileSource::Fd(fd) => take(*fd, what, fds).map(File::from),
    }
}

fn take(fd: i32, what: &str, fds: &mut dyn Descriptors) -> Result<OwnedFd, ConfigError> {
    fds.take(fd).ok_or_else(|| ConfigError::Descriptor { what: what.to_owned(), fd })
}

/// Opens a range's file.
///
/// # Errors
/// When it cannot be opened or was not handed in.
pub fn open_range(
    range: &RangeConfig,
    disk: &str,
    read_only: bool,
    fds: &mut dyn Descriptors,
) -> Result<Range, ConfigError> {
    let what = format!("file of disk {disk}");
    let mut options = OpenOptions::new();
    options.read(true).write(!read_only);
    let file = open(&range.file, &what, &options, fds)?;
    Ok(Range { offset: range.offset, length: range.length, file })
}

fn open_disk(disk: DiskConfig, fds: &mut dyn Descriptors) -> Result<Disk, ConfigError> {
    let id = DiskId::try_from(disk.id.as_str())?;
    let ranges = disk.ranges.iter().map(|range| open_range(range, &disk.id, disk.read_only, fds));
    let ranges = ranges.collect::<Result<_, _>>()?;
    Ok(Disk { id, name: disk.id, size: disk.size, read_only: disk.read_only, ranges })
}

fn open_net(net: NetConfig, fds: &mut dyn Descriptors) -> Result<Net, ConfigError> {
    let mac = MacAddress::try_from(net.mac.as_str())?;
    let tap = match &net.tap {
        FileSource::Fd(fd) => take(*fd, "tap", fds)?,
        FileSource::Path(path) => {
            let name = path.to_string_lossy().into_owned();
            bulkhead_vmm_api::tap::open(&name).map_err(|error| ConfigError::Tap {
                id: net.id.clone(),
                name,
                error,
            })?
        }
    };
    Ok(Net { name: net.id, tap: tap.into(), mac, mtu: net.mtu })
}

fn open_vsock(vsock: VsockConfig, fds: &mut dyn Descriptors) -> Result<Vsock, ConfigError> {
    if !(3..u32::MAX).contains(&vsock.cid) {
        return Err(ConfigError::Cid(vsock.cid));
    }
    let own_path = match &vsock.listener {
        FileSource::Path(path) => Some(path.clone()),
        FileSource::Fd(_) => None,
    };
    Ok(Vsock {
        cid: vsock.cid,
        listener: listen(&vsock.listener, "vsock socket", fds)?,
        guest_connections: vsock.guest_connections.or(own_path),
    })
}

fn open_console(console: ConsoleConfig, fds: &mut dyn Descriptors) -> Result<Backend, ConfigError> {
    Ok(match console {
        ConsoleConfig::Off => Backend::Off,
        ConsoleConfig::Stdio => Backend::Stdio,
        ConsoleConfig::File(file) => {
            let options = OpenOptions::new().append(true).create(true).clone();
            Backend::File(open(&file, "console file", &options, fds)?)
        }
        ConsoleConfig::Socket(socket) => Backend::Socket(listen(&socket, "console socket", fds)?),
    })
}

fn listen(
    source: &FileSource,
    what: &str,
    fds: &mut dyn Descriptors,
) -> Result<UnixListener, ConfigError> {
    match source {
        FileSource::Fd(fd) => take(*fd, what, fds).map(UnixListener::from),
        FileSource::Path(path) => bind(path).map_err(|error| ConfigError::Open {
            what: what.to_owned(),
            path: path.clone(),
            error,
        }),
    }
}

/// Binds a listening socket at `path`, in place of one that nobody listens on any more.
///
/// # Errors
/// As `bind`; `AddrInUse` when somebody listens there, or it is not a socket.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    use std::os::unix::net::UnixStream;
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let is_socket = path.symlink_metadata()?.file_type().is_socket();
            if !is_socket || UnixStream::connect(path).is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> Result<Machine, ConfigError> {
        let all = format!(
            r#"{{"memory": 67108864, "kernel": {{"path": "/proc/self/exe"}}, {json} "cmdline": ""}}"#
        );
        Machine::open(serde_json::from_str(&all).unwrap(), &mut Attached::default())
    }

    fn message(json: &str) -> String {
        config(json).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(config("").is_ok());
        assert_eq!(message(r#""cpus": 0,"#), "0 vCPUs: a machine has 1 to 32");
        assert_eq!(message(r#""cpus": 33,"#), "33 vCPUs: a machine has 1 to 32");
        assert!(message(r#""vsock": {"cid": 2, "listener": {"fd": 0}},"#).contains("id 2"));
        assert!(message(r#""initrd": {"path": "/nonexistent/x"},"#).contains("/nonexistent/x"));
        assert!(message(r#""initrd": {"fd": 3},"#).contains("descriptor 3"));
        assert!(message(r#""disks": [{"id": "a/b"}],"#).contains("a/b"));
        assert!(
            message(r#""disks": [{"id": "a"}, {"id": "a"}],"#).contains("two devices are called a")
        );
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let live = bind(&path).unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(live);
        bind(&path).unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(bind(&file).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    }
}

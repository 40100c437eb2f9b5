//! The host's end of a network device: a tap, handed in open.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::virtio::buffers::Buffers;

/// Bytes of the header before each frame: `struct virtio_net_hdr_v1` (§5.1.6).
pub const HEADER: usize = 12;

// <linux/if_tun.h>; the calls' numbers are the same on every 64-bit architecture but MIPS, PowerPC
// and SPARC.
const TUNGETIFF: libc::Ioctl = 0x8004_54d2_u32 as libc::Ioctl;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0_u32 as libc::Ioctl;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8_u32 as libc::Ioctl;
const IFF_TAP: i16 = 0x0002;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;

/// What a tap may hand over unfinished: `TUN_F_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads(pub u32);

impl Offloads {
    /// Checksums are left to the receiver.
    pub const CSUM: Self = Self(1);
    /// TCP over IPv4 is left unsegmented.
    pub const TSO4: Self = Self(2);
    /// TCP over IPv6 is left unsegmented.
    pub const TSO6: Self = Self(4);
    /// So is TCP with explicit congestion notification.
    pub const TSO_ECN: Self = Self(8);

    /// All of these.
    pub const ALL: Self = Self(15);

    /// Whether everything in `other` is in here.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Why a file is no tap that can be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Not an attached tun device.
    #[error("the network device's file is not an attached tap: {0}")]
    NotATap(io::Error),
    /// Attached with other flags.
    #[error(
        "tap {name} has flags {flags:#x}: attach it with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR (0x5002)"
    )]
    Flags {
        /// The interface.
        name: String,
        /// Its flags.
        flags: i16,
    },
    /// A setting was refused.
    #[error("tap {name}: cannot {action}: {error}")]
    Setting {
        /// The interface.
        name: String,
        /// What was tried.
        action: &'static str,
        /// The host's reason.
        error: io::Error,
    },
}

/// A stream of frames with their headers. In production a tap; tests use a socket.
pub trait Link: AsFd + Send {
    /// What [`Link::set_offloads`] may turn on.
    fn supported(&self) -> Offloads;

    /// Sets what frames from the host may leave to the guest.
    ///
    /// # Errors
    /// As the host.
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()>;

    /// Sends one frame with its header: the first `length` bytes of `frame`.
    ///
    /// # Errors
    /// As `writev`.
    fn send(&self, frame: &mut Buffers, length: usize) -> io::Result<usize> {
        frame.write_stream(self.as_fd(), length)
    }
}

/// A tap that has been checked: non-blocking, frames without packet information, and with headers
/// of [`HEADER`] bytes.
#[derive(Debug)]
pub struct Tap {
    file: File,
    supported: Offloads,
}

impl Tap {
    /// Checks and sets up an open `/dev/net/tun` after `TUNSETIFF`.
    ///
    /// # Errors
    /// When it is not attached, not as a tap with virtio headers, or refuses a setting.
    pub fn new(file: File) -> Result<Self, TapError> {
        // SAFETY: all-zero is a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // SAFETY: TUNGETIFF fills an `ifreq`, which is what it gets.
        if unsafe { libc::ioctl(file.as_raw_fd(), TUNGETIFF, &raw mut request) } < 0 {
            return Err(TapError::NotATap(io::Error::last_os_error()));
        }
        let name: String = request
            .ifr_name
            .iter()
            .take_while(|byte| **byte != 0)
            .map(|byte| char::from(byte.cast_unsigned()))
            .collect();
        // SAFETY: TUNGETIFF sets the flags' member of the union.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let wanted = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
        if flags & wanted != wanted {
            return Err(TapError::Flags { name, flags });
        }
        let setting = |action| {
            let name = name.clone();
            move |error| TapError::Setting { name, action, error }
        };
        set_nonblocking(&file).map_err(setting("make it non-blocking"))?;
        let header = HEADER as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads an `int`.
        if unsafe { libc::ioctl(file.as_raw_fd(), TUNSETVNETHDRSZ, &raw const header) } < 0 {
            return Err(setting("set the header's size")(io::Error::last_os_error()));
        }
        let mut tap = Self { file, supported: Offloads::default() };
        let sets = [Offloads::ALL, Offloads(7), Offloads(3), Offloads::CSUM];
        let supported = sets.into_iter().find(|offloads| tap.set_offloads(*offloads).is_ok());
        tap.supported = supported.unwrap_or_default();
        tap.set_offloads(Offloads::default()).map_err(setting("turn offloads off"))?;
        Ok(tap)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Link for Tap {
    fn supported(&self) -> Offloads {
        self.supported
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        let argument = libc::c_ulong::from(offloads.0);
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        if unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETOFFLOAD, argument) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

fn set_nonblocking(file: &File) -> io::Result<()> {
    // SAFETY: fcntl with integer arguments on a descriptor that `file` owns.
    unsafe {
        let flags = libc::fcntl(file.as_raw_fd(), libc::F_GETFL);
        if flags < 0 || libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

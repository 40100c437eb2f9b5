//! A tap device as the monitor wants it handed in ([`crate::NetConfig::tap`]).

use std::ffi::c_char;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// Creates the tap device `name` in the thread's network namespace, or opens it if it is there,
/// is persistent and nobody has it open. The device lives as long as the file that is returned.
///
/// # Errors
/// `InvalidInput` for a name of 0 or more than 15 bytes; the kernel's own: `PermissionDenied`
/// without `CAP_NET_ADMIN`, `ResourceBusy` if the device is in use.
pub fn open(name: &str) -> io::Result<OwnedFd> {
    // SAFETY: `ifreq` is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.contains(&0) || bytes.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a network device's name"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = c_char::from_ne_bytes([*from]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags =
        i16::try_from(flags).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: the file is open, and TUNSETIFF reads and writes one `ifreq`, which `request` is.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_that_no_device_can_have_are_refused() {
        for name in ["", "sixteen-bytes-xx", "a\0b"] {
            let error = super::open(name).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{name:?}");
        }
    }
}

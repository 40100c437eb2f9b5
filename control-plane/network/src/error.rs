//! Why a network could not be made or changed.

use std::io;

/// Why a network could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The process may not.
    #[error(
        "{what}: not permitted; networks of microVMs need the capabilities CAP_NET_ADMIN and \
         CAP_SYS_ADMIN: run the host daemon as root"
    )]
    Forbidden {
        /// What was tried.
        what: String,
    },
    /// A program is missing.
    #[error("{program} is not installed: install Debian's {package}")]
    Missing {
        /// The program.
        program: &'static str,
        /// Where it is.
        package: &'static str,
    },
    /// The system failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel refused over netlink.
    #[error("{what}: {source}")]
    Netlink {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: rtnetlink::Error,
    },
    /// nft refused a set of rules.
    #[error("nftables: {0}")]
    Rules(String),
    /// Every network between hosts and clusters is in use.
    #[error("no network is left for the cluster's uplink: 255 clusters have one")]
    Exhausted,
}

impl NetError {
    /// For `map_err`: what was tried when the system failed.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Forbidden { what },
            _ => Self::Io { what, source },
        }
    }

    /// As [`NetError::io`], for nix.
    pub(crate) fn errno(what: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Self {
        let wrap = Self::io(what);
        move |errno| wrap(errno.into())
    }

    /// As [`NetError::io`], for netlink.
    pub(crate) fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let what = what.into();
        move |source| match errno_of(&source) {
            Some(nix::libc::EPERM | nix::libc::EACCES) => Self::Forbidden { what },
            _ => Self::Netlink { what, source },
        }
    }

    /// Whether it failed for what is not there.
    pub(crate) fn is_not_there(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// The kernel's error number, positive.
pub(crate) fn errno_of(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(-message.raw_code()),
        _ => None,
    }
}

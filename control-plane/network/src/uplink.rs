//! A cluster's way out: a veth from its namespace to the host's.

use std::fs::File;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use nix::fcntl::{Flock, FlockArg};

use crate::address::UPLINKS;
use crate::{NetError, links, nft};

/// The end in the cluster's namespace.
pub(crate) const INSIDE: &str = "uplink";

/// What the ends in the host's namespace are called, and a number behind it.
const OUTSIDE: &str = "bh-";

/// What the tables of rules in the host's namespace are called, and a number behind it.
const TABLE: &str = "bulkhead-";

/// Held while uplinks come and go: numbers, links and rules of one host go together, whichever
/// daemon makes them.
const LOCK: &str = "/run/bulkhead-uplinks.lock";

/// Takes the host's lock over uplinks; waits while another daemon has it.
pub(crate) fn lock() -> Result<Flock<File>, NetError> {
    let file = File::create(LOCK).map_err(NetError::io(format!("opening {LOCK}")))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| NetError::errno(format!("locking {LOCK}"))(errno))
}

/// One of the host's uplinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uplink(u8);

impl Uplink {
    /// The one with this number, whether it is there or not.
    #[must_use]
    pub const fn numbered(number: u8) -> Self {
        Self(number)
    }

    /// The network that it leads to: the cluster's addresses as seen from the host.
    #[must_use]
    pub fn network(self) -> Ipv4Net {
        let base = UPLINKS.addr().to_bits() | u32::from(self.0) << 8;
        // 24 is a prefix length.
        Ipv4Net::new(Ipv4Addr::from_bits(base), 24).unwrap_or(UPLINKS)
    }

    fn host(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network().addr().to_bits() | number)
    }

    /// The host's address on it.
    #[must_use]
    pub fn host_address(self) -> Ipv4Addr {
        self.host(1)
    }

    /// The cluster's address on it, where the host reaches it and which it shows to the outside.
    #[must_use]
    pub fn cluster_address(self) -> Ipv4Addr {
        self.host(2)
    }

    pub(crate) fn outside(self) -> String {
        format!("{OUTSIDE}{}", self.0)
    }

    pub(crate) fn table(self) -> String {
        format!("{TABLE}{}", self.0)
    }

    /// That of the thread's namespace, if it has one.
    pub(crate) fn find() -> Result<Option<Self>, NetError> {
        let addresses = links::addresses(INSIDE)?;
        Ok(addresses.into_iter().find_map(Self::of_cluster_address))
    }

    fn of_cluster_address(address: Ipv4Addr) -> Option<Self> {
        let [_, _, number, _] = address.octets();
        let uplink = Self(number);
        (uplink.cluster_address() == address).then_some(uplink)
    }

    /// Makes that of the thread's namespace, unless it is there: the first whose name is free in
    /// `host`, the host's namespace. Takes [`lock`].
    pub(crate) fn ensure(host: &File) -> Result<Self, NetError> {
        if let Some(uplink) = Self::find()? {
            return Ok(uplink);
        }
        // One that another daemon's end left half made.
        links::remove_uplink()?;
        for number in 1..=u8::MAX {
            let uplink = Self(number);
            if links::make_uplink(INSIDE, &uplink.outside(), host)? {
                links::configure_inside(INSIDE, uplink)?;
                return Ok(uplink);
            }
        }
        Err(NetError::Exhausted)
    }

    /// In the host's namespace: its end's address and the way to the cluster.
    pub(crate) fn ensure_outside(self) -> Result<(), NetError> {
        let forward = "/proc/sys/net/ipv4/ip_forward";
        std::fs::write(forward, "1").map_err(NetError::io(format!("writing {forward}")))?;
        links::configure_outside(&self.outside(), self)
    }
}

/// Removes the rules of uplinks that are no more from the thread's namespace, the host's.
pub(crate) fn remove_stale_rules() -> Result<(), NetError> {
    let tables = nft::ask(&["list", "tables", "ip"], "")?;
    for number in tables.lines().filter_map(|line| line.rsplit_once(TABLE)?.1.parse::<u8>().ok()) {
        let uplink = Uplink(number);
        if !links::exists(&uplink.outside()) {
            nft::run(&crate::rules::no_host(uplink))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uplink_is_known_by_its_address() {
        let uplink = Uplink(7);
        assert_eq!(uplink.network().to_string(), "10.213.7.0/24");
        assert_eq!(uplink.host_address(), Ipv4Addr::new(10, 213, 7, 1));
        assert_eq!(Uplink::of_cluster_address(uplink.cluster_address()), Some(uplink));
        assert_eq!(Uplink::of_cluster_address(Ipv4Addr::new(10, 213, 7, 1)), None);
        assert_eq!(Uplink::of_cluster_address(Ipv4Addr::new(10, 214, 7, 2)), None);
    }
}

//! UDP flows that go where a first datagram would not be led any more.
//!
//! Its first datagram decides where all of a flow go: to a resolver that keeps its port, the maps
//! matter no more than once. So what they say later has to be brought to the flows that are there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Backends, Frontend, Protocol};
use crate::address::{NODES, UPLINKS};

/// Where datagrams are met: at an address, or at every node's; and the port.
type Site = (Option<Ipv4Addr>, u16);

/// Those that end with a change of the maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stale {
    /// Led to an endpoint that is no more.
    left: BTreeSet<(Site, SocketAddrV4)>,
    /// Met where nobody was and somebody is now, and so led nowhere: to the node itself, or outside.
    opened: BTreeSet<Site>,
    /// Where everything leads, where nobody knows what flows were led by: others than these end.
    right: Option<BTreeMap<Site, BTreeSet<SocketAddrV4>>>,
}

impl Stale {
    /// Everything that is not as the table has it.
    pub(super) fn except(table: &BTreeMap<Frontend, Backends>) -> Self {
        let mut right: BTreeMap<Site, BTreeSet<_>> = BTreeMap::new();
        for (frontend, backends) in table {
            if let Some(site) = site(frontend)
                && !backends.endpoints().is_empty()
            {
                right.entry(site).or_default().extend(backends.endpoints());
            }
        }
        Self { right: Some(right), ..Self::default() }
    }

    /// What was led from a frontend that leads elsewhere now.
    pub(super) fn note(&mut self, frontend: &Frontend, old: &Backends, new: &Backends) {
        let Some(site) = site(frontend) else { return };
        let gone = old.endpoints().iter().filter(|endpoint| !new.endpoints().contains(endpoint));
        self.left.extend(gone.map(|endpoint| (site, *endpoint)));
        if old.endpoints().is_empty() && !new.endpoints().is_empty() {
            self.opened.insert(site);
        }
    }

    /// Whether there is no flow that it could have.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a flow is one of them that is met and led there; both are the same for one that is led
    /// nowhere.
    pub(crate) fn has(&self, met: SocketAddrV4, led: SocketAddrV4) -> bool {
        // Elsewhere than at a node's address, its port is anybody's.
        let nodes = NODES.contains(met.ip()) || UPLINKS.contains(met.ip());
        let sites = [Some((Some(*met.ip()), met.port())), nodes.then_some((None, met.port()))];
        let mut sites = sites.into_iter().flatten();
        if met == led {
            return sites.any(|site| {
                let right = self.right.as_ref();
                self.opened.contains(&site) || right.is_some_and(|right| right.contains_key(&site))
            });
        }
        if sites.clone().any(|site| self.left.contains(&(site, led))) {
            return true;
        }
        self.right.as_ref().is_some_and(|right| {
            !sites.any(|site| right.get(&site).is_some_and(|endpoints| endpoints.contains(&led)))
        })
    }
}

/// Where a frontend's datagrams are met, if it is one of datagrams.
fn site(frontend: &Frontend) -> Option<Site> {
    match *frontend {
        Frontend::Address(ip, Protocol::Udp, port)
        | Frontend::FromNode(_, ip, Protocol::Udp, port) => Some((Some(ip), port)),
        Frontend::NodePort(Protocol::Udp, port) => Some((None, port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> SocketAddrV4 {
        address.parse().unwrap()
    }

    fn to(endpoints: &[&str]) -> Backends {
        Backends::new(endpoints.iter().map(|endpoint| at(endpoint)).collect(), None)
    }

    const SERVICE: Frontend = Frontend::Address(Ipv4Addr::new(10, 96, 0, 1), Protocol::Udp, 53);
    const NODE_PORT: Frontend = Frontend::NodePort(Protocol::Udp, 30_053);

    #[test]
    fn a_change_ends_flows_to_who_is_gone_and_to_where_nobody_was() {
        let mut stale = Stale::default();
        stale.note(&SERVICE, &to(&["10.244.1.2:53", "10.244.1.3:53"]), &to(&["10.244.1.3:53"]));
        stale.note(&Frontend::NodePort(Protocol::Tcp, 30_080), &to(&[]), &to(&["10.244.1.2:80"]));
        assert!(stale.has(at("10.96.0.1:53"), at("10.244.1.2:53")));
        assert!(!stale.has(at("10.96.0.1:53"), at("10.244.1.3:53")));
        assert!(!stale.has(at("10.96.0.2:53"), at("10.244.1.2:53")), "another's");
        assert!(!stale.has(at("10.88.0.1:30080"), at("10.88.0.1:30080")), "TCP's");

        stale.note(&NODE_PORT, &to(&[]), &to(&["10.244.1.2:53"]));
        for node in ["10.88.0.7:30053", "10.213.1.2:30053"] {
            assert!(stale.has(at(node), at(node)), "{node}");
        }
        assert!(!stale.has(at("10.244.1.9:30053"), at("10.244.1.9:30053")), "a pod's own port");
        assert!(!stale.has(at("10.88.0.7:30054"), at("10.88.0.7:30054")));
    }

    #[test]
    fn who_does_not_know_what_was_before_ends_what_is_not_right() {
        let table = BTreeMap::from([
            (SERVICE, to(&["10.244.1.2:53"])),
            (NODE_PORT, to(&["10.244.1.2:53"])),
            (Frontend::Address(Ipv4Addr::new(10, 96, 0, 3), Protocol::Udp, 53), to(&[])),
        ]);
        let stale = Stale::except(&table);
        for (met, led, is_stale) in [
            ("10.96.0.1:53", "10.244.1.2:53", false),
            ("10.96.0.1:53", "10.244.1.3:53", true),
            ("10.96.0.2:53", "10.244.1.2:53", true),
            ("10.88.0.1:30053", "10.244.1.2:53", false),
            ("10.88.0.1:30053", "10.88.0.1:30053", true),
            ("10.96.0.3:53", "10.96.0.3:53", false),
            ("10.244.1.2:53", "10.244.1.2:53", false),
        ] {
            assert_eq!(stale.has(at(met), at(led)), is_stale, "{met} led to {led}");
        }
        assert!(!stale.is_none() && Stale::default().is_none());
    }
}

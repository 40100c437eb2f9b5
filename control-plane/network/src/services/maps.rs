//! What nftables' maps of Services hold, and what makes them hold something else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::chains::{Chain, HAIRPINS, Kind, RESTRICTED, SOURCES};
use super::frontend::concat;
use super::stale::Stale;
use super::{Backends, Frontend};
use crate::elements::{Elements, Key, Value};

/// A change of the maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// The script of the chains that it takes and that may not be there. What they do not lead to
    /// yet they do not change, so they are made before it, not with it.
    pub(crate) chains: String,
    /// What changes in the maps.
    pub(crate) elements: Elements,
    /// UDP flows that it ends.
    pub(crate) stale: Stale,
}

/// What the maps hold.
#[derive(Debug, Default)]
pub struct Maps {
    table: BTreeMap<Frontend, Backends>,
    /// How often each address is an endpoint.
    addresses: BTreeMap<Ipv4Addr, usize>,
    chains: BTreeSet<Chain>,
}

/// A frontend's elements in maps and sets: whose, key and value.
fn elements(frontend: &Frontend, backends: &Backends) -> BTreeSet<(String, Key, Value)> {
    let name = Kind::of(frontend).name;
    let key = |rest: &[u8]| [frontend.key(), rest.to_vec()].concat();
    let mut elements = BTreeSet::new();
    let mut add = |map: &str, mark: u32, value: Vec<u8>| {
        let key = key(&mark.to_ne_bytes()).into();
        elements.insert((format!("{name}-{map}"), key, Value::Data(value)));
    };
    let mut last = None;
    for (slot, endpoint) in (0_u32..).zip(backends.endpoints()) {
        let mark = endpoint.ip().to_bits();
        let target = concat(&[&endpoint.ip().octets(), &endpoint.port().to_be_bytes()]);
        if backends.affinity().is_none() {
            add("endpoints", slot, target);
            continue;
        }
        add("slots", slot, mark.to_ne_bytes().to_vec());
        // An address is what is remembered, so one of two ports that it has is all that is used.
        if last.replace(mark) != Some(mark) {
            add("sticky", mark, target);
        }
    }
    // What leads nowhere needs no guard.
    if let (Some(sources), false) = (backends.sources(), backends.endpoints().is_empty()) {
        elements.insert((RESTRICTED.to_owned(), frontend.key().into(), Value::None));
        elements.extend(sources.iter().map(|network| {
            let of = |address: Ipv4Addr| key(&address.octets());
            let range = Key::range(of(network.network()), of(network.broadcast()));
            (SOURCES.to_owned(), range, Value::None)
        }));
    }
    elements
}

impl Maps {
    /// Makes the maps hold `table` whatever they hold, as a new daemon does.
    pub fn replace(&mut self, table: BTreeMap<Frontend, Backends>) -> Transaction {
        *self = Self::default();
        let mut transaction = self.change(table);
        for Kind { name, .. } in Kind::ALL {
            for map in ["", "-endpoints", "-slots", "-sticky"] {
                transaction.elements.flush(format!("{name}{map}"));
            }
        }
        for set in [HAIRPINS, RESTRICTED, SOURCES] {
            transaction.elements.flush(set.to_owned());
        }
        // What the maps held, and whether flows that ended by what they held before were ended, nobody
        // knows.
        transaction.stale = Stale::except(&self.table);
        transaction
    }

    /// Makes frontends lead elsewhere; one without endpoints leads nowhere.
    pub fn change(
        &mut self,
        changes: impl IntoIterator<Item = (Frontend, Backends)>,
    ) -> Transaction {
        let mut transaction = Transaction::default();
        for (frontend, new) in changes {
            let old = self.table.remove(&frontend).unwrap_or_default();
            if old == new {
                self.keep(frontend, new);
                continue;
            }
            transaction.stale.note(&frontend, &old, &new);
            transaction.chains += &self.lead(frontend, &old, &new, &mut transaction.elements);
            self.count(&old, &new, &mut transaction.elements);
            self.keep(frontend, new);
        }
        transaction
    }

    fn keep(&mut self, frontend: Frontend, backends: Backends) {
        if !backends.endpoints().is_empty() {
            self.table.insert(frontend, backends);
        }
    }

    /// Changes one frontend's elements; the script of chains that are to be made for it.
    fn lead(
        &mut self,
        frontend: Frontend,
        old: &Backends,
        new: &Backends,
        elements: &mut Elements,
    ) -> String {
        let (before, after) = (self::elements(&frontend, old), self::elements(&frontend, new));
        for (map, key, _) in before.difference(&after) {
            elements.delete(map.clone(), key.clone());
        }
        for (map, key, value) in after.difference(&before) {
            elements.add(map.clone(), key.clone(), value.clone());
        }
        let (was, is) = (Chain::of(&frontend, old), Chain::of(&frontend, new));
        if was == is {
            return String::new();
        }
        let name = Kind::of(&frontend).name.to_owned();
        if was.endpoints > 0 {
            elements.delete(name.clone(), frontend.key());
        }
        if is.endpoints == 0 {
            return String::new();
        }
        elements.add(name, frontend.key(), Value::Goto(is.name()));
        if self.chains.contains(&is) {
            return String::new();
        }
        self.chains.extend(is.company());
        is.company().map(Chain::script).collect()
    }

    /// Keeps the set of what may be led back to where it came from.
    fn count(&mut self, old: &Backends, new: &Backends, elements: &mut Elements) {
        let name = || HAIRPINS.to_owned();
        let twice = |ip: &Ipv4Addr| ip.octets().repeat(2);
        for endpoint in new.endpoints() {
            let count = self.addresses.entry(*endpoint.ip()).or_default();
            *count += 1;
            if *count == 1 {
                elements.add(name(), twice(endpoint.ip()), Value::None);
            }
        }
        for endpoint in old.endpoints() {
            if let Some(count) = self.addresses.get_mut(endpoint.ip()) {
                *count -= 1;
                if *count == 0 {
                    self.addresses.remove(endpoint.ip());
                    elements.delete(name(), twice(endpoint.ip()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;

    use ipnet::Ipv4Net;
    use proptest::prelude::*;

    use super::*;
    use crate::elements::tests::Held;
    use crate::services::Protocol;

    /// Few of everything, so that frontends share addresses and endpoints come back.
    fn frontends() -> impl Strategy<Value = Frontend> {
        let ip = (1_u8..4).prop_map(|last| Ipv4Addr::new(10, 96, 0, last));
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
        (0..3, 1_u32..3, ip, protocol, 80_u16..82).prop_map(|(kind, node, ip, protocol, port)| {
            match kind {
                0 => Frontend::Address(ip, protocol, port),
                1 => Frontend::FromNode(node, ip, protocol, port),
                _ => Frontend::NodePort(protocol, port),
            }
        })
    }

    fn backends() -> impl Strategy<Value = Backends> {
        let ip = (1_u8..8).prop_map(|last| Ipv4Addr::new(10, 244, 0, last));
        let endpoint = (ip, 8080_u16..8083).prop_map(|(ip, port)| SocketAddrV4::new(ip, port));
        let affinity = prop_oneof![3 => Just(None), 1 => Just(Some(60)), 1 => Just(Some(600))];
        let source = (any::<u8>(), 8_u8..=16).prop_map(|(second, length)| {
            Ipv4Net::new(Ipv4Addr::new(10, second, 0, 0), length).unwrap()
        });
        let sources = proptest::option::of(proptest::collection::vec(source, 0..3));
        (proptest::collection::vec(endpoint, 0..24), affinity, sources).prop_map(
            |(endpoints, affinity, sources)| {
                Backends::new(endpoints, affinity).open_to(sources.as_deref())
            },
        )
    }

    /// The chains that elements lead to.
    fn led_to(held: &Held) -> BTreeSet<&str> {
        fn chain(value: &Value) -> Option<&str> {
            if let Value::Goto(chain) = value { Some(chain) } else { None }
        }
        held.values().flat_map(BTreeMap::values).filter_map(chain).collect()
    }

    /// The chains that a script makes.
    fn made(script: &str) -> impl Iterator<Item = String> {
        script
            .lines()
            .filter_map(|line| line.strip_prefix("add chain ip bulkhead "))
            .map(str::to_owned)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Change by change or at once: the maps hold the same, and every chain is there before
        /// anything leads to it.
        #[test]
        fn changes_come_to_what_a_new_daemon_would_write(
            rounds in proptest::collection::vec(
                proptest::collection::btree_map(frontends(), backends(), 0..6), 1..12),
        ) {
            let (mut maps, mut held, mut chains) = (Maps::default(), Held::new(), BTreeSet::new());
            let mut table = BTreeMap::new();
            for changes in rounds {
                table.extend(changes.clone());
                let transaction = maps.change(changes.clone());
                chains.extend(made(&transaction.chains));
                transaction.elements.apply(&mut held);
                prop_assert!(led_to(&held).iter().all(|chain| chains.contains(*chain)));

                let mut anew = Held::from([("services".to_owned(), BTreeMap::from([
                    (b"left".to_vec().into(), Value::Goto("services-1".to_owned())),
                ]))]);
                Maps::default().replace(table.clone()).elements.apply(&mut anew);
                prop_assert_eq!(&held, &anew);
                prop_assert_eq!(maps.change(changes), Transaction::default(), "nothing is new");
            }
            // As when the kernel refused something, and nobody knows what it has.
            let again = maps.replace(table);
            let mut anew = held.clone();
            again.elements.apply(&mut anew);
            prop_assert_eq!(&held, &anew);
            let chains: BTreeSet<_> = made(&again.chains).collect();
            prop_assert!(led_to(&held).iter().all(|chain| chains.contains(*chain)));
        }
    }

    #[test]
    fn one_endpoint_more_or_less_is_a_few_elements_and_no_chain() {
        let frontend = |port| Frontend::Address(Ipv4Addr::new(10, 96, 0, 1), Protocol::Tcp, port);
        let backends = |count: u16| {
            let ip = Ipv4Addr::new(10, 244, 0, 1);
            Backends::new((1..=count).map(|port| SocketAddrV4::new(ip, port)).collect(), None)
        };
        let mut maps = Maps::default();
        maps.replace((1..=1000).map(|port| (frontend(port), backends(10))).collect());
        for count in [9, 10, 11, 16, 1] {
            let transaction = maps.change([(frontend(7), backends(count))]);
            assert_eq!(transaction.chains, "", "{count}");
            assert_ne!(transaction.elements, Elements::default());
        }
        assert!(maps.change([(frontend(7), backends(17))]).chains.contains("services-32\n"));
    }
}

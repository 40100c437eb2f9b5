//! nftables' maps of Services: what they hold, and the scripts that make them hold something else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Backends, Frontend, Protocol};

/// The key by which a client's endpoint is remembered.
const CLIENT: &str = "ip saddr . ip daddr . meta l4proto . th dport";

/// The clients that are remembered at most; who comes then is not.
const CLIENTS: u32 = 1 << 18;

/// The type of that key.
const CLIENT_TYPE: &str = "ipv4_addr . ipv4_addr . inet_proto . inet_service";

/// A kind of frontends: its maps' name, and its key, as an expression and as a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    name: &'static str,
    key: &'static str,
    types: &'static str,
}

const SERVICES: Kind = Kind {
    name: "services",
    key: "ip daddr . meta l4proto . th dport",
    types: "ipv4_addr . inet_proto . inet_service",
};
const LOCAL: Kind = Kind {
    name: "local",
    key: "iifgroup . ip daddr . meta l4proto . th dport",
    types: "devgroup . ipv4_addr . inet_proto . inet_service",
};
const NODE_PORTS: Kind =
    Kind { name: "nodeports", key: "meta l4proto . th dport", types: "inet_proto . inet_service" };

impl Kind {
    const fn of(frontend: &Frontend) -> Self {
        match frontend {
            Frontend::Address(..) => SERVICES,
            Frontend::FromNode(..) => LOCAL,
            Frontend::NodePort(..) => NODE_PORTS,
        }
    }
}

/// The maps, empty if they are new, and left as they are if they are not. Their types are spelled
/// out: with `typeof`, nft 1.0.6 takes their endpoints' ports for those of another protocol once
/// they have elements.
pub(crate) fn skeleton() -> String {
    let mut script = format!(
        "\
add set ip bulkhead node-addresses {{ type ipv4_addr; }}
add set ip bulkhead own-pods {{ type ipv4_addr . ipv4_addr; flags interval; }}
add set ip bulkhead hairpins {{ type ipv4_addr . ipv4_addr; }}
add map ip bulkhead affinity {{ type {CLIENT_TYPE} : mark; flags dynamic,timeout; size {CLIENTS}; }}
"
    );
    for Kind { name, types, .. } in [SERVICES, LOCAL, NODE_PORTS] {
        // Writing to a string does not fail.
        let _ = write!(
            script,
            "\
add map ip bulkhead {name} {{ type {types} : verdict; }}
add map ip bulkhead {name}-endpoints {{ type {types} . mark : ipv4_addr . inet_service; }}
add map ip bulkhead {name}-slots {{ type {types} . mark : mark; }}
add map ip bulkhead {name}-sticky {{ type {types} . mark : ipv4_addr . inet_service; }}
"
        );
    }
    script
}

/// The rules, of a chain where destinations are translated, that look a first packet up.
pub(crate) fn dispatch(chain: &str) -> String {
    format!(
        "\
add rule ip bulkhead {chain} {} vmap @local
add rule ip bulkhead {chain} {} vmap @services
add rule ip bulkhead {chain} ip daddr @node-addresses {} vmap @nodeports
",
        LOCAL.key, SERVICES.key, NODE_PORTS.key
    )
}

/// Connections from a frontend to an endpoint which is no more: datagrams would go there for as
/// long as they keep coming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Where they were met: protocol and port.
    pub port: u16,
    /// Where they are led.
    pub endpoint: SocketAddrV4,
}

/// A change of the maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// For nft; empty if nothing changes.
    pub script: String,
    /// UDP flows that it ends.
    pub ended: Vec<Flow>,
}

/// What the maps hold.
#[derive(Debug, Default)]
pub struct Maps {
    table: BTreeMap<Frontend, Backends>,
    /// How often each address is an endpoint.
    addresses: BTreeMap<Ipv4Addr, usize>,
    chains: BTreeSet<Chain>,
}

/// The chain that picks one of so many endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Chain {
    kind: Kind,
    endpoints: usize,
    affinity: Option<u32>,
}

impl Chain {
    fn of(frontend: &Frontend, backends: &Backends) -> Self {
        Self {
            kind: Kind::of(frontend),
            endpoints: backends.endpoints().len(),
            affinity: backends.affinity(),
        }
    }

    fn name(self) -> String {
        let Self { kind: Kind { name, .. }, endpoints, affinity } = self;
        match affinity {
            None => format!("{name}-{endpoints}"),
            Some(seconds) => format!("{name}-{endpoints}-for-{seconds}s"),
        }
    }

    /// The script that makes it.
    fn script(self) -> String {
        let Self { kind: Kind { name, key, .. }, endpoints, affinity } = self;
        let chain = self.name();
        let rule = format!("add rule ip bulkhead {chain}");
        let pick = format!("{rule} meta mark set numgen random mod {endpoints}");
        let lead = |map: &str| {
            format!(
                "{rule} meta l4proto {{ tcp, udp, sctp }} \
                 dnat ip addr . port to {key} . meta mark map @{name}-{map}"
            )
        };
        let mut lines = vec![
            format!("add chain ip bulkhead {chain}"),
            format!("flush chain ip bulkhead {chain}"),
        ];
        match affinity {
            None => lines.extend([pick, lead("endpoints")]),
            Some(seconds) => {
                let known = format!("{rule} meta mark set {CLIENT} map @affinity");
                let remember = |condition: &str| {
                    format!(
                        "{rule} {condition} \
                         update @affinity {{ {CLIENT} timeout {seconds}s : meta mark }}"
                    )
                };
                // Where the endpoint that is remembered is no more, the lookup finds nothing and
                // the next rules pick another, which takes its place: an update alone would keep
                // what is remembered.
                let again =
                    lead("sticky").replacen("meta l4proto", "meta mark != 0 meta l4proto", 1);
                let slot = format!("{rule} meta mark set {key} . meta mark map @{name}-slots");
                lines.extend([
                    format!("{rule} meta mark set 0"),
                    known,
                    remember("meta mark != 0"),
                    again,
                    format!("{rule} delete @affinity {{ {CLIENT} : meta mark }}"),
                    pick,
                    slot,
                    remember(""),
                    lead("sticky"),
                ]);
            }
        }
        lines.join("\n") + "\n"
    }
}

/// Elements to add to and to delete from sets and maps, by name.
#[derive(Debug, Default)]
struct Elements {
    added: BTreeMap<String, Vec<String>>,
    deleted: BTreeMap<String, Vec<String>>,
}

impl Elements {
    fn add(&mut self, map: String, element: String) {
        self.added.entry(map).or_default().push(element);
    }

    fn delete(&mut self, map: String, key: String) {
        self.deleted.entry(map).or_default().push(key);
    }

    fn script(&self) -> String {
        let mut script = String::new();
        for (verb, maps) in [("delete", &self.deleted), ("add", &self.added)] {
            for (map, elements) in maps {
                let elements = elements.join(", ");
                // Writing to a string does not fail.
                let _ = writeln!(script, "{verb} element ip bulkhead {map} {{ {elements} }}");
            }
        }
        script
    }
}

/// An endpoint's element in the maps, by map: key and value.
fn elements<'a>(
    frontend: &'a Frontend,
    backends: &'a Backends,
) -> impl Iterator<Item = (String, String, String)> + 'a {
    let name = Kind::of(frontend).name;
    let sticky = backends.affinity().is_some();
    backends.endpoints().iter().enumerate().flat_map(move |(slot, endpoint)| {
        let address = endpoint.ip().to_bits();
        let target = format!("{} . {}", endpoint.ip(), endpoint.port());
        let of = |map: &str, key: String, value: &str| {
            (format!("{name}-{map}"), format!("{frontend} . {key}"), value.to_owned())
        };
        if sticky {
            vec![
                of("slots", slot.to_string(), &address.to_string()),
                of("sticky", address.to_string(), &target),
            ]
        } else {
            vec![of("endpoints", slot.to_string(), &target)]
        }
    })
}

impl Maps {
    /// Makes the maps hold `table` whatever they hold, as a new daemon does.
    pub fn replace(&mut self, table: BTreeMap<Frontend, Backends>) -> Transaction {
        let mut script = String::new();
        for Kind { name, .. } in [SERVICES, LOCAL, NODE_PORTS] {
            for map in ["", "-endpoints", "-slots", "-sticky"] {
                // Writing to a string does not fail.
                let _ = writeln!(script, "flush map ip bulkhead {name}{map}");
            }
        }
        script += "flush set ip bulkhead hairpins\n";
        let before = std::mem::take(self).table;
        script += &self.change(table).script;
        let ended = before
            .iter()
            .flat_map(|(frontend, old)| {
                ended(frontend, old, self.table.get(frontend).unwrap_or(&Backends::default()))
            })
            .collect();
        Transaction { script, ended }
    }

    /// Makes frontends lead elsewhere; one without endpoints leads nowhere.
    pub fn change(
        &mut self,
        changes: impl IntoIterator<Item = (Frontend, Backends)>,
    ) -> Transaction {
        let mut elements = Elements::default();
        let mut transaction = Transaction::default();
        for (frontend, new) in changes {
            let old = self.table.remove(&frontend).unwrap_or_default();
            if old == new {
                self.keep(frontend, new);
                continue;
            }
            transaction.ended.extend(ended(&frontend, &old, &new));
            transaction.script += &self.lead(frontend, &old, &new, &mut elements);
            self.count(&old, &new, &mut elements);
            self.keep(frontend, new);
        }
        transaction.script += &elements.script();
        transaction
    }

    fn keep(&mut self, frontend: Frontend, backends: Backends) {
        if !backends.endpoints().is_empty() {
            self.table.insert(frontend, backends);
        }
    }

    /// Changes one frontend's elements; the script of the chain that it takes, if that is new.
    fn lead(
        &mut self,
        frontend: Frontend,
        old: &Backends,
        new: &Backends,
        elements: &mut Elements,
    ) -> String {
        let (before, after): (BTreeSet<_>, BTreeSet<_>) =
            (self::elements(&frontend, old).collect(), self::elements(&frontend, new).collect());
        for (map, key, _) in before.difference(&after) {
            elements.delete(map.clone(), key.clone());
        }
        for (map, key, value) in after.difference(&before) {
            elements.add(map.clone(), format!("{key} : {value}"));
        }
        let (was, is) = (Chain::of(&frontend, old), Chain::of(&frontend, new));
        if was == is {
            return String::new();
        }
        let name = Kind::of(&frontend).name.to_owned();
        if was.endpoints > 0 {
            elements.delete(name.clone(), frontend.to_string());
        }
        if is.endpoints == 0 {
            return String::new();
        }
        elements.add(name, format!("{frontend} : goto {}", is.name()));
        if self.chains.insert(is) { is.script() } else { String::new() }
    }

    /// Keeps the set of what may be led back to where it came from.
    fn count(&mut self, old: &Backends, new: &Backends, elements: &mut Elements) {
        let name = || "hairpins".to_owned();
        for endpoint in new.endpoints() {
            let count = self.addresses.entry(*endpoint.ip()).or_default();
            *count += 1;
            if *count == 1 {
                elements.add(name(), format!("{0} . {0}", endpoint.ip()));
            }
        }
        for endpoint in old.endpoints() {
            if let Some(count) = self.addresses.get_mut(endpoint.ip()) {
                *count -= 1;
                if *count == 0 {
                    self.addresses.remove(endpoint.ip());
                    elements.delete(name(), format!("{0} . {0}", endpoint.ip()));
                }
            }
        }
    }
}

/// The UDP flows that end with a change.
fn ended(frontend: &Frontend, old: &Backends, new: &Backends) -> Vec<Flow> {
    let (protocol, port) = frontend.port();
    if protocol != Protocol::Udp {
        return Vec::new();
    }
    let gone = old.endpoints().iter().filter(|endpoint| !new.endpoints().contains(endpoint));
    gone.map(|endpoint| Flow { port, endpoint: *endpoint }).collect()
}

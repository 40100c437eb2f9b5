//! The sets, maps and chains of Services: what there is besides elements, as scripts for nft.

use std::fmt::Write as _;

use super::{Backends, Frontend};

/// The key by which a client's endpoint is remembered.
const CLIENT: &str = "ip saddr . ip daddr . meta l4proto . th dport";

/// The clients that are remembered at most; who comes then is not.
const CLIENTS: u32 = 1 << 18;

/// The type of that key.
const CLIENT_TYPE: &str = "ipv4_addr . ipv4_addr . inet_proto . inet_service";

/// The set of the endpoints' addresses, each twice: who is led back to where it came from.
pub(super) const HAIRPINS: &str = "hairpins";

/// The set of the frontends that not everybody may connect to.
pub(super) const RESTRICTED: &str = "restricted";

/// The set of those who may, for each of these.
pub(super) const SOURCES: &str = "sources";
/// Its key: that of Services with the source. In a set of intervals, Linux 6.12 takes the protocol
/// as the packet has it alone, not as `meta l4proto`, which nft would have it turn round.
const SOURCES_KEY: &str = "ip daddr . ip protocol . th dport . ip saddr";

/// Chains are made for so many numbers of endpoints at once, for that takes a run of nft, which is
/// not to be waited for whenever a Service has an endpoint more than any before.
const AT_ONCE: usize = 16;

/// A kind of frontends: its maps' name, and its key, as an expression and as a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) name: &'static str,
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
    pub(super) const ALL: [Self; 3] = [SERVICES, LOCAL, NODE_PORTS];

    pub(super) const fn of(frontend: &Frontend) -> Self {
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
add set ip bulkhead {HAIRPINS} {{ type ipv4_addr . ipv4_addr; }}
add set ip bulkhead {RESTRICTED} {{ type {services}; }}
add set ip bulkhead {SOURCES} {{ type {services} . ipv4_addr; flags interval; }}
add map ip bulkhead affinity {{ type {CLIENT_TYPE} : mark; flags dynamic,timeout; size {CLIENTS}; }}
",
        services = SERVICES.types,
    );
    for Kind { name, types, .. } in Kind::ALL {
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
add rule ip bulkhead {chain} {services} @{RESTRICTED} {SOURCES_KEY} != @{SOURCES} drop
add rule ip bulkhead {chain} {local} vmap @local
add rule ip bulkhead {chain} {services} vmap @services
add rule ip bulkhead {chain} ip daddr @node-addresses {node_ports} vmap @nodeports
",
        local = LOCAL.key,
        services = SERVICES.key,
        node_ports = NODE_PORTS.key,
    )
}

/// The chain that picks one of so many endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Chain {
    kind: Kind,
    pub(super) endpoints: usize,
    affinity: Option<u32>,
}

impl Chain {
    pub(super) fn of(frontend: &Frontend, backends: &Backends) -> Self {
        Self {
            kind: Kind::of(frontend),
            endpoints: backends.endpoints().len(),
            affinity: backends.affinity(),
        }
    }

    /// Those that are made at once with it, itself among them.
    pub(super) fn company(self) -> impl Iterator<Item = Self> {
        let first = self.endpoints.saturating_sub(1) / AT_ONCE * AT_ONCE + 1;
        (first..first + AT_ONCE).map(move |endpoints| Self { endpoints, ..self })
    }

    pub(super) fn name(self) -> String {
        let Self { kind: Kind { name, .. }, endpoints, affinity } = self;
        match affinity {
            None => format!("{name}-{endpoints}"),
            Some(seconds) => format!("{name}-{endpoints}-for-{seconds}s"),
        }
    }

    /// The script that makes it.
    pub(super) fn script(self) -> String {
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

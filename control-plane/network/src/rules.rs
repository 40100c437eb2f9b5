//! The rules, as scripts for nft. Each may be run again: it leaves what it says and nothing else,
//! in one transaction.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::address::{DNS_PORT, GATEWAY, HOST, NODES, NodeLink, UPLINKS};
use crate::{Plan, Uplink, services};

/// Networks that are nobody's to reach from a pod: "this host", loopback, link-local with the
/// clouds' metadata services, multicast and what is reserved (RFC 6890).
const FENCED: [&str; 5] =
    ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"];

/// Those of a cluster's namespace.
#[must_use]
pub fn cluster(plan: &Plan) -> String {
    let inside = list([plan.pods, NODES].map(|n| n.to_string()));
    format!(
        "\
add table ip bulkhead
add set ip bulkhead fenced {{ type ipv4_addr; flags interval; }}
flush set ip bulkhead fenced
add element ip bulkhead fenced {{ {fenced} }}
{services}add chain ip bulkhead prerouting {{ type nat hook prerouting priority dstnat; policy accept; }}
flush chain ip bulkhead prerouting
{dispatch}add chain ip bulkhead forward {{ type filter hook forward priority filter; policy drop; }}
flush chain ip bulkhead forward
add rule ip bulkhead forward ct state established,related accept
add rule ip bulkhead forward ct state invalid drop
add rule ip bulkhead forward ip daddr @fenced drop
add rule ip bulkhead forward ip daddr {{ {vacant} }} reject
add rule ip bulkhead forward iifname \"tap*\" oifname \"tap*\" accept
add rule ip bulkhead forward iifname \"tap*\" oifname \"uplink\" ip daddr != {{ {inside} }} accept
add rule ip bulkhead forward iifname \"uplink\" ct status dnat accept
add rule ip bulkhead forward reject
add chain ip bulkhead input {{ type filter hook input priority filter; policy drop; }}
flush chain ip bulkhead input
add rule ip bulkhead input ct state established,related accept
add rule ip bulkhead input iifname \"lo\" accept
add rule ip bulkhead input iifname \"tap*\" ip daddr {HOST} tcp dport {{ {api}, {dns} }} accept
add rule ip bulkhead input iifname \"tap*\" ip daddr {HOST} udp dport {dns} accept
add rule ip bulkhead input ip daddr {{ {GATEWAY}, {HOST} }} icmp type echo-request accept
add rule ip bulkhead input reject
add chain ip bulkhead postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}
flush chain ip bulkhead postrouting
add rule ip bulkhead postrouting ct status dnat ip saddr . ip daddr @hairpins snat to {HOST}
add rule ip bulkhead postrouting ct status dnat ip saddr . ip daddr @own-pods snat to {HOST}
add rule ip bulkhead postrouting ip daddr . ip saddr @own-pods snat to {HOST}
add rule ip bulkhead postrouting oifname \"uplink\" masquerade
",
        fenced = FENCED.join(", "),
        api = plan.api_port,
        dns = DNS_PORT,
        services = services::skeleton(),
        dispatch = services::dispatch("prerouting"),
        // Nobody is there: what is led somewhere has another address by now.
        vacant = list([plan.services, UPLINKS].map(|n| n.to_string())),
    )
}

/// Those of a node's tap: frames that are not the node's own die before anything else sees them.
#[must_use]
pub fn tap(link: &NodeLink) -> String {
    let (name, mac, ip, pods) = (link.tap(), link.mac(), link.ip(), link.pods);
    format!(
        "\
add table netdev bulkhead
add chain netdev bulkhead {name} {{ \
type filter hook ingress device \"{name}\" priority -500; policy drop; }}
flush chain netdev bulkhead {name}
add rule netdev bulkhead {name} ether saddr != {mac} drop
add rule netdev bulkhead {name} ip saddr {{ {ip}, {pods} }} accept
add rule netdev bulkhead {name} arp htype 1 arp ptype ip arp saddr ether {mac} arp saddr ip {ip} accept
{node_address}add element ip bulkhead own-pods {{ {ip} . {pods} }}
",
        node_address = node_address(ip),
    )
}

/// Notes an address as a node's, where node ports are open.
#[must_use]
pub fn node_address(ip: Ipv4Addr) -> String {
    format!("add element ip bulkhead node-addresses {{ {ip} }}\n")
}

/// Those of the host's namespace for one cluster, in a table of its own.
#[must_use]
pub fn host(uplink: Uplink, loopbacks: &[Ipv4Addr]) -> String {
    let (table, link, address) = (uplink.table(), uplink.outside(), uplink.cluster_address());
    let fenced = list(
        FENCED.map(str::to_owned).into_iter().chain(loopbacks.iter().map(Ipv4Addr::to_string)),
    );
    format!(
        "\
add table ip {table}
add chain ip {table} forward {{ type filter hook forward priority filter; policy accept; }}
flush chain ip {table} forward
add rule ip {table} forward iifname \"{link}\" oifname \"bh-*\" drop
add rule ip {table} forward iifname \"{link}\" ip saddr != {network} drop
add rule ip {table} forward iifname \"{link}\" ip daddr {{ {fenced} }} drop
add chain ip {table} input {{ type filter hook input priority filter; policy accept; }}
flush chain ip {table} input
add rule ip {table} input iifname \"{link}\" ct state established,related accept
add rule ip {table} input iifname \"{link}\" drop
add chain ip {table} postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}
flush chain ip {table} postrouting
add rule ip {table} postrouting ip saddr {address} oifname != \"{link}\" masquerade
",
        network = uplink.network(),
    )
}

/// Takes [`host`]'s rules away again; fine if there are none.
#[must_use]
pub fn no_host(uplink: Uplink) -> String {
    let table = uplink.table();
    // Added first, for a delete of what is not there fails.
    format!("add table ip {table}\ndelete table ip {table}\n")
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    let mut text = String::new();
    for item in items {
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}{item}");
    }
    text
}

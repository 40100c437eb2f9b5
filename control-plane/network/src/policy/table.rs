//! nftables' table of policies: what it holds, and the scripts that make it hold something else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::selectors::PolicyId;
use super::spec::Direction;

/// What tables of policies are called, and their generation behind it.
const NAME: &str = "policy-";

/// A set whose elements come and go with pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    /// The addresses of those that a selector selects.
    Pods(u32),
    /// The addresses of those that have a port of a name, and that port.
    Ports(u32),
    /// What a pod may always have to do with: itself and its node.
    Own,
}

impl Set {
    const fn types(self) -> &'static str {
        match self {
            Self::Pods(_) => "ipv4_addr",
            Self::Ports(_) => "ipv4_addr . inet_service",
            Self::Own => "ipv4_addr . ipv4_addr",
        }
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods(number) => write!(f, "pods-{number}"),
            Self::Ports(number) => write!(f, "ports-{number}"),
            Self::Own => f.write_str("own"),
        }
    }
}

/// An element of a [`Set`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Element {
    Pod(u32, Ipv4Addr),
    Port(u32, Ipv4Addr, u16),
    Own(Ipv4Addr, Ipv4Addr),
}

impl Element {
    const fn set(self) -> Set {
        match self {
            Self::Pod(number, _) => Set::Pods(number),
            Self::Port(number, ..) => Set::Ports(number),
            Self::Own(..) => Set::Own,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(_, address) => write!(f, "{address}"),
            Self::Port(_, address, port) => write!(f, "{address} . {port}"),
            Self::Own(from, to) => write!(f, "{from} . {to}"),
        }
    }
}

/// Policies that decide together about some pods, in one direction.
type Group = (Direction, BTreeSet<PolicyId>);

/// What the table holds of a pod.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Placement {
    pub(super) address: Option<Ipv4Addr>,
    pub(super) elements: BTreeSet<Element>,
    /// The policies that decide about it; those directions are open that are not here.
    pub(super) groups: BTreeMap<Direction, BTreeSet<PolicyId>>,
}

impl Placement {
    fn decisions(&self) -> impl Iterator<Item = (Ipv4Addr, Group)> {
        let groups = self.groups.iter().map(|(way, policies)| (*way, policies.clone()));
        groups.filter_map(|group| Some((self.address?, group)))
    }
}

/// What a table is to hold.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// All the sets but [`Set::Own`].
    pub(super) sets: BTreeSet<Set>,
    /// Policies' chains that are not as they were, or no more.
    pub(super) chains: BTreeMap<(PolicyId, Direction), Option<Vec<String>>>,
    /// Pods of which something may have changed.
    pub(super) placements: Vec<(Arc<str>, Placement)>,
}

/// A change of what is in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// For nft, before the script: makes what nothing leads to yet. A packet that is under way while
    /// rules change may find an element of after in a set, but the rules of before in a chain: in one
    /// that is made with the element there are none, which lets it through.
    pub made: String,
    /// For nft; empty if nothing changes.
    pub script: String,
    /// It makes a table of its own; those of other generations are to go then.
    pub whole: bool,
    /// The generation of the table that it is about.
    pub generation: u64,
    /// Addresses whose pods have gone. What is tracked of them must end before another has them.
    pub released: BTreeSet<Ipv4Addr>,
}

/// What a table holds.
#[derive(Debug)]
pub(super) struct Table {
    generation: u64,
    /// The address at which pods ask the DNS server.
    dns: Ipv4Addr,
    /// Whether it has been made.
    made: bool,
    sets: BTreeSet<Set>,
    chains: BTreeSet<(PolicyId, Direction)>,
    placements: BTreeMap<Arc<str>, Placement>,
    groups: BTreeMap<Group, Members>,
    next: u32,
}

/// A group's number, and how many pods it has.
#[derive(Debug)]
struct Members {
    number: u32,
    count: usize,
    /// Whether it has its chain.
    written: bool,
}

/// A script, which has its parts in the order in which they depend on each other.
#[derive(Debug, Default)]
struct Script {
    /// What makes sets and chains.
    made: String,
    /// What fills chains that are made.
    filled: String,
    /// What fills chains that were there.
    rules: String,
    deleted: BTreeMap<String, Vec<String>>,
    added: BTreeMap<String, Vec<String>>,
    /// What removes chains and sets that nothing leads to any more.
    removed: String,
}

/// Writes a line; writing to a string does not fail.
macro_rules! line {
    ($to:expr, $($arguments:tt)*) => {{ let _ = writeln!($to, $($arguments)*); }};
}

impl Table {
    pub(super) const fn new(generation: u64, dns: Ipv4Addr) -> Self {
        Self {
            generation,
            dns,
            made: false,
            sets: BTreeSet::new(),
            chains: BTreeSet::new(),
            placements: BTreeMap::new(),
            groups: BTreeMap::new(),
            next: 0,
        }
    }

    pub(super) fn change(&mut self, change: Change) -> Transaction {
        let table = format!("{NAME}{}", self.generation);
        let mut script = Script::default();
        if !std::mem::replace(&mut self.made, true) {
            script.made = skeleton(&table, self.dns);
        }
        let fresh = change.sets.difference(&self.sets);
        for set in fresh {
            line!(script.made, "add set ip {table} {set} {{ type {}; }}", set.types());
        }
        let stale: BTreeSet<Set> = self.sets.difference(&change.sets).copied().collect();
        self.write_chains(&table, change.chains, &mut script);
        self.place(change.placements, &stale, &mut script);
        self.regroup(&table, &mut script);
        for set in &stale {
            line!(script.removed, "delete set ip {table} {set}");
        }
        self.sets = change.sets;
        let made = std::mem::take(&mut script.made) + &std::mem::take(&mut script.filled);
        Transaction {
            made,
            script: script.finish(&table),
            generation: self.generation,
            ..Transaction::default()
        }
    }

    fn write_chains(
        &mut self,
        table: &str,
        chains: BTreeMap<(PolicyId, Direction), Option<Vec<String>>>,
        script: &mut Script,
    ) {
        for (id, lines) in chains {
            let chain = policy_chain(id.0, id.1);
            let Some(lines) = lines else {
                if self.chains.remove(&id) {
                    line!(script.rules, "flush chain ip {table} {chain}");
                    line!(script.removed, "delete chain ip {table} {chain}");
                }
                continue;
            };
            let rules = if self.chains.insert(id) {
                line!(script.made, "add chain ip {table} {chain}");
                &mut script.filled
            } else {
                line!(script.rules, "flush chain ip {table} {chain}");
                &mut script.rules
            };
            for rule in lines {
                line!(rules, "add rule ip {table} {chain} {rule}");
            }
        }
    }

    /// Moves pods' elements, and counts the members of groups; those in `stale` go with their set.
    fn place(
        &mut self,
        placements: Vec<(Arc<str>, Placement)>,
        stale: &BTreeSet<Set>,
        script: &mut Script,
    ) {
        let mut moves: Vec<(Ipv4Addr, Group, bool)> = Vec::new();
        for (uid, new) in placements {
            let old = self.placements.remove(&uid).unwrap_or_default();
            let gone = old.elements.difference(&new.elements);
            for element in gone.filter(|element| !stale.contains(&element.set())) {
                script.delete(element.set().to_string(), element.to_string());
            }
            for element in new.elements.difference(&old.elements) {
                script.add(element.set().to_string(), element.to_string());
            }
            let (before, after): (BTreeSet<_>, BTreeSet<_>) =
                (old.decisions().collect(), new.decisions().collect());
            let gone = before.difference(&after).cloned();
            moves.extend(gone.map(|(address, group)| (address, group, false)));
            let came = after.difference(&before).cloned();
            moves.extend(came.map(|(address, group)| (address, group, true)));
            if new != Placement::default() {
                self.placements.insert(uid, new);
            }
        }
        for (address, group, comes) in moves {
            let direction = group.0;
            let next = &mut self.next;
            let members = self.groups.entry(group).or_insert_with(|| {
                *next += 1;
                Members { number: *next, count: 0, written: false }
            });
            if comes {
                members.count += 1;
                let chain = group_chain(direction, members.number);
                script.add(direction.to_string(), format!("{address} : goto {chain}"));
            } else {
                members.count -= 1;
                script.delete(direction.to_string(), address.to_string());
            }
        }
    }

    /// Makes the chains of groups that are new, and removes those of groups without members.
    fn regroup(&mut self, table: &str, script: &mut Script) {
        let mut removed = String::new();
        self.groups.retain(|(direction, policies), members| {
            let chain = group_chain(*direction, members.number);
            if members.count == 0 {
                line!(removed, "flush chain ip {table} {chain}");
                line!(removed, "delete chain ip {table} {chain}");
                return false;
            }
            if !std::mem::replace(&mut members.written, true) {
                line!(script.made, "add chain ip {table} {chain}");
                let rule = format!("add rule ip {table} {chain}");
                line!(script.filled, "{rule} ip saddr . ip daddr @{} accept", Set::Own);
                for id in policies {
                    line!(script.filled, "{rule} jump {}", policy_chain(*id, *direction));
                }
                // Unlike ICMP's errors, a reset is never held back.
                line!(script.filled, "{rule} meta l4proto tcp reject with tcp reset");
                line!(script.filled, "{rule} reject");
            }
            true
        });
        // They lead to the chains of policies, which go after them.
        script.removed.insert_str(0, &removed);
    }
}

impl Script {
    fn add(&mut self, set: String, element: String) {
        self.added.entry(set).or_default().push(element);
    }

    fn delete(&mut self, set: String, key: String) {
        self.deleted.entry(set).or_default().push(key);
    }

    fn finish(self, table: &str) -> String {
        let mut script = self.rules;
        for (verb, sets) in [("delete", &self.deleted), ("add", &self.added)] {
            for (set, elements) in sets {
                let elements = elements.join(", ");
                line!(script, "{verb} element ip {table} {set} {{ {elements} }}");
            }
        }
        script + &self.removed
    }
}

fn policy_chain(id: PolicyId, direction: Direction) -> String {
    format!("policy-{id}-{direction}")
}

fn group_chain(direction: Direction, number: u32) -> String {
    format!("{direction}-{number}")
}

/// A table without a policy. It looks at what the cluster's own rules (at `filter`) have let
/// through; in the cluster's namespace itself only the cluster's servers are, and what leaves pods
/// for them is the pods' egress as all else. The DNS server shares its address with others there,
/// so it is known by the one at which it is asked, as long as a packet has that.
fn skeleton(table: &str, dns: Ipv4Addr) -> String {
    let own = Set::Own;
    let types = own.types();
    let mut script = format!(
        "\
add table ip {table}
add map ip {table} ingress {{ type ipv4_addr : verdict; }}
add map ip {table} egress {{ type ipv4_addr : verdict; }}
add set ip {table} {own} {{ type {types}; }}
"
    );
    let known = "ct state established,related accept";
    let (egress, ingress) = ("ip saddr vmap @egress", "ip daddr vmap @ingress");
    let (for_others, for_dns) =
        (format!("ip daddr != {dns} accept"), format!("ct original ip daddr {dns} accept"));
    for (chain, hook, priority, rules) in [
        ("dns-egress", "prerouting", "dstnat - 1", [for_others.as_str(), known, egress].as_slice()),
        ("forward-egress", "forward", "filter + 1", &[known, egress]),
        ("forward-ingress", "forward", "filter + 2", &[known, ingress]),
        ("input-egress", "input", "filter + 1", &[known, &for_dns, egress]),
    ] {
        let base = format!("type filter hook {hook} priority {priority}; policy accept;");
        line!(script, "add chain ip {table} {chain} {{ {base} }}");
        for rule in rules {
            line!(script, "add rule ip {table} {chain} {rule}");
        }
    }
    script
}

/// The generations of the tables of policies that `nft list tables ip` lists.
pub(crate) fn generations(listing: &str) -> impl Iterator<Item = u64> {
    let name = |line: &str| line.strip_prefix("table ip ")?.strip_prefix(NAME)?.parse().ok();
    listing.lines().filter_map(name)
}

/// The script that removes the table of a generation.
pub(crate) fn removal(generation: u64) -> String {
    format!("delete table ip {NAME}{generation}\n")
}

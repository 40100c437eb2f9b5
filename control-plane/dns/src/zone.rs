//! The cluster's names, as the specification has them: from a question to its records.

use std::net::Ipv4Addr;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::Ipv4Net;

use crate::index::{Found, Index};
use crate::object::{Meaning, undashed};
use crate::{SPECIFICATION, TTL};

/// The longest chain of Services that are names of each other.
const MAX_ALIASES: usize = 8;

/// The domain of a cluster, and its addresses.
#[derive(Debug, Clone)]
pub struct Zone {
    domain: Name,
    /// The number of the domain's labels.
    depth: usize,
    reverse: Name,
    address: Ipv4Addr,
    networks: Vec<Ipv4Net>,
}

/// What a question leads to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// The cluster's answer.
    Answer(Answer),
    /// The records so far; the rest is what others say of the name.
    Outside(Vec<Record>, Name),
}

/// The cluster's answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    /// For negative answers: how long they hold.
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
}

/// What there is at a name of the cluster.
enum Entry {
    /// No such name.
    Nothing,
    /// The name, with these records.
    Records { all: Vec<RData>, more: Vec<Record> },
    /// Another name for this one.
    Alias(Name),
}

impl Entry {
    const EMPTY: Self = Self::Records { all: Vec::new(), more: Vec::new() };

    fn if_there(there: bool) -> Self {
        if there { Self::EMPTY } else { Self::Nothing }
    }

    fn addresses(addresses: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        let all = unique(addresses).into_iter().map(|address| RData::A(A(address)));
        Self::Records { all: all.collect(), more: Vec::new() }
    }
}

impl Zone {
    /// The cluster of this domain, whose name server is at `address`. Nobody else is asked for the
    /// names of addresses in `networks`.
    #[must_use]
    pub fn new(domain: &Name, address: Ipv4Addr, networks: Vec<Ipv4Net>) -> Self {
        let mut domain = domain.to_lowercase();
        domain.set_fqdn(true);
        let depth = domain.iter().count();
        let mut reverse = Name::from_ascii("in-addr.arpa.").unwrap_or_default();
        reverse.set_fqdn(true);
        Self { domain, depth, reverse, address, networks }
    }

    /// Whether a question needs the [`Index`] for its answer.
    pub(crate) fn is_inside(&self, name: &Name) -> bool {
        self.domain.zone_of(name) || self.reverse.zone_of(name)
    }

    /// Answers a question of class IN.
    pub(crate) fn answer(&self, index: &Index, query: &Query) -> Outcome {
        let mut name = query.name().clone();
        let mut answers = Vec::new();
        for _ in 0..=MAX_ALIASES {
            let (entry, zone) = if self.domain.zone_of(&name) {
                (self.inside(index, &name), &self.domain)
            } else if let Some(address) = address_of(&name).filter(|_| self.reverse.zone_of(&name))
            {
                match self.pointers(index, address) {
                    Some(entry) => (entry, &self.reverse),
                    None => return Outcome::Outside(answers, name),
                }
            } else {
                return Outcome::Outside(answers, name);
            };
            match entry {
                Entry::Nothing => {
                    return self.negative(index, zone, ResponseCode::NXDomain, answers);
                }
                Entry::Records { all, more } => {
                    let wanted = all.into_iter().filter(|data| {
                        matches!(query.query_type(), RecordType::ANY)
                            || data.record_type() == query.query_type()
                    });
                    let found = answers.len();
                    answers.extend(wanted.map(|data| Record::from_rdata(name.clone(), TTL, data)));
                    if answers.len() == found {
                        return self.negative(index, zone, ResponseCode::NoError, answers);
                    }
                    let additionals =
                        if query.query_type() == RecordType::SRV { more } else { Vec::new() };
                    return Outcome::Answer(Answer { answers, additionals, ..Answer::default() });
                }
                Entry::Alias(target) => {
                    let data = RData::CNAME(CNAME(target.clone()));
                    answers.push(Record::from_rdata(name, TTL, data));
                    if matches!(query.query_type(), RecordType::CNAME | RecordType::ANY) {
                        return Outcome::Answer(Answer { answers, ..Answer::default() });
                    }
                    name = target;
                }
            }
        }
        // Services that are names of each other in a circle.
        Outcome::Answer(Answer { code: ResponseCode::ServFail, answers, ..Answer::default() })
    }

    /// A negative answer (RFC 2308): the SOA says how long it holds.
    fn negative(
        &self,
        index: &Index,
        zone: &Name,
        code: ResponseCode,
        answers: Vec<Record>,
    ) -> Outcome {
        let authorities = vec![Record::from_rdata(zone.clone(), TTL, self.authority(index))];
        Outcome::Answer(Answer { code, answers, authorities, additionals: Vec::new() })
    }

    fn authority(&self, index: &Index) -> RData {
        let at = |label: &str| self.below(&[label]).unwrap_or_else(|| self.domain.clone());
        let server = self.below(&["ns", "dns"]).unwrap_or_else(|| self.domain.clone());
        let serial = index.changes();
        RData::SOA(SOA::new(server, at("hostmaster"), serial, 7200, 1800, 86400, TTL))
    }

    /// `LABELS.DOMAIN`, unless that is too long for a name.
    fn below(&self, labels: &[&str]) -> Option<Name> {
        let labels = Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()?;
        let mut name = labels.append_name(&self.domain).ok()?;
        name.set_fqdn(true);
        Some(name)
    }

    /// What there is at a name below the domain.
    fn inside(&self, index: &Index, name: &Name) -> Entry {
        let name = name.to_lowercase();
        let labels: Option<Vec<&str>> =
            name.iter().map(|label| std::str::from_utf8(label).ok()).collect();
        // Nothing of a cluster has such a name.
        let Some(labels) = labels else { return Entry::Nothing };
        let own = labels.len().saturating_sub(self.depth);
        match labels.get(..own).unwrap_or_default() {
            [] => {
                let mut all = vec![self.authority(index)];
                all.extend(self.below(&["ns", "dns"]).map(|name| RData::NS(NS(name))));
                Entry::Records { all, more: Vec::new() }
            }
            ["dns-version"] => {
                let version = RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()]));
                Entry::Records { all: vec![version], more: Vec::new() }
            }
            ["dns" | "svc" | "pod"] => Entry::EMPTY,
            ["ns", "dns"] => Entry::addresses([self.address]),
            [namespace, "svc" | "pod"] => Entry::if_there(index.has_namespace(namespace)),
            [service, namespace, "svc"] => {
                index.service(namespace, service).map_or(Entry::Nothing, addresses)
            }
            [below, service, namespace, "svc"] => {
                index.service(namespace, service).map_or(Entry::Nothing, |found| {
                    match below.strip_prefix('_') {
                        Some(protocol) => Entry::if_there(has_protocol(found, protocol)),
                        None => host(found, below),
                    }
                })
            }
            [port, protocol, service, namespace, "svc"] => {
                let (port, protocol) = (port.strip_prefix('_'), protocol.strip_prefix('_'));
                match (port, protocol, index.service(namespace, service)) {
                    (Some(port), Some(protocol), Some(found)) => {
                        self.servers(found, port, protocol, (service, namespace))
                    }
                    _ => Entry::Nothing,
                }
            }
            [address, namespace, "pod"] => match undashed(address) {
                Some(address) if index.has_namespace(namespace) => Entry::addresses([address]),
                _ => Entry::Nothing,
            },
            _ => Entry::Nothing,
        }
    }

    /// The SRV records of a named port.
    fn servers(
        &self,
        found: Found<'_>,
        port: &str,
        protocol: &str,
        (service, namespace): (&str, &str),
    ) -> Entry {
        let server = |number, target| RData::SRV(SRV::new(0, 100, number, target));
        let (mut all, mut more) = (Vec::new(), Vec::new());
        let mut add = |number, target: Option<Name>, addresses: &[Ipv4Addr]| {
            let Some(target) = target else { return };
            let data = server(number, target.clone());
            if !all.contains(&data) {
                all.push(data);
            }
            for address in addresses {
                let record = Record::from_rdata(target.clone(), TTL, RData::A(A(*address)));
                if !more.contains(&record) {
                    more.push(record);
                }
            }
        };
        match &found.service.meaning {
            Meaning::Alias(_) => {}
            Meaning::ClusterIps(addresses) => {
                let ports = &found.service.ports;
                for one in ports.iter().filter(|one| one.is(port, protocol)) {
                    add(one.number, self.below(&[service, namespace, "svc"]), addresses);
                }
            }
            Meaning::Endpoints => {
                for endpoint in found.endpoints() {
                    let ports = &endpoint.slice.ports;
                    for one in ports.iter().filter(|one| one.is(port, protocol)) {
                        let target = self.below(&[endpoint.host, service, namespace, "svc"]);
                        add(one.number, target, &[endpoint.address]);
                    }
                }
            }
        }
        if all.is_empty() { Entry::Nothing } else { Entry::Records { all, more } }
    }

    /// The names of an address, unless others are to be asked for them.
    fn pointers(&self, index: &Index, address: Ipv4Addr) -> Option<Entry> {
        let names = index.names(address);
        if names.is_empty() {
            let ours = self.networks.iter().any(|network| network.contains(&address));
            return ours.then_some(Entry::Nothing);
        }
        let all = names.into_iter().filter_map(|(host, service)| {
            let (namespace, service) = service.split_once('/')?;
            let name = match host {
                Some(host) => self.below(&[host, service, namespace, "svc"]),
                None => self.below(&[service, namespace, "svc"]),
            };
            Some(RData::PTR(PTR(name?)))
        });
        Some(Entry::Records { all: all.collect(), more: Vec::new() })
    }
}

fn addresses(found: Found<'_>) -> Entry {
    match &found.service.meaning {
        Meaning::ClusterIps(addresses) => Entry::addresses(addresses.iter().copied()),
        Meaning::Endpoints => Entry::addresses(found.endpoints().map(|one| one.address)),
        Meaning::Alias(target) => match Name::from_ascii(&**target) {
            Ok(mut target) => {
                target.set_fqdn(true);
                Entry::Alias(target)
            }
            // The API server lets none in that is not a name.
            Err(_) => Entry::EMPTY,
        },
    }
}

/// One host of a headless Service.
fn host(found: Found<'_>, host: &str) -> Entry {
    if found.service.meaning != Meaning::Endpoints {
        return Entry::Nothing;
    }
    let mut addresses = found.host(host).peekable();
    if addresses.peek().is_none() { Entry::Nothing } else { Entry::addresses(addresses) }
}

/// Whether there are names `_PORT._PROTOCOL` below the Service's.
fn has_protocol(found: Found<'_>, protocol: &str) -> bool {
    match &found.service.meaning {
        Meaning::Alias(_) => false,
        Meaning::ClusterIps(_) => found.service.ports.iter().any(|one| *one.protocol == *protocol),
        Meaning::Endpoints => found
            .endpoints()
            .any(|endpoint| endpoint.slice.ports.iter().any(|one| *one.protocol == *protocol)),
    }
}

fn unique(addresses: impl IntoIterator<Item = Ipv4Addr>) -> Vec<Ipv4Addr> {
    let mut seen = std::collections::HashSet::new();
    addresses.into_iter().filter(|address| seen.insert(*address)).collect()
}

/// The address that `D.C.B.A.in-addr.arpa` is of.
fn address_of(name: &Name) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut labels = name.iter();
    for octet in octets.iter_mut().rev() {
        let label = std::str::from_utf8(labels.next()?).ok()?;
        *octet = label.parse().ok().filter(|octet: &u8| octet.to_string() == label)?;
    }
    (labels.count() == 2).then(|| octets.into())
}

#[cfg(test)]
mod tests;

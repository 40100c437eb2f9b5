//! What of Services and EndpointSlices names are made of.

use std::net::Ipv4Addr;

use bulkhead_client::object::{list, text};
use serde_json::Value;

/// `NAMESPACE/NAME`.
pub(crate) fn key(object: &Value) -> Box<str> {
    let metadata = &object["metadata"];
    format!("{}/{}", text(metadata, "namespace"), text(metadata, "name")).into()
}

/// A port that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: Box<str>,
    /// In lower case.
    pub(crate) protocol: Box<str>,
    pub(crate) number: u16,
}

impl Port {
    /// Whether it is the one of this name and protocol, both in lower case.
    pub(crate) fn is(&self, name: &str, protocol: &str) -> bool {
        *self.name == *name && *self.protocol == *protocol
    }
}

fn ports(object: &Value) -> Box<[Port]> {
    let port = |port: &Value| {
        let protocol = Some(text(port, "protocol")).filter(|text| !text.is_empty());
        Some(Port {
            name: Some(text(port, "name")).filter(|name| !name.is_empty())?.into(),
            protocol: protocol.unwrap_or("TCP").to_ascii_lowercase().into(),
            number: u16::try_from(port["port"].as_u64()?).ok()?,
        })
    };
    list(object, "ports").iter().filter_map(port).collect()
}

/// What a Service's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Its own addresses; IPv4, for there is no other here.
    ClusterIps(Box<[Ipv4Addr]>),
    /// Its endpoints' addresses.
    Endpoints,
    /// Another name.
    Alias(Box<str>),
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) meaning: Meaning,
    pub(crate) ports: Box<[Port]>,
    /// Whether endpoints count that are not ready.
    pub(crate) unready: bool,
}

impl Service {
    pub(crate) fn of(object: &Value) -> Self {
        let spec = &object["spec"];
        let meaning = match (text(spec, "type"), text(spec, "clusterIP")) {
            ("ExternalName", _) => Meaning::Alias(text(spec, "externalName").into()),
            (_, "None") => Meaning::Endpoints,
            (_, first) => {
                let all = list(spec, "clusterIPs").iter().filter_map(Value::as_str);
                let mut addresses: Vec<Ipv4Addr> = all.filter_map(|ip| ip.parse().ok()).collect();
                if addresses.is_empty() {
                    addresses.extend(first.parse::<Ipv4Addr>());
                }
                Meaning::ClusterIps(addresses.into())
            }
        };
        let unready = spec["publishNotReadyAddresses"] == true;
        Self { meaning, ports: ports(spec), unready }
    }
}

/// One address of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: Ipv4Addr,
    /// Its name below the Service's: its pod's hostname, or its address with dashes.
    pub(crate) host: Box<str>,
    pub(crate) ready: bool,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    /// Key of the Service that it belongs to.
    pub(crate) service: Box<str>,
    pub(crate) endpoints: Box<[Endpoint]>,
    pub(crate) ports: Box<[Port]>,
}

impl Slice {
    /// `None` for one that no Service has.
    pub(crate) fn of(object: &Value) -> Option<Self> {
        let metadata = &object["metadata"];
        let service = metadata["labels"]["kubernetes.io/service-name"].as_str()?;
        let endpoints = list(object, "endpoints").iter().flat_map(|endpoint| {
            let ready = endpoint["conditions"]["ready"] != false;
            let hostname = Some(text(endpoint, "hostname")).filter(|name| !name.is_empty());
            // All of them are the same endpoint, in the specification of EndpointSlices.
            let address = list(endpoint, "addresses").first().and_then(Value::as_str);
            address.and_then(|address| address.parse().ok()).map(|address: Ipv4Addr| {
                let host = hostname.map(str::to_ascii_lowercase);
                Endpoint { address, host: host.unwrap_or_else(|| dashed(address)).into(), ready }
            })
        });
        Some(Self {
            service: format!("{}/{service}", text(metadata, "namespace")).into(),
            endpoints: endpoints.collect(),
            ports: ports(object),
        })
    }
}

/// `10-0-0-1`.
fn dashed(address: Ipv4Addr) -> String {
    address.to_string().replace('.', "-")
}

/// Reads [`dashed`] addresses.
pub(crate) fn undashed(label: &str) -> Option<Ipv4Addr> {
    let address = label.replace('-', ".").parse().ok()?;
    (dashed(address) == label).then_some(address)
}

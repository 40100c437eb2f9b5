//! What the cluster has, by name and by address. A change costs what the changed object is big,
//! however many others there are; a look-up costs what it finds.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;

use serde_json::Value;

use crate::object::{Meaning, Service, Slice, key};

/// Services, their endpoints and the namespaces, by name and by address.
#[derive(Debug, Default)]
pub struct Index {
    namespaces: HashSet<Box<str>>,
    services: HashMap<Box<str>, Service>,
    /// By the key of the slice.
    slices: HashMap<Box<str>, Slice>,
    /// By the key of the Service.
    endpoints: HashMap<Box<str>, Endpoints>,
    cluster_ips: HashMap<Ipv4Addr, Box<str>>,
    /// The endpoints that have an address.
    owners: HashMap<Ipv4Addr, Vec<Owner>>,
    /// How often it changed.
    changes: u32,
}

/// What a Service's slices have.
#[derive(Debug, Default)]
struct Endpoints {
    slices: BTreeSet<Box<str>>,
    hosts: HashMap<Box<str>, Vec<HostAddress>>,
}

#[derive(Debug)]
struct HostAddress {
    slice: Box<str>,
    address: Ipv4Addr,
    ready: bool,
}

#[derive(Debug)]
struct Owner {
    slice: Box<str>,
    service: Box<str>,
    host: Box<str>,
    ready: bool,
}

/// A Service as it was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) service: &'a Service,
    key: &'a str,
    index: &'a Index,
}

/// An endpoint as it was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FoundEndpoint<'a> {
    pub(crate) host: &'a str,
    pub(crate) address: Ipv4Addr,
    pub(crate) slice: &'a Slice,
}

impl Index {
    /// Takes these as all the namespaces there are.
    pub fn set_namespaces<'a>(&mut self, objects: impl IntoIterator<Item = &'a Value>) {
        self.namespaces = objects.into_iter().filter_map(namespace).collect();
        self.changes = self.changes.wrapping_add(1);
    }

    /// Takes a namespace as it is.
    pub fn set_namespace(&mut self, object: &Value) {
        self.namespaces.extend(namespace(object));
        self.changes = self.changes.wrapping_add(1);
    }

    /// Forgets a namespace.
    pub fn remove_namespace(&mut self, object: &Value) {
        if let Some(name) = namespace(object) {
            self.namespaces.remove(&name);
        }
        self.changes = self.changes.wrapping_add(1);
    }

    /// Takes these as all the Services there are.
    pub fn set_services<'a>(&mut self, objects: impl IntoIterator<Item = &'a Value>) {
        let mut gone: HashSet<Box<str>> = self.services.keys().cloned().collect();
        for object in objects {
            gone.remove(&key(object));
            self.set_service(object);
        }
        gone.iter().for_each(|key| self.drop_service(key));
    }

    /// Takes a Service as it is.
    pub fn set_service(&mut self, object: &Value) {
        let (key, service) = (key(object), Service::of(object));
        self.drop_service(&key);
        if let Meaning::ClusterIps(addresses) = &service.meaning {
            for address in addresses {
                self.cluster_ips.insert(*address, key.clone());
            }
        }
        self.services.insert(key, service);
    }

    /// Forgets a Service.
    pub fn remove_service(&mut self, object: &Value) {
        self.drop_service(&key(object));
    }

    fn drop_service(&mut self, key: &str) {
        self.changes = self.changes.wrapping_add(1);
        let Some(service) = self.services.remove(key) else { return };
        if let Meaning::ClusterIps(addresses) = service.meaning {
            for address in addresses {
                // Another may have got it by now.
                if self.cluster_ips.get(&address).is_some_and(|owner| **owner == *key) {
                    self.cluster_ips.remove(&address);
                }
            }
        }
    }

    /// Takes these as all the EndpointSlices there are.
    pub fn set_slices<'a>(&mut self, objects: impl IntoIterator<Item = &'a Value>) {
        let mut gone: HashSet<Box<str>> = self.slices.keys().cloned().collect();
        for object in objects {
            gone.remove(&key(object));
            self.set_slice(object);
        }
        gone.iter().for_each(|key| self.drop_slice(key));
    }

    /// Takes an EndpointSlice as it is.
    pub fn set_slice(&mut self, object: &Value) {
        let name = key(object);
        self.drop_slice(&name);
        let Some(slice) = Slice::of(object) else { return };
        let endpoints = self.endpoints.entry(slice.service.clone()).or_default();
        endpoints.slices.insert(name.clone());
        for endpoint in &slice.endpoints {
            let (address, ready) = (endpoint.address, endpoint.ready);
            let of_host = endpoints.hosts.entry(endpoint.host.clone()).or_default();
            of_host.push(HostAddress { slice: name.clone(), address, ready });
            self.owners.entry(address).or_default().push(Owner {
                slice: name.clone(),
                service: slice.service.clone(),
                host: endpoint.host.clone(),
                ready,
            });
        }
        self.slices.insert(name, slice);
    }

    /// Forgets an EndpointSlice.
    pub fn remove_slice(&mut self, object: &Value) {
        self.drop_slice(&key(object));
    }

    fn drop_slice(&mut self, key: &str) {
        self.changes = self.changes.wrapping_add(1);
        let Some(slice) = self.slices.remove(key) else { return };
        for endpoint in &slice.endpoints {
            if let Some(owners) = self.owners.get_mut(&endpoint.address) {
                owners.retain(|owner| *owner.slice != *key);
                if owners.is_empty() {
                    self.owners.remove(&endpoint.address);
                }
            }
        }
        let Some(endpoints) = self.endpoints.get_mut(&slice.service) else { return };
        endpoints.slices.remove(key);
        for endpoint in &slice.endpoints {
            if let Some(addresses) = endpoints.hosts.get_mut(&endpoint.host) {
                addresses.retain(|address| *address.slice != *key);
                if addresses.is_empty() {
                    endpoints.hosts.remove(&endpoint.host);
                }
            }
        }
        if endpoints.slices.is_empty() {
            self.endpoints.remove(&slice.service);
        }
    }

    /// Goes up with every change, and starts over after the last number.
    pub(crate) const fn changes(&self) -> u32 {
        self.changes
    }

    pub(crate) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    pub(crate) fn service(&self, namespace: &str, name: &str) -> Option<Found<'_>> {
        let key = format!("{namespace}/{name}");
        let (key, service) = self.services.get_key_value(&*key)?;
        Some(Found { service, key, index: self })
    }

    /// The names that an address has: a Service's `NAMESPACE/NAME`, and below it a host's unless it
    /// is the Service's own.
    pub(crate) fn names(&self, address: Ipv4Addr) -> Vec<(Option<&str>, &str)> {
        if let Some(service) = self.cluster_ips.get(&address) {
            return vec![(None, service)];
        }
        let owners = self.owners.get(&address).into_iter().flatten();
        let mut names: Vec<(Option<&str>, &str)> = owners
            .filter(|owner| {
                self.services.get(&owner.service).is_some_and(|service| {
                    service.meaning == Meaning::Endpoints && (owner.ready || service.unready)
                })
            })
            .map(|owner| (Some(&*owner.host), &*owner.service))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl<'a> Found<'a> {
    /// Its endpoints that are to be used, in the order of their slices.
    pub(crate) fn endpoints(self) -> impl Iterator<Item = FoundEndpoint<'a>> {
        let Self { service, key, index } = self;
        let slices = index.endpoints.get(key).into_iter().flat_map(|all| &all.slices);
        slices.filter_map(|slice| index.slices.get(slice)).flat_map(move |slice| {
            let usable = slice.endpoints.iter().filter(|one| one.ready || service.unready);
            usable.map(move |one| FoundEndpoint { host: &one.host, address: one.address, slice })
        })
    }

    /// The addresses of one of its hosts.
    pub(crate) fn host(self, host: &str) -> impl Iterator<Item = Ipv4Addr> {
        let Self { service, key, index } = self;
        let addresses = index.endpoints.get(key).and_then(|all| all.hosts.get(host));
        let usable = addresses.into_iter().flatten().filter(|one| one.ready || service.unready);
        usable.map(|one| one.address)
    }
}

fn namespace(object: &Value) -> Option<Box<str>> {
    object["metadata"]["name"].as_str().map(Into::into)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(name: &str, spec: Value) -> Value {
        json!({"metadata": {"namespace": "n", "name": name}, "spec": spec})
    }

    fn slice(name: &str, service: &str, endpoints: Value) -> Value {
        json!({
            "metadata": {"namespace": "n", "name": name,
                         "labels": {"kubernetes.io/service-name": service}},
            "endpoints": endpoints,
        })
    }

    /// Nothing of what was there is left over.
    fn assert_empty(index: &Index) {
        assert!(index.services.is_empty() && index.slices.is_empty());
        assert!(index.endpoints.is_empty(), "{:?}", index.endpoints);
        assert!(index.cluster_ips.is_empty() && index.owners.is_empty());
    }

    #[test]
    fn changes_leave_nothing_behind() {
        let mut index = Index::default();
        index.set_service(&service("db", json!({"clusterIP": "None"})));
        let one = json!([
            {"addresses": ["10.0.0.1"], "hostname": "db-0"},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
        ]);
        index.set_slice(&slice("db-a", "db", one));
        index.set_slice(&slice("db-b", "db", json!([{"addresses": ["10.0.0.3"]}])));
        let found = |index: &Index| {
            let found = index.service("n", "db").unwrap();
            let mut hosts: Vec<_> = found.endpoints().map(|one| one.host.to_owned()).collect();
            hosts.sort();
            hosts
        };
        assert_eq!(found(&index), ["10-0-0-3", "db-0"]);
        assert_eq!(index.names([10, 0, 0, 1].into()), [(Some("db-0"), "n/db")]);
        assert!(index.names([10, 0, 0, 2].into()).is_empty(), "it is not ready");

        let unready = json!({"clusterIP": "None", "publishNotReadyAddresses": true});
        index.set_service(&service("db", unready));
        assert_eq!(found(&index), ["10-0-0-2", "10-0-0-3", "db-0"]);
        assert_eq!(index.names([10, 0, 0, 2].into()), [(Some("10-0-0-2"), "n/db")]);

        // A slice that changes loses what it had; one that goes over to another Service as well.
        index.set_slice(&slice("db-a", "db", json!([{"addresses": ["10.0.0.9"]}])));
        assert_eq!(found(&index), ["10-0-0-3", "10-0-0-9"]);
        let host = |index: &Index| index.service("n", "db").unwrap().host("db-0").count();
        assert_eq!(host(&index), 0);
        index.set_slice(&slice("db-a", "other", json!([{"addresses": ["10.0.0.9"]}])));
        assert_eq!(found(&index), ["10-0-0-3"]);

        index.set_services(&[service("web", json!({"clusterIP": "10.96.0.7"}))]);
        assert!(index.service("n", "db").is_none());
        assert_eq!(index.names([10, 96, 0, 7].into()), [(None, "n/web")]);
        // An address that went over to another Service stays that one's.
        index.set_service(&service("new", json!({"clusterIP": "10.96.0.7"})));
        index.remove_service(&service("web", json!({})));
        assert_eq!(index.names([10, 96, 0, 7].into()), [(None, "n/new")]);
        index.set_services([]);
        index.set_slices([]);
        assert_empty(&index);
    }
}

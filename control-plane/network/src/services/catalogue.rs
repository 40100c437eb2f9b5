//! The API's objects, and the frontends that they make.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use ipnet::Ipv4Net;
use serde_json::Value;

use super::{Backends, Frontend, Protocol};
use crate::address::{self, node_ip};

/// The label of an EndpointSlice that says whose it is.
const SERVICE_NAME: &str = "/metadata/labels/kubernetes.io~1service-name";

/// What a Service asks for.
#[derive(Debug)]
struct Service {
    /// Its address in the cluster, and what it has outside.
    addresses: Vec<Ipv4Addr>,
    /// What its load balancer, which is the host, gave it.
    balanced: Vec<Ipv4Addr>,
    /// Who may connect there, if not everybody may.
    sources: Option<Vec<Ipv4Net>>,
    ports: Vec<Port>,
    affinity: Option<u32>,
    internal_local: bool,
    external_local: bool,
}

#[derive(Debug)]
struct Port {
    name: String,
    protocol: Protocol,
    port: u16,
    node_port: Option<u16>,
}

/// One endpoint of a slice.
#[derive(Debug, Clone)]
struct Endpoint {
    address: Ipv4Addr,
    /// The index of its node, if it is a node's.
    node: Option<u32>,
    ready: bool,
    /// It is ending, and serves yet.
    draining: bool,
    /// It is ending.
    ending: bool,
    /// The uid of its pod, if it is one.
    pod: Option<String>,
}

#[derive(Debug)]
struct Slice {
    service: String,
    /// By name.
    ports: BTreeMap<String, (Protocol, u16)>,
    endpoints: Vec<Endpoint>,
}

/// Services, EndpointSlices and pods' host ports of one cluster.
#[derive(Debug)]
pub struct Catalogue {
    /// What nodes' names start with; their index follows.
    prefix: String,
    /// Where the host meets what is for every node.
    outside: Ipv4Addr,
    services: BTreeMap<String, Service>,
    slices: BTreeMap<String, Slice>,
    slices_of: BTreeMap<String, BTreeSet<String>>,
    /// The slices that a pod is in, by its uid.
    slices_with: BTreeMap<String, BTreeSet<String>>,
    /// Those of these pods that are about to end, whatever slices say yet.
    leaving: BTreeSet<String>,
    /// The nodes that have ended, whatever slices say yet.
    ended: BTreeSet<u32>,
    host_ports: BTreeMap<String, Vec<(Frontend, SocketAddrV4)>>,
    /// Who asks for each frontend; the first of them gets it.
    claims: BTreeMap<Frontend, BTreeMap<String, Backends>>,
    claimed: BTreeMap<String, Vec<Frontend>>,
    /// What has changed since [`Catalogue::changes`] was asked.
    stale: BTreeSet<String>,
}

impl Catalogue {
    /// Nothing yet, of the cluster of that name, which the host meets at `outside`.
    #[must_use]
    pub fn new(cluster: &str, outside: Ipv4Addr) -> Self {
        Self {
            prefix: format!("{cluster}-"),
            outside,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slices_of: BTreeMap::new(),
            slices_with: BTreeMap::new(),
            leaving: BTreeSet::new(),
            ended: BTreeSet::new(),
            host_ports: BTreeMap::new(),
            claims: BTreeMap::new(),
            claimed: BTreeMap::new(),
            stale: BTreeSet::new(),
        }
    }

    /// A `v1.Service` is, or is now, like this.
    pub fn set_service(&mut self, object: &Value) {
        let key = key(object);
        self.services.insert(key.clone(), service(object));
        self.stale.insert(key);
    }

    /// A Service is gone.
    pub fn remove_service(&mut self, object: &Value) {
        let key = key(object);
        self.services.remove(&key);
        self.stale.insert(key);
    }

    /// A `discovery.k8s.io/v1.EndpointSlice` is, or is now, like this.
    pub fn set_slice(&mut self, object: &Value) {
        let key = key(object);
        self.forget_slice(&key);
        self.add_slice(key, object);
        self.forget_left();
    }

    fn add_slice(&mut self, key: String, object: &Value) {
        let name = object.pointer(SERVICE_NAME).and_then(Value::as_str).unwrap_or_default();
        if name.is_empty() || text(object, "/addressType") != "IPv4" {
            return;
        }
        let service = format!("{}/{name}", text(object, "/metadata/namespace"));
        self.stale.insert(service.clone());
        self.slices_of.entry(service.clone()).or_default().insert(key.clone());
        let slice = self.slice(object, service);
        for pod in slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.clone()) {
            self.slices_with.entry(pod).or_default().insert(key.clone());
        }
        self.slices.insert(key, slice);
    }

    /// A node has ended, or is there again: to one that has ended nothing is led, however late that
    /// comes to be written in slices.
    pub fn set_node(&mut self, index: u32, ended: bool) {
        let changed = if ended { self.ended.insert(index) } else { self.ended.remove(&index) };
        if changed {
            let on_it = |slice: &&Slice| slice.endpoints.iter().any(|e| e.node == Some(index));
            self.stale
                .extend(self.slices.values().filter(on_it).map(|slice| slice.service.clone()));
        }
    }

    /// The pod with this uid is about to be asked to end: from now on nothing is led to it that
    /// another can take, however late that comes to be written in slices. Whether it is in any.
    pub fn set_leaving(&mut self, pod: &str) -> bool {
        let Some(slices) = self.slices_with.get(pod) else { return false };
        if self.leaving.insert(pod.to_owned()) {
            let services = slices.iter().filter_map(|key| self.slices.get(key));
            self.stale.extend(services.map(|slice| slice.service.clone()));
        }
        true
    }

    /// An EndpointSlice is gone.
    pub fn remove_slice(&mut self, object: &Value) {
        self.forget_slice(&key(object));
        self.forget_left();
    }

    /// A `v1.Pod` is, or is now, like this.
    pub fn set_pod(&mut self, object: &Value) {
        let key = pod_key(object);
        let ports = host_ports(object);
        let before = if ports.is_empty() {
            self.host_ports.remove(&key).unwrap_or_default()
        } else {
            self.host_ports.insert(key.clone(), ports.clone()).unwrap_or_default()
        };
        if before != ports {
            self.stale.insert(key);
        }
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, object: &Value) {
        let key = pod_key(object);
        if self.host_ports.remove(&key).is_some() {
            self.stale.insert(key);
        }
    }

    /// Takes out every pod that is not among all the pods there are.
    pub fn retain_pods(&mut self, there: &[Arc<Value>]) {
        let there: BTreeSet<String> = there.iter().map(|object| pod_key(object)).collect();
        let gone = self.host_ports.extract_if(.., |key, _| !there.contains(key));
        self.stale.extend(gone.map(|(key, _)| key));
    }

    /// Takes out every Service that is not among all the Services there are.
    pub fn retain_services(&mut self, there: &[Arc<Value>]) {
        let there: BTreeSet<String> = there.iter().map(|object| key(object)).collect();
        let gone = self.services.extract_if(.., |key, _| !there.contains(key));
        self.stale.extend(gone.map(|(key, _)| key));
    }

    /// Takes out every EndpointSlice that is not among all the EndpointSlices there are.
    pub fn retain_slices(&mut self, there: &[Arc<Value>]) {
        let there: BTreeSet<String> = there.iter().map(|object| key(object)).collect();
        let gone: Vec<_> =
            self.slices.keys().filter(|key| !there.contains(*key)).cloned().collect();
        for key in gone {
            self.forget_slice(&key);
        }
        self.forget_left();
    }

    /// Where every frontend leads.
    pub fn table(&mut self) -> BTreeMap<Frontend, Backends> {
        drop(self.changes());
        let first = |(frontend, claims): (&Frontend, &BTreeMap<String, Backends>)| {
            Some((*frontend, claims.values().next()?.clone()))
        };
        self.claims.iter().filter_map(first).collect()
    }

    /// Where frontends lead that have changed since this was last asked.
    pub fn changes(&mut self) -> BTreeMap<Frontend, Backends> {
        let mut changed = BTreeSet::new();
        for owner in std::mem::take(&mut self.stale) {
            for frontend in self.claimed.remove(&owner).unwrap_or_default() {
                changed.insert(frontend);
                if let Some(claims) = self.claims.get_mut(&frontend) {
                    claims.remove(&owner);
                    if claims.is_empty() {
                        self.claims.remove(&frontend);
                    }
                }
            }
            for (frontend, backends) in self.frontends(&owner) {
                changed.insert(frontend);
                self.claims.entry(frontend).or_default().insert(owner.clone(), backends);
                self.claimed.entry(owner.clone()).or_default().push(frontend);
            }
        }
        let now = |frontend: Frontend| {
            let claims = self.claims.get(&frontend);
            (frontend, claims.and_then(|c| c.values().next()).cloned().unwrap_or_default())
        };
        changed.into_iter().map(now).collect()
    }

    fn forget_slice(&mut self, key: &str) {
        let Some(slice) = self.slices.remove(key) else { return };
        if let Some(slices) = self.slices_of.get_mut(&slice.service) {
            slices.remove(key);
            if slices.is_empty() {
                self.slices_of.remove(&slice.service);
            }
        }
        for pod in slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref()) {
            if let Some(slices) = self.slices_with.get_mut(pod) {
                slices.remove(key);
                if slices.is_empty() {
                    self.slices_with.remove(pod);
                }
            }
        }
        self.stale.insert(slice.service);
    }

    /// Forgets pods that left and are in no slice any more.
    fn forget_left(&mut self) {
        let there = &self.slices_with;
        self.leaving.retain(|pod| there.contains_key(pod));
    }

    fn slice(&self, object: &Value, service: String) -> Slice {
        let ports = list(object, "/ports").iter().filter_map(|port| {
            let protocol = Protocol::parse(port.get("protocol").and_then(Value::as_str))?;
            let name = text(port, "/name").to_owned();
            Some((name, (protocol, number(port, "/port")?)))
        });
        let endpoints = list(object, "/endpoints").iter().filter_map(|endpoint| {
            // All addresses of one are the same pod's: Kubernetes uses the first.
            let address = list(endpoint, "/addresses").first()?.as_str()?;
            let condition =
                |name: &str| endpoint.pointer(&format!("/conditions/{name}"))?.as_bool();
            let node = text(endpoint, "/nodeName").strip_prefix(&self.prefix);
            let ready = condition("ready").unwrap_or(true);
            let ending = condition("terminating") == Some(true);
            let pod = Some(text(endpoint, "/targetRef/uid")).filter(|uid| !uid.is_empty());
            Some(Endpoint {
                address: address::parse(address).ok()?,
                node: node.and_then(|index| index.parse().ok()),
                ready,
                draining: ending && condition("serving") == Some(true),
                ending,
                pod: pod.map(str::to_owned),
            })
        });
        Slice { service, ports: ports.collect(), endpoints: endpoints.collect() }
    }

    /// The frontends of a Service or a pod.
    fn frontends(&self, owner: &str) -> Vec<(Frontend, Backends)> {
        if let Some(ports) = self.host_ports.get(owner) {
            let lead = |(frontend, pod): &(Frontend, SocketAddrV4)| {
                (*frontend, Backends::new(vec![*pod], None))
            };
            return ports.iter().map(lead).collect();
        }
        let Some(service) = self.services.get(owner) else { return Vec::new() };
        let ports = service.ports.iter();
        ports.flat_map(|port| self.frontends_of_port(owner, service, port)).collect()
    }

    fn frontends_of_port(
        &self,
        owner: &str,
        service: &Service,
        port: &Port,
    ) -> Vec<(Frontend, Backends)> {
        let endpoints = self.endpoints(owner, port);
        let nodes: BTreeSet<u32> =
            endpoints.iter().filter_map(|(endpoint, _)| endpoint.node).collect();
        let to = |node: Option<u32>| {
            let here = endpoints.iter().filter(|(e, _)| node.is_none() || e.node == node);
            Backends::new(self.usable(here), service.affinity)
        };
        let &Port { protocol, port: number, node_port, .. } = port;
        let mut frontends = Vec::new();
        let mut addresses = service.addresses.iter();
        if service.internal_local
            && let Some(cluster_ip) = addresses.next()
        {
            for node in &nodes {
                let from = Frontend::FromNode(*node, *cluster_ip, protocol, number);
                frontends.push((from, to(Some(*node))));
            }
        }
        for address in addresses {
            frontends.push((Frontend::Address(*address, protocol, number), to(None)));
        }
        for address in &service.balanced {
            let backends = to(None).open_to(service.sources.as_deref());
            frontends.push((Frontend::Address(*address, protocol, number), backends));
        }
        match node_port {
            Some(node_port) if service.external_local => {
                let at = |address| Frontend::Address(address, protocol, node_port);
                for node in &nodes {
                    frontends.push((at(node_ip(*node)), to(Some(*node))));
                }
                frontends.push((at(self.outside), to(None)));
            }
            Some(node_port) => {
                frontends.push((Frontend::NodePort(protocol, node_port), to(None)));
            }
            None => {}
        }
        frontends
    }

    /// A Service's endpoints, with the port that a Service's port leads to.
    fn endpoints(&self, owner: &str, port: &Port) -> Vec<(&Endpoint, u16)> {
        let slices = self.slices_of.get(owner).into_iter().flatten();
        slices
            .filter_map(|key| self.slices.get(key))
            .filter_map(|slice| {
                let (protocol, number) = slice.ports.get(&port.name)?;
                (*protocol == port.protocol).then_some((slice, *number))
            })
            .flat_map(|(slice, number)| slice.endpoints.iter().map(move |e| (e, number)))
            .filter(|(endpoint, _)| endpoint.node.is_none_or(|node| !self.ended.contains(&node)))
            .collect()
    }

    /// Those that are ready; where none is, those that end and serve yet.
    fn usable<'a>(
        &self,
        endpoints: impl Iterator<Item = &'a (&'a Endpoint, u16)> + Clone,
    ) -> Vec<SocketAddrV4> {
        // Once slices say that it ends, they say whether it is to be used nevertheless.
        let leaves = |e: &Endpoint| {
            !e.ending && e.pod.as_ref().is_some_and(|pod| self.leaving.contains(pod))
        };
        let address = |(e, port): &(&Endpoint, u16)| SocketAddrV4::new(e.address, *port);
        let ready: Vec<_> =
            endpoints.clone().filter(|(e, _)| e.ready && !leaves(e)).map(address).collect();
        if ready.is_empty() {
            return endpoints
                .filter(|(e, _)| e.draining || (e.ready && leaves(e)))
                .map(address)
                .collect();
        }
        ready
    }
}

fn service(object: &Value) -> Service {
    let kind = text(object, "/spec/type");
    let local = |field: &str| text(object, field) == "Local";
    let (mut addresses, mut balanced) = (Vec::new(), Vec::new());
    if kind != "ExternalName" {
        // `None` of a headless one is no address.
        addresses.extend(address::parse(text(object, "/spec/clusterIP")));
        let external = list(object, "/spec/externalIPs").iter().filter_map(Value::as_str);
        let given = list(object, "/status/loadBalancer/ingress").iter();
        let given = given.map(|ingress| text(ingress, "/ip"));
        if !addresses.is_empty() {
            addresses.extend(external.filter_map(|ip| address::parse(ip).ok()));
            balanced.extend(given.filter_map(|ip| address::parse(ip).ok()));
        }
    }
    // Of a list of IPv6 networks alone nobody is whom we serve.
    let sources = list(object, "/spec/loadBalancerSourceRanges");
    let networks = sources.iter().filter_map(|range| range.as_str()?.trim().parse().ok());
    let ports = list(object, "/spec/ports").iter().filter_map(|port| {
        Some(Port {
            name: text(port, "/name").to_owned(),
            protocol: Protocol::parse(port.get("protocol").and_then(Value::as_str))?,
            port: number(port, "/port")?,
            node_port: number(port, "/nodePort"),
        })
    });
    let ports = if addresses.is_empty() { Vec::new() } else { ports.collect() };
    let timeout = object.pointer("/spec/sessionAffinityConfig/clientIP/timeoutSeconds");
    let timeout = timeout.and_then(Value::as_u64).and_then(|seconds| u32::try_from(seconds).ok());
    Service {
        addresses,
        balanced,
        sources: (!sources.is_empty()).then(|| networks.collect()),
        ports,
        affinity: (text(object, "/spec/sessionAffinity") == "ClientIP")
            .then(|| timeout.unwrap_or(10_800)),
        internal_local: local("/spec/internalTrafficPolicy"),
        external_local: local("/spec/externalTrafficPolicy"),
    }
}

fn pod_key(object: &Value) -> String {
    // No namespace's name is empty.
    format!("/{}", text(object, "/metadata/uid"))
}

/// The ports of a pod that are open at its node's address too, as long as it runs. With the host's
/// network they are the node's own.
fn host_ports(pod: &Value) -> Vec<(Frontend, SocketAddrV4)> {
    let address = |path: &str| address::parse(text(pod, path)).ok();
    let (Some(node), Some(ip)) = (address("/status/hostIP"), address("/status/podIP")) else {
        return Vec::new();
    };
    if node == ip || matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
        return Vec::new();
    }
    let lists = ["/spec/initContainers", "/spec/containers"];
    let containers = lists.iter().flat_map(|path| list(pod, path));
    let ports = containers.flat_map(|container| list(container, "/ports"));
    ports
        .filter_map(|port| {
            let protocol = Protocol::parse(port.get("protocol").and_then(Value::as_str))?;
            let (from, to) = (number(port, "/hostPort")?, number(port, "/containerPort")?);
            Some((Frontend::Address(node, protocol, from), SocketAddrV4::new(ip, to)))
        })
        .collect()
}

fn key(object: &Value) -> String {
    format!("{}/{}", text(object, "/metadata/namespace"), text(object, "/metadata/name"))
}

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    object.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A port's number.
fn number(object: &Value, path: &str) -> Option<u16> {
    let number = object.pointer(path)?.as_u64()?;
    u16::try_from(number).ok().filter(|number| *number != 0)
}

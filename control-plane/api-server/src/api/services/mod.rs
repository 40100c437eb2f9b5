//! The addresses and node ports of Services.
//!
//! Each is a key of the store, made before the Service that has it is written: of several writers
//! that want one, on whichever server, the store lets one win. An address's key is an IPAddress
//! object; a port's is like one that no kind shows. Both name the Service. Whoever dies between the
//! two writes leaves a key behind, which [`repair`] removes.

mod pool;
mod repair;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use bulkhead_store::{StoreError, Write};
use serde_json::{Value, json};

use super::{Api, Place, store_failure};
use crate::kinds::service;
use crate::object;
use crate::status::{Cause, Result, Status};

pub(crate) use repair::run as keep_repaired;

/// The ports that nodes open for Services.
pub(crate) const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// Who made the keys of addresses.
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");
const PORTS_PREFIX: &str = "/registry/servicenodeports/";
const ADDRESSES_PREFIX: &str = "/registry/ipaddresses/";

/// What only one Service can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Address(Ipv4Addr),
    NodePort(u16),
}

impl Claim {
    fn key(self) -> String {
        match self {
            Self::Address(address) => format!("{ADDRESSES_PREFIX}{address}"),
            Self::NodePort(port) => format!("{PORTS_PREFIX}{port}"),
        }
    }

    /// What is stored there for the Service of this namespace and name.
    fn value(self, namespace: &str, name: &str) -> Value {
        let parent =
            json!({"group": "", "resource": "services", "namespace": namespace, "name": name});
        let mut claim = json!({
            "metadata": {"creationTimestamp": object::now()},
            "spec": {"parentRef": parent},
        });
        if let Self::Address(address) = self {
            claim["apiVersion"] = "networking.k8s.io/v1".into();
            claim["kind"] = "IPAddress".into();
            let metadata = &mut claim["metadata"];
            metadata["name"] = address.to_string().into();
            metadata["uid"] = object::uid().into();
            metadata["labels"] =
                json!({"ipaddress.kubernetes.io/ip-family": "IPv4", MANAGED_BY.0: MANAGED_BY.1});
        }
        claim
    }
}

/// What `service` has.
fn held(service: &Value) -> BTreeSet<Claim> {
    let mut held = BTreeSet::new();
    if service::needs_cluster_ip(service) {
        let addresses = object::list(service, "spec.clusterIPs").iter().filter_map(Value::as_str);
        held.extend(addresses.filter_map(|text| text.parse().ok()).map(Claim::Address));
    }
    let ports = object::list(service, "spec.ports").iter();
    let ports = ports.filter_map(|port| service::port(port, "nodePort"));
    let ports = ports.chain(service::port(&service["spec"], "healthCheckNodePort"));
    held.extend(ports.filter_map(|port| u16::try_from(port).ok()).map(Claim::NodePort));
    held
}

/// What a write of an object takes and leaves, beside the object.
#[derive(Debug, Default)]
#[must_use = "settle it when the write is done"]
pub(super) struct Claims {
    /// Keys that were made, to be removed if the write fails.
    taken: Vec<Claim>,
    /// Keys to be removed once it is done.
    left: Vec<Claim>,
}

impl Claims {
    /// Of a write that removes `object`.
    pub(super) fn of_gone(place: &Place, object: &Value) -> Self {
        let left = if is_service(place) { held(object).into_iter().collect() } else { Vec::new() };
        Self { taken: Vec::new(), left }
    }
}

fn is_service(place: &Place) -> bool {
    place.resource.group.is_empty() && place.resource.plural == "services"
}

impl Api {
    /// Takes what `object`, which replaces `current`, has to itself; fills in what it leaves to
    /// the server. Does nothing for other kinds than Services.
    ///
    /// # Errors
    /// `Invalid` if it is another's, or not to be had.
    pub(super) async fn claim(
        &self,
        place: &Place,
        current: Option<&Value>,
        object: &mut Value,
        dry_run: bool,
    ) -> Result<Claims> {
        if !is_service(place) {
            return Ok(Claims::default());
        }
        let before = current.map(held).unwrap_or_default();
        let mut allocation = Allocation {
            api: self,
            place,
            dry_run,
            name: object::name(object).into(),
            taken: Vec::new(),
        };
        let result = allocation.run(&before, object).await;
        let now = held(object);
        let left = before.into_iter().filter(|claim| !now.contains(claim)).collect();
        let claims = Claims { taken: allocation.taken, left };
        match result {
            Ok(()) => Ok(claims),
            Err(error) => {
                self.settle(claims, false).await;
                Err(error)
            }
        }
    }

    /// Gives back what a write no longer needs, after it was `done` or failed.
    pub(super) async fn settle(&self, claims: Claims, done: bool) {
        for claim in if done { claims.left } else { claims.taken } {
            if let Err(error) = self.give_back(claim).await {
                // The repair finds it.
                tracing::warn!(?claim, %error, "giving back what a Service had");
            }
        }
    }

    async fn give_back(&self, claim: Claim) -> std::result::Result<(), StoreError> {
        let key = claim.key();
        match self.store.get(&key).await? {
            Some(entry) => {
                let write = Write::Delete { key, expected: entry.revision };
                self.store.write(write).await.map(drop)
            }
            None => Ok(()),
        }
    }
}

/// The claims of one write, as they are made.
struct Allocation<'a> {
    api: &'a Api,
    place: &'a Place,
    dry_run: bool,
    /// The Service's.
    name: String,
    taken: Vec<Claim>,
}

impl Allocation<'_> {
    async fn run(&mut self, before: &BTreeSet<Claim>, object: &mut Value) -> Result<()> {
        // What is said first, so that what is left to the server does not take it.
        for claim in held(object).difference(before) {
            self.said(*claim, object).await?;
        }
        if service::needs_cluster_ip(object) && object::text(object, "spec.clusterIP").is_empty() {
            let address = self.any_address().await?;
            object["spec"]["clusterIP"] = address.to_string().into();
            object["spec"]["clusterIPs"] = json!([address.to_string()]);
        }
        if service::needs_node_ports(object) {
            self.fill_node_ports(object).await?;
        }
        if service::needs_health_check_port(object)
            && service::port(&object["spec"], "healthCheckNodePort").is_none()
        {
            object["spec"]["healthCheckNodePort"] = self.any_port().await?.into();
        }
        Ok(())
    }

    async fn fill_node_ports(&mut self, object: &mut Value) -> Result<()> {
        let mut ports = object["spec"]["ports"].take();
        for index in 0..ports.as_array().map_or(0, Vec::len) {
            if service::port(&ports[index], "nodePort").is_some() {
                continue;
            }
            // One number serves several protocols.
            let same = |other: &&Value| {
                other["port"] == ports[index]["port"]
                    && other["protocol"] != ports[index]["protocol"]
                    && service::port(other, "nodePort").is_some()
            };
            let twin = ports.as_array().into_iter().flatten().find(same);
            let port = match twin.map(|twin| twin["nodePort"].clone()) {
                Some(port) => port,
                None => self.any_port().await?.into(),
            };
            ports[index]["nodePort"] = port;
        }
        object["spec"]["ports"] = ports;
        Ok(())
    }

    /// Takes what the Service says that it wants.
    async fn said(&mut self, claim: Claim, object: &Value) -> Result<()> {
        let refused = |field: String, value: &Value, why: &str| {
            let causes = vec![Cause::invalid(field, value, why)];
            Err(Status::invalid("", "Service", object::name(object), causes))
        };
        match claim {
            Claim::Address(address) => {
                let refused = |why: &str| {
                    let why = format!("failed to allocate IP {address}: {why}");
                    refused("spec.clusterIPs".into(), &object["spec"]["clusterIPs"], &why)
                };
                let ranges = self.api.service_ranges().await?;
                if !ranges.iter().any(|range| range.contains(address)) {
                    return refused("the provided network does not match the current range");
                }
                if !self.take(claim).await? {
                    return refused("provided IP is already allocated");
                }
            }
            Claim::NodePort(port) => {
                let ports = object::list(object, "spec.ports");
                let is_it = |one: &Value| service::port(one, "nodePort") == Some(port.into());
                let field = match ports.iter().position(is_it) {
                    Some(index) => format!("spec.ports[{index}].nodePort"),
                    None => "spec.healthCheckNodePort".into(),
                };
                if !NODE_PORTS.contains(&port) {
                    let why = format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        NODE_PORTS.start(),
                        NODE_PORTS.end()
                    );
                    return refused(field, &json!(port), &why);
                }
                if !self.take(claim).await? {
                    return refused(field, &json!(port), "provided port is already allocated");
                }
            }
        }
        Ok(())
    }

    /// Makes the claim's key; false if it is another's.
    async fn take(&mut self, claim: Claim) -> Result<bool> {
        let key = claim.key();
        if self.dry_run {
            let found = self.api.store.get(&key).await.map_err(|error| store_failure(&error))?;
            return Ok(found.is_none());
        }
        let value = claim.value(self.place.namespace.as_deref().unwrap_or_default(), &self.name);
        let value = serde_json::to_vec(&value).map_err(Status::internal)?;
        match self.api.store.write(Write::Create { key, value }).await {
            Ok(_) => {
                self.taken.push(claim);
                Ok(true)
            }
            Err(StoreError::Exists(_)) => Ok(false),
            Err(error) => Err(store_failure(&error)),
        }
    }
}

//! The EndpointSlices of a Service: what to make, change and delete so that they hold its endpoints.
//! An endpoint stays in the slice that it is in, so that a change of one pod is a change of one
//! slice.
//! <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#distribution>

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bulkhead_client::object::{self, list, text};
use serde_json::{Map, Value, json};

use super::pod::Endpoint;
use crate::context::controller_reference;

/// A slice holds at most so many endpoints.
const FULL: usize = 100;
/// The label of a slice with its Service's name.
pub(super) const SERVICE: &str = "kubernetes.io/service-name";
/// The label of a slice that says who keeps it.
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// The label of what belongs to a Service without an address.
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub(super) create: Vec<Value>,
    pub(super) update: Vec<Value>,
    pub(super) delete: Vec<Arc<Value>>,
}

/// A new slice of its owner, which is of this kind of the core group.
pub(super) fn slice(
    (owner, kind): (&Value, &str),
    labels: &Map<String, Value>,
    address_type: &str,
    ports: &[Value],
    endpoints: Vec<Value>,
) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": format!("{}-", object::name(owner)),
            "namespace": owner["metadata"]["namespace"],
            "labels": labels,
            "ownerReferences": [controller_reference(owner, "v1", kind)],
        },
        "addressType": address_type,
        "endpoints": endpoints,
        "ports": ports,
    })
}

/// The labels of the slices of what has a Service's name: its own, and whose and by whom kept they are.
pub(super) fn labels_of(owner: &Value, manager: &str) -> Map<String, Value> {
    let mut labels = owner["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(SERVICE.into(), object::name(owner).into());
    labels.insert(MANAGED_BY.into(), manager.into());
    labels
}

/// Whether a slice is kept by this controller.
pub(super) fn is_managed(slice: &Value) -> bool {
    slice["metadata"]["labels"][MANAGED_BY] == MANAGER
}

/// The changes that make `slices` of `service` hold `endpoints`.
pub(super) fn changes(service: &Value, slices: Vec<Arc<Value>>, endpoints: &[Endpoint]) -> Changes {
    let labels = labels(service);
    // Slices differ by their ports: where those have names, pods may have different ones.
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for endpoint in endpoints {
        let group = groups.entry(Value::from(endpoint.ports.clone()).to_string()).or_default();
        group.ports.clone_from(&endpoint.ports);
        group.endpoints.insert(text(&endpoint.target, "uid").to_owned(), endpoint.in_slice());
    }
    let mut changes = Changes::default();
    for slice in slices {
        if slice["addressType"] != "IPv4" {
            changes.delete.push(slice);
            continue;
        }
        let ports = Value::from(list(&slice, "ports").to_vec()).to_string();
        match groups.get_mut(&ports) {
            Some(group) => group.slices.push(slice),
            None => changes.delete.push(slice),
        }
    }
    if groups.is_empty() {
        // A Service that has no endpoints has a slice that says so.
        let empty =
            Group { slices: changes.delete.pop().into_iter().collect(), ..Group::default() };
        empty.arrange(service, &labels, &mut changes);
    }
    for group in groups.into_values() {
        group.arrange(service, &labels, &mut changes);
    }
    changes
}

/// The endpoints with the same ports, by their pods' uids, and the slices of those ports.
#[derive(Debug, Default)]
struct Group {
    ports: Vec<Value>,
    endpoints: BTreeMap<String, Value>,
    slices: Vec<Arc<Value>>,
}

impl Group {
    fn arrange(mut self, service: &Value, labels: &Map<String, Value>, changes: &mut Changes) {
        let keep_one = self.endpoints.is_empty();
        // What each slice keeps of what it has.
        let mut kept: Vec<(Arc<Value>, Vec<Value>)> = Vec::new();
        for slice in std::mem::take(&mut self.slices) {
            let known = list(&slice, "endpoints").iter();
            let still = known
                .filter_map(|endpoint| self.endpoints.remove(text(endpoint, "targetRef.uid")))
                .collect();
            kept.push((slice, still));
        }
        // The rest goes where there is room, the fullest first, so that as few slices change as can.
        let mut rest = self.endpoints.into_values();
        kept.sort_by_key(|(_, endpoints)| std::cmp::Reverse(endpoints.len()));
        for (_, endpoints) in &mut kept {
            let room = FULL.saturating_sub(endpoints.len());
            if !endpoints.is_empty() {
                endpoints.extend(rest.by_ref().take(room));
            }
        }
        let mut left = keep_one;
        for (slice, mut endpoints) in kept {
            if endpoints.is_empty() {
                endpoints.extend(rest.by_ref().take(FULL));
            }
            if endpoints.is_empty() && !std::mem::take(&mut left) {
                changes.delete.push(slice);
                continue;
            }
            let same = list(&slice, "endpoints") == endpoints
                && list(&slice, "ports") == self.ports
                && slice["metadata"]["labels"].as_object() == Some(labels);
            if !same {
                let mut changed = (*slice).clone();
                changed["endpoints"] = endpoints.into();
                changed["ports"] = self.ports.clone().into();
                changed["metadata"]["labels"] = labels.clone().into();
                changes.update.push(changed);
            }
        }
        loop {
            let endpoints: Vec<Value> = rest.by_ref().take(FULL).collect();
            if endpoints.is_empty() && !std::mem::take(&mut left) {
                return;
            }
            changes.create.push(slice(
                (service, "Service"),
                labels,
                "IPv4",
                &self.ports,
                endpoints,
            ));
        }
    }
}

/// The labels of a Service's slices: its own, and what says whose they are.
fn labels(service: &Value) -> Map<String, Value> {
    let mut labels = labels_of(service, MANAGER);
    labels.remove(HEADLESS);
    if service["spec"]["clusterIP"] == "None" {
        labels.insert(HEADLESS.into(), "".into());
    }
    labels
}

/// Endpoints in the order of their addresses, each of which is there once.
pub(super) fn by_address(endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    let all: HashMap<String, Endpoint> = endpoints
        .into_iter()
        .map(|endpoint| (text(&endpoint.target, "uid").to_owned(), endpoint))
        .collect();
    let mut all: Vec<Endpoint> = all.into_values().collect();
    all.sort_by(|one, other| one.address.cmp(&other.address));
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint(uid: usize, port: i64, ready: bool) -> Endpoint {
        Endpoint {
            address: format!("10.0.{}.{}", uid / 250, uid % 250),
            ports: vec![json!({"name": "", "port": port, "protocol": "TCP"})],
            ready,
            serving: ready,
            terminating: false,
            hostname: None,
            node: None,
            zone: None,
            target: json!({"kind": "Pod", "uid": uid.to_string()}),
        }
    }

    fn service() -> Value {
        json!({"metadata": {"name": "web", "namespace": "d", "uid": "s", "labels": {"a": "b"}}, "spec": {}})
    }

    /// What is there when the changes are made.
    fn apply(slices: Vec<Arc<Value>>, changes: Changes) -> Vec<Arc<Value>> {
        let name = |slice: &Value| object::name(slice).to_owned();
        let changed: Vec<String> = changes.update.iter().map(name).collect();
        let deleted: Vec<String> = changes.delete.iter().map(|slice| name(slice)).collect();
        let mut all: Vec<Arc<Value>> = slices
            .into_iter()
            .filter(|one| !changed.contains(&name(one)) && !deleted.contains(&name(one)))
            .collect();
        all.extend(changes.update.into_iter().map(Arc::new));
        for mut slice in changes.create {
            let free = (0..).find(|n| all.iter().all(|one| name(one) != format!("s{n}"))).unwrap();
            slice["metadata"]["name"] = format!("s{free}").into();
            all.push(Arc::new(slice));
        }
        all
    }

    fn sizes(slices: &[Arc<Value>]) -> Vec<usize> {
        slices.iter().map(|slice| list(slice, "endpoints").len()).collect()
    }

    #[test]
    fn an_endpoint_stays_where_it_is() {
        let service = service();
        let many: Vec<_> = (0..250).map(|uid| endpoint(uid, 80, true)).collect();
        let slices = apply(Vec::new(), changes(&service, Vec::new(), &many));
        assert_eq!(sizes(&slices), [100, 100, 50]);
        assert_eq!(changes(&service, slices.clone(), &many), Changes::default());
        let mut changed = many.clone();
        changed[120].ready = false;
        let one = changes(&service, slices.clone(), &changed);
        assert_eq!((one.update.len(), one.create.len(), one.delete.len()), (1, 0, 0));
        let more: Vec<_> = (0..260).map(|uid| endpoint(uid, 80, true)).collect();
        let grown = changes(&service, slices.clone(), &more);
        assert_eq!((grown.update.len(), grown.create.len()), (1, 0));
        let none = apply(slices.clone(), changes(&service, slices, &[]));
        assert_eq!(sizes(&none), [0], "one says that there are none");
        let labels = json!({"a": "b", SERVICE: "web", MANAGED_BY: MANAGER});
        assert_eq!(none[0]["metadata"]["labels"], labels);
    }

    #[test]
    fn pods_with_other_ports_are_in_other_slices() {
        let both = [endpoint(1, 80, true), endpoint(2, 8080, true)];
        let slices = apply(Vec::new(), changes(&service(), Vec::new(), &both));
        assert_eq!(sizes(&slices), [1, 1]);
        let moved = [endpoint(1, 80, true), endpoint(2, 80, true)];
        let slices = apply(slices.clone(), changes(&service(), slices, &moved));
        assert_eq!(sizes(&slices), [2]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever was there: every endpoint is in one slice, as it is now, and then all is quiet.
        #[test]
        fn every_endpoint_is_in_one_slice(
            before in proptest::collection::btree_set(0..300_usize, 0..250),
            after in proptest::collection::btree_map(0..300_usize, (0..2_i64, any::<bool>()), 0..250),
        ) {
            let service = service();
            let before: Vec<_> = before.into_iter().map(|uid| endpoint(uid, 0, true)).collect();
            let after: Vec<_> =
                after.into_iter().map(|(uid, (port, ready))| endpoint(uid, port, ready)).collect();
            let slices = apply(Vec::new(), changes(&service, Vec::new(), &before));
            let slices = apply(slices.clone(), changes(&service, slices, &after));
            let mut there: Vec<Value> =
                slices.iter().flat_map(|slice| list(slice, "endpoints").to_vec()).collect();
            let mut wanted: Vec<Value> = after.iter().map(Endpoint::in_slice).collect();
            there.sort_by_key(Value::to_string);
            wanted.sort_by_key(Value::to_string);
            prop_assert_eq!(there, wanted);
            prop_assert!(sizes(&slices).iter().all(|size| *size <= FULL));
            prop_assert_eq!(changes(&service, slices, &after), Changes::default());
        }
    }
}

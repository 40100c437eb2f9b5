//! EndpointSlices of Endpoints that users make for a Service without a selector: who follows slices need
//! not know of them.
//! <https://kubernetes.io/docs/concepts/services-networking/service/#endpointslice-mirroring>

use std::collections::BTreeMap;
use std::sync::Arc;

use bulkhead_client::object::{self, list, text};
use bulkhead_client::{Cache, Informers};
use serde_json::{Map, Value, json};

use super::slices::{Changes, MANAGED_BY, labels_of, slice};
use super::{ENDPOINTS, SERVICES, SLICES, selects, write_slices};
use crate::context::{Context, Written, add_controller, on_change};
use crate::queue::{Next, Queue, Synced};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// The label of Endpoints that are not to be mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// The annotation of Endpoints by which somebody is elected: they are no endpoints.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that are about the Endpoints themselves.
const OWN: [&str; 2] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "endpoints.kubernetes.io/last-change-trigger-time",
];
/// So many addresses are mirrored of those with the same ports; a slice holds no more.
const FULL: usize = 1000;
/// How many Endpoints are synced at a time.
const WORKERS: usize = 5;

struct Controller {
    context: Context,
    services: Arc<Cache>,
    endpoints: Arc<Cache>,
    slices: Arc<Cache>,
    written: Written,
}

/// Mirrors Endpoints, for ever.
pub(crate) async fn run(informers: Arc<Informers>) {
    let controller = Arc::new(Controller {
        context: Context::new(&informers, "endpoint-slice-mirroring-controller"),
        services: informers.cache(&SERVICES),
        endpoints: informers.cache(&ENDPOINTS),
        slices: informers.cache(&SLICES),
        written: Written::default(),
    });
    let Controller { services, endpoints, slices, .. } = &*controller;
    for cache in [services, endpoints, slices] {
        cache.synced().await;
    }
    let queue = Queue::new();
    let worker = Arc::clone(&controller);
    tokio::join!(
        on_change(Arc::clone(services), |service| queue.add(object::key(service))),
        on_change(Arc::clone(endpoints), |endpoints| queue.add(object::key(endpoints))),
        on_change(Arc::clone(slices), |slice| add_controller(&queue, slice, "v1", "Endpoints")),
        Arc::clone(&queue).work("Endpoints", WORKERS, move |key| {
            let controller = Arc::clone(&worker);
            async move { controller.sync(&key).await }
        }),
    );
}

impl Controller {
    async fn sync(&self, key: &str) -> Synced {
        if !self.written.is_in(key, &self.slices) {
            return Ok(Next::Change);
        }
        // Slices go with their owner.
        let Some(endpoints) = self.endpoints.get(key) else { return Ok(Next::Change) };
        let mut known = self.slices.owned_by(object::uid(&endpoints));
        known.retain(|slice| slice["metadata"]["labels"][MANAGED_BY] == MANAGER);
        let changes = if is_mirrored(&endpoints, self.services.get(key).as_deref()) {
            let (changes, left_out) = changes(&endpoints, known);
            if left_out > 0 && changes != Changes::default() {
                let message = format!(
                    "{left_out} addresses over {FULL} with the same ports are not mirrored"
                );
                let recorder = &self.context.recorder;
                recorder.warning(&endpoints, "TooManyAddressesToMirror", message);
            }
            changes
        } else {
            Changes { delete: known, ..Changes::default() }
        };
        write_slices(&self.context, &self.written, key, changes).await?;
        Ok(Next::Change)
    }
}

/// Whether Endpoints are a user's for a Service, which is theirs if it has their name.
fn is_mirrored(endpoints: &Value, service: Option<&Value>) -> bool {
    let metadata = &endpoints["metadata"];
    service.is_some_and(|service| !selects(service))
        && !object::is_terminating(endpoints)
        && metadata["labels"][SKIP] != "true"
        && metadata["annotations"][LEADER].is_null()
}

/// Addresses with the same ports.
#[derive(Default)]
struct Group {
    ports: Vec<Value>,
    endpoints: Vec<Value>,
}

/// The changes that make `slices` hold what `endpoints` do, and how many addresses are not in them.
fn changes(endpoints: &Value, slices: Vec<Arc<Value>>) -> (Changes, usize) {
    let (mut groups, left_out) = groups(endpoints);
    let labels = labels_of(endpoints, MANAGER);
    let annotations = annotations(endpoints);
    let mut changes = Changes::default();
    for slice in slices {
        let ports = Value::from(list(&slice, "ports").to_vec()).to_string();
        let Some(group) = groups.remove(&(text(&slice, "addressType").to_owned(), ports)) else {
            changes.delete.push(slice);
            continue;
        };
        let metadata = &slice["metadata"];
        let noted = metadata["annotations"].as_object().cloned().unwrap_or_default();
        let same = list(&slice, "endpoints") == group.endpoints
            && metadata["labels"].as_object() == Some(&labels)
            && noted == annotations;
        if !same {
            let mut changed = (*slice).clone();
            changed["endpoints"] = group.endpoints.into();
            changed["metadata"]["labels"] = labels.clone().into();
            changed["metadata"]["annotations"] = annotations.clone().into();
            changes.update.push(changed);
        }
    }
    for ((kind, _), group) in groups {
        let owner = (endpoints, "Endpoints");
        let mut slice = slice(owner, &labels, &kind, &group.ports, group.endpoints);
        slice["metadata"]["annotations"] = annotations.clone().into();
        changes.create.push(slice);
    }
    (changes, left_out)
}

/// What Endpoints have, by the type of address and by ports.
fn groups(endpoints: &Value) -> (BTreeMap<(String, String), Group>, usize) {
    let mut groups: BTreeMap<(String, String), Group> = BTreeMap::new();
    let mut left_out = 0;
    for subset in list(endpoints, "subsets") {
        let ports: Vec<Value> = list(subset, "ports").iter().map(port).collect();
        let ports_key = Value::from(ports.clone()).to_string();
        // Those that are ready first, where not all fit.
        for (field, ready) in [("addresses", true), ("notReadyAddresses", false)] {
            for address in list(subset, field) {
                let kind = if text(address, "ip").contains(':') { "IPv6" } else { "IPv4" };
                let group = groups.entry((kind.to_owned(), ports_key.clone())).or_default();
                group.ports.clone_from(&ports);
                if group.endpoints.len() < FULL {
                    group.endpoints.push(endpoint(address, ready));
                } else {
                    left_out += 1;
                }
            }
        }
    }
    (groups, left_out)
}

fn port(port: &Value) -> Value {
    let protocol = port["protocol"].as_str().unwrap_or("TCP");
    let mut mirrored =
        json!({"name": text(port, "name"), "port": port["port"], "protocol": protocol});
    if let Some(protocol) = port["appProtocol"].as_str() {
        mirrored["appProtocol"] = protocol.into();
    }
    mirrored
}

fn endpoint(address: &Value, ready: bool) -> Value {
    let mut endpoint = json!({"addresses": [address["ip"]], "conditions": {"ready": ready}});
    for field in ["hostname", "nodeName", "targetRef"] {
        if let Some(value) = address.get(field).filter(|value| !value.is_null()) {
            endpoint[field] = value.clone();
        }
    }
    endpoint
}

fn annotations(endpoints: &Value) -> Map<String, Value> {
    let annotations = endpoints["metadata"]["annotations"].as_object().cloned();
    let mut annotations = annotations.unwrap_or_default();
    annotations.retain(|key, _| !OWN.contains(&key.as_str()));
    annotations
}

#[cfg(test)]
mod tests {
    use super::super::slices::SERVICE;
    use super::*;

    fn endpoints() -> Value {
        json!({
            "metadata": {
                "name": "db", "namespace": "d", "uid": "e", "labels": {"team": "a"},
                "annotations": {OWN[0]: "{}", "note": "n"},
            },
            "subsets": [
                {"addresses": [{"ip": "192.0.2.1"}, {"ip": "fd00::1"}],
                 "notReadyAddresses": [{"ip": "192.0.2.2", "hostname": "two"}],
                 "ports": [{"port": 5432}]},
                {"addresses": [{"ip": "192.0.2.3"}],
                 "ports": [{"name": "web", "port": 80, "protocol": "TCP", "appProtocol": "http"}]},
            ],
        })
    }

    fn named(slices: Vec<Value>) -> Vec<Arc<Value>> {
        let name = |(index, mut slice): (usize, Value)| {
            slice["metadata"]["name"] = format!("s{index}").into();
            Arc::new(slice)
        };
        slices.into_iter().enumerate().map(name).collect()
    }

    #[test]
    fn every_address_is_in_a_slice_of_its_type_and_ports() {
        let (made, left_out) = changes(&endpoints(), Vec::new());
        assert_eq!((made.create.len(), made.update.len(), left_out), (3, 0, 0));
        let of = |kind: &str, port: i64| {
            let fits =
                |slice: &&Value| slice["addressType"] == kind && slice["ports"][0]["port"] == port;
            made.create.iter().find(fits).unwrap()
        };
        let slice = of("IPv4", 5432);
        assert_eq!(
            slice["endpoints"],
            json!([
                {"addresses": ["192.0.2.1"], "conditions": {"ready": true}},
                {"addresses": ["192.0.2.2"], "conditions": {"ready": false}, "hostname": "two"},
            ])
        );
        assert_eq!(slice["ports"], json!([{"name": "", "port": 5432, "protocol": "TCP"}]));
        let metadata = &slice["metadata"];
        assert_eq!(
            metadata["labels"],
            json!({"team": "a", SERVICE: "db", MANAGED_BY: "endpointslicemirroring-controller.k8s.io"})
        );
        assert_eq!(metadata["annotations"], json!({"note": "n"}));
        assert_eq!(metadata["ownerReferences"][0]["kind"], "Endpoints");
        assert_eq!(of("IPv4", 80)["ports"][0]["appProtocol"], "http");
        assert_eq!(of("IPv6", 5432)["endpoints"].as_array().unwrap().len(), 1);
        let there = named(made.create.clone());
        assert_eq!(changes(&endpoints(), there.clone()), (Changes::default(), 0));

        // One changes, one goes.
        let mut changed = endpoints();
        changed["subsets"][0]["addresses"] = json!([{"ip": "192.0.2.9"}]);
        let (next, _) = changes(&changed, there.clone());
        assert_eq!((next.create.len(), next.update.len(), next.delete.len()), (0, 1, 1));
        assert_eq!(next.delete[0]["addressType"], "IPv6");
        changed["subsets"] = Value::Null;
        assert_eq!(changes(&changed, there).0.delete.len(), 3);
    }

    #[test]
    fn what_is_too_much_is_left_out() {
        let mut many = endpoints();
        let ip = |n: usize| json!({"ip": format!("192.0.{}.{}", n / 250, n % 250)});
        many["subsets"] = json!([{"notReadyAddresses": [ip(0)],
            "addresses": (1..=FULL).map(ip).collect::<Vec<_>>(), "ports": [{"port": 1}]}]);
        let (made, left_out) = changes(&many, Vec::new());
        let endpoints = made.create[0]["endpoints"].as_array().unwrap();
        assert_eq!((endpoints.len(), left_out), (FULL, 1));
        assert!(endpoints.iter().all(|endpoint| endpoint["conditions"]["ready"] == true));
    }

    #[test]
    fn only_users_endpoints_of_a_service_without_a_selector_are_mirrored() {
        let service = json!({"spec": {}});
        assert!(is_mirrored(&endpoints(), Some(&service)));
        assert!(!is_mirrored(&endpoints(), None));
        let selects = json!({"spec": {"selector": {"app": "db"}}});
        assert!(!is_mirrored(&endpoints(), Some(&selects)));
        for (path, key, value) in [("labels", SKIP, "true"), ("annotations", LEADER, "{}")] {
            let mut other = endpoints();
            other["metadata"][path][key] = value.into();
            assert!(!is_mirrored(&other, Some(&service)), "{key}");
        }
    }
}

//! Endpoints by Service, from EndpointSlices.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bulkhead_client::{Change, Told, object};
use serde_json::Value;

use crate::upstream::Target;

/// The label that says whose endpoints a slice has.
const SERVICE: &str = "kubernetes.io/service-name";

/// Every slice, by the Service that it is of.
#[derive(Debug, Default)]
pub(crate) struct Slices {
    of: HashMap<String, BTreeMap<String, Arc<Value>>>,
    /// The Service that each is of.
    owner: HashMap<String, String>,
}

impl Slices {
    /// Takes what changed; the Services whose endpoints it may have changed.
    pub(crate) fn take(&mut self, told: Told) -> BTreeSet<String> {
        match told {
            Told::All(slices) => {
                let mut changed: BTreeSet<String> = self.of.drain().map(|(key, _)| key).collect();
                self.owner.clear();
                for slice in slices {
                    self.put(slice, &mut changed);
                }
                changed
            }
            Told::One(Change::Present(slice)) => {
                let mut changed = BTreeSet::new();
                self.remove(&slice, &mut changed);
                self.put(slice, &mut changed);
                changed
            }
            Told::One(Change::Gone(slice)) => {
                let mut changed = BTreeSet::new();
                self.remove(&slice, &mut changed);
                changed
            }
        }
    }

    fn put(&mut self, slice: Arc<Value>, changed: &mut BTreeSet<String>) {
        let Some(service) = slice["metadata"]["labels"][SERVICE].as_str() else { return };
        let service = object::key_of(object::namespace(&slice), service);
        changed.insert(service.clone());
        self.owner.insert(object::key(&slice), service.clone());
        self.of.entry(service).or_default().insert(object::key(&slice), slice);
    }

    fn remove(&mut self, slice: &Value, changed: &mut BTreeSet<String>) {
        let key = object::key(slice);
        let Some(service) = self.owner.remove(&key) else { return };
        if let Some(slices) = self.of.get_mut(&service) {
            slices.remove(&key);
            if slices.is_empty() {
                self.of.remove(&service);
            }
        }
        changed.insert(service);
    }

    /// Where a Service's port of this name leads: endpoints that are ready; where none is, those that
    /// are ending and serve yet, as kube-proxy has it.
    pub(crate) fn targets(&self, service: &str, port: &str) -> Vec<Target> {
        let (mut ready, mut ending) = (BTreeSet::new(), BTreeSet::new());
        for slice in self.of.get(service).into_iter().flat_map(BTreeMap::values) {
            let named = |one: &&Value| {
                object::text(one, "name") == port
                    && matches!(one["protocol"].as_str(), None | Some("TCP"))
            };
            let port = object::list(slice, "ports").iter().find(named);
            let number = port.and_then(|port| port["port"].as_u64()?.try_into().ok());
            let Some(number) = number.filter(|_| slice["addressType"] == "IPv4") else { continue };
            for endpoint in object::list(slice, "endpoints") {
                let condition = |name: &str| endpoint["conditions"][name].as_bool();
                let into = if condition("ready").unwrap_or(true) {
                    &mut ready
                } else if condition("serving") == Some(true)
                    && condition("terminating") == Some(true)
                {
                    &mut ending
                } else {
                    continue;
                };
                // All addresses of one endpoint lead to the same.
                let first = object::list(endpoint, "addresses").first().and_then(Value::as_str);
                if let Some(address) = first.and_then(|first| first.parse::<Ipv4Addr>().ok()) {
                    let address = SocketAddr::new(IpAddr::V4(address), number);
                    let uid = object::text(endpoint, "targetRef.uid").to_owned();
                    into.insert(Target { address, uid });
                }
            }
        }
        if ready.is_empty() { ending } else { ready }.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(name: &str, endpoints: &[(&str, Value)]) -> Arc<Value> {
        let endpoint = |(address, conditions): &(&str, Value)| json!({"addresses": [address], "conditions": conditions, "targetRef": {"uid": address}});
        Arc::new(json!({
            "metadata": {"namespace": "d", "name": name, "labels": {SERVICE: "web"}},
            "addressType": "IPv4",
            "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }))
    }

    fn addresses(slices: &Slices) -> Vec<String> {
        let targets = slices.targets("d/web", "http").into_iter();
        targets.map(|target| target.address.to_string()).collect()
    }

    #[test]
    fn those_that_are_ready_count_and_else_those_that_serve_yet() {
        let ending = json!({"ready": false, "serving": true, "terminating": true});
        let mut slices = Slices::default();
        let one = slice("a", &[("10.0.0.1", json!({})), ("10.0.0.2", ending.clone())]);
        assert_eq!(slices.take(Told::All(vec![one])), ["d/web".to_owned()].into());
        assert_eq!(addresses(&slices), ["10.0.0.1:8080"]);
        assert!(slices.targets("d/web", "other").is_empty());
        let one = slice("a", &[("10.0.0.1", json!({"ready": false})), ("10.0.0.2", ending)]);
        slices.take(Told::One(Change::Present(one)));
        assert_eq!(addresses(&slices), ["10.0.0.2:8080"]);
        let two = slice("b", &[("10.0.0.3", json!({"ready": true}))]);
        slices.take(Told::One(Change::Present(Arc::clone(&two))));
        assert_eq!(addresses(&slices), ["10.0.0.3:8080"]);
        let changed = slices.take(Told::One(Change::Gone(two)));
        assert_eq!(changed, ["d/web".to_owned()].into());
        assert_eq!(addresses(&slices), ["10.0.0.2:8080"]);
        assert_eq!(slices.take(Told::All(Vec::new())), changed);
        assert!(addresses(&slices).is_empty());
    }
}

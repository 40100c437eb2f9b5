//! A pod as an endpoint of a Service: where it is reached, on which ports, and in what state.

use bulkhead_client::object::{self, list, text};
use serde_json::{Value, json};

use crate::pods;

/// A pod of a Service.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Endpoint {
    pub(super) address: String,
    /// The ports of the Service that it has, as slices write them.
    pub(super) ports: Vec<Value>,
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
    pub(super) hostname: Option<String>,
    pub(super) node: Option<String>,
    pub(super) zone: Option<String>,
    /// The reference to the pod.
    pub(super) target: Value,
}

impl Endpoint {
    /// The endpoint that `pod` is of `service`; `None` if it has ended, or has no address yet.
    /// `zone` tells the zone of a node.
    pub(super) fn of(
        service: &Value,
        pod: &Value,
        zone: impl Fn(&str) -> Option<String>,
    ) -> Option<Self> {
        let address = text(pod, "status.podIP");
        if address.is_empty() || pods::has_ended(pod) {
            return None;
        }
        let (serving, terminating) = (pods::is_ready(pod), object::is_terminating(pod));
        let any = service["spec"]["publishNotReadyAddresses"] == true;
        let hostname = text(pod, "spec.hostname");
        let named = !hostname.is_empty() && text(pod, "spec.subdomain") == object::name(service);
        let node = Some(text(pod, "spec.nodeName")).filter(|node| !node.is_empty());
        Some(Self {
            address: address.to_owned(),
            ports: ports(service, pod),
            ready: any || (serving && !terminating),
            serving,
            terminating,
            hostname: named.then(|| hostname.to_owned()),
            node: node.map(str::to_owned),
            zone: node.and_then(zone),
            target: json!({
                "kind": "Pod",
                "namespace": pod["metadata"]["namespace"],
                "name": pod["metadata"]["name"],
                "uid": pod["metadata"]["uid"],
            }),
        })
    }

    /// It, as an EndpointSlice writes it.
    pub(super) fn in_slice(&self) -> Value {
        let mut endpoint = json!({
            "addresses": [self.address],
            "conditions": {
                "ready": self.ready, "serving": self.serving, "terminating": self.terminating,
            },
            "targetRef": self.target,
        });
        for (field, value) in
            [("hostname", &self.hostname), ("nodeName", &self.node), ("zone", &self.zone)]
        {
            if let Some(value) = value {
                endpoint[field] = value.as_str().into();
            }
        }
        endpoint
    }

    /// It, as Endpoints write it.
    pub(super) fn in_subset(&self) -> Value {
        let mut address = json!({"ip": self.address, "targetRef": self.target});
        for (field, value) in [("hostname", &self.hostname), ("nodeName", &self.node)] {
            if let Some(value) = value {
                address[field] = value.as_str().into();
            }
        }
        address
    }
}

/// The ports on which a pod serves those of a Service. A name that no container has is no port.
fn ports(service: &Value, pod: &Value) -> Vec<Value> {
    let resolve = |port: &Value| {
        let number = match &port["targetPort"] {
            Value::String(name) => named(pod, name, &port["protocol"])?,
            Value::Number(number) => number.as_i64()?,
            _ => port["port"].as_i64()?,
        };
        let mut resolved = json!({
            "name": text(port, "name"), "port": number, "protocol": port["protocol"],
        });
        if let Some(protocol) = port["appProtocol"].as_str() {
            resolved["appProtocol"] = protocol.into();
        }
        Some(resolved)
    };
    list(service, "spec.ports").iter().filter_map(resolve).collect()
}

fn named(pod: &Value, name: &str, protocol: &Value) -> Option<i64> {
    let sidecars = list(pod, "spec.initContainers").iter();
    let sidecars = sidecars.filter(|container| container["restartPolicy"] == "Always");
    let containers = list(pod, "spec.containers").iter().chain(sidecars);
    let ports = containers.flat_map(|container| list(container, "ports"));
    let mut found = ports.filter(|port| port["name"] == name && port["protocol"] == *protocol);
    found.find_map(|port| port["containerPort"].as_i64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: &Value) -> Value {
        json!({"metadata": {"name": "web", "namespace": "d"}, "spec": spec})
    }

    fn pod(ready: &str) -> Value {
        let ports = json!([{"name": "http", "containerPort": 8080, "protocol": "TCP"}]);
        json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {
                "nodeName": "n", "hostname": "p", "subdomain": "web",
                "containers": [{"name": "c", "ports": ports}],
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1",
                "conditions": [{"type": "Ready", "status": ready}],
            },
        })
    }

    fn of(service: &Value, pod: &Value) -> Option<Endpoint> {
        Endpoint::of(service, pod, |node| (node == "n").then(|| "z".into()))
    }

    #[test]
    fn a_pod_is_an_endpoint_by_its_state() {
        let web = service(&json!({"ports": []}));
        let conditions = |service: &Value, pod: &Value| {
            let endpoint = of(service, pod).unwrap();
            (endpoint.ready, endpoint.serving, endpoint.terminating)
        };
        assert_eq!(conditions(&web, &pod("True")), (true, true, false));
        assert_eq!(conditions(&web, &pod("False")), (false, false, false));
        let mut going = pod("True");
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(conditions(&web, &going), (false, true, true));
        let any = service(&json!({"ports": [], "publishNotReadyAddresses": true}));
        assert_eq!(conditions(&any, &pod("False")), (true, false, false));
        let mut ended = pod("False");
        ended["status"]["phase"] = "Failed".into();
        assert_eq!(of(&web, &ended), None);
        let mut new = pod("False");
        new["status"]["podIP"] = Value::Null;
        assert_eq!(of(&web, &new), None);
        let written = of(&web, &pod("True")).unwrap().in_slice();
        let place = json!({"hostname": "p", "nodeName": "n", "zone": "z"});
        for (field, value) in place.as_object().unwrap() {
            assert_eq!(written[field], *value);
        }
        let mut other = web;
        other["metadata"]["name"] = "other".into();
        assert_eq!(of(&other, &pod("True")).unwrap().hostname, None);
    }

    #[test]
    fn ports_are_found_by_number_and_by_name() {
        let port = |name: &str, target: Value| json!({"name": name, "port": 80, "targetPort": target, "protocol": "TCP"});
        let web = service(&json!({"ports": [
            port("number", json!(9090)), port("name", json!("http")), port("none", json!("other")),
        ]}));
        let found = of(&web, &pod("True")).unwrap().ports;
        assert_eq!(
            found,
            [
                json!({"name": "number", "port": 9090, "protocol": "TCP"}),
                json!({"name": "name", "port": 8080, "protocol": "TCP"}),
            ]
        );
    }
}

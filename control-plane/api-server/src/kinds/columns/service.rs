//! Columns of Services and of where their pods are.

use bulkhead_client::Selector;
use serde_json::Value;

use super::{AGE, NAME, column, or_none, wide};
use crate::kinds::service;
use crate::object::{list, text};
use crate::resource::Column;

/// So many addresses are shown of Endpoints and slices.
const SHOWN: usize = 3;

pub(in crate::kinds) const SERVICE: &[Column] = &[
    NAME,
    column("Type", |service| service::kind(service).into()),
    column("Cluster-IP", |service| {
        let address = list(service, "spec.clusterIPs").first().and_then(Value::as_str);
        or_none(address.unwrap_or_default().into()).into()
    }),
    column("External-IP", |service| external(service).into()),
    column("Port(s)", |service| {
        let ports = list(service, "spec.ports").iter().map(|port| {
            let (number, protocol) = (&port["port"], text(port, "protocol"));
            match port["nodePort"].as_i64() {
                Some(node_port) => format!("{number}:{node_port}/{protocol}"),
                None => format!("{number}/{protocol}"),
            }
        });
        or_none(ports.collect::<Vec<_>>().join(",")).into()
    }),
    AGE,
    wide("Selector", |service| {
        or_none(Selector::of_labels(&service["spec"]["selector"]).to_string()).into()
    }),
];

pub(in crate::kinds) const ENDPOINTS: &[Column] = &[
    NAME,
    column("Endpoints", |endpoints| {
        let mut shown = Shown::default();
        for subset in list(endpoints, "subsets") {
            let ports = list(subset, "ports");
            for address in list(subset, "addresses") {
                let ip = text(address, "ip");
                if ports.is_empty() {
                    shown.add(ip.into());
                }
                for port in ports {
                    shown.add(format!("{ip}:{}", port["port"]));
                }
            }
        }
        shown.or("<none>").into()
    }),
    AGE,
];

pub(in crate::kinds) const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    column("AddressType", |slice| text(slice, "addressType").into()),
    column("Ports", |slice| {
        let mut shown = Shown::default();
        for port in list(slice, "ports") {
            shown.add(port["port"].as_i64().map_or_else(|| "*".into(), |port| port.to_string()));
        }
        shown.or("<unset>").into()
    }),
    column("Endpoints", |slice| {
        let mut shown = Shown::default();
        for endpoint in list(slice, "endpoints") {
            for address in list(endpoint, "addresses") {
                shown.add(address.as_str().unwrap_or_default().into());
            }
        }
        shown.or("<unset>").into()
    }),
    AGE,
];

/// The first of many.
#[derive(Default)]
struct Shown {
    first: Vec<String>,
    more: usize,
}

impl Shown {
    fn add(&mut self, one: String) {
        if self.first.len() < SHOWN {
            self.first.push(one);
        } else {
            self.more += 1;
        }
    }

    /// The list, or `none` if it is empty.
    fn or(self, none: &str) -> String {
        match (self.first.is_empty(), self.more) {
            (true, _) => none.into(),
            (false, 0) => self.first.join(","),
            (false, more) => format!("{} + {more} more...", self.first.join(",")),
        }
    }
}

fn external(service: &Value) -> String {
    let mut all: Vec<&str> = Vec::new();
    match service::kind(service) {
        "ExternalName" => return or_none(text(service, "spec.externalName").into()),
        "LoadBalancer" => {
            for ingress in list(service, "status.loadBalancer.ingress") {
                let (ip, host) = (text(ingress, "ip"), text(ingress, "hostname"));
                all.push(if ip.is_empty() { host } else { ip });
            }
        }
        _ => {}
    }
    let is_balanced = service::kind(service) == "LoadBalancer";
    all.extend(list(service, "spec.externalIPs").iter().filter_map(Value::as_str));
    match (all.is_empty(), is_balanced) {
        (true, true) => "<pending>".into(),
        _ => or_none(all.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(columns: &[Column], object: &Value) -> Vec<String> {
        let cell = |column: &Column| match (column.cell)(object) {
            Value::String(text) => text,
            other => other.to_string(),
        };
        columns.iter().filter(|one| one.name != "Age").map(cell).collect()
    }

    #[test]
    fn services() {
        let service = |spec: Value| json!({"metadata": {"name": "s"}, "spec": spec});
        let plain = service(json!({"clusterIPs": ["10.96.0.9"], "selector": {"a": "b"},
            "ports": [{"port": 80, "nodePort": 30_080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}));
        let expected = ["s", "ClusterIP", "10.96.0.9", "<none>", "80:30080/TCP,53/UDP", "a=b"];
        assert_eq!(row(SERVICE, &plain), expected);
        let balanced = service(json!({"type": "LoadBalancer", "clusterIPs": ["None"]}));
        let expected = ["s", "LoadBalancer", "None", "<pending>", "<none>", "<none>"];
        assert_eq!(row(SERVICE, &balanced), expected);
        let named = service(json!({"type": "ExternalName", "externalName": "example.com"}));
        let expected = ["s", "ExternalName", "<none>", "example.com", "<none>", "<none>"];
        assert_eq!(row(SERVICE, &named), expected);
    }

    #[test]
    fn endpoints() {
        let addresses: Vec<_> = (1..=5).map(|n| json!({"ip": format!("10.0.0.{n}")})).collect();
        let endpoints = json!({"metadata": {"name": "e"},
            "subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
        let expected = ["e", "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more..."];
        assert_eq!(row(ENDPOINTS, &endpoints), expected);
        let slice = json!({"metadata": {"name": "e"}, "addressType": "IPv4"});
        assert_eq!(row(ENDPOINT_SLICE, &slice), ["e", "IPv4", "<unset>", "<unset>"]);
    }
}

//! The Endpoints of a Service: what EndpointSlices replaced, kept for clients that read them yet.

use std::collections::BTreeMap;

use bulkhead_client::object;
use serde_json::{Value, json};

use super::pod::Endpoint;
use super::slices::HEADLESS;

/// Endpoints hold at most so many addresses.
const FULL: usize = 1000;
/// The annotation of those that have more.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// The label that says who keeps them.
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");

/// The Endpoints of `service`, of which `endpoints` are in the order of their addresses; `before` are
/// those that are there.
pub(super) fn endpoints(service: &Value, endpoints: &[Endpoint], before: &Value) -> Value {
    let any = service["spec"]["publishNotReadyAddresses"] == true;
    let shown: Vec<&Endpoint> = endpoints.iter().filter(|one| any || !one.terminating).collect();
    // Ready ones come first where not all fit.
    let (ready, not_ready): (Vec<&Endpoint>, Vec<_>) =
        shown.iter().partition(|one| any || one.serving);
    let mut subsets: BTreeMap<String, Value> = BTreeMap::new();
    let lists = [("addresses", ready), ("notReadyAddresses", not_ready)];
    let all = lists.iter().flat_map(|(list, some)| some.iter().map(move |one| (*list, *one)));
    for (list, endpoint) in all.take(FULL) {
        let ports = Value::from(endpoint.ports.clone());
        let subset =
            subsets.entry(ports.to_string()).or_insert_with(|| match endpoint.ports.len() {
                0 => json!({}),
                _ => json!({"ports": endpoint.ports.iter().map(port).collect::<Vec<_>>()}),
            });
        match subset[list].as_array_mut() {
            Some(addresses) => addresses.push(endpoint.in_subset()),
            None => subset[list] = json!([endpoint.in_subset()]),
        }
    }
    let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
    labels.remove(HEADLESS);
    if service["spec"]["clusterIP"] == "None" {
        labels.insert(HEADLESS.into(), "".into());
    }
    let mut wanted = if before.is_null() {
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {
            "name": object::name(service), "namespace": service["metadata"]["namespace"],
        }})
    } else {
        before.clone()
    };
    wanted["metadata"]["labels"] = labels.into();
    if shown.len() > FULL {
        wanted["metadata"]["annotations"][OVER_CAPACITY] = "truncated".into();
    } else if let Some(known) = wanted["metadata"]["annotations"].as_object_mut() {
        known.remove(OVER_CAPACITY);
    }
    let subsets: Vec<Value> = subsets.into_values().collect();
    if subsets.is_empty() {
        wanted.as_object_mut().map(|fields| fields.remove("subsets"));
    } else {
        wanted["subsets"] = subsets.into();
    }
    wanted
}

/// Whether Endpoints are kept by this controller.
pub(super) fn is_managed(endpoints: &Value) -> bool {
    endpoints["metadata"]["labels"][MANAGED_BY.0] == MANAGED_BY.1
}

/// A port, whose name is left out if it is empty.
fn port(port: &Value) -> Value {
    let mut port = port.clone();
    if port["name"] == ""
        && let Some(fields) = port.as_object_mut()
    {
        fields.remove("name");
    }
    port
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: usize, serving: bool) -> Endpoint {
        Endpoint {
            address: format!("10.0.{}.{}", address / 250, address % 250),
            ports: vec![json!({"name": "", "port": 80, "protocol": "TCP"})],
            ready: serving,
            serving,
            terminating: false,
            hostname: None,
            node: Some("n".into()),
            zone: None,
            target: json!({"kind": "Pod", "uid": address.to_string()}),
        }
    }

    #[test]
    fn subsets_tell_ready_from_not_ready() {
        let service =
            json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {"clusterIP": "None"}});
        let mut going = endpoint(3, true);
        going.terminating = true;
        let all = [endpoint(1, true), endpoint(2, false), going];
        let made = endpoints(&service, &all, &Value::Null);
        let subset = &made["subsets"][0];
        assert_eq!(subset["addresses"].as_array().unwrap().len(), 1);
        assert_eq!(subset["notReadyAddresses"][0]["ip"], "10.0.0.2");
        assert_eq!(subset["ports"], json!([{"port": 80, "protocol": "TCP"}]));
        let labels = json!({MANAGED_BY.0: MANAGED_BY.1, HEADLESS: ""});
        assert_eq!(made["metadata"]["labels"], labels);
        assert_eq!(endpoints(&service, &all, &made), made);
        let mut any = service;
        any["spec"]["publishNotReadyAddresses"] = true.into();
        let made = endpoints(&any, &all, &Value::Null);
        assert_eq!(made["subsets"][0]["addresses"].as_array().unwrap().len(), 3);
        assert_eq!(endpoints(&any, &[], &made).get("subsets"), None);
    }

    #[test]
    fn what_is_too_much_is_left_out_and_said() {
        let service = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {}});
        let many: Vec<_> = (0..1001).map(|address| endpoint(address, address > 0)).collect();
        let made = endpoints(&service, &many, &Value::Null);
        assert_eq!(made["subsets"][0]["addresses"].as_array().unwrap().len(), FULL);
        assert_eq!(made["subsets"][0].get("notReadyAddresses"), None);
        assert_eq!(made["metadata"]["annotations"][OVER_CAPACITY], "truncated");
        let fewer = endpoints(&service, &many[..10], &made);
        assert_eq!(fewer["metadata"]["annotations"], json!({}));
    }
}

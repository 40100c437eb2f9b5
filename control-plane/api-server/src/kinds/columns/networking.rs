//! Columns of the group `networking.k8s.io`.

use bulkhead_client::Selector;
use serde_json::Value;

use super::{AGE, NAME, column, or_none};
use crate::object::{list, text};
use crate::resource::Column;

pub(in crate::kinds) const NETWORK_POLICY: &[Column] = &[
    NAME,
    column("Pod-Selector", |policy| {
        let selector = Selector::read(&policy["spec"]["podSelector"]).unwrap_or_default();
        or_none(selector.to_string()).into()
    }),
    AGE,
];

pub(in crate::kinds) const INGRESS: &[Column] = &[
    NAME,
    column("Class", |ingress| or_none(text(ingress, "spec.ingressClassName").into()).into()),
    column("Hosts", |ingress| hosts(ingress).into()),
    column("Address", |ingress| {
        let ingresses = list(ingress, "status.loadBalancer.ingress").iter();
        let addresses = ingresses.map(|one| match text(one, "ip") {
            "" => text(one, "hostname"),
            ip => ip,
        });
        addresses.collect::<Vec<_>>().join(",").into()
    }),
    column("Ports", |ingress| {
        if list(ingress, "spec.tls").is_empty() { "80".into() } else { "80, 443".into() }
    }),
    AGE,
];

pub(in crate::kinds) const INGRESS_CLASS: &[Column] = &[
    NAME,
    column("Controller", |class| text(class, "spec.controller").into()),
    column("Parameters", |class| {
        let parameters = &class["spec"]["parameters"];
        let (group, kind) = (text(parameters, "apiGroup"), text(parameters, "kind"));
        match (kind, group) {
            ("", _) => "<none>".into(),
            (kind, "") => format!("{kind}/{}", text(parameters, "name")).into(),
            (kind, group) => format!("{kind}.{group}/{}", text(parameters, "name")).into(),
        }
    }),
    AGE,
];

pub(in crate::kinds) const IP_ADDRESS: &[Column] = &[
    NAME,
    column("ParentRef", |address| {
        let parent = &address["spec"]["parentRef"];
        let parts = ["group", "resource", "namespace", "name"].map(|field| text(parent, field));
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/").into()
    }),
    AGE,
];

pub(in crate::kinds) const SERVICE_CIDR: &[Column] = &[
    NAME,
    column("CIDRs", |range| {
        let all: Vec<_> = list(range, "spec.cidrs").iter().filter_map(Value::as_str).collect();
        all.join(",").into()
    }),
    AGE,
];

/// The hosts of an Ingress; of more than three, the first.
fn hosts(ingress: &Value) -> String {
    let rules = list(ingress, "spec.rules").iter();
    let hosts: Vec<&str> =
        rules.map(|rule| text(rule, "host")).filter(|host| !host.is_empty()).collect();
    match hosts.len() {
        0 => "*".into(),
        1..=3 => hosts.join(","),
        many => format!("{} + {} more...", hosts[..3].join(","), many - 3),
    }
}

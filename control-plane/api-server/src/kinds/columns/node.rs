//! Columns of nodes.

use serde_json::Value;

use super::{AGE, NAME, column, or_none, or_unknown, wide};
use crate::object::{list, text};
use crate::resource::Column;

pub(in crate::kinds) const NODE: &[Column] = &[
    NAME,
    column("Status", |node| node_status(node).into()),
    column("Roles", |node| or_none(node_roles(node)).into()),
    AGE,
    column("Version", |node| text(node, "status.nodeInfo.kubeletVersion").into()),
    wide("Internal-IP", |node| or_none(address(node, "InternalIP")).into()),
    wide("External-IP", |node| or_none(address(node, "ExternalIP")).into()),
    wide("OS-Image", |node| or_unknown(text(node, "status.nodeInfo.osImage")).into()),
    wide("Kernel-Version", |node| or_unknown(text(node, "status.nodeInfo.kernelVersion")).into()),
    wide("Container-Runtime", |node| {
        or_unknown(text(node, "status.nodeInfo.containerRuntimeVersion")).into()
    }),
];

fn address(node: &Value, kind: &str) -> String {
    let addresses = list(node, "status.addresses");
    let found = addresses.iter().find(|address| address["type"] == kind);
    found.map_or("", |address| text(address, "address")).into()
}

fn node_status(node: &Value) -> String {
    let conditions = list(node, "status.conditions");
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
    let ready = match ready.map(|ready| text(ready, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = node["spec"]["unschedulable"] == true;
    format!("{ready}{}", if cordoned { ",SchedulingDisabled" } else { "" })
}

fn node_roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object();
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.join(",")
}

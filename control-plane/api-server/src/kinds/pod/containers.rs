//! What one container of a pod says: its environment, ports and resources.

use std::collections::HashSet;

use bulkhead_client::Quantity;
use serde_json::{Value, json};

use super::super::quota;
use super::{one_of, volumes};
use crate::names::{self, NameRule};
use crate::object::{list, text};
use crate::status::Cause;

const PORT: &str = "must be between 1 and 65535, inclusive";
/// Where a variable's value can come from.
const SOURCES: &[&str] =
    &["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
/// The fields of a pod that a variable can have, beside single labels and annotations.
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// The resources of a container that a variable can have.
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
/// What of a resource without a domain a container can ask for, beside huge pages.
const STANDARD: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const HUGE_PAGES: &str = "hugepages-";
const TWICE: &str = "may not have more than one field specified at a time";

/// Reports what is wrong with the container at `path`, in what all kinds of containers share.
pub(super) fn validate(
    container: &Value,
    path: &str,
    volumes: &HashSet<&str>,
    causes: &mut Vec<Cause>,
) {
    if text(container, "image").trim().is_empty() {
        causes.push(Cause::required(format!("{path}.image")));
    }
    one_of(container, path, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], causes);
    one_of(container, path, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], causes);
    ports(container, path, causes);
    env(container, path, causes);
    env_from(container, path, causes);
    volumes::validate_mounts(container, path, volumes, causes);
    resources(&container["resources"], &format!("{path}.resources"), causes);
}

fn ports(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    let mut names = HashSet::new();
    for (index, port) in list(container, "ports").iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        let name = text(port, "name");
        if !name.is_empty() {
            let at = format!("{path}.name");
            match names::port_name_violation(name) {
                Some(why) => causes.push(Cause::invalid(at, &port["name"], why)),
                None if !names.insert(name) => causes.push(Cause::duplicate(at, &port["name"])),
                None => {}
            }
        }
        let number = &port["containerPort"];
        if !matches!(number.as_u64(), Some(1..=65535)) {
            causes.push(Cause::invalid(format!("{path}.containerPort"), number, PORT));
        }
        let host = &port["hostPort"];
        if !host.is_null() && !matches!(host.as_u64(), Some(0..=65535)) {
            causes.push(Cause::invalid(format!("{path}.hostPort"), host, PORT));
        }
        one_of(port, &path, "protocol", &["TCP", "UDP", "SCTP"], causes);
    }
}

/// The ports of the node that `container` takes, as they conflict with each other, and where it
/// says so.
pub(super) fn host_ports(container: &Value) -> impl Iterator<Item = (usize, u64, String)> {
    list(container, "ports").iter().enumerate().filter_map(|(index, port)| {
        let number = port["hostPort"].as_u64().filter(|number| *number > 0)?;
        let (protocol, address) = (text(port, "protocol"), text(port, "hostIP"));
        Some((index, number, format!("{protocol}/{address}/{number}")))
    })
}

fn env(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (index, variable) in list(container, "env").iter().enumerate() {
        let path = format!("{path}.env[{index}]");
        match text(variable, "name") {
            "" => causes.push(Cause::required(format!("{path}.name"))),
            _ => variable_name(variable, "name", &path, causes),
        }
        let from = &variable["valueFrom"];
        if from.is_null() {
            continue;
        }
        let path = format!("{path}.valueFrom");
        let said = SOURCES.iter().filter(|source| !from[**source].is_null()).count();
        let why = match said {
            0 => Some(
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ),
            _ if !text(variable, "value").is_empty() => {
                Some("may not be specified when `value` is not empty")
            }
            1 => None,
            _ => Some(TWICE),
        };
        if let Some(why) = why {
            causes.push(Cause::invalid(&path, &json!(""), why));
        }
        reference(from, &path, causes);
    }
}

/// Reports a name of a variable, or its beginning, that cannot be one.
fn variable_name(object: &Value, field: &str, path: &str, causes: &mut Vec<Cause>) {
    let name = text(object, field);
    if name.contains('=') || !name.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        let why = "a valid environment variable name must consist only of printable ASCII characters other than '='";
        causes.push(Cause::invalid(format!("{path}.{field}"), &object[field], why));
    }
}

fn reference(from: &Value, path: &str, causes: &mut Vec<Cause>) {
    for source in ["configMapKeyRef", "secretKeyRef"] {
        if from[source].is_object() {
            let path = format!("{path}.{source}");
            if let Some(why) = NameRule::Subdomain.violation(text(&from[source], "name")) {
                causes.push(Cause::invalid(format!("{path}.name"), &from[source]["name"], why));
            }
            volumes::key(&from[source], &path, causes);
        }
    }
    let field = &from["fieldRef"];
    if field.is_object() {
        let (at, of) = (format!("{path}.fieldRef.fieldPath"), text(field, "fieldPath"));
        let is_one = ["metadata.labels['", "metadata.annotations['"].iter().any(|map| {
            let key = of.strip_prefix(map).and_then(|rest| rest.strip_suffix("']"));
            key.is_some_and(|key| names::is_qualified(&key.to_lowercase()))
        });
        if of.is_empty() {
            causes.push(Cause::required(at));
        } else if !is_one && !FIELDS.contains(&of) {
            causes.push(Cause::not_supported(at, &field["fieldPath"], FIELDS));
        }
    }
    let resource = &from["resourceFieldRef"];
    if resource.is_object() {
        let (at, of) = (format!("{path}.resourceFieldRef.resource"), text(resource, "resource"));
        let kind = of.strip_prefix("limits.").or_else(|| of.strip_prefix("requests."));
        let is_huge = kind.is_some_and(|kind| kind.starts_with(HUGE_PAGES));
        if of.is_empty() {
            causes.push(Cause::required(at));
        } else if !is_huge && !RESOURCES.contains(&of) {
            causes.push(Cause::not_supported(at, &resource["resource"], RESOURCES));
        }
    }
}

fn env_from(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (index, source) in list(container, "envFrom").iter().enumerate() {
        let all = format!("{path}.envFrom");
        let path = format!("{all}[{index}]");
        variable_name(source, "prefix", &path, causes);
        let refs = ["configMapRef", "secretRef"];
        match refs.iter().filter(|one| !source[**one].is_null()).count() {
            0 => {
                let why = "must specify one of: `configMapRef` or `secretRef`";
                causes.push(Cause::invalid(&all, &json!(""), why));
            }
            1 => {}
            _ => causes.push(Cause::invalid(&all, &json!(""), TWICE)),
        }
        for one in refs {
            if source[one].is_object() && text(&source[one], "name").is_empty() {
                causes.push(Cause::required(format!("{path}.{one}.name")));
            }
        }
    }
}

/// Whether more of a resource may be promised than there is: not of huge pages, nor of what nodes
/// offer beyond Kubernetes' own.
fn may_overcommit(name: &str) -> bool {
    (!name.contains('/') || name.contains("kubernetes.io/")) && !name.starts_with(HUGE_PAGES)
}

fn resources(resources: &Value, path: &str, causes: &mut Vec<Cause>) {
    for list in ["limits", "requests"] {
        let at = format!("{path}.{list}");
        quota::amounts(&resources[list], &at, causes);
        for (name, _) in resources[list].as_object().into_iter().flatten() {
            let is_standard = STANDARD.contains(&name.as_str()) || name.starts_with(HUGE_PAGES);
            if !name.contains('/') && !is_standard {
                let why = "must be a standard resource for containers";
                causes.push(Cause::invalid(format!("{at}[{name}]"), &json!(name), why));
            }
        }
    }
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let limit = &resources["limits"][name];
        if limit.is_null() {
            if !may_overcommit(name) {
                let why = "Limit must be set for non overcommitable resources";
                causes.push(Cause::missing(format!("{path}.limits"), why));
            }
            continue;
        }
        let (Ok(requested), Ok(most)) = (Quantity::from_json(request), Quantity::from_json(limit))
        else {
            continue;
        };
        let relation = match may_overcommit(name) {
            false if requested != most => "equal to",
            true if requested > most => "less than or equal to",
            _ => continue,
        };
        let shown = limit.as_str().map_or_else(|| limit.to_string(), Into::into);
        let why = format!("must be {relation} {name} limit of {shown}");
        causes.push(Cause::invalid(format!("{path}.requests"), request, &why));
    }
}

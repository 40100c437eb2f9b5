//! The downward API: what variables and volumes may say of their own pod
//! (<https://kubernetes.io/docs/concepts/workloads/pods/downward-api/>).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::{Pod, Quantity, pod::Container, volume::ResourceFieldRef};

/// What is not in the pod's object.
#[derive(Debug, Clone, Copy, Default)]
pub struct Surroundings {
    /// The pod's address.
    pub pod_ip: Option<Ipv4Addr>,
    /// Its node's address.
    pub node_ip: Option<Ipv4Addr>,
    /// Processors that pods may use: a limit that is not set.
    pub cpus: u32,
    /// Bytes of memory that pods may use: likewise.
    pub memory: u64,
}

/// The value of a `fieldRef`'s path in a variable; `None` when no such field is known.
#[must_use]
pub fn field(pod: &Pod, path: &str, around: Surroundings) -> Option<String> {
    let address = |ip: Option<Ipv4Addr>| Some(ip.map(|ip| ip.to_string()).unwrap_or_default());
    let keyed = |map: &BTreeMap<String, String>, prefix: &str| {
        let key = path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']")?;
        Some(map.get(key).cloned().unwrap_or_default())
    };
    match path {
        "metadata.name" => Some(pod.metadata.name.clone()),
        "metadata.namespace" => Some(pod.metadata.namespace.clone()),
        "metadata.uid" => Some(pod.metadata.uid.clone()),
        "spec.nodeName" => Some(pod.spec.node_name.clone().unwrap_or_default()),
        "spec.serviceAccountName" => {
            Some(pod.spec.service_account_name.clone().unwrap_or_else(|| String::from("default")))
        }
        "status.podIP" | "status.podIPs" => address(around.pod_ip),
        "status.hostIP" | "status.hostIPs" => address(around.node_ip),
        _ => keyed(&pod.metadata.labels, "metadata.labels")
            .or_else(|| keyed(&pod.metadata.annotations, "metadata.annotations")),
    }
}

/// The value of a `fieldRef`'s path in a volume, which may be a whole map too.
#[must_use]
pub fn file(pod: &Pod, path: &str, around: Surroundings) -> Option<String> {
    match path {
        "metadata.labels" => Some(lines(&pod.metadata.labels)),
        "metadata.annotations" => Some(lines(&pod.metadata.annotations)),
        _ => field(pod, path, around),
    }
}

/// A map as `key="escaped value"` lines.
fn lines(map: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (key, value) in map {
        let separator = if text.is_empty() { "" } else { "\n" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{key}={value:?}");
    }
    text
}

/// The value of a `resourceFieldRef` about `container`, in units of its divisor, rounded up.
///
/// # Errors
/// One line that names the resource or the divisor that is not supported.
pub fn resource(
    container: &Container,
    selector: &ResourceFieldRef,
    around: Surroundings,
) -> Result<String, String> {
    let (map, name, is_limit) = match selector.resource.split_once('.') {
        Some(("limits", name)) => (&container.resources.limits, name, true),
        Some(("requests", name)) => (&container.resources.requests, name, false),
        _ => return Err(format!("resource: {:?} is not supported", selector.resource)),
    };
    let unset = match (name, is_limit) {
        ("cpu", true) => Quantity::units(around.cpus.into()),
        ("memory", true) => Quantity::units(around.memory),
        ("cpu" | "memory" | "ephemeral-storage", _) => Quantity::default(),
        _ => return Err(format!("resource: {:?} is not supported", selector.resource)),
    };
    let given = match map.get(name) {
        Some(value) => Quantity::from_json(value).map_err(|error| error.to_string())?,
        None => unset,
    };
    let divisor = match &selector.divisor {
        Some(value) => Quantity::from_json(value).map_err(|error| format!("divisor: {error}"))?,
        None => Quantity::default(),
    };
    let divisor = if divisor.is_zero() { Quantity::units(1) } else { divisor };
    Ok(given.in_units_of(divisor).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        Pod::parse(&json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u",
                "labels": {"b": "2", "a": "say \"hi\"\n"}},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {
                "limits": {"cpu": "1500m"}, "requests": {"cpu": "250m", "memory": "32Mi"}}}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_map_is_a_file_but_no_variable() {
        let text = file(&pod(), "metadata.labels", Surroundings::default()).unwrap();
        assert_eq!(text, "a=\"say \\\"hi\\\"\\n\"\nb=\"2\"");
        assert_eq!(field(&pod(), "metadata.labels", Surroundings::default()), None);
        assert_eq!(field(&pod(), "spec.x", Surroundings::default()), None);
    }

    #[test]
    fn resources_are_rounded_up_and_limits_default_to_the_nodes() {
        let around = Surroundings { cpus: 2, memory: 64 << 20, ..Surroundings::default() };
        let value = |name: &str, divisor: Option<&str>| {
            let selector = ResourceFieldRef {
                container_name: None,
                resource: name.to_owned(),
                divisor: divisor.map(Into::into),
            };
            resource(&pod().spec.containers[0], &selector, around)
        };
        assert_eq!(value("limits.cpu", None).unwrap(), "2");
        assert_eq!(value("limits.cpu", Some("1m")).unwrap(), "1500");
        assert_eq!(value("requests.cpu", Some("0")).unwrap(), "1");
        assert_eq!(value("requests.memory", Some("1Mi")).unwrap(), "32");
        assert_eq!(value("limits.memory", Some("1Mi")).unwrap(), "64");
        assert_eq!(value("requests.ephemeral-storage", None).unwrap(), "0");
        assert!(value("limits.gpu", None).is_err() && value("cpu", None).is_err());
        assert!(value("limits.cpu", Some("x")).is_err());
    }
}

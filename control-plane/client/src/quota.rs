//! What counts against ResourceQuotas, for admission, which charges what is created, and for the
//! controller, which counts what there is.
//! <https://kubernetes.io/docs/concepts/policy/resource-quotas/>

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::requirement::{Requirement, Test};
use crate::{Quantity, object};

/// Amounts by the names that quotas use (`pods`, `requests.cpu`, `count/jobs.batch`).
pub type Usage = BTreeMap<String, Quantity>;

/// What a quota may limit of pods under a bare name, which means requests.
const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Kinds that were counted by their bare plurals, before `count/` came.
const COUNTED: [&str; 7] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";

/// The resource (group and plural) whose objects use what `name` limits; `None` if no kind does.
#[must_use]
pub fn counted(name: &str) -> Option<(&str, &str)> {
    if let Some(counted) = name.strip_prefix("count/") {
        let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
        return Some((group, plural));
    }
    if let Some(known) = COUNTED.iter().find(|known| **known == name) {
        return Some(("", known));
    }
    match name {
        "services.nodeports" | "services.loadbalancers" => Some(("", "services")),
        "requests.storage" => Some(("", "persistentvolumeclaims")),
        _ if name.contains(OF_CLASS) => Some(("", "persistentvolumeclaims")),
        _ if COMPUTE.contains(&name) || name.starts_with("hugepages-") => Some(("", "pods")),
        _ if name.starts_with("requests.") || name.starts_with("limits.") => Some(("", "pods")),
        _ => None,
    }
}

/// What `object`, of the resource `group` and `plural`, uses, whatever limits it.
#[must_use]
pub fn usage(group: &str, plural: &str, object: &Value) -> Usage {
    let mut usage = Usage::new();
    let one = Quantity::units(1);
    let dot = if group.is_empty() { "" } else { "." };
    usage.insert(format!("count/{plural}{dot}{group}"), one);
    match (group, plural) {
        ("", "pods") if !runs(object) => {}
        ("", "pods") => {
            usage.insert(plural.into(), one);
            of_pod(&object["spec"], &mut usage);
        }
        ("", "services") => {
            usage.insert(plural.into(), one);
            of_service(&object["spec"], &mut usage);
        }
        ("", "persistentvolumeclaims") => {
            usage.insert(plural.into(), one);
            of_claim(object, &mut usage);
        }
        ("", plural) if COUNTED.contains(&plural) => {
            usage.insert(plural.into(), one);
        }
        _ => {}
    }
    usage
}

/// Whether a pod uses resources: one that has ended, or that should be gone by now, does not.
fn runs(pod: &Value) -> bool {
    if matches!(object::text(pod, "status.phase"), "Succeeded" | "Failed") {
        return false;
    }
    let ends = object::parse_time(object::text(pod, "metadata.deletionTimestamp"));
    ends.is_none_or(|ends| OffsetDateTime::now_utc() <= ends)
}

/// What a pod requests, or is limited to, as `list` (`requests`, `limits`) says: its containers and sidecars together, or an init
/// container beside the sidecars before it, whichever is more; what the pod says as a whole goes
/// first; and its overhead.
#[must_use]
pub fn pod_total(spec: &Value, list: &str) -> Usage {
    let (mut running, mut peak) = (Usage::new(), Usage::new());
    for init in object::list(spec, "initContainers") {
        let own = read(&init["resources"][list]);
        if init["restartPolicy"] == "Always" {
            add(&mut running, &own);
        } else {
            let mut beside = running.clone();
            add(&mut beside, &own);
            raise(&mut peak, &beside);
        }
    }
    for container in object::list(spec, "containers") {
        add(&mut running, &read(&container["resources"][list]));
    }
    raise(&mut running, &peak);
    running.extend(read(&spec["resources"][list]));
    let overhead = read(&spec["overhead"]);
    let limited = |name: &String| list == "requests" || running.contains_key(name);
    let overhead = overhead.into_iter().filter(|(name, _)| limited(name)).collect();
    add(&mut running, &overhead);
    running
}

fn of_pod(spec: &Value, usage: &mut Usage) {
    for (name, amount) in pod_total(spec, "requests") {
        if COMPUTE.contains(&name.as_str()) || name.starts_with("hugepages-") {
            usage.insert(name.clone(), amount);
        }
        usage.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in pod_total(spec, "limits") {
        usage.insert(format!("limits.{name}"), amount);
    }
}

fn of_service(spec: &Value, usage: &mut Usage) {
    let kind = object::text(spec, "type");
    let ports = object::list(spec, "ports").len();
    let opens = match kind {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    };
    if opens {
        let ports = Quantity::units(u64::try_from(ports).unwrap_or(u64::MAX));
        usage.insert("services.nodeports".into(), ports);
    }
    if kind == "LoadBalancer" {
        usage.insert("services.loadbalancers".into(), Quantity::units(1));
    }
}

fn of_claim(claim: &Value, usage: &mut Usage) {
    let requested = Quantity::from_json(&claim["spec"]["resources"]["requests"]["storage"]);
    let class = match object::text(claim, "spec.storageClassName") {
        "" => claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"]
            .as_str()
            .unwrap_or_default(),
        class => class,
    };
    if !class.is_empty() {
        let name = format!("{class}{OF_CLASS}persistentvolumeclaims");
        usage.insert(name, Quantity::units(1));
    }
    if let Ok(requested) = requested {
        usage.insert("requests.storage".into(), requested);
        if !class.is_empty() {
            usage.insert(format!("{class}{OF_CLASS}requests.storage"), requested);
        }
    }
}

/// Reads a `ResourceList`. What is no quantity counts for nothing: validation refuses it.
#[must_use]
pub fn read(list: &Value) -> Usage {
    let entries = list.as_object().into_iter().flatten();
    let amount =
        |(name, value): (&String, &Value)| Some((name.clone(), Quantity::from_json(value).ok()?));
    entries.filter_map(amount).collect()
}

/// Writes a `ResourceList`: bytes with the suffixes of bytes.
#[must_use]
pub fn write(usage: &Usage) -> Value {
    let text = |name: &str, amount: Quantity| {
        let is_bytes = ["memory", "storage", "hugepages"].iter().any(|part| name.contains(part))
            && !name.ends_with("persistentvolumeclaims");
        if is_bytes { amount.to_binary() } else { amount.to_string() }
    };
    let entries = usage.iter().map(|(name, amount)| (name.clone(), text(name, *amount).into()));
    Value::Object(entries.collect::<Map<_, _>>())
}

/// Adds `more` to `sum`.
pub fn add(sum: &mut Usage, more: &Usage) {
    for (name, amount) in more {
        let entry = sum.entry(name.clone()).or_default();
        *entry = entry.plus(*amount);
    }
}

fn raise(least: &mut Usage, to: &Usage) {
    for (name, amount) in to {
        let entry = least.entry(name.clone()).or_default();
        *entry = (*entry).max(*amount);
    }
}

/// What of `usage` the quota limits.
#[must_use]
pub fn limited_by(quota: &Value, mut usage: Usage) -> Usage {
    let hard = &quota["spec"]["hard"];
    usage.retain(|name, _| hard.get(name.as_str()).is_some());
    usage
}

/// The resources (group and plural) whose objects the quota limits.
#[must_use]
pub fn resources_of(quota: &Value) -> BTreeSet<(&str, &str)> {
    let names = quota["spec"]["hard"].as_object().into_iter().flatten();
    names.filter_map(|(name, _)| counted(name)).collect()
}

/// What the `objects`, each with its resource's group and plural, use of what the quota limits:
/// its `status.used`. Every name that it limits is there.
pub fn total<'a>(
    quota: &Value,
    objects: impl IntoIterator<Item = (&'a str, &'a str, &'a Value)>,
) -> Usage {
    let names = quota["spec"]["hard"].as_object().into_iter().flatten();
    let mut total: Usage = names.map(|(name, _)| (name.clone(), Quantity::default())).collect();
    for (group, plural, object) in objects {
        if covers(quota, group, plural, object) {
            add(&mut total, &limited_by(quota, usage(group, plural, object)));
        }
    }
    total
}

/// Whether the quota's scopes let it count `object`: those of pods cover nothing else.
#[must_use]
pub fn covers(quota: &Value, group: &str, plural: &str, object: &Value) -> bool {
    let scopes = object::list(quota, "spec.scopes").iter().filter_map(Value::as_str);
    let mut requirements: Vec<(&str, Test)> = scopes.map(|scope| (scope, Test::Exists)).collect();
    for expression in object::list(quota, "spec.scopeSelector.matchExpressions") {
        let values = object::list(expression, "values").iter();
        let values = values.filter_map(|value| value.as_str().map(Into::into)).collect();
        let test = match object::text(expression, "operator") {
            "In" => Test::In(values),
            "NotIn" => Test::NotIn(values),
            "DoesNotExist" => Test::DoesNotExist,
            _ => Test::Exists,
        };
        requirements.push((object::text(expression, "scopeName"), test));
    }
    requirements.into_iter().all(|(scope, test)| match (group, plural) {
        ("", "pods") => pod_is_in(&object["spec"], scope, test),
        ("", "persistentvolumeclaims") if scope == "VolumeAttributesClass" => {
            let class = object["spec"]["volumeAttributesClassName"].as_str();
            Requirement { key: scope.into(), test }.holds(class)
        }
        _ => false,
    })
}

fn pod_is_in(spec: &Value, scope: &str, test: Test) -> bool {
    let ends = spec["activeDeadlineSeconds"].is_i64() || spec["activeDeadlineSeconds"].is_u64();
    let is_in = match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => is_best_effort(spec),
        "NotBestEffort" => !is_best_effort(spec),
        "PriorityClass" => {
            let class = spec["priorityClassName"].as_str().filter(|class| !class.is_empty());
            return Requirement { key: scope.into(), test }.holds(class);
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(spec),
        _ => return false,
    };
    if test == Test::DoesNotExist { !is_in } else { is_in }
}

fn is_best_effort(spec: &Value) -> bool {
    let lists = ["initContainers", "containers"];
    let mut containers = lists.iter().flat_map(|list| object::list(spec, list));
    let says = |resources: &Value| {
        ["limits", "requests"]
            .iter()
            .any(|list| ["cpu", "memory"].iter().any(|name| !resources[list][name].is_null()))
    };
    !containers.any(|container| says(&container["resources"])) && !says(&spec["resources"])
}

fn crosses_namespaces(spec: &Value) -> bool {
    let crosses = |term: &Value| {
        !object::list(term, "namespaces").is_empty() || term["namespaceSelector"].is_object()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &spec["affinity"][kind];
        object::list(affinity, "requiredDuringSchedulingIgnoredDuringExecution").iter().any(crosses)
            || object::list(affinity, "preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|preferred| crosses(&preferred["podAffinityTerm"]))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Value {
        json!({"spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "500m", "memory": "128Mi"}, "limits": {"cpu": "1"}}},
            {"name": "b", "resources": {"requests": {"cpu": "250m", "example.com/gpu": "1"}}},
        ], "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "2"}}}]}})
    }

    #[test]
    fn what_a_pod_uses() {
        let used = write(&usage("", "pods", &pod()));
        let expected = json!({
            "count/pods": "1", "pods": "1", "cpu": "2", "requests.cpu": "2", "memory": "128Mi",
            "requests.memory": "128Mi", "requests.example.com/gpu": "1", "limits.cpu": "1",
        });
        assert_eq!(used, expected);
        let mut ended = pod();
        ended["status"]["phase"] = "Succeeded".into();
        assert_eq!(write(&usage("", "pods", &ended)), json!({"count/pods": "1"}));
        let names = used.as_object().unwrap().keys();
        for name in names.map(String::as_str) {
            assert_eq!(counted(name), Some(("", "pods")), "{name}");
        }
    }

    #[test]
    fn what_others_use() {
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}});
        let expected = json!({"count/services": "1", "services": "1", "services.nodeports": "2",
            "services.loadbalancers": "1"});
        assert_eq!(write(&usage("", "services", &service)), expected);
        let claim = json!({"spec": {"storageClassName": "fast",
            "resources": {"requests": {"storage": "2Gi"}}}});
        let expected = json!({"count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1",
            "requests.storage": "2Gi", "fast.storageclass.storage.k8s.io/requests.storage": "2Gi",
            "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "1"});
        assert_eq!(write(&usage("", "persistentvolumeclaims", &claim)), expected);
        assert_eq!(write(&usage("batch", "jobs", &json!({}))), json!({"count/jobs.batch": "1"}));
        assert_eq!(counted("count/jobs.batch"), Some(("batch", "jobs")));
        assert_eq!(counted("nonsense"), None);
    }

    #[test]
    fn a_quota_totals_what_it_covers() {
        let quota = json!({"spec": {"hard": {"pods": "4", "requests.cpu": "4", "secrets": "1"}}});
        let resources: Vec<_> = resources_of(&quota).into_iter().collect();
        assert_eq!(resources, [("", "pods"), ("", "secrets")]);
        let pod = pod();
        let used = write(&total(&quota, [("", "pods", &pod), ("", "pods", &pod)]));
        assert_eq!(used, json!({"pods": "2", "requests.cpu": "4", "secrets": "0"}));
    }

    #[test]
    fn scopes() {
        let quota = |scopes: Value, selector: Value| {
            json!({"spec": {"hard": {"pods": "1"}, "scopes": scopes,
                "scopeSelector": {"matchExpressions": selector}}})
        };
        let best = json!({"spec": {"containers": [{"name": "c"}], "priorityClassName": "high"}});
        let best_effort = quota(json!(["BestEffort"]), json!([]));
        assert!(covers(&best_effort, "", "pods", &best));
        assert!(!covers(&best_effort, "", "pods", &pod()));
        assert!(!covers(&best_effort, "", "secrets", &json!({})));
        assert!(covers(&quota(json!(["NotTerminating"]), json!([])), "", "pods", &best));
        let high = json!([{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]);
        assert!(covers(&quota(json!([]), high.clone()), "", "pods", &best));
        assert!(!covers(&quota(json!([]), high), "", "pods", &pod()));
    }
}

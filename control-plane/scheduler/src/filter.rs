//! Which nodes can run a pod, why others cannot, and which is best.

use std::collections::BTreeMap;

use bulkhead_client::Quantity;
use serde_json::Value;

/// Amounts by resource name: `cpu`, `memory`, `ephemeral-storage`, extended ones.
pub(crate) type Resources = BTreeMap<String, Quantity>;

/// A node, as far as scheduling looks at it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    allocatable: Resources,
    used: Resources,
    pods: i64,
    ready: bool,
    unschedulable: bool,
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
}

#[derive(Debug, Clone)]
struct Taint {
    key: String,
    value: String,
    effect: String,
}

/// A pod, as far as scheduling looks at it.
#[derive(Debug, Clone)]
pub(crate) struct Demand {
    /// What it requests.
    pub(crate) requests: Resources,
    selector: BTreeMap<String, String>,
    tolerations: Vec<Value>,
}

/// What pods may ask of the scheduler that this one does not do.
const UNSUPPORTED: [&str; 5] = [
    "affinity.nodeAffinity",
    "affinity.podAffinity",
    "affinity.podAntiAffinity",
    "topologySpreadConstraints",
    "resourceClaims",
];

/// The fields of a pod's spec that ask for what this scheduler does not do.
pub(crate) fn unsupported(pod: &Value) -> Vec<&'static str> {
    let is_set = |value: &Value| match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    };
    let spec = &pod["spec"];
    let mut fields: Vec<_> = UNSUPPORTED
        .into_iter()
        .filter(|path| is_set(path.split('.').fold(spec, |value, step| &value[step])))
        .collect();
    let ports = containers(spec, "containers").flat_map(|one| one["ports"].as_array()).flatten();
    if ports.into_iter().any(|port| port["hostPort"].as_u64().is_some_and(|port| port != 0)) {
        fields.push("containers[*].ports[*].hostPort");
    }
    fields
}

fn containers<'a>(spec: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    spec[list].as_array().into_iter().flatten()
}

fn texts(map: &Value) -> BTreeMap<String, String> {
    let entries = map.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn amounts(map: &Value) -> Resources {
    let amount = |value: &Value| match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    };
    let entries = map.as_object().into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), amount(value)?))).collect()
}

fn add(to: &mut Resources, more: &Resources) {
    for (name, amount) in more {
        let sum = to.entry(name.clone()).or_default();
        *sum = *sum + *amount;
    }
}

/// What a pod needs at once: its containers and sidecars together, or an init container beside
/// the sidecars that start before it, whichever is more.
pub(crate) fn requests(pod: &Value) -> Resources {
    let spec = &pod["spec"];
    let mut running = Resources::new();
    let mut peak = Resources::new();
    for init in containers(spec, "initContainers") {
        let own = amounts(&init["resources"]["requests"]);
        if init["restartPolicy"] == "Always" {
            add(&mut running, &own);
        } else {
            let mut beside = running.clone();
            add(&mut beside, &own);
            for (name, amount) in beside {
                let most = peak.entry(name).or_default();
                *most = (*most).max(amount);
            }
        }
    }
    for container in containers(spec, "containers") {
        add(&mut running, &amounts(&container["resources"]["requests"]));
    }
    for (name, amount) in peak {
        let most = running.entry(name).or_default();
        *most = (*most).max(amount);
    }
    add(&mut running, &amounts(&spec["overhead"]));
    running
}

impl Demand {
    pub(crate) fn of(pod: &Value) -> Self {
        Self {
            requests: requests(pod),
            selector: texts(&pod["spec"]["nodeSelector"]),
            tolerations: pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default(),
        }
    }

    fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|toleration| {
            let text = |field: &str| toleration[field].as_str().unwrap_or_default();
            let effect = matches!(text("effect"), "") || text("effect") == taint.effect;
            let exists = text("operator") == "Exists";
            let key = (text("key").is_empty() && exists) || text("key") == taint.key;
            effect && key && (exists || text("value") == taint.value)
        })
    }
}

impl Node {
    /// Reads a Node object; what runs on it is added by [`take`](Self::take).
    pub(crate) fn read(node: &Value) -> Self {
        let conditions = node["status"]["conditions"].as_array();
        let ready = |one: &Value| one["type"] == "Ready" && one["status"] == "True";
        let text =
            |taint: &Value, field: &str| taint[field].as_str().unwrap_or_default().to_owned();
        let taints = node["spec"]["taints"].as_array().into_iter().flatten();
        Self {
            allocatable: amounts(&node["status"]["allocatable"]),
            used: Resources::new(),
            pods: 0,
            ready: conditions.is_some_and(|conditions| conditions.iter().any(ready)),
            unschedulable: node["spec"]["unschedulable"] == true,
            labels: texts(&node["metadata"]["labels"]),
            taints: taints
                .map(|taint| Taint {
                    key: text(taint, "key"),
                    value: text(taint, "value"),
                    effect: text(taint, "effect"),
                })
                .collect(),
        }
    }

    /// Whether scheduling could come out differently than with `other`, running pods aside.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        let taints = |node: &Self| -> Vec<_> {
            let all = node.taints.iter();
            all.map(|t| (t.key.clone(), t.value.clone(), t.effect.clone())).collect()
        };
        self.allocatable != other.allocatable
            || self.ready != other.ready
            || self.unschedulable != other.unschedulable
            || self.labels != other.labels
            || taints(self) != taints(other)
    }

    /// Counts a pod that runs here.
    pub(crate) fn take(&mut self, requests: &Resources) {
        self.pods += 1;
        add(&mut self.used, requests);
    }

    /// Counts a pod no longer.
    pub(crate) fn release(&mut self, requests: &Resources) {
        self.pods -= 1;
        for (name, amount) in requests {
            let used = self.used.entry(name.clone()).or_default();
            *used = *used - *amount;
        }
    }

    /// Moves the counts of another reading of the same node here.
    pub(crate) fn keep_counts(&mut self, before: Self) {
        self.used = before.used;
        self.pods = before.pods;
    }

    /// Why the pod cannot run here, in kube-scheduler's words; nothing if it can.
    pub(crate) fn reasons(&self, pod: &Demand) -> Vec<String> {
        if self.unschedulable {
            let taint = Taint {
                key: "node.kubernetes.io/unschedulable".into(),
                value: String::new(),
                effect: "NoSchedule".into(),
            };
            if !pod.tolerates(&taint) {
                return vec!["node(s) were unschedulable".into()];
            }
        }
        if !self.ready {
            return vec!["node(s) were not ready".into()];
        }
        let repels = |taint: &&Taint| {
            matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute") && !pod.tolerates(taint)
        };
        if let Some(taint) = self.taints.iter().find(repels) {
            let (key, value) = (&taint.key, &taint.value);
            return vec![format!("node(s) had untolerated taint {{{key}: {value}}}")];
        }
        if pod.selector.iter().any(|(key, value)| self.labels.get(key) != Some(value)) {
            return vec!["node(s) didn't match Pod's node affinity/selector".into()];
        }
        let mut reasons = Vec::new();
        let most = self.allocatable.get("pods").copied().unwrap_or_default();
        if Quantity::whole(self.pods + 1) > most {
            reasons.push("Too many pods".into());
        }
        for (name, amount) in &pod.requests {
            let free = self.amount(&self.allocatable, name) - self.amount(&self.used, name);
            if *amount > Quantity::default() && *amount > free {
                reasons.push(format!("Insufficient {name}"));
            }
        }
        reasons
    }

    fn amount(&self, of: &Resources, name: &str) -> Quantity {
        of.get(name).copied().unwrap_or_default()
    }

    /// How much would be free, 0 to 1, the mean of cpu and memory, then fewer pods: the emptiest
    /// node is best. Taints that would rather not be chosen weigh more than either.
    pub(crate) fn score(&self, pod: &Demand) -> f64 {
        let free = |name: &str| {
            let used = self.amount(&self.used, name) + self.amount(&pod.requests, name);
            1.0 - used.share_of(self.amount(&self.allocatable, name))
        };
        let most = self.allocatable.get("pods").copied().unwrap_or_default();
        let crowd = Quantity::whole(self.pods).share_of(most);
        let avoided = |taint: &&Taint| taint.effect == "PreferNoSchedule" && !pod.tolerates(taint);
        let penalty = if self.taints.iter().any(|taint| avoided(&taint)) { 2.0 } else { 0.0 };
        f64::midpoint(free("cpu"), free("memory")) - crowd / 100.0 - penalty
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(cpu: &str, memory: &str) -> Value {
        json!({"metadata": {"labels": {"disk": "ssd"}}, "status": {
            "allocatable": {"cpu": cpu, "memory": memory, "pods": "2"},
            "conditions": [{"type": "Ready", "status": "True"}]}})
    }

    fn pod(requests: Value) -> Value {
        json!({"spec": {"containers": [{"resources": {"requests": requests}}]}})
    }

    fn reasons(node: &Value, pod: &Value) -> Vec<String> {
        Node::read(node).reasons(&Demand::of(pod))
    }

    #[test]
    fn a_pod_needs_room() {
        let big = pod(json!({"cpu": "2", "memory": "1Gi", "example.com/gpu": "1"}));
        assert_eq!(
            reasons(&node("1", "512Mi"), &big),
            ["Insufficient cpu", "Insufficient example.com/gpu", "Insufficient memory"]
        );
        let mut full = Node::read(&node("1", "1Gi"));
        let demand = Demand::of(&pod(json!({"cpu": "600m"})));
        assert!(full.reasons(&demand).is_empty());
        full.take(&demand.requests);
        assert_eq!(full.reasons(&demand), ["Insufficient cpu"]);
        full.take(&Resources::new());
        assert_eq!(full.reasons(&demand), ["Too many pods", "Insufficient cpu"]);
        full.release(&demand.requests);
        assert!(full.reasons(&demand).is_empty());
    }

    #[test]
    fn nodes_choose_their_pods() {
        let mut tainted = node("1", "1Gi");
        tainted["spec"]["taints"] = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
        let mut tolerant = pod(json!({}));
        assert_eq!(reasons(&tainted, &tolerant), ["node(s) had untolerated taint {k: v}"]);
        for toleration in [
            json!({"operator": "Exists"}),
            json!({"key": "k", "operator": "Exists"}),
            json!({"key": "k", "value": "v", "effect": "NoSchedule"}),
        ] {
            tolerant["spec"]["tolerations"] = json!([toleration]);
            assert!(reasons(&tainted, &tolerant).is_empty(), "{toleration}");
        }
        tolerant["spec"]["tolerations"] = json!([{"key": "k", "value": "other"}]);
        assert!(!reasons(&tainted, &tolerant).is_empty());
        let mut cordoned = node("1", "1Gi");
        cordoned["spec"]["unschedulable"] = true.into();
        assert_eq!(reasons(&cordoned, &pod(json!({}))), ["node(s) were unschedulable"]);
        let mut down = node("1", "1Gi");
        down["status"]["conditions"][0]["status"] = "Unknown".into();
        assert_eq!(reasons(&down, &pod(json!({}))), ["node(s) were not ready"]);
        let mut picky = pod(json!({}));
        picky["spec"]["nodeSelector"] = json!({"disk": "ssd"});
        assert!(reasons(&node("1", "1Gi"), &picky).is_empty());
        picky["spec"]["nodeSelector"] = json!({"disk": "hdd"});
        assert_eq!(reasons(&node("1", "1Gi"), &picky).len(), 1);
    }

    #[test]
    fn init_containers_count_by_their_peak() {
        let pod = json!({"spec": {
            "initContainers": [
                {"restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"resources": {"requests": {"cpu": "2"}}},
            ],
            "containers": [{"resources": {"requests": {"cpu": "1"}}}]}});
        assert_eq!(requests(&pod)["cpu"], "2100m".parse().unwrap());
    }

    #[test]
    fn what_it_cannot_honour_is_named() {
        let pod = json!({"spec": {"affinity": {"podAffinity": {"x": 1}, "nodeAffinity": {}},
            "containers": [{"ports": [{"hostPort": 80}]}]}});
        assert_eq!(unsupported(&pod), ["affinity.podAffinity", "containers[*].ports[*].hostPort"]);
    }

    #[test]
    fn the_emptiest_node_is_best() {
        let demand = Demand::of(&pod(json!({"cpu": "100m"})));
        let (small, large) = (Node::read(&node("1", "1Gi")), Node::read(&node("4", "1Gi")));
        assert!(large.score(&demand) > small.score(&demand));
    }
}

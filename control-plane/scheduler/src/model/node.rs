//! A node and what runs on it.

use std::sync::Arc;

use bulkhead_client::{Labelled, object};
use serde_json::Value;

use super::{Effect, HostPort, Pod, Resources, Taint};

/// A node, with the pods that are placed there.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) object: Arc<Value>,
    pub(crate) unschedulable: bool,
    pub(crate) taints: Vec<Taint>,
    pub(crate) allocatable: Resources,
    /// Its images: each name with the image's size in bytes.
    pub(crate) images: Vec<(String, i64)>,
    pub(crate) pods: Vec<Arc<Pod>>,
    /// What its pods request.
    pub(crate) requested: Resources,
    /// What its pods request as scores count.
    pub(crate) requested_for_scores: Resources,
    pub(crate) ports: Vec<HostPort>,
}

impl Node {
    /// Reads a Node object; nothing runs there yet.
    ///
    /// A node that does not say that it is ready has the taint that the node lifecycle controller
    /// gives it, whether that has come round to it or not.
    pub(crate) fn read(object: &Arc<Value>) -> Self {
        let mut taints = Taint::read_all(object);
        let ready = object::condition(object, "Ready").map(|ready| &ready["status"]);
        let missing = match ready.and_then(Value::as_str) {
            Some("True") => None,
            Some("Unknown") => Some("node.kubernetes.io/unreachable"),
            _ => Some("node.kubernetes.io/not-ready"),
        };
        if let Some(key) = missing
            && !taints.iter().any(|taint| taint.key == key && taint.effect == Effect::NoSchedule)
        {
            taints.push(Taint::of(key, Effect::NoSchedule));
        }
        let images = object::list(object, "status.images").iter().flat_map(|image| {
            let size = object::number(image, "sizeBytes").unwrap_or_default();
            let names = object::list(image, "names").iter().filter_map(Value::as_str);
            names.map(move |name| (name.to_owned(), size))
        });
        Self {
            name: object::name(object).into(),
            unschedulable: object["spec"]["unschedulable"] == true,
            taints,
            allocatable: Resources::read(&object["status"]["allocatable"]),
            images: images.collect(),
            pods: Vec::new(),
            requested: Resources::default(),
            requested_for_scores: Resources::default(),
            ports: Vec::new(),
            object: Arc::clone(object),
        }
    }

    /// The value of a label.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.object["metadata"]["labels"].get(key)?.as_str()
    }

    /// A label's key and value, both the node's own.
    pub(crate) fn label_entry(&self, key: &str) -> Option<(&str, &str)> {
        let labels = self.object["metadata"]["labels"].as_object()?;
        let (key, value) = labels.get_key_value(key)?;
        Some((key, value.as_str()?))
    }

    /// Counts a pod that runs here.
    pub(crate) fn add(&mut self, pod: &Arc<Pod>) {
        self.requested.add(&pod.requests);
        self.requested_for_scores.add(&pod.requests_for_scores);
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.push(Arc::clone(pod));
    }

    /// Counts a pod no longer.
    pub(crate) fn remove(&mut self, pod: &Pod) {
        let Some(index) = self.pods.iter().position(|one| one.uid == pod.uid) else { return };
        let pod = self.pods.swap_remove(index);
        self.requested.subtract(&pod.requests);
        self.requested_for_scores.subtract(&pod.requests_for_scores);
        for port in &pod.ports {
            if let Some(index) = self.ports.iter().position(|one| one == port) {
                self.ports.swap_remove(index);
            }
        }
    }
}

impl Labelled for Node {
    fn name(&self) -> &str {
        &self.name
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.label(key)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_that_is_not_ready_is_tainted() {
        let keys = |conditions: Value| {
            let node = Node::read(&Arc::new(json!({"status": {"conditions": conditions}})));
            node.taints.into_iter().map(|taint| taint.key).collect::<Vec<_>>()
        };
        let ready = |status: &str| json!([{"type": "Ready", "status": status}]);
        assert!(keys(ready("True")).is_empty());
        assert_eq!(keys(ready("False")), ["node.kubernetes.io/not-ready"]);
        assert_eq!(keys(json!(null)), ["node.kubernetes.io/not-ready"]);
        assert_eq!(keys(ready("Unknown")), ["node.kubernetes.io/unreachable"]);
    }

    #[test]
    fn a_pod_that_leaves_gives_back_what_it_took() {
        let mut node = Node::read(&Arc::new(json!({"metadata": {"name": "n"}})));
        let pod = |uid: &str, port: i64| {
            let container = json!({"resources": {"requests": {"cpu": "1", "x/y": "1"}},
                "ports": [{"hostPort": port}]});
            Arc::new(Pod::read(&Arc::new(json!({
                "metadata": {"uid": uid}, "spec": {"containers": [container]}}))))
        };
        let (first, second) = (pod("1", 80), pod("2", 81));
        node.add(&first);
        let before = (node.requested.clone(), node.ports.clone());
        node.add(&second);
        assert_eq!((node.requested.cpu, node.ports.len()), (2000, 2));
        node.remove(&second);
        node.remove(&second);
        assert_eq!((node.requested.clone(), node.ports.clone()), before);
    }
}

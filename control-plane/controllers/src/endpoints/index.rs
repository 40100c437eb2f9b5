//! Which pods are whose: an index from labels to the Services that select by them, so that neither
//! a change of a pod looks at all Services nor a sync of a Service at all pods.

use std::collections::{BTreeSet, HashMap, HashSet};

use bulkhead_client::object;
use serde_json::Value;

/// A label in a namespace: namespace, key, value.
type Label = (String, String, String);

/// The memberships that were seen.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The selector of each Service that has one.
    selectors: HashMap<String, Value>,
    /// The Services that select by a label, which is the first of their selector's.
    by_label: HashMap<Label, HashSet<String>>,
    /// The pods of each Service.
    members: HashMap<String, BTreeSet<String>>,
    /// The Services of each pod that has any.
    services: HashMap<String, Vec<String>>,
}

fn first_label(service: &str, selector: &Value) -> Option<Label> {
    let namespace = object::split_key(service).0?;
    let (key, value) = selector.as_object()?.iter().next()?;
    Some((namespace.into(), key.clone(), value.as_str()?.into()))
}

impl Index {
    /// Notes the selector of the Service with this key, or that it has none any more. Whether it is
    /// another than before: then the pods of its namespace must be noted again.
    pub(super) fn service(&mut self, key: &str, selector: Option<&Value>) -> bool {
        let selector = selector.filter(|map| first_label(key, map).is_some());
        if self.selectors.get(key) == selector {
            return false;
        }
        if let Some(old) = self.selectors.remove(key)
            && let Some(label) = first_label(key, &old)
            && let Some(services) = self.by_label.get_mut(&label)
        {
            services.remove(key);
            if services.is_empty() {
                self.by_label.remove(&label);
            }
        }
        for pod in self.members.remove(key).into_iter().flatten() {
            if let Some(services) = self.services.get_mut(&pod) {
                services.retain(|one| one != key);
            }
        }
        if let Some(selector) = selector
            && let Some(label) = first_label(key, selector)
        {
            self.by_label.entry(label).or_default().insert(key.to_owned());
            self.selectors.insert(key.to_owned(), selector.clone());
        }
        selector.is_some()
    }

    /// Notes the pod with this key, or that it is gone. The Services that it belongs to, or did.
    pub(super) fn pod(&mut self, key: &str, pod: Option<&Value>) -> Vec<String> {
        let now = pod.map(|pod| self.selecting(pod)).unwrap_or_default();
        let before = self.services.remove(key).unwrap_or_default();
        for service in before.iter().filter(|service| !now.contains(service)) {
            if let Some(members) = self.members.get_mut(service) {
                members.remove(key);
            }
        }
        for service in &now {
            self.members.entry(service.clone()).or_default().insert(key.to_owned());
        }
        let mut concerned = before;
        concerned.extend(now.iter().cloned());
        concerned.sort_unstable();
        concerned.dedup();
        if !now.is_empty() {
            self.services.insert(key.to_owned(), now);
        }
        concerned
    }

    /// The keys of a Service's pods.
    pub(super) fn members(&self, service: &str) -> Vec<String> {
        self.members.get(service).into_iter().flatten().cloned().collect()
    }

    /// The Services of the pod with this key.
    pub(super) fn memberships(&self, pod: &str) -> Vec<String> {
        self.services.get(pod).cloned().unwrap_or_default()
    }

    fn selecting(&self, pod: &Value) -> Vec<String> {
        let Some(namespace) = object::namespace(pod).filter(|_| !self.by_label.is_empty()) else {
            return Vec::new();
        };
        let labels = &pod["metadata"]["labels"];
        let mut found = Vec::new();
        for (key, value) in labels.as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default();
            let label = (namespace.to_owned(), key.clone(), value.to_owned());
            for service in self.by_label.get(&label).into_iter().flatten() {
                let mut wanted = self.selectors[service].as_object().into_iter().flatten();
                if wanted.all(|(key, value)| labels.get(key) == Some(value)) {
                    found.push(service.clone());
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(labels: Value) -> Value {
        json!({"metadata": {"namespace": "d", "labels": labels}})
    }

    #[test]
    fn members_follow_selectors_and_labels() {
        let mut index = Index::default();
        assert!(index.service("d/web", Some(&json!({"app": "web", "tier": "front"}))));
        assert!(index.service("d/all", Some(&json!({"app": "web"}))));
        assert!(index.service("other/web", Some(&json!({"app": "web"}))));
        assert!(!index.service("d/none", Some(&json!({}))), "it selects nothing");
        let both = pod(json!({"app": "web", "tier": "front"}));
        assert_eq!(index.pod("d/p", Some(&both)), ["d/all", "d/web"]);
        assert_eq!(index.members("d/web"), ["d/p"]);
        let one = pod(json!({"app": "web"}));
        assert_eq!(index.pod("d/p", Some(&one)), ["d/all", "d/web"], "it concerns who had it");
        assert!(index.members("d/web").is_empty());
        assert_eq!(index.members("d/all"), ["d/p"]);
        assert!(index.service("d/all", Some(&json!({"app": "other"}))));
        assert!(index.members("d/all").is_empty());
        assert!(index.pod("d/p", Some(&one)).is_empty());
        index.service("d/all", Some(&json!({"app": "web"})));
        assert_eq!(index.pod("d/p", Some(&one)), ["d/all"]);
        assert_eq!(index.pod("d/p", None), ["d/all"]);
        assert!(index.pod("d/p", None).is_empty() && index.members("d/all").is_empty());
        assert!(!index.service("d/all", None));
        assert_eq!(index.by_label.len(), 2);
    }
}

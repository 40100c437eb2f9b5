//! Sets of pods, as affinity terms and spread constraints describe them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bulkhead_client::{Selector, SelectorError, object};
use serde_json::Value;

use super::Pod;

/// Every namespace, for selectors of their labels.
#[derive(Debug, Default)]
pub(crate) struct Namespaces(HashMap<String, Arc<Value>>);

impl Namespaces {
    /// Takes note of a namespace; whether its labels changed.
    pub(crate) fn insert(&mut self, namespace: Arc<Value>) -> bool {
        let labels = namespace["metadata"]["labels"].clone();
        let before = self.0.insert(object::name(&namespace).to_owned(), namespace);
        before.is_none_or(|before| before["metadata"]["labels"] != labels)
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    fn selected(&self, name: &str, selector: &Selector) -> bool {
        match self.0.get(name) {
            Some(namespace) => selector.selects(namespace),
            None => selector.matches(&Value::Null),
        }
    }
}

/// Pods by namespace and labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PodSet {
    namespaces: BTreeSet<String>,
    namespace_selector: Option<Selector>,
    /// None selects nothing.
    selector: Option<Selector>,
    /// Whether pods that are being deleted belong to it.
    terminating: bool,
}

impl PodSet {
    /// The pods of one namespace that a selector selects and that are not being deleted.
    pub(crate) fn living(namespace: &str, selector: Option<Selector>) -> Self {
        Self {
            namespaces: BTreeSet::from([namespace.to_owned()]),
            namespace_selector: None,
            selector,
            terminating: false,
        }
    }

    /// Whether its pods depend on the labels of namespaces.
    pub(crate) fn selects_namespaces(&self) -> bool {
        self.namespace_selector.as_ref().is_some_and(|selector| !selector.is_empty())
    }

    pub(crate) fn contains(&self, pod: &Pod, namespaces: &Namespaces) -> bool {
        let here = || {
            self.namespaces.contains(&pod.namespace)
                || (self.namespace_selector.as_ref())
                    .is_some_and(|selector| namespaces.selected(&pod.namespace, selector))
        };
        (self.terminating || !pod.terminating)
            && here()
            && self.selector.as_ref().is_some_and(|selector| selector.selects(&pod.object))
    }
}

/// A `PodAffinityTerm`: pods, and what nodes must share to count as one place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Term {
    pub(crate) pods: PodSet,
    pub(crate) topology_key: String,
}

impl Term {
    /// Reads a term of `pod`'s.
    pub(crate) fn read(term: &Value, pod: &Value) -> Result<Self, SelectorError> {
        let mut namespaces: BTreeSet<String> = object::list(term, "namespaces")
            .iter()
            .filter_map(|name| name.as_str().map(Into::into))
            .collect();
        let namespace_selector = match &term["namespaceSelector"] {
            Value::Null => None,
            selector => Some(Selector::read(selector)?),
        };
        if namespaces.is_empty() && namespace_selector.is_none() {
            namespaces.insert(object::namespace(pod).unwrap_or_default().to_owned());
        }
        let pods = PodSet {
            namespaces,
            namespace_selector,
            selector: selector_with_keys(term, pod)?,
            terminating: true,
        };
        Ok(Self { pods, topology_key: object::text(term, "topologyKey").into() })
    }
}

/// The `labelSelector` of `term`, narrowed to pods that are as `pod` in its `matchLabelKeys` and
/// other in its `mismatchLabelKeys`.
pub(super) fn selector_with_keys(
    term: &Value,
    pod: &Value,
) -> Result<Option<Selector>, SelectorError> {
    if term["labelSelector"].is_null() {
        return Ok(None);
    }
    let mut selector = term["labelSelector"].clone();
    let labels = &pod["metadata"]["labels"];
    for (list, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in object::list(term, list).iter().filter_map(Value::as_str) {
            let Some(value) = labels[key].as_str() else { continue };
            let requirement =
                serde_json::json!({"key": key, "operator": operator, "values": [value]});
            if let Some(expressions) = selector["matchExpressions"].as_array_mut() {
                expressions.push(requirement);
            } else if selector.is_object() {
                selector["matchExpressions"] = Value::Array(vec![requirement]);
            }
        }
    }
    Selector::read(&selector).map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(namespace: &str, labels: Value) -> Pod {
        let metadata = json!({"namespace": namespace, "name": "p", "labels": labels});
        Pod::read(&Arc::new(json!({"metadata": metadata})))
    }

    fn term(fields: Value) -> Term {
        let own = json!({"metadata": {"namespace": "own", "labels": {"app": "web", "rev": "2"}}});
        Term::read(&fields, &own).unwrap()
    }

    #[test]
    fn namespaces_are_named_selected_or_the_pods_own() {
        let mut namespaces = Namespaces::default();
        for (name, team) in [("own", "a"), ("other", "b")] {
            let metadata = json!({"name": name, "labels": {"team": team}});
            assert!(namespaces.insert(Arc::new(json!({"metadata": metadata}))));
        }
        let holds = |mut fields: Value| {
            fields["labelSelector"] = json!({});
            let term = term(fields);
            ["own", "other"].map(|name| term.pods.contains(&pod(name, json!({})), &namespaces))
        };
        assert_eq!(holds(json!({})), [true, false]);
        assert_eq!(holds(json!({"namespaces": ["other"]})), [false, true]);
        assert_eq!(holds(json!({"namespaceSelector": {}})), [true, true]);
        let team = |team: &str| json!({"namespaceSelector": {"matchLabels": {"team": team}}});
        assert_eq!(holds(team("b")), [false, true]);
        let mut both = team("a");
        both["namespaces"] = json!(["other"]);
        assert_eq!(holds(both), [true, true]);
    }

    #[test]
    fn a_missing_selector_selects_nothing_and_an_empty_one_everything() {
        let namespaces = Namespaces::default();
        let any = pod("own", json!({}));
        assert!(!term(json!({})).pods.contains(&any, &namespaces));
        assert!(term(json!({"labelSelector": {}})).pods.contains(&any, &namespaces));
    }

    #[test]
    fn keys_narrow_to_pods_that_are_alike_or_unlike() {
        let namespaces = Namespaces::default();
        let selector = json!({"matchLabels": {"app": "web"}});
        for (keys, same, other) in
            [("matchLabelKeys", true, false), ("mismatchLabelKeys", false, true)]
        {
            let term = term(json!({"labelSelector": selector, keys: ["rev", "absent"]}));
            let holds = |rev: &str| {
                term.pods.contains(&pod("own", json!({"app": "web", "rev": rev})), &namespaces)
            };
            assert_eq!((holds("2"), holds("1")), (same, other), "{keys}");
        }
    }
}

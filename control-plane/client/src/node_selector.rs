//! Which nodes a pod wants: `nodeSelector` and node affinity.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/>

use serde_json::Value;

use crate::object;
use crate::requirement::{Requirement, Test};

/// A node as far as selectors look at it.
pub trait Labelled {
    /// `metadata.name`.
    fn name(&self) -> &str;
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labelled for Value {
    fn name(&self) -> &str {
        object::name(self)
    }

    fn label(&self, key: &str) -> Option<&str> {
        self["metadata"]["labels"][key].as_str()
    }
}

/// Reads a `NodeSelectorRequirement`. An operator that does not exist, or a bound that is no
/// number, holds for no node.
fn requirement(expression: &Value) -> Requirement {
    let values: Vec<String> = object::list(expression, "values")
        .iter()
        .filter_map(|value| value.as_str().map(Into::into))
        .collect();
    let number = || values.first()?.parse::<i64>().ok().filter(|_| values.len() == 1);
    let never = Test::In(Vec::new());
    let test = match object::text(expression, "operator") {
        "In" => Test::In(values),
        "NotIn" => Test::NotIn(values),
        "Exists" => Test::Exists,
        "DoesNotExist" => Test::DoesNotExist,
        "Gt" => number().map_or(never, Test::Gt),
        "Lt" => number().map_or(never, Test::Lt),
        _ => never,
    };
    Requirement { key: object::text(expression, "key").into(), test }
}

/// A `NodeSelectorTerm`: all its requirements must hold; the empty one holds for no node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeSelectorTerm {
    expressions: Vec<Requirement>,
    fields: Vec<Requirement>,
}

impl NodeSelectorTerm {
    /// Reads a term.
    #[must_use]
    pub fn read(term: &Value) -> Self {
        let read = |list| object::list(term, list).iter().map(requirement).collect::<Vec<_>>();
        Self { expressions: read("matchExpressions"), fields: read("matchFields") }
    }

    /// Whether it holds for `node`.
    #[must_use]
    pub fn holds(&self, node: &impl Labelled) -> bool {
        let field =
            |one: &Requirement| one.holds((one.key == "metadata.name").then_some(node.name()));
        !(self.expressions.is_empty() && self.fields.is_empty())
            && self.expressions.iter().all(|one| one.holds(node.label(&one.key)))
            && self.fields.iter().all(field)
    }

    /// The names that a node may have, where the term says so.
    fn names(&self) -> Option<&[String]> {
        self.fields.iter().find_map(|one| match &one.test {
            Test::In(names) if one.key == "metadata.name" => Some(names.as_slice()),
            _ => None,
        })
    }
}

/// What a node must be for a pod to run there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct RequiredNodes {
    labels: Vec<(String, String)>,
    /// One of these must hold, if there are any.
    terms: Option<Vec<NodeSelectorTerm>>,
}

impl RequiredNodes {
    /// Reads `nodeSelector` and the required node affinity of a pod's spec.
    #[must_use]
    pub fn read(spec: &Value) -> Self {
        let labels = spec["nodeSelector"].as_object().into_iter().flatten();
        let required =
            &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        let terms = required["nodeSelectorTerms"].as_array();
        Self {
            labels: labels
                .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().into()))
                .collect(),
            terms: terms.map(|terms| terms.iter().map(NodeSelectorTerm::read).collect()),
        }
    }

    /// Whether a pod may run on `node`.
    #[must_use]
    pub fn hold(&self, node: &impl Labelled) -> bool {
        self.labels.iter().all(|(key, value)| node.label(key) == Some(value))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.holds(node)))
    }

    /// The only nodes that can hold, by name, if every term names some: a `DaemonSet`'s pods do.
    #[must_use]
    pub fn names(&self) -> Option<Vec<&str>> {
        let terms = self.terms.as_deref().filter(|terms| !terms.is_empty())?;
        let names: Option<Vec<_>> = terms.iter().map(NodeSelectorTerm::names).collect();
        let mut names: Vec<&str> = names?.into_iter().flatten().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        Some(names)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node() -> Value {
        let labels = json!({"disk": "ssd", "cores": "8", "word": "x"});
        json!({"metadata": {"name": "n1", "labels": labels}})
    }

    fn requires(terms: &Value) -> Value {
        let required = json!({"nodeSelectorTerms": terms});
        json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": required}}})
    }

    #[test]
    fn every_operator() {
        for (key, operator, values, expected) in [
            ("disk", "In", json!(["hdd", "ssd"]), true),
            ("disk", "In", json!(["hdd"]), false),
            ("none", "In", json!(["x"]), false),
            ("disk", "NotIn", json!(["hdd"]), true),
            ("disk", "NotIn", json!(["ssd"]), false),
            ("none", "NotIn", json!(["x"]), true),
            ("disk", "Exists", json!([]), true),
            ("none", "Exists", json!([]), false),
            ("none", "DoesNotExist", json!([]), true),
            ("disk", "DoesNotExist", json!([]), false),
            ("cores", "Gt", json!(["7"]), true),
            ("cores", "Gt", json!(["8"]), false),
            ("cores", "Lt", json!(["9"]), true),
            ("cores", "Lt", json!(["8"]), false),
            ("word", "Gt", json!(["1"]), false),
            ("cores", "Gt", json!(["many"]), false),
            ("cores", "Gt", json!([]), false),
            ("cores", "Near", json!(["8"]), false),
        ] {
            let expression = json!({"key": key, "operator": operator, "values": values});
            let spec = requires(&json!([{"matchExpressions": [expression]}]));
            assert_eq!(RequiredNodes::read(&spec).hold(&node()), expected, "{expression}");
        }
    }

    #[test]
    fn terms_are_alternatives_and_requirements_are_not() {
        let holds = |spec: &Value| RequiredNodes::read(spec).hold(&node());
        let ssd = json!({"key": "disk", "operator": "In", "values": ["ssd"]});
        let hdd = json!({"key": "disk", "operator": "In", "values": ["hdd"]});
        assert!(holds(&requires(
            &json!([{"matchExpressions": [hdd]}, {"matchExpressions": [ssd]}])
        )));
        assert!(!holds(&requires(&json!([{"matchExpressions": [hdd, ssd]}]))));
        assert!(!holds(&requires(&json!([{}]))), "an empty term holds for no node");
        let mut both = requires(&json!([{"matchExpressions": [ssd]}]));
        both["nodeSelector"] = json!({"word": "y"});
        assert!(!holds(&both));
        both["nodeSelector"] = json!({"word": "x"});
        assert!(holds(&both));
    }

    #[test]
    fn fields_name_nodes() {
        let named = |name: &str| {
            json!({"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": [name]}]})
        };
        let one = RequiredNodes::read(&requires(&json!([named("n2"), named("n1")])));
        assert!(one.hold(&node()));
        assert_eq!(one.names(), Some(vec!["n1", "n2"]));
        assert!(!RequiredNodes::read(&requires(&json!([named("n2")]))).hold(&node()));
        let label = json!({"matchExpressions": [{"key": "disk", "operator": "Exists"}]});
        let any = RequiredNodes::read(&requires(&json!([named("n1"), label])));
        assert_eq!(any.names(), None, "one term names no node");
        assert_eq!(RequiredNodes::default().names(), None);
    }
}

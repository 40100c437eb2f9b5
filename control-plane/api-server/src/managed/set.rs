//! Sets of fields, in memory and as `FieldsV1`.
//! <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/#FieldsV1>
//!
//! A step is `f:NAME` for a field or a map's key, `k:{"KEY":VALUE}` for an element of a list of
//! objects, `v:VALUE` for an element of a set. A node without children is in the set; one with
//! children is if it has the child `.`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A set of paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    children: BTreeMap<String, Node>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    below: FieldSet,
}

impl FieldSet {
    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    /// The set of `steps`' path, made if it is not there.
    pub(super) fn below(&mut self, step: &str) -> &mut Self {
        &mut self.node(step).below
    }

    /// Adds a path of one step.
    pub(super) fn insert(&mut self, step: &str) {
        self.node(step).member = true;
    }

    fn node(&mut self, step: &str) -> &mut Node {
        if !self.children.contains_key(step) {
            self.children.insert(step.to_owned(), Node::default());
        }
        // It is there by now.
        self.children.entry(step.to_owned()).or_default()
    }

    /// Drops nodes that hold no path.
    pub(super) fn tidy(&mut self) {
        self.children.retain(|_, node| {
            node.below.tidy();
            node.member || !node.below.is_empty()
        });
    }

    /// What lies below a step; `None` if nothing does.
    pub(super) fn child(&self, step: &str) -> Option<&Self> {
        self.children.get(step).map(|node| &node.below)
    }

    /// Whether a path of one step is in it.
    pub(super) fn contains(&self, step: &str) -> bool {
        self.children.get(step).is_some_and(|node| node.member)
    }

    /// Whether a path of one step, or one that begins with it, is in it.
    pub(super) fn touches(&self, step: &str) -> bool {
        self.children.contains_key(step)
    }

    /// Removes a path of one step and all that begin with it.
    pub(super) fn remove(&mut self, step: &str) {
        self.children.remove(step);
    }

    /// Removes the paths that begin with a step which is not to `keep`.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.children.retain(|step, _| keep(step));
    }

    /// The paths of both.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        self.add(other);
        self
    }

    fn add(&mut self, other: &Self) {
        for (step, node) in &other.children {
            let mine = self.node(step);
            mine.member |= node.member;
            mine.below.add(&node.below);
        }
    }

    /// The paths that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.filter(other, |mine, theirs| mine && !theirs)
    }

    /// The paths that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.filter(other, |mine, theirs| mine && theirs)
    }

    fn filter(&self, other: &Self, keep: fn(bool, bool) -> bool) -> Self {
        let none = Node::default();
        let mut kept = Self::default();
        for (step, mine) in &self.children {
            let theirs = other.children.get(step).unwrap_or(&none);
            let node = Node {
                member: keep(mine.member, theirs.member),
                below: mine.below.filter(&theirs.below, keep),
            };
            if node.member || !node.below.is_empty() {
                kept.children.insert(step.clone(), node);
            }
        }
        kept
    }

    /// Every path, as clients print it: `.spec.containers[name="c"].image`.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        for (step, node) in &self.children {
            let path = format!("{prefix}{}", print(step));
            node.below.collect(&path, paths);
            if node.member {
                paths.push(path);
            }
        }
    }

    /// As `FieldsV1`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut fields = Map::new();
        for (step, node) in &self.children {
            let mut below = node.below.to_value();
            if let (true, false, Value::Object(below)) =
                (node.member, node.below.is_empty(), &mut below)
            {
                below.insert(".".into(), Map::new().into());
            }
            fields.insert(step.clone(), below);
        }
        fields.into()
    }

    /// From `FieldsV1`; `None` if it is none.
    #[must_use]
    pub fn from_value(value: &Value) -> Option<Self> {
        let mut set = Self::default();
        for (step, below) in value.as_object()? {
            if step == "." {
                continue;
            }
            let below_fields = below.as_object()?;
            if !matches!(step.get(..2), Some("f:" | "k:" | "v:" | "i:")) {
                return None;
            }
            let member = below_fields.is_empty() || below_fields.contains_key(".");
            let node = Node { member, below: Self::from_value(below)? };
            set.children.insert(step.clone(), node);
        }
        Some(set)
    }
}

fn print(step: &str) -> String {
    match step.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("k:", keys)) => match serde_json::from_str::<Map<String, Value>>(keys) {
            Ok(keys) => {
                let keys: Vec<_> =
                    keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("[{}]", keys.join(","))
            }
            Err(_) => format!("[{keys}]"),
        },
        Some(("v:", value)) => format!("[={value}]"),
        Some((_, index)) => format!("[{index}]"),
        None => step.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_v1_goes_both_ways() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}, "f:finalizers": {"v:\"x\"": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}}}},
        });
        let set = FieldSet::from_value(&fields).unwrap();
        assert_eq!(set.to_value(), fields);
        let expected = [
            ".metadata.finalizers[=\"x\"]",
            ".metadata.labels.a",
            ".metadata.labels",
            ".spec.containers[name=\"c\"].image",
            ".spec.containers[name=\"c\"]",
        ];
        assert_eq!(set.paths(), expected);
        for wrong in
            [json!(5), json!({"x": {}}), json!({"f:a": 1}), json!({"": {}}), json!({"é": {}})]
        {
            assert_eq!(FieldSet::from_value(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sets_combine() {
        let set = |value| FieldSet::from_value(&value).unwrap();
        let a = set(json!({"f:x": {"f:y": {}, "f:z": {}}, "f:w": {}}));
        let b = set(json!({"f:x": {".": {}, "f:y": {}}}));
        assert_eq!(a.difference(&b), set(json!({"f:x": {"f:z": {}}, "f:w": {}})));
        assert_eq!(a.intersection(&b), set(json!({"f:x": {"f:y": {}}})));
        let both = set(json!({"f:x": {".": {}, "f:y": {}, "f:z": {}}, "f:w": {}}));
        assert_eq!(a.union(&b), both);
    }
}

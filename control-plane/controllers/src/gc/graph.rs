//! Who owns whom: the objects of all kinds by uid, with their owner references both ways.

use std::collections::{HashMap, HashSet};

use bulkhead_client::ResourceInfo;
use bulkhead_client::object::{self, list, text};
use serde_json::Value;

/// An object.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) resource: ResourceInfo,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) owners: Vec<Value>,
    pub(super) finalizers: Vec<String>,
    pub(super) terminating: bool,
}

/// The finalizer of an object that waits for its dependents to be deleted.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object that waits for its dependents to be let go.
pub(super) const ORPHAN: &str = "orphan";

impl Node {
    pub(super) fn read(resource: &ResourceInfo, object: &Value) -> Self {
        let finalizers = list(object, "metadata.finalizers").iter();
        Self {
            resource: resource.clone(),
            namespace: object::namespace(object).map(Into::into),
            name: object::name(object).into(),
            version: text(object, "metadata.resourceVersion").into(),
            owners: list(object, "metadata.ownerReferences").to_vec(),
            finalizers: finalizers.filter_map(|one| one.as_str().map(Into::into)).collect(),
            terminating: object::is_terminating(object),
        }
    }

    fn is(&self, finalizer: &str) -> bool {
        self.terminating && self.finalizers.iter().any(|one| one == finalizer)
    }

    /// Whether it is being deleted, after its dependents.
    pub(super) fn is_foreground(&self) -> bool {
        self.is(FOREGROUND)
    }

    /// Whether it is being deleted, and its dependents stay.
    pub(super) fn is_orphaning(&self) -> bool {
        self.is(ORPHAN)
    }

    /// Whether it keeps the owner with this uid from being gone.
    pub(super) fn blocks(&self, owner: &str) -> bool {
        let blocking = |one: &Value| one["uid"] == owner && one["blockOwnerDeletion"] == true;
        self.owners.iter().any(blocking)
    }
}

/// All objects.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, HashSet<String>>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The objects that refer to an owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<(String, Node)> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| Some((uid.clone(), self.nodes.get(uid)?.clone()))).collect()
    }

    /// Notes how an object looks now. The uids that must be looked at.
    pub(super) fn present(&mut self, uid: &str, node: Node) -> Vec<String> {
        let mut affected = Vec::new();
        let before = self.nodes.remove(uid);
        let same_owners = before.as_ref().is_some_and(|before| before.owners == node.owners);
        if let Some(before) = before.filter(|_| !same_owners) {
            self.unlink(uid, &before);
            // An owner that waits for its dependents may wait no longer.
            affected.extend(owner_uids(&before));
        }
        if !same_owners && !node.owners.is_empty() {
            affected.push(uid.into());
            for owner in owner_uids(&node) {
                self.dependents.entry(owner).or_default().insert(uid.into());
            }
        }
        if node.is_foreground() || node.is_orphaning() {
            affected.push(uid.into());
            affected.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        }
        self.nodes.insert(uid.into(), node);
        affected
    }

    /// Notes that an object is gone. The uids that must be looked at.
    pub(super) fn gone(&mut self, uid: &str) -> Vec<String> {
        let mut affected: Vec<String> =
            self.dependents.get(uid).into_iter().flatten().cloned().collect();
        if let Some(node) = self.nodes.remove(uid) {
            self.unlink(uid, &node);
            affected.extend(owner_uids(&node));
        }
        affected
    }

    /// The uids of all objects of a resource.
    pub(super) fn of(&self, resource: &ResourceInfo) -> HashSet<String> {
        let of = self.nodes.iter().filter(|(_, node)| node.resource == *resource);
        of.map(|(uid, _)| uid.clone()).collect()
    }

    fn unlink(&mut self, uid: &str, node: &Node) {
        for owner in owner_uids(node) {
            if let Some(dependents) = self.dependents.get_mut(&owner) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner);
                }
            }
        }
    }
}

fn owner_uids(node: &Node) -> impl Iterator<Item = String> + '_ {
    node.owners.iter().map(|owner| text(owner, "uid").to_owned())
}

#[cfg(test)]
mod tests {
    use bulkhead_client::Kind;
    use serde_json::json;

    use super::*;

    fn node(owners: &[&str], finalizers: Value) -> Node {
        let resource = ResourceInfo { resource: Kind::PODS, kind: "Pod".into(), namespaced: true };
        let owners: Vec<_> =
            owners.iter().map(|uid| json!({"uid": uid, "blockOwnerDeletion": true})).collect();
        let deleted = finalizers.as_array().map(|_| "now");
        Node::read(
            &resource,
            &json!({"metadata": {"ownerReferences": owners, "finalizers": finalizers, "deletionTimestamp": deleted}}),
        )
    }

    #[test]
    fn what_a_change_affects() {
        let mut graph = Graph::default();
        assert_eq!(graph.present("set", node(&[], json!(null))), Vec::<String>::new());
        assert_eq!(graph.present("pod", node(&["set"], json!(null))), ["pod"]);
        assert_eq!(graph.present("pod", node(&["set"], json!(null))), Vec::<String>::new());
        assert!(graph.get("pod").unwrap().blocks("set"));
        assert_eq!(graph.present("set", node(&[], json!([FOREGROUND]))), ["set", "pod"]);
        assert_eq!(graph.gone("pod"), ["set"]);
        assert!(graph.dependents("set").is_empty());
        graph.present("pod", node(&["set"], json!(null)));
        assert_eq!(graph.gone("set"), ["pod"], "its dependents are garbage");
        assert_eq!(graph.present("pod", node(&[], json!(null))), ["set"]);
        assert_eq!(graph.of(&graph.get("pod").unwrap().resource).len(), 1);
    }
}

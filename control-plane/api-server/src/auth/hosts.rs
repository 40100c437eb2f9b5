//! What host daemons may: read what pods and nodes need, report the state of the nodes that they
//! run and of the pods on those, and take away pods that have ended. What Kubernetes' node
//! authorizer and NodeRestriction are to kubelets, for a daemon that speaks for several nodes.
//!
//! Whose a node is stands in its annotation [`HOST`]. The server sets it when a host creates the
//! node, and no host can change it.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use bulkhead_store::Entry;
use serde::Deserialize;

use super::{Action, User};
use crate::feed;

/// The annotation of a node that says which host runs it.
pub const HOST: &str = "bulkhead.dev/host";
/// The group of host daemons.
pub const HOSTS: &str = "system:hosts";
/// Where nodes are stored.
pub const NODES: &str = "/registry/nodes/";
/// Where pods are stored.
pub const PODS: &str = "/registry/pods/";
/// Where nodes' leases lie.
pub const LEASES: &str = "kube-node-lease";

/// The name of the host that `user` is.
#[must_use]
pub fn host_of(user: &User) -> Option<&str> {
    user.name.strip_prefix("system:host:").filter(|_| user.is_in(HOSTS))
}

/// What hosts may read of every object: nothing that is secret, or that only others need.
const READABLE: &[(&str, &str)] = &[
    ("", "endpoints"),
    ("", "namespaces"),
    ("", "nodes"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "services"),
    ("discovery.k8s.io", "endpointslices"),
    ("networking.k8s.io", "ingressclasses"),
    ("networking.k8s.io", "ingresses"),
    ("networking.k8s.io", "networkpolicies"),
    ("node.k8s.io", "runtimeclasses"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "storageclasses"),
];

pub(super) fn permits(
    host: &str,
    action: &Action<'_>,
    owners: &NodeOwners,
    references: &PodReferences,
) -> bool {
    let reads = matches!(action.verb, "get" | "list" | "watch");
    let changes = matches!(action.verb, "update" | "patch");
    let own_node = || action.name.is_some_and(|name| owners.is_of(name, host));
    let named = |kind| {
        let (Some(namespace), Some(name)) = (action.namespace, action.name) else { return false };
        references.nodes(kind, namespace, name).iter().any(|node| owners.is_of(node, host))
    };
    match (action.group, action.plural, action.subresource) {
        (group, plural, None | Some("status")) if reads && READABLE.contains(&(group, plural)) => {
            true
        }
        // The address that a host gives to one of type LoadBalancer.
        ("", "services", Some("status")) => changes,
        // Whose it becomes is admission's to say.
        ("", "nodes", None) if action.verb == "create" => true,
        ("", "nodes", None) => (changes || action.verb == "delete") && own_node(),
        ("", "nodes", Some("status")) => changes && own_node(),
        ("", "pods", Some("status")) => changes && named(Referent::Pod),
        ("", "pods", None) => action.verb == "delete" && named(Referent::Pod),
        ("coordination.k8s.io", "leases", None) if action.namespace == Some(LEASES) => {
            action.verb == "create"
                || ((action.verb == "get" || changes || action.verb == "delete") && own_node())
        }
        // Of which node they tell, admission looks at.
        ("" | "events.k8s.io", "events", None) => action.verb == "create" || changes,
        ("", "secrets", None) => reads && named(Referent::Secret),
        ("", "configmaps", None) => reads && named(Referent::ConfigMap),
        ("", "serviceaccounts", None) => action.verb == "get" && named(Referent::ServiceAccount),
        // For which pod, the token's maker looks at.
        ("", "serviceaccounts", Some("token")) => {
            action.verb == "create" && named(Referent::ServiceAccount)
        }
        // Clients look for what there is before they ask for it.
        ("authentication.k8s.io", "selfsubjectreviews", None)
        | ("authorization.k8s.io", "selfsubjectaccessreviews" | "selfsubjectrulesreviews", None) => {
            action.verb == "create"
        }
        _ => false,
    }
}

/// Which host runs which node.
#[derive(Debug, Default)]
pub struct NodeOwners(RwLock<HashMap<String, String>>);

impl NodeOwners {
    /// Whether `host` runs `node`.
    #[must_use]
    pub fn is_of(&self, node: &str, host: &str) -> bool {
        let owners = self.0.read().unwrap_or_else(PoisonError::into_inner);
        owners.get(node).is_some_and(|owner| owner == host)
    }
}

fn owner(value: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Node {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        annotations: Option<HashMap<String, String>>,
    }
    serde_json::from_slice::<Node>(value).ok()?.metadata.annotations?.remove(HOST)
}

impl feed::Index for NodeOwners {
    fn replace(&self, entries: Vec<Entry>) {
        let name = |entry: &Entry| entry.key.strip_prefix(NODES).map(Into::into);
        let owners =
            entries.iter().filter_map(|entry| Some((name(entry)?, owner(&entry.value)?))).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = owners;
    }

    fn apply(&self, key: &str, value: Option<&[u8]>) {
        let Some(node) = key.strip_prefix(NODES) else { return };
        let mut owners = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match value.and_then(owner) {
            Some(owner) => owners.insert(node.into(), owner),
            None => owners.remove(node),
        };
    }
}

/// What a pod can need of its namespace; the first is the pod itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Referent {
    /// The pod.
    Pod,
    /// A secret, of a volume, a variable or an image pull.
    Secret,
    /// A config map, of a volume or a variable.
    ConfigMap,
    /// The account that it runs as.
    ServiceAccount,
}

/// Kind, namespace and name.
type Reference = (Referent, String, String);

/// What the pods that are bound to nodes refer to.
#[derive(Debug, Default)]
pub struct PodReferences(RwLock<References>);

#[derive(Debug, Default)]
struct References {
    /// By what is referred to: the pods (their keys) with their nodes.
    pods: HashMap<Reference, HashMap<String, String>>,
    /// By pod.
    of: HashMap<String, HashSet<Reference>>,
}

impl PodReferences {
    /// The nodes of the pods that refer to it.
    #[must_use]
    pub fn nodes(&self, kind: Referent, namespace: &str, name: &str) -> Vec<String> {
        let references = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let pods = references.pods.get(&(kind, namespace.into(), name.into()));
        pods.into_iter().flat_map(HashMap::values).cloned().collect()
    }
}

impl References {
    fn apply(&mut self, key: &str, value: Option<&[u8]>) {
        let Some((namespace, name)) = key.strip_prefix(PODS).and_then(|key| key.split_once('/'))
        else {
            return;
        };
        for reference in self.of.remove(key).into_iter().flatten() {
            if let Some(pods) = self.pods.get_mut(&reference) {
                pods.remove(key);
                if pods.is_empty() {
                    self.pods.remove(&reference);
                }
            }
        }
        let Some(pod) = value.and_then(|value| serde_json::from_slice::<StoredPod>(value).ok())
        else {
            return;
        };
        let Some(node) = pod.spec.node_name.clone().filter(|node| !node.is_empty()) else { return };
        let mut found: HashSet<(Referent, String)> = pod.spec.references().collect();
        found.insert((Referent::Pod, name.into()));
        let found: HashSet<Reference> =
            found.into_iter().map(|(kind, name)| (kind, namespace.into(), name)).collect();
        for reference in &found {
            self.pods.entry(reference.clone()).or_default().insert(key.into(), node.clone());
        }
        self.of.insert(key.into(), found);
    }
}

impl feed::Index for PodReferences {
    fn replace(&self, entries: Vec<Entry>) {
        let references = feed::made_of(entries, References::apply);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = references;
    }

    fn apply(&self, key: &str, value: Option<&[u8]>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).apply(key, value);
    }
}

#[derive(Deserialize)]
struct StoredPod {
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
    service_account_name: Option<String>,
    image_pull_secrets: Option<Vec<Named>>,
    volumes: Option<Vec<Volume>>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
    ephemeral_containers: Option<Vec<Container>>,
}

#[derive(Deserialize)]
struct Named {
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
    secret: Option<SecretVolume>,
    config_map: Option<Named>,
    projected: Option<Projected>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretVolume {
    secret_name: Option<String>,
}

#[derive(Deserialize)]
struct Projected {
    sources: Option<Vec<Source>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    secret: Option<Named>,
    config_map: Option<Named>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    env: Option<Vec<Variable>>,
    env_from: Option<Vec<VariablesFrom>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Variable {
    value_from: Option<ValueFrom>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ValueFrom {
    secret_key_ref: Option<Named>,
    config_map_key_ref: Option<Named>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VariablesFrom {
    secret_ref: Option<Named>,
    config_map_ref: Option<Named>,
}

impl Spec {
    /// What it refers to by name.
    fn references(self) -> impl Iterator<Item = (Referent, String)> {
        let mut secrets: Vec<Named> = self.image_pull_secrets.unwrap_or_default();
        let mut maps: Vec<Named> = Vec::new();
        for volume in self.volumes.into_iter().flatten() {
            secrets.extend(volume.secret.map(|secret| Named { name: secret.secret_name }));
            maps.extend(volume.config_map);
            for source in volume.projected.and_then(|all| all.sources).into_iter().flatten() {
                secrets.extend(source.secret);
                maps.extend(source.config_map);
            }
        }
        let containers = [self.containers, self.init_containers, self.ephemeral_containers];
        for container in containers.into_iter().flatten().flatten() {
            for from in container.env.into_iter().flatten().filter_map(|one| one.value_from) {
                secrets.extend(from.secret_key_ref);
                maps.extend(from.config_map_key_ref);
            }
            for from in container.env_from.into_iter().flatten() {
                secrets.extend(from.secret_ref);
                maps.extend(from.config_map_ref);
            }
        }
        let account = Named { name: self.service_account_name };
        let all = [
            (Referent::Secret, secrets),
            (Referent::ConfigMap, maps),
            (Referent::ServiceAccount, vec![account]),
        ];
        all.into_iter().flat_map(|(kind, named)| {
            named.into_iter().filter_map(move |one| Some((kind, one.name?)))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::feed::Index as _;

    struct World {
        owners: NodeOwners,
        references: PodReferences,
    }

    impl World {
        fn new() -> Self {
            let world =
                Self { owners: NodeOwners::default(), references: PodReferences::default() };
            for (node, host) in [("mine", "box"), ("theirs", "other")] {
                let node_object = json!({"metadata": {"annotations": {HOST: host}}});
                world.owners.apply(&format!("{NODES}{node}"), Some(&bytes(&node_object)));
            }
            let pod = |node: &str, secret: &str| {
                bytes(&json!({"spec": {
                    "nodeName": node,
                    "serviceAccountName": "default",
                    "imagePullSecrets": [{"name": format!("{secret}-pull")}],
                    "volumes": [
                        {"name": "a", "secret": {"secretName": secret}},
                        {"name": "b", "projected": {"sources": [
                            {"configMap": {"name": "kube-root-ca.crt"}},
                            {"secret": {"name": format!("{secret}-projected")}},
                        ]}},
                    ],
                    "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "env"}}],
                        "env": [{"name": "X", "valueFrom": {"secretKeyRef":
                            {"name": format!("{secret}-env"), "key": "k"}}}]}],
                }}))
            };
            world.references.apply(&format!("{PODS}ns/here"), Some(&pod("mine", "s")));
            world.references.apply(&format!("{PODS}ns/there"), Some(&pod("theirs", "t")));
            world
        }

        fn may(&self, verb: &str, resource: &str, name: &str) -> bool {
            let (plural, subresource) = match resource.split_once('/') {
                Some((plural, subresource)) => (plural, Some(subresource)),
                None => (resource, None),
            };
            let (group, namespace) = match plural {
                "leases" => ("coordination.k8s.io", Some(LEASES)),
                "nodes" => ("", None),
                _ => ("", Some("ns")),
            };
            let name = Some(name).filter(|name| !name.is_empty());
            let action = Action { verb, group, plural, subresource, namespace, name };
            permits("box", &action, &self.owners, &self.references)
        }
    }

    fn bytes(value: &Value) -> Vec<u8> {
        serde_json::to_vec(value).unwrap()
    }

    #[test]
    fn a_host_writes_its_own_nodes_and_the_pods_on_them() {
        let world = World::new();
        for (mine, theirs, verb, resource) in [
            ("mine", "theirs", "update", "nodes"),
            ("mine", "theirs", "patch", "nodes/status"),
            ("mine", "theirs", "delete", "nodes"),
            ("mine", "theirs", "patch", "leases"),
            ("mine", "theirs", "delete", "leases"),
            ("here", "there", "patch", "pods/status"),
            ("here", "there", "delete", "pods"),
        ] {
            assert!(world.may(verb, resource, mine), "{verb} {resource} {mine}");
            assert!(!world.may(verb, resource, theirs), "{verb} {resource} {theirs}");
        }
        assert!(world.may("list", "pods", "") && world.may("watch", "nodes", ""));
        assert!(world.may("create", "nodes", "") && world.may("create", "events", ""));
        for (verb, resource) in [
            ("create", "pods"),
            ("update", "pods"),
            ("create", "pods/binding"),
            ("get", "pods/exec"),
            ("get", "pods/log"),
            ("deletecollection", "pods"),
            ("create", "secrets"),
        ] {
            assert!(!world.may(verb, resource, "here"), "{verb} {resource}");
        }
    }

    #[test]
    fn a_host_reads_what_its_pods_name() {
        let world = World::new();
        for secret in ["s", "s-pull", "s-projected", "s-env"] {
            assert!(world.may("get", "secrets", secret), "{secret}");
        }
        for secret in ["t", "t-pull", "t-projected", "t-env", "other", ""] {
            assert!(!world.may("get", "secrets", secret), "{secret}");
        }
        assert!(!world.may("list", "secrets", ""));
        assert!(world.may("get", "configmaps", "env") && !world.may("list", "configmaps", ""));
        assert!(world.may("create", "serviceaccounts/token", "default"));
        world.references.apply(&format!("{PODS}ns/here"), None);
        assert!(!world.may("get", "secrets", "s"), "the pod is gone");
        world.owners.apply(&format!("{NODES}mine"), None);
        assert!(!world.may("patch", "nodes/status", "mine"), "the node is gone");
    }
}

//! The core group's kinds, and leases.

use super::{PLAIN, columns as c, data, ephemeral, event, pod, proxy, status};
use crate::names::NameRule;
use crate::object;
use crate::resource::{Behaviour, Resource, Subresource};

const POD_SUBRESOURCES: &[Subresource] = &[
    Subresource {
        name: "attach",
        kind: "PodAttachOptions",
        group_version: None,
        verbs: &["create", "get"],
    },
    Subresource { name: "binding", kind: "Binding", group_version: None, verbs: &["create"] },
    Subresource {
        name: "ephemeralcontainers",
        kind: "Pod",
        group_version: None,
        verbs: &["get", "patch", "update"],
    },
    Subresource {
        name: "eviction",
        kind: "Eviction",
        group_version: Some(("policy", "v1")),
        verbs: &["create"],
    },
    Subresource {
        name: "exec",
        kind: "PodExecOptions",
        group_version: None,
        verbs: &["create", "get"],
    },
    Subresource { name: "log", kind: "Pod", group_version: None, verbs: &["get"] },
    Subresource {
        name: "portforward",
        kind: "PodPortForwardOptions",
        group_version: None,
        verbs: &["create", "get"],
    },
    proxy("PodProxyOptions"),
    status("Pod"),
];

const NAMESPACE_SUBRESOURCES: &[Subresource] = &[
    Subresource { name: "finalize", kind: "Namespace", group_version: None, verbs: &["update"] },
    status("Namespace"),
];

const NODE_SUBRESOURCES: &[Subresource] = &[proxy("NodeProxyOptions"), status("Node")];

/// A lease: what a node's host, or a leader, renews.
pub(super) fn lease() -> Resource {
    Resource {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        storage: "leases",
        unconditional_update: false,
        columns: c::LEASE,
        ..PLAIN
    }
}

/// The kinds of the core group.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        // The older way to what a pod's subresource does.
        Resource {
            kind: "Binding",
            plural: "bindings",
            singular: "binding",
            verbs: &["create"],
            ..PLAIN
        },
        data::config_map(),
        event::resource(),
        Resource {
            kind: "Namespace",
            plural: "namespaces",
            singular: "namespace",
            short_names: &["ns"],
            namespaced: false,
            storage: "namespaces",
            // One by one: there is no collection that could be emptied.
            verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
            subresources: NAMESPACE_SUBRESOURCES,
            fields: &["status.phase"],
            columns: c::NAMESPACE,
            behaviour: Behaviour {
                prepare_create: |namespace| {
                    namespace["spec"] = serde_json::json!({"finalizers": ["kubernetes"]});
                    namespace["status"] = serde_json::json!({"phase": "Active"});
                },
                default: |namespace| {
                    let name = object::name(namespace).to_owned();
                    if let Some(labels) = object::map(&mut namespace["metadata"], "labels") {
                        labels.insert("kubernetes.io/metadata.name".into(), name.into());
                    }
                },
                name: NameRule::Label,
                ..Behaviour::PLAIN
            },
            ..PLAIN
        },
        Resource {
            kind: "Node",
            plural: "nodes",
            singular: "node",
            short_names: &["no"],
            namespaced: false,
            storage: "nodes",
            subresources: NODE_SUBRESOURCES,
            fields: &["spec.unschedulable"],
            columns: c::NODE,
            ..PLAIN
        },
        Resource {
            kind: "Pod",
            plural: "pods",
            singular: "pod",
            short_names: &["po"],
            categories: &["all"],
            storage: "pods",
            generation: true,
            graceful_deletion: true,
            subresources: POD_SUBRESOURCES,
            fields: &[
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "spec.hostNetwork",
                "status.phase",
                "status.podIP",
                "status.nominatedNodeName",
            ],
            columns: c::POD,
            behaviour: Behaviour {
                prepare_create: pod::prepare_create,
                default: pod::default,
                validate: pod::validate,
                validate_create: ephemeral::validate_create,
                validate_update: pod::validate_update,
                ..Behaviour::PLAIN
            },
            ..PLAIN
        },
        data::secret(),
        Resource {
            kind: "ServiceAccount",
            plural: "serviceaccounts",
            singular: "serviceaccount",
            short_names: &["sa"],
            storage: "serviceaccounts",
            subresources: &[Subresource {
                name: "token",
                kind: "TokenRequest",
                group_version: Some(("authentication.k8s.io", "v1")),
                verbs: &["create"],
            }],
            columns: c::SERVICE_ACCOUNT,
            ..PLAIN
        },
    ]
}

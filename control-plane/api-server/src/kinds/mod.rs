//! The built-in kinds. Only those whose behaviour is real are here; a kind that is not answers
//! 404, as an API server without it would.

mod columns;
mod event;
mod pod;

use columns as c;

use crate::names::NameRule;
use crate::object;
use crate::resource::{Behaviour, Registry, Resource, Subresource};

const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

const fn status(kind: &'static str) -> Subresource {
    Subresource { name: "status", kind, group_version: None, verbs: STATUS_VERBS }
}

const POD_SUBRESOURCES: &[Subresource] = &[
    Subresource {
        name: "attach",
        kind: "PodAttachOptions",
        group_version: None,
        verbs: &["create", "get"],
    },
    Subresource { name: "binding", kind: "Binding", group_version: None, verbs: &["create"] },
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
    status("Pod"),
];

const NAMESPACE_SUBRESOURCES: &[Subresource] = &[
    Subresource { name: "finalize", kind: "Namespace", group_version: None, verbs: &["update"] },
    status("Namespace"),
];

const NODE_SUBRESOURCES: &[Subresource] = &[status("Node")];

const PLAIN: Resource = Resource {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    storage: "",
    generation: false,
    graceful_deletion: false,
    subresources: &[],
    fields: &[],
    columns: c::GENERIC,
    patch_type: "Object",
    behaviour: Behaviour::PLAIN,
};

/// The registry of the built-in kinds.
#[must_use]
pub fn registry() -> Registry {
    let mut resources = core();
    resources.push(Resource {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        storage: "leases",
        columns: c::LEASE,
        ..PLAIN
    });
    resources.push(Resource {
        group: "events.k8s.io",
        fields: &[
            "reason",
            "reportingController",
            "regarding.kind",
            "regarding.name",
            "regarding.namespace",
            "regarding.uid",
            "type",
        ],
        columns: c::EVENT,
        behaviour: Behaviour {
            to_storage: event::to_core,
            from_storage: event::from_core,
            ..Behaviour::PLAIN
        },
        ..event_resource()
    });
    Registry::new(resources)
}

fn event_resource() -> Resource {
    Resource {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        storage: "events",
        fields: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        columns: c::EVENT,
        ..PLAIN
    }
}

fn core() -> Vec<Resource> {
    vec![
        Resource {
            kind: "ConfigMap",
            plural: "configmaps",
            singular: "configmap",
            short_names: &["cm"],
            storage: "configmaps",
            columns: c::CONFIG_MAP,
            ..PLAIN
        },
        event_resource(),
        Resource {
            kind: "Namespace",
            plural: "namespaces",
            singular: "namespace",
            short_names: &["ns"],
            namespaced: false,
            storage: "namespaces",
            subresources: NAMESPACE_SUBRESOURCES,
            fields: &["status.phase"],
            columns: c::NAMESPACE,
            patch_type: "Namespace",
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
            patch_type: "Node",
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
            patch_type: "Pod",
            behaviour: Behaviour {
                prepare_create: pod::prepare_create,
                default: pod::default,
                validate: pod::validate,
                validate_update: pod::validate_update,
                ..Behaviour::PLAIN
            },
            ..PLAIN
        },
        Resource {
            kind: "Secret",
            plural: "secrets",
            singular: "secret",
            storage: "secrets",
            fields: &["type"],
            columns: c::SECRET,
            behaviour: Behaviour {
                prepare_create: |secret| {
                    object::set_default(secret, "type", "Opaque");
                },
                default: string_data,
                ..Behaviour::PLAIN
            },
            ..PLAIN
        },
        Resource {
            kind: "ServiceAccount",
            plural: "serviceaccounts",
            singular: "serviceaccount",
            short_names: &["sa"],
            storage: "serviceaccounts",
            columns: c::SERVICE_ACCOUNT,
            patch_type: "ServiceAccount",
            ..PLAIN
        },
    ]
}

/// A secret's `stringData` is written, never read: it goes into `data`, in base64.
fn string_data(secret: &mut serde_json::Value) {
    use base64::Engine as _;
    let Some(serde_json::Value::Object(plain)) =
        secret.as_object_mut().and_then(|fields| fields.remove("stringData"))
    else {
        return;
    };
    let Some(data) = object::map(secret, "data") else { return };
    for (key, value) in plain {
        let text = value.as_str().unwrap_or_default();
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        data.insert(key, encoded.into());
    }
}

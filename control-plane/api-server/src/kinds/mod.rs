//! The built-in kinds. Only those whose behaviour is real are here; a kind that is not answers
//! 404, as an API server without it would.

mod apps;
mod autoscaling;
mod batch;
pub(crate) mod certificates;
mod columns;
mod core;
mod cron;
mod daemon;
mod data;
mod discovery;
pub(crate) mod ephemeral;
mod event;
mod extensions;
mod metrics;
mod networking;
mod pod;
pub(crate) mod policy;
mod quota;
mod rbac;
mod replication;
mod review;
mod revision;
mod runtime;
pub(crate) mod service;
mod stateful;
mod storage;
mod template;
#[cfg(test)]
mod testing;
mod volume;

use columns as c;
pub(crate) use columns::age;
pub(crate) use data::{ACCOUNT as SECRET_ACCOUNT, TOKEN as SECRET_TOKEN};
pub(crate) use networking::CIDR_FINALIZER;
pub(crate) use pod::classify as classify_pod;

use crate::resource::{Behaviour, Registry, Resource, ScalePaths, Subresource};

const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

const fn status(kind: &'static str) -> Subresource {
    Subresource { name: "status", kind, group_version: None, verbs: STATUS_VERBS }
}

/// What a kind of objects that can be spoken to by HTTP has; `kind` is that of its options.
const fn proxy(kind: &'static str) -> Subresource {
    const VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];
    Subresource { name: "proxy", kind, group_version: None, verbs: VERBS }
}

const SCALE: Subresource = Subresource {
    name: "scale",
    kind: "Scale",
    group_version: Some(("autoscaling", "v1")),
    verbs: STATUS_VERBS,
};

const SCALED_BY_REPLICAS: ScalePaths = ScalePaths {
    replicas: "spec.replicas",
    status_replicas: "status.replicas",
    selector: "spec.selector",
};

/// What most kinds are.
pub(crate) const PLAIN: Resource = Resource {
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
    orphans_by_default: false,
    unconditional_update: true,
    list_kind: None,
    verbs: &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
    subresources: &[],
    scale: None,
    fields: &[],
    columns: c::GENERIC,
    custom: None,
    behaviour: Behaviour::PLAIN,
};

/// Whether a StorageClass or IngressClass is the one of those who do not say.
pub(crate) fn is_default_class(class: &serde_json::Value) -> bool {
    let annotations = &class["metadata"]["annotations"];
    [
        "ingressclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
        "storageclass.kubernetes.io/is-default-class",
    ]
    .iter()
    .any(|key| annotations[key] == "true")
}

/// The registry of the built-in kinds.
#[must_use]
pub fn registry() -> Registry {
    let mut resources = core::resources();
    resources.push(discovery::endpoints());
    resources.push(service::resource());
    resources.extend(quota::resources());
    resources.extend(volume::resources());
    resources.push(template::resource());
    resources.push(replication::resource());
    resources.extend(apps::resources());
    resources.extend([stateful::resource(), daemon::resource(), revision::resource()]);
    resources.extend(batch::resources());
    resources.push(cron::resource());
    resources.extend(autoscaling::resources());
    resources.extend(policy::resources());
    resources.push(core::lease());
    resources.push(discovery::slices());
    resources.extend(networking::resources());
    resources.extend(storage::resources());
    resources.push(runtime::resource());
    resources.push(certificates::resource());
    resources.push(event::new_resource());
    resources.extend(rbac::resources());
    resources.extend(review::resources());
    resources.push(extensions::resource());
    resources.extend(metrics::resources());
    Registry::new(resources)
}

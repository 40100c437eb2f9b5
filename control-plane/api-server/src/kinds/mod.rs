//! The built-in kinds. Only those whose behaviour is real are here; a kind that is not answers
//! 404, as an API server without it would.

mod apps;
mod batch;
mod columns;
mod core;
mod cron;
mod daemon;
mod discovery;
mod event;
mod extensions;
mod metrics;
mod networking;
mod pod;
pub(crate) mod policy;
mod rbac;
mod replication;
mod review;
mod revision;
pub(crate) mod service;
mod stateful;
mod template;

use columns as c;
pub(crate) use columns::age;
pub(crate) use networking::CIDR_FINALIZER;

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
    verbs: &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
    subresources: &[],
    scale: None,
    fields: &[],
    columns: c::GENERIC,
    custom: None,
    behaviour: Behaviour::PLAIN,
};

/// The registry of the built-in kinds.
#[must_use]
pub fn registry() -> Registry {
    let mut resources = core::resources();
    resources.push(discovery::endpoints());
    resources.push(service::resource());
    resources.push(replication::resource());
    resources.extend(apps::resources());
    resources.extend([stateful::resource(), daemon::resource(), revision::resource()]);
    resources.extend(batch::resources());
    resources.push(cron::resource());
    resources.extend(policy::resources());
    resources.push(core::lease());
    resources.push(discovery::slices());
    resources.extend(networking::resources());
    resources.push(event::new_resource());
    resources.extend(rbac::resources());
    resources.extend(review::resources());
    resources.push(extensions::resource());
    resources.extend(metrics::resources());
    Registry::new(resources)
}

//! The built-in kinds. Only those whose behaviour is real are here; a kind that is not answers
//! 404, as an API server without it would.

mod columns;
mod core;
mod event;
mod pod;

use columns as c;

use crate::resource::{Behaviour, Registry, Resource, Subresource};

const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

const fn status(kind: &'static str) -> Subresource {
    Subresource { name: "status", kind, group_version: None, verbs: STATUS_VERBS }
}

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
    behaviour: Behaviour::PLAIN,
};

/// The registry of the built-in kinds.
#[must_use]
pub fn registry() -> Registry {
    let mut resources = core::resources();
    resources.push(core::lease());
    resources.push(event::new_resource());
    Registry::new(resources)
}

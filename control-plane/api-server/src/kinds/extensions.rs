//! `apiextensions.k8s.io/v1`: definitions of custom resources.

use super::{PLAIN, c, status};
use crate::custom::definition;
use crate::resource::{Behaviour, Resource};

pub(super) fn resource() -> Resource {
    Resource {
        group: "apiextensions.k8s.io",
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        singular: "customresourcedefinition",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        storage: "customresourcedefinitions",
        generation: true,
        unconditional_update: false,
        subresources: const { &[status("CustomResourceDefinition")] },
        columns: c::GENERIC,
        behaviour: Behaviour {
            prepare_create: definition::prepare_create,
            default: definition::default,
            validate: definition::validate,
            validate_update: definition::validate_update,
            ..Behaviour::PLAIN
        },
        ..PLAIN
    }
}

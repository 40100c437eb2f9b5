//! Columns of bindings.

use serde_json::Value;

use super::{AGE, NAME, column, wide};
use crate::object::{list, text};
use crate::resource::Column;

pub(in crate::kinds) const BINDING: &[Column] = &[
    NAME,
    column("Role", |binding| {
        format!("{}/{}", text(binding, "roleRef.kind"), text(binding, "roleRef.name")).into()
    }),
    AGE,
    wide("Users", |binding| subjects(binding, "User")),
    wide("Groups", |binding| subjects(binding, "Group")),
    wide("ServiceAccounts", |binding| subjects(binding, "ServiceAccount")),
];

fn subjects(binding: &Value, kind: &str) -> Value {
    let names: Vec<String> = list(binding, "subjects")
        .iter()
        .filter(|subject| subject["kind"] == kind)
        .map(|subject| match text(subject, "namespace") {
            "" => text(subject, "name").to_owned(),
            namespace => format!("{namespace}/{}", text(subject, "name")),
        })
        .collect();
    names.join(", ").into()
}

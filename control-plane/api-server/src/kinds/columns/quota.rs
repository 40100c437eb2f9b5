//! Columns of what limits a namespace or says how pods are run.

use serde_json::Value;

use super::apps::{containers, images};
use super::{AGE, NAME, column, or_none};
use crate::object::text;
use crate::resource::Column;

pub(in crate::kinds) const RESOURCE_QUOTA: &[Column] = &[
    NAME,
    column("Request", |quota| used(quota, false).into()),
    column("Limit", |quota| used(quota, true).into()),
    AGE,
];

pub(in crate::kinds) const RUNTIME_CLASS: &[Column] =
    &[NAME, column("Handler", |class| text(class, "handler").into()), AGE];

pub(in crate::kinds) const POD_TEMPLATE: &[Column] = &[
    NAME,
    column("Containers", |template| containers(&below_spec(template))),
    column("Images", |template| images(&below_spec(template))),
    column("Pod Labels", |template| {
        let labels =
            bulkhead_client::Selector::of_labels(&template["template"]["metadata"]["labels"]);
        or_none(labels.to_string()).into()
    }),
];

/// A template where workloads have theirs.
fn below_spec(template: &Value) -> Value {
    serde_json::json!({"spec": {"template": template["template"]}})
}

/// `pods: 2/4` and so on: of limits, or of all else.
fn used(quota: &Value, limits: bool) -> String {
    let shown = |value: &Value| match value {
        Value::Null => "0".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let (hard, used) = (&quota["status"]["hard"], &quota["status"]["used"]);
    let names = hard.as_object().into_iter().flatten();
    let names = names.filter(|(name, _)| name.starts_with("limits.") == limits);
    let each = names.map(|(name, hard)| format!("{name}: {}/{}", shown(&used[name]), shown(hard)));
    each.collect::<Vec<_>>().join(", ")
}

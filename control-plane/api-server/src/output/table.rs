//! `meta.k8s.io/v1` Table: what `kubectl get` prints.

use serde_json::{Value, json};

use super::metadata;
use crate::resource::Resource;

/// The table of `objects`. Each row carries of its object what `include` says: `None`, `Object`,
/// or `Metadata`, which is the default.
pub(super) fn table(
    resource: &Resource,
    objects: &[Value],
    include: Option<&str>,
    meta: Value,
) -> Value {
    let custom = resource.custom.as_ref().map_or(&[][..], |custom| custom.columns());
    // A definition that says its columns keeps only the name of the built-in ones.
    let kept = if custom.is_empty() { resource.columns.len() } else { 1 };
    let built_in = || resource.columns.iter().take(kept);
    let definitions = built_in()
        .map(|c| definition([c.name, c.kind, c.format, c.description], u64::from(c.priority)));
    let columns: Vec<Value> = definitions
        .chain(
            custom
                .iter()
                .map(|c| definition([&*c.name, &*c.kind, &*c.format, &*c.description], c.priority)),
        )
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells: Vec<Value> = built_in()
                .map(|column| (column.cell)(object))
                .chain(custom.iter().map(|column| column.cell(object)))
                .collect();
            let mut row = json!({"cells": cells});
            match include {
                Some("None") => {}
                Some("Object") => row["object"] = object.clone(),
                _ => row["object"] = metadata(object),
            }
            row
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn definition([name, kind, format, description]: [&str; 4], priority: u64) -> Value {
    json!({
        "name": name,
        "type": kind,
        "format": format,
        "description": description,
        "priority": priority,
    })
}

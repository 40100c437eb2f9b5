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
    let mut columns: Vec<Value> = resource
        .columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": column.kind,
                "format": column.format,
                "description": column.description,
                "priority": column.priority,
            })
        })
        .collect();
    let custom = resource.custom.as_ref().map_or(&[][..], |custom| custom.columns());
    columns.truncate(if custom.is_empty() { columns.len() } else { 1 });
    columns.extend(custom.iter().map(|column| {
        json!({
            "name": column.name,
            "type": column.kind,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        })
    }));
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let built_in = resource.columns.iter().take(columns.len() - custom.len());
            let cells: Vec<Value> = built_in
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

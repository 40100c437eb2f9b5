//! What every cluster has from the start: its namespaces and the system's priority classes.

use serde_json::{Value, json};

use crate::api::{Api, Place};
use crate::kinds::policy::SYSTEM_CLASSES;
use crate::options::WriteOptions;
use crate::status::{Result, Status};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Makes those that are not there yet.
///
/// # Errors
/// If the store fails.
pub(crate) async fn make(api: &Api) -> Result<()> {
    for name in NAMESPACES {
        make_one(api, ("", "namespaces"), json!({"metadata": {"name": name}})).await?;
    }
    for (name, value) in SYSTEM_CLASSES {
        let class = json!({"metadata": {"name": name}, "value": value});
        make_one(api, ("scheduling.k8s.io", "priorityclasses"), class).await?;
    }
    Ok(())
}

async fn make_one(api: &Api, (group, plural): (&str, &str), object: Value) -> Result<()> {
    let resource = api.registry().find(group, "v1", plural);
    let resource = resource.ok_or_else(Status::no_such_resource)?;
    match api.create(&Place::new(&resource, None), object, &WriteOptions::default()).await {
        Err(status) if status.reason != "AlreadyExists" => Err(status),
        _ => Ok(()),
    }
}

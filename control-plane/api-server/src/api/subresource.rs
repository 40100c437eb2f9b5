//! Subresources with a behaviour of their own: a pod's `binding`, a namespace's
//! `finalize`.

use serde_json::{Value, json};

use super::update::Target;
use super::{Api, Place};
use crate::object;
use crate::options::WriteOptions;
use crate::status::{Cause, Result, Status};

impl Api {
    /// Binds the pod to the node that the `Binding` names.
    ///
    /// # Errors
    /// `Conflict` if it is bound or being deleted; `Invalid` if the binding names no node.
    pub async fn bind(
        &self,
        place: &Place,
        name: &str,
        binding: &Value,
        options: &WriteOptions,
    ) -> Result<Value> {
        let node = object::text(binding, "target.name").to_owned();
        let kind = object::text(binding, "target.kind");
        if node.is_empty() || !matches!(kind, "" | "Node") {
            let cause = if node.is_empty() {
                Cause::required("target.name")
            } else {
                Cause::not_supported("target.kind", &json!(kind), &["Node"])
            };
            return Err(Status::invalid("", "Binding", name, vec![cause]));
        }
        let uid = object::text(binding, "metadata.uid").to_owned();
        self.modify(place, name, Target::Whole, options, |pod| {
            let bound = object::text(pod, "spec.nodeName");
            let actual = object::text(pod, "metadata.uid");
            if !uid.is_empty() && uid != actual {
                let why = format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {actual}"
                );
                return Err(place.conflict(name, &why));
            }
            if object::is_terminating(pod) {
                return Err(place.conflict(
                    name,
                    &format!("pod {name} is being deleted, cannot be assigned to a host"),
                ));
            }
            if !bound.is_empty() {
                return Err(place.conflict(
                    name,
                    &format!("pod {name} is already assigned to node \"{bound}\""),
                ));
            }
            let mut pod = pod.clone();
            pod["spec"]["nodeName"] = node.as_str().into();
            let annotations = binding["metadata"]["annotations"].as_object().cloned();
            if let (Some(more), Some(all)) =
                (annotations, object::map(&mut pod["metadata"], "annotations"))
            {
                all.extend(more);
            }
            mark_scheduled(&mut pod);
            Ok(pod)
        })
        .await?;
        Ok(success(201))
    }

    /// Replaces a namespace's `spec.finalizers`.
    ///
    /// # Errors
    /// As an update.
    pub async fn finalize(
        &self,
        place: &Place,
        name: &str,
        object: &Value,
        options: &WriteOptions,
    ) -> Result<Value> {
        let finalizers = object["spec"]["finalizers"].clone();
        self.modify(place, name, Target::Whole, options, |current| {
            let mut changed = current.clone();
            changed["spec"]["finalizers"] =
                if finalizers.is_array() { finalizers.clone() } else { json!([]) };
            Ok(changed)
        })
        .await
    }
}

/// What succeeded.
pub(super) fn success(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code})
}

/// Sets the pod's `PodScheduled` condition to true.
fn mark_scheduled(pod: &mut Value) {
    let condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": object::now(),
    });
    let Some(fields) = object::map(pod, "status") else { return };
    let conditions = fields.entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return };
    conditions.retain(|one| one["type"] != "PodScheduled");
    conditions.push(condition);
}
